"""The commands that read records and published figures: report, leaderboard, compare, reproduce.

Plain functions with typer annotations; the CLI finds them through the entry-point group `refbench.commands`.
Everything heavy is imported when a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refbench.bench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from refbench.reports.compared import ComparedRun
    from refbench.reports.published import PublishedRow

# As in bench.protocol, whose import would make --help slow.
DEFAULT_PROTOCOL = "opens2v-1.1"
ProtocolOption = Annotated[
    str, typer.Option("--protocol", help="How records become scores: opens2v-1.1 or opens2v-1.0.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the same numbers unrounded, for programs, instead of tables.")
]


def report(
    stores: Annotated[list[Path], typer.Argument(help="Score stores: folders or .jsonl files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("report"),
    protocol: ProtocolOption = DEFAULT_PROTOCOL,
    json: JsonOption = False,
) -> None:
    """Write tables, plots and one HTML page from score records.

    Tables in Markdown, CSV and LaTeX, plots in PNG and PDF. Records of several methods, tracks and stores are
    put together; nothing is scored again.

    Example: refbench report scores/ -o report
    """
    from refbench.bench.console import print_json, print_scoreboards, print_text, scoreboard_json
    from refbench.bench.scores.aggregate import scoreboards
    from refbench.bench.scores.protocol import get_protocol
    from refbench.reports.report import write_report
    from refbench.reports.stored_runs import read_stored_runs

    chosen = get_protocol(protocol)
    stored = read_stored_runs(stores)
    files = write_report(stored.records, out, chosen, stored.run_infos)
    boards = scoreboards(stored.records, chosen)
    if json:
        print_json(
            {
                "scoreboards": [scoreboard_json(board) for board in boards],
                "files": [str(file) for file in files],
            }
        )
        return
    print_scoreboards(boards)
    print_text(f"page:   {files[0]}")
    print_text(f"tables: {out / 'tables'} (Markdown, CSV, LaTeX)")
    print_text(f"plots:  {out / 'plots'} (PNG, PDF)")


def leaderboard(
    track: Annotated[
        str, typer.Option("--track", help="open-domain, human-domain or single-domain.")
    ] = "open-domain",
    protocol: ProtocolOption = DEFAULT_PROTOCOL,
    source: Annotated[
        str | None, typer.Option("--source", help="Only sources whose title holds these words.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show published scores, with TotalScore recomputed.

    The total is recomputed from the published components; rows that are off by more than 0.02 points are
    marked with !. A method stands once for each source that has it.

    Example: refbench leaderboard --track human-domain --protocol opens2v-1.0
    """
    from refbench.bench.console import console, print_json, print_text, table
    from refbench.bench.scores.columns import COMPONENTS
    from refbench.reports.published import (
        LARGEST_ROUNDING_POINTS,
        disagrees,
        published_json,
        recomputed_total,
        total_difference,
    )

    rows = _published(track, protocol, source)
    if json:
        print_json({"scale": "percent", "rows": [published_json(row) for row in rows]})
        return
    components = [component for component in COMPONENTS.values() if component.name in rows[0].components]
    cells = [
        [
            f"{row.method}{' !' if disagrees(row) else ''}",
            f"{row.total:.2f}",
            f"{recomputed_total(row):.2f}",
            f"{total_difference(row):+.3f}",
            *(f"{row.components[component.name]:.2f}" for component in components),
            row.openness,
            row.source.title,
        ]
        for row in rows
    ]
    labels = _headings([component.label for component in components])
    headings = ["method", "total\n%", "recomputed\n%", "difference\npoints", *labels, "openness", "source"]
    console().print(table(f"published, {track}, {protocol}", headings, cells))
    marked = [row for row in rows if disagrees(row)]
    print_text(
        f"{len(rows)} rows, {len(marked)} of them more than {LARGEST_ROUNDING_POINTS} points off "
        "their own components"
    )
    for row in marked:
        print_text(f"! {row.method}, {row.source.title}: {total_difference(row):+.3f} points")
    for cited in dict.fromkeys(row.source for row in rows):
        print_text(f"{cited.title}: {cited.citation}, {cited.url}")


def compare(
    a: Annotated[
        str, typer.Argument(help="Store of A: a method's folder or a .jsonl file, or PATH@VARIANT.")
    ],
    b: Annotated[str, typer.Argument(help="Store of B, likewise.")],
    track: Annotated[str | None, typer.Option("--track", help="Needed where a store has several.")] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Needed where a store has several; PATH@VARIANT for one side."),
    ] = None,
    protocol: ProtocolOption = DEFAULT_PROTOCOL,
    json: JsonOption = False,
) -> None:
    """Say whether A is better than B, or that the samples cannot tell.

    A paired bootstrap over the samples that both have gives difference, 95 % interval, and the smallest gap
    that so many samples could have shown (two-sided 5 %, power 80 %). Differences of the two method cards are
    listed.

    Example: refbench compare scores/vace-14b scores/phantom-14b --track open-domain
    """
    from dataclasses import replace

    from refbench.bench.console import console, print_json, print_text, table
    from refbench.bench.scores.protocol import get_protocol
    from refbench.reports.compared import (
        COMPARISON_HEADINGS,
        compare_runs,
        comparison_json,
        comparison_lines,
        comparison_rows,
    )

    run_a, run_b = _one_run(a, track, variant), _one_run(b, track, variant)
    if run_a.label == run_b.label:
        run_a = replace(run_a, label=f"{run_a.label} of {a}")
        run_b = replace(run_b, label=f"{run_b.label} of {b}")
    result = compare_runs(run_a, run_b, get_protocol(protocol))
    if json:
        print_json(comparison_json(result))
        return
    scores = result.scores
    print_text(f"A: {scores.a}\nB: {scores.b}")
    title = f"{scores.track} · {scores.protocol} · {scores.samples} samples"
    console().print(table(title, COMPARISON_HEADINGS, comparison_rows(scores)))
    for line in comparison_lines(result):
        print_text(line)


