"""The command publish."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refbench.bench.cli import options as o

if TYPE_CHECKING:
    from refbench.bench.publishing import Publication

# Of more files only the first are named without --verbose.
NAMED_FILES = 200


def add_commands(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(publish)


def publish(
    folder: Annotated[Path, typer.Argument(help="A folder of results: a report, a bundle, an export.")],
    repo: Annotated[str, typer.Option("--repo", metavar="OWNER/NAME", help="The hub repository.")],
    kind: Annotated[str, typer.Option("--kind", help="dataset, model or space (static).")] = "dataset",
    into: Annotated[
        str, typer.Option("--into", metavar="PATH", help="Folder of the repository. Default: its root.")
    ] = "",
    yes: Annotated[
        bool, typer.Option("--yes", help="Send the files. Without it they are listed and nothing is sent.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Where the repository is not there yet, make it a public one.")
    ] = False,
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help="Propose the files to the owner of the repository.")
    ] = False,
    json: o.JsonOption = False,
) -> None:
    """Put a folder of results into a repository of the Hugging Face hub, when asked.

    Without --yes this lists what would go, with sizes, and speaks to nobody. Hidden files (but for
    .eval_results) and links are never sent. The hub's own client finds the token (hf auth login, or
    $HF_TOKEN); it is never printed. Examples:

    refbench publish report/ --repo me/my-results

    refbench publish shared/my-method --repo me/my-model --kind model --pull-request --yes
    """
    from refbench.bench.console import note, print_json, print_text, shortened
    from refbench.bench.publishing import plan_publication, send

    planned = plan_publication(folder, repo, kind, into)
    if not json:
        _print_plan(planned)
    if planned.left_out:
        note(f"not sent: {shortened(planned.left_out)}")
    address = send(planned, public=public, pull_request=pull_request) if yes else None
    if json:
        print_json(
            {
                "repository": planned.repository,
                "kind": planned.kind,
                "files": [{"path": one.place, "bytes": one.size_bytes} for one in planned.files],
                "bytes": planned.size_bytes,
                "left_out": list(planned.left_out),
                "sent_to": address,
            }
        )
    else:
        print_text(f"sent: {address}" if yes else "nothing was sent: --yes sends these files")


def _print_plan(planned: Publication) -> None:
    from refbench.bench.console import VIEW, count_text, print_table, print_text

    named = planned.files if VIEW.get().verbose else planned.files[:NAMED_FILES]
    rows = [[one.place, _size_text(one.size_bytes)] for one in named]
    total = f"{count_text(len(planned.files), 'file')}, {_size_text(planned.size_bytes)}"
    print_table(f"To {planned.repository} ({planned.kind}): {total}", ["file", "size"], rows)
    if len(named) < len(planned.files):
        print_text(f"… and {len(planned.files) - len(named)} more (--verbose names all)")


def _size_text(size_bytes: int) -> str:
    """A size to read: `512 B`, `3.4 MiB`."""
    for unit, unit_bytes in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {unit}"
    return f"{size_bytes} B"
