"""Pages of the docs site that are made at build time, so that they say what README, code and help texts say.

MkDocs calls the functions `on_…`. What cannot be made as it should (a command without an example, a part of
the README that is gone) is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from command_pages import command_pages
from gallery_page import gallery_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from readme_pages import readme_pages

import refbench

LOG = logging.getLogger("mkdocs.hooks.refbench")
ROOT = Path(__file__).resolve().parents[2]
COMMANDS = "Commands"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each command into the navigation."""
    pages = [f"commands/{name}.md" for name in command_pages(LOG.warning) if name != "index"]
    config.nav = [_with_commands(entry, pages) for entry in config.nav or []]
    return config


def _with_commands(entry: Any, pages: list[str]) -> Any:
    if isinstance(entry, dict) and COMMANDS in entry:
        return {COMMANDS: [*entry[COMMANDS], *pages]}
    return entry


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that are made here."""
    made: dict[str, str | bytes] = {
        **readme_pages(ROOT),
        **{f"commands/{name}.md": text for name, text in command_pages(LOG.warning).items()},
        "api.md": _api_page(),
        **gallery_page(),
        "look.css": (ROOT / "docs/site/look.css").read_text(encoding="utf-8"),
    }
    for place, content in made.items():
        files.append(File.generated(config, place, content=content))
    return files


def _api_page() -> str:
    """The public interface, in the order in which the package lists it."""
    intro = (
        "# Python\n\nWhat `import refbench` offers. The command line calls the same functions; metrics "
        "and methods of your own are on the page [Plugins](plugins.md).\n"
    )
    return "\n".join([intro, *(f"::: refbench.{name}\n" for name in refbench.__all__)])