def reproduce(
    what: Annotated[str, typer.Argument(help="table1: the sixteen rows of RefAlign's Table 1.")],
    stores: Annotated[
        list[Path] | None, typer.Argument(help="Score stores with measured runs: folders or .jsonl files.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the table (Markdown, CSV, LaTeX).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Put a published table and measured runs side by side.

    Runs are matched by the method's name, without case and punctuation; rows without a run are marked
    "reported only", runs in which something expected was not scored "incomplete". Differences are in points.

    Example: refbench reproduce table1 scores/ -o reproduction
    """
    from refbench.bench.console import console, note, print_json, print_text, table
    from refbench.bench.registry import unknown_name
    from refbench.bench.scores.aggregate import scoreboards
    from refbench.bench.scores.protocol import get_protocol
    from refbench.bench.scores.record import PLAIN
    from refbench.reports.report import write_files
    from refbench.reports.stored_runs import read_stored_runs
    from refbench.reports.table1 import (
        reproduced_rows,
        reproduction_csv,
        reproduction_json,
        reproduction_table,
        table1_source,
    )
    from refbench.reports.table_formats import to_latex, to_markdown

    if what != "table1":
        raise UserError(unknown_name("table", what, ["table1"]))
    source = table1_source()
    records = read_stored_runs(stores).records if stores else ()
    boards = [
        board for board in scoreboards(records, get_protocol(source.protocol)) if board.track == source.track
    ]
    rows = reproduced_rows(boards)
    matched = {board.label for row in rows for board in row.measured}
    for board in boards:
        if board.label not in matched:
            variant = "" if board.variant == PLAIN else f"it is the variant {board.variant}"
            why = "; ".join(board.unofficial) or variant or "it is not in Table 1"
            note(f"{board.label} is left out: {why}")
    printed = reproduction_table(rows)
    contents = {
        "table1.md": to_markdown("Table 1, reproduced", [printed]),
        "table1.csv": reproduction_csv(rows),
        "table1.tex": to_latex([printed]),
    }
    files = [] if out is None else write_files(out, contents)
    if json:
        print_json({"rows": reproduction_json(rows), "files": [str(file) for file in files]})
        return
    cells = [[cell.text for cell in row] for row in printed.rows]
    console().print(table(printed.title, _headings(printed.headings), cells))
    for line in (*printed.notes, *(f"wrote {file}" for file in files)):
        print_text(line)


def _published(track: str, protocol: str, words: str | None) -> list[PublishedRow]:
    from refbench.bench.dataset import OFFICIAL_TRACKS
    from refbench.bench.registry import unknown_name
    from refbench.bench.scores.protocol import get_protocol
    from refbench.reports.published import published_rows, published_sources

    get_protocol(protocol)
    if track not in OFFICIAL_TRACKS:
        raise UserError(unknown_name("track", track, OFFICIAL_TRACKS))
    sources = [
        source for source in published_sources() if source.track == track and source.protocol == protocol
    ]
    chosen = [source for source in sources if words is None or words.lower() in source.title.lower()]
    if not chosen:
        titles = ", ".join(source.title for source in sources)
        raise UserError(f"no source for {track} under {protocol} is called {words!r}; there are: {titles}")
    rows = [row for source in chosen for row in published_rows(source)]
    return sorted(rows, key=lambda row: (-row.total, row.method, row.source.file))


def _one_run(place: str, track: str | None, variant: str | None) -> ComparedRun:
    """The one run that a PATH or PATH@VARIANT holds, of that track and variant where they are given."""
    from refbench.bench.scores.results import only_run
    from refbench.reports.compared import ComparedRun
    from refbench.reports.stored_runs import read_stored_runs

    path, marker, named = place.rpartition("@")
    if marker and path and not Path(place).exists():
        place, variant = path, named
    stored = read_stored_runs([Path(place)])
    groups = stored.groups()
    run = only_run(groups, place, track=track, variant=variant)
    return ComparedRun(label=run.label, records=groups[run], info=stored.run_infos.get(run))


def _headings(headings: Sequence[str]) -> list[str]:
    """Headings on two lines, so that a table of seven components fits a terminal."""
    from refbench.reports.table_formats import heading_lines

    return ["\n".join(heading_lines(heading)) for heading in headings]
