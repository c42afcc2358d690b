"""The docs site builds without a warning and without a network, and holds every page, command and name."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

import refbench as public
from kit.offline import SUPPORTED, without_network
from kit.pages import Page
from refbench.bench.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mkdocs", "material", "mkdocstrings_handlers.python")

# What a browser asks for when it opens a page; `a href` is followed by people alone.
FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
NOT_FETCHED = {"canonical", "prev", "next"}
ABSOLUTE = re.compile(r"(?:[a-z]+:)?//", re.IGNORECASE)


def missing() -> list[str]:
    """Packages of the extra that are not installed."""
    return [name for name in PACKAGES if find_spec(name.partition(".")[0]) is None]


pytestmark = pytest.mark.skipif(bool(missing()), reason=f"the extra 'docs' is not installed: {missing()}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site: strictly, so that any warning fails, and cut off from the network where Linux can."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(folder / "built")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NO_MKDOCS_2_WARNING", "1")
        patched.setenv("PYTHONDONTWRITEBYTECODE", "1")
        if SUPPORTED:
            done = without_network(command, folder, folder / "home")
            assert done.returncode != -signal.SIGSYS, "it wanted to reach the network"
        else:
            done = subprocess.run(command, cwd=folder, env=os.environ.copy(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder / "built"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """Every page, by its path below the site."""
    return {
        file.relative_to(site).as_posix(): SitePage(file.read_text(encoding="utf-8"))
        for file in site.rglob("*.html")
    }


class SitePage(Page):
    """A page of the site, whose theme leaves tags open where HTML lets it."""

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def texts_of(tag: str, page: str) -> list[str]:
    """What stands in each element of a tag (a pattern), without tags and the sign of a heading's link."""
    found = re.findall(rf"<{tag}\b.*?>(.*?)</{tag}>", page, re.DOTALL)
    return [unescape(re.sub("<[^>]+>", "", text)).replace("¶", "").strip() for text in found]


def commands(group: Any = None, context: Any = None) -> Iterator[tuple[str, bool]]:
    """The words of every registered command, and whether others are below it."""
    if group is None:
        group = typer.main.get_command(app)
        context = group.make_context("refbench", ["-"], resilient_parsing=True)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        below = type(context)(found, info_name=name, parent=context)
        yield below.command_path, hasattr(found, "list_commands")
        if hasattr(found, "list_commands"):
            yield from commands(found, below)


def test_every_page_of_docs_is_in_the_navigation(pages: dict[str, Page]) -> None:
    navigation = {attributes["href"] for attributes in pages["index.html"].attributes("a")}
    written = {f"{file.stem}.html" for file in (ROOT / "docs").glob("*.md")}
    made = {"metrics.html", "measured.html", "changes.html", "api.html", "gallery.html"}
    assert "why-different.html" in written
    assert written | made | {"commands/index.html"} <= navigation


def test_every_command_has_its_section_with_an_example(site: Path) -> None:
    listed = list(commands())
    assert {"refbench evaluate", "refbench votes", "refbench weights pull"} <= {name for name, _ in listed}
    for name, is_group in listed:
        text = (site / f"commands/{name.split()[1]}.html").read_text(encoding="utf-8")
        assert name in texts_of("h[12]", text), name
        assert is_group or any(f"{name} " in f"{block} " for block in texts_of("pre", text)), name


def test_a_command_page_says_what_the_help_says(pages: dict[str, Page]) -> None:
    text = pages["commands/generate.html"].text
    for words in (
        "What is finished is not made again",
        "--shuffle-seed",
        "[default: own]",
        "<track>/seed-<n>",
    ):
        assert words in text


def test_every_public_name_is_explained(site: Path, pages: dict[str, Page]) -> None:
    ids = {attributes.get("id") for _, attributes in pages["api.html"].elements}
    assert {f"refbench.{name}" for name in public.__all__} <= ids
    # An example of a docstring is code, not a quotation.
    assert "blockquote" not in pages["api.html"].tags
    examples = texts_of("pre", (site / "api.html").read_text(encoding="utf-8"))
    assert any(text.startswith('>>> made = report("results"') for text in examples)


def test_the_gallery_shows_pictures_that_are_there(site: Path, pages: dict[str, Page]) -> None:
    shown = [attributes["src"] for attributes in pages["gallery.html"].attributes("img")]
    assert len(shown) == 8
    for name in shown:
        assert (site / name).read_bytes().startswith(b"\x89PNG")


def test_no_page_asks_another_host(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for tag, attributes in page.elements:
            if tag in FETCHED and attributes.get("rel") not in NOT_FETCHED:
                assert not ABSOLUTE.match(attributes.get(FETCHED[tag], "")), (name, tag, attributes)
            assert "url(http" not in attributes.get("style", "")
            # The theme's script would fetch the library that draws such a block.
            assert "mermaid" not in attributes.get("class", "").split(), name
    for file in site.rglob("*.css"):
        links = re.findall(r"(?:url\(|@import\s)\s*[\"']?([^\"')\s]+)", file.read_text(encoding="utf-8"))
        assert not [link for link in links if ABSOLUTE.match(link)], file


def test_nothing_made_is_left_in_the_sources(site: Path) -> None:
    assert site.is_dir()
    made = {
        "index.md",
        "api.md",
        "gallery.md",
        "metrics.md",
        "measured.md",
        "changes.md",
        "commands",
        "gallery",
    }
    assert not made & {path.name for path in (ROOT / "docs").iterdir()}
