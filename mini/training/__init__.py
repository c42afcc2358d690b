"""How the small networks of the embedded benchmark are trained, each by a short recipe on the world's labels.

`loop` is what all recipes share: a seeded, resumable run over scenes drawn on the fly.
"""
