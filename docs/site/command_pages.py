"""A page for each command of `refbench`, from the command line's own help: text, usage, examples, options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from html import escape
from typing import Any

import typer

from refbench.bench.cli.main import app

Complain = Callable[[str], None]
EXAMPLE = "Example: "
LABELS = ("Examples:", "Example:")
PROGRAM = "refbench"


@cache
def command_pages(complain: Complain) -> dict[str, str]:
    """Page name → Markdown: `index` lists all commands, each other name is a command with those below it.

    A command without a help text, without an example, or that does not load is told to `complain`.
    """
    root = typer.main.get_command(app)
    context = root.make_context(PROGRAM, ["-"], resilient_parsing=True)
    rows: list[str] = []
    pages: dict[str, str] = {}
    for name, command, within in sorted(_below(root, context), key=lambda found: found[0]):
        text, _ = split_help(command.help or "")
        # `plan train` is a command of two words, on the page of the first.
        first, _, rest = name.partition(" ")
        page = [_section(command, within, complain, level=2 if rest else 1)]
        page += [_section(one, below, complain, level=2) for _, one, below in _below(command, within)]
        pages[first] = "\n".join([*([pages[first]] if rest else []), *page])
        rows.append(f"| [`{PROGRAM} {name}`]({first}.md) | {_plain(text[0] if text else '')} |")
    listed = "\n".join(["| command | |", "|---|---|", *rows])
    opening, _ = split_help(root.help or "")
    index = [
        "# Commands\n",
        *(f"<p>{escape(paragraph)}</p>\n" for paragraph in opening),
        listed,
        "\nExit codes: 0 all well, 1 some sample failed, 2 something you can fix, 130 interrupted.\n",
        "## Before any command\n",
        _options(root, context),
    ]
    return {"index": "\n".join(index), **pages}


def split_help(text: str) -> tuple[list[str], list[str]]:
    """Paragraphs of a help text, and the examples in it."""
    paragraphs, examples = [], []
    for block in text.split("\n\n"):
        words = " ".join(block.split())
        before, mark, after = words.partition(EXAMPLE)
        if words.startswith(f"{PROGRAM} "):
            examples.append(words)
            continue
        if mark and after.startswith(f"{PROGRAM} "):
            examples.append(after)
            words = before
        for label in LABELS:
            words = words.removesuffix(label).strip()
        if words:
            paragraphs.append(words)
    return paragraphs, examples


def _below(command: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, command and context of each command of a group; nothing for a single command."""
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        found = command.get_command(context, name)
        if not found.hidden:
            yield name, found, type(context)(found, info_name=name, parent=context)


def _section(command: Any, context: Any, complain: Complain, level: int = 1) -> str:
    name = context.command_path
    paragraphs, examples = split_help(command.help or "")
    is_group = hasattr(command, "list_commands")
    if not paragraphs or paragraphs[0].startswith("(not available"):
        complain(f"{name}: {' '.join(paragraphs) or 'no help text'}")
    if not examples and not is_group:
        complain(f"{name}: no example in its help text")
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    parts = [f"{'#' * level} {name}\n", *(f"<p>{escape(paragraph)}</p>\n" for paragraph in paragraphs)]
    if examples:
        parts.append("```bash\n" + "\n".join(examples) + "\n```\n")
    if not is_group:
        parts.append(f'<p class="usage">Usage: <code>{escape(usage)}</code></p>\n')
        parts.append(_options(command, context))
    return "\n".join(parts)


def _options(command: Any, context: Any) -> str:
    """Arguments and options as the help prints them."""
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [
        f"<tr><td><code>{escape(record[0])}</code></td><td>{escape(record[1])}</td></tr>"
        for record in records
        if record is not None
    ]
    return '<table class="options">\n<tbody>\n' + "\n".join(rows) + "\n</tbody>\n</table>\n"


def _plain(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return escape(text).replace("|", "&#124;").replace("*", "&#42;").replace("_", "&#95;")
