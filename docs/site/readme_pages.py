"""Pages that are parts of the README and the changelog."""

from __future__ import annotations

import re
from pathlib import Path

# Page → its title (None: the README's own) and the README's sections on it.
SECTIONS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "index.md": (
        None,
        (
            "Two commands",
            "Ten minutes with your own videos",
            "How the numbers are made",
            "From Python",
            "Licence",
        ),
    ),
    "metrics.md": ("Metrics", ("The metrics",)),
    "measured.md": ("Measured", ("Measured",)),
}
LINK_TO_FILE = re.compile(r"\[docs/([\w-]+\.md)\]\(docs/\1\)")
START_LINKS = """\
<div class="start-links" markdown>

[**Why is my number different?**<br>What moves a score, and the command that shows it](why-different.md)
[**Commands**<br>Each with its options and an example](commands/index.md)
[**Python**<br>The same from a script](api.md)
[**Gallery**<br>What a report looks like](gallery.md)

</div>
"""


def readme_pages(root: Path) -> dict[str, str]:
    """Page → Markdown. Raises KeyError for a section that the README does not have."""
    parts = _sections((root / "README.md").read_text(encoding="utf-8"))
    pages = {}
    for page, (title, names) in SECTIONS.items():
        opening = f"# {title}\n\n" if title else f"{parts['']}\n{START_LINKS}\n"
        # The only section of a page needs no heading under the page's own.
        texts = [parts[name] if title else f"## {name}\n\n{parts[name]}" for name in names]
        pages[page] = opening + "\n".join(texts)
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = {
        file.name: file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition(":")[0]
        for file in (root / "docs").glob("*.md")
    }
    return {page: _relinked(text, titles) for page, text in {**pages, "changes.md": changes}.items()}


def _sections(text: str) -> dict[str, str]:
    """Heading → text below it; what stands before the first heading has the name ''."""
    opening, *rest = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {
        "": opening,
        **{name: body.strip("\n") + "\n" for name, body in zip(rest[::2], rest[1::2], strict=True)},
    }


def _relinked(text: str, titles: dict[str, str]) -> str:
    """Links of the README start at the repository's root and show file names, here they show titles."""
    named = LINK_TO_FILE.sub(lambda found: f"[{titles.get(found[1], found[1])}]({found[1]})", text)
    return named.replace("](docs/", "](")
