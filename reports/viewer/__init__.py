"""The viewer: a static site that shows references, prompts, videos, scores and reasons in one view.

`view.view` reads stores and runs and writes the site; `names` hides methods, `shown` finds what there is to
show, `data` makes the site's numbers of it, `previews` copies videos, `serve` shows the site on this machine.
What the browser runs lies in `site/`, by hand and without a framework (`docs/viewer.md` says why).
"""
