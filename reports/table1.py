"""RefAlign's Table 1 beside measured runs of the same methods."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refbench.bench.console import percent, scoreboard_json
from refbench.bench.leaderboard_settings import leaderboard_settings
from refbench.bench.scores.aggregate import ComponentResult, Scoreboard, scoreboards
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.record import PLAIN, RunKey, plain_name
from refbench.bench.scores.store import Store, store_paths
from refbench.reports.cards import other_than_published
from refbench.reports.files import write_files
from refbench.reports.published import (
    TABLE1_FILE,
    PublishedRow,
    Source,
    published_json,
    published_rows,
    published_sources,
)
from refbench.reports.stored_runs import StoredRuns, read_stored_runs
from refbench.reports.table_formats import csv_text, to_latex, to_markdown
from refbench.reports.tables import NONE, Cell, Table

REPORTED_ONLY = "reported only"
# What a line of the table holds.
ROW_KINDS = ("published", "measured", "difference")
CSV_COLUMNS = (
    "method",
    "run",
    "component",
    "published_percent",
    "measured_percent",
    "difference_points",
    "expected",
    "counted",
)


# Methods whose size the table leaves out of their names.
ROW_NAMES = {"kaleido14b": "kaleido", "bindweave14b": "bindweave"}


@dataclass(frozen=True, kw_only=True)
class ReproducedRow:
    """A row of Table 1 with the measured runs of that method; without one it is reported only."""

    published: PublishedRow
    measured: tuple[Scoreboard, ...]


SETTINGS_NOT_PUBLIC = "how the published row was generated is not public in full"


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Table 1 beside measured runs.

    `rows` are all rows of Table 1 in its order, `table` shows them in percent and points, `settings` says of
    which runs it is known or unknown that they were made as the published row was. `left_out` says for
    every other run of the track (by its label), and for files that cannot be read, why it stands in no row.
    """

    rows: tuple[ReproducedRow, ...]
    table: Table
    settings: tuple[str, ...]
    left_out: Mapping[str, str]

    def write(self, out: str | os.PathLike[str]) -> list[Path]:
        """Write `table1.md`, `table1.csv` and `table1.tex` below `out`; returns the files.

        Raises UserError when `out` cannot be written.
        """
        contents = {
            "table1.md": to_markdown("Table 1, reproduced", [self.table]),
            "table1.csv": reproduction_csv(self.rows),
            "table1.tex": to_latex([self.table]),
        }
        return write_files(out, contents)


def reproduce_table1(
    stores: Store | Iterable[Store] = (), *, out: str | os.PathLike[str] | None = None
) -> Reproduction:
    """RefAlign's Table 1 beside the runs of its track in the stores; written below `out` where that is given.

    Raises UserError when a store does not exist or holds no record, and when `out` cannot be written.

    >>> made = reproduce_table1("results")
    >>> (len(made.rows), made.rows[-1].published.method)
    (16, 'RefAlign-14B')
    >>> made.left_out["refalign-tiny (tiny-weights)"].split(";")[0]
    'generated with tiny weights'
    """
    source = table1_source()
    paths = store_paths(stores)
    stored = read_stored_runs(paths) if paths else StoredRuns(records=(), run_infos={})
    records = stored.records
    boards = scoreboards((record for record in records if record.track == source.track), source.protocol)
    rows = tuple(reproduced_rows(boards))
    matched = {board.label for row in rows for board in row.measured}
    settings = _settings_notes(rows, stored)
    table = reproduction_table(rows)
    made = Reproduction(
        rows=rows,
        table=replace(table, notes=(*(f"{text}." for text in settings), *table.notes)),
        settings=settings,
        left_out=left_out(boards, matched, "it is not in Table 1")
        | {text.partition(",")[0]: text for text in stored.left_out},
    )
    if out is not None:
        made.write(out)
    return made


def _settings_notes(rows: Iterable[ReproducedRow], stored: StoredRuns) -> tuple[str, ...]:
    notes = []
    for row in rows:
        for board in row.measured:
            if leaderboard_settings(row.published.method) is None:
                notes.append(f"{board.label}: {SETTINGS_NOT_PUBLIC}")
                continue
            info = stored.run_infos.get(RunKey(board.method, board.track, board.variant))
            said = other_than_published(row.published.method, board.label, info, board.seeds)
            if said is not None:
                notes.append(said)
    return tuple(notes)


def left_out(boards: Iterable[Scoreboard], matched: Collection[str], otherwise: str) -> dict[str, str]:
    """Why each run whose label is not `matched` stands in no row; `otherwise`: no row has its name."""

    def why(board: Scoreboard) -> str:
        variant = "" if board.variant == PLAIN else f"it is the variant {board.variant}"
        return "; ".join(board.unofficial) or variant or otherwise

    return {board.label: why(board) for board in boards if board.label not in matched}


def compares(board: Scoreboard) -> bool:
    """Whether a run may stand beside published figures: a plain one, with all that makes a TotalScore."""
    return board.variant == PLAIN and not board.unofficial


def table1_source() -> Source:
    """The source that Table 1 was typed in from."""
    return next(source for source in published_sources() if source.file == TABLE1_FILE)


def reproduced_rows(boards: Sequence[Scoreboard]) -> list[ReproducedRow]:
    """All rows of Table 1 in its order; a run matches by its method's name, without case and punctuation.

    `boards` must be of the table's track and protocol; unofficial ones and variants (shuffled references,
    tiny weights) never stand beside published figures.
    """
    return [
        ReproducedRow(
            published=row,
            measured=tuple(
                board
                for board in boards
                if row_name(board.method) == plain_name(row.method) and compares(board)
            ),
        )
        for row in published_rows(table1_source())
    ]


def row_name(method: str) -> str:
    """The plain name of the row that a registered method's runs belong to."""
    return ROW_NAMES.get(plain_name(method), plain_name(method))


def differences_points(row: PublishedRow, board: Scoreboard) -> dict[str, float | None]:
    """`total` and each component → measured minus published, in points; None where nothing was measured."""
    return differences_of(_published(row), board)


def differences_of(published: Mapping[str, float], board: Scoreboard) -> dict[str, float | None]:
    """As `differences_points`, for published figures in percent by name."""
    values = measured(board)
    return {
        name: None if (value := values[name]) is None else 100 * value - figure
        for name, figure in published.items()
    }


def coverage_gaps(board: Scoreboard) -> list[str]:
    """What makes a measured row less than a full run: samples left out, and videos that were not scored.

    What the protocol drops is no gap: it was dropped from the published figures too.
    """
    thin = [
        f"{result.label} {result.scored}/{result.expected} scored"
        for result in board.components
        if result.scored < result.expected
    ]
    return [*board.notes, *thin]


def reproduction_table(rows: Sequence[ReproducedRow]) -> Table:
    """Published, measured and difference lines for every method, in percent and points."""
    source = table1_source()
    lines: list[tuple[Cell, ...]] = []
    notes = []
    for row in rows:
        published = [Cell(text=f"{value:.2f}", number=value) for value in _published(row.published).values()]
        remark = "" if row.measured else REPORTED_ONLY
        lines.append((Cell(text=row.published.method), Cell(text="published"), *published, Cell(text=remark)))
        for board in row.measured:
            gaps = coverage_gaps(board)
            if gaps:
                notes.append(f"incomplete, {board.label}: {', '.join(gaps)}.")
            figures = [Cell(text=percent(measured(board)[name])) for name in _published(row.published)]
            lines.append(
                (
                    Cell(text=board.label),
                    Cell(text="measured"),
                    *figures,
                    Cell(text="incomplete" if gaps else ""),
                )
            )
            differences = [
                Cell(text=NONE if gap is None else f"{gap:+.2f}")
                for gap in differences_points(row.published, board).values()
            ]
            lines.append((Cell(text=board.label), Cell(text="difference"), *differences, Cell(text="")))
    labels = [component.label for component in COMPONENTS.values()]
    return Table(
        title=f"{source.title}: published and measured, {source.track}, {source.protocol}, %",
        headings=("Method", "Row", "TotalScore", *labels, "Remark"),
        rows=tuple(lines),
        notes=(*notes, f"Published: {source.citation}. Difference: measured - published, in points."),
    )


def reproduction_csv(rows: Sequence[ReproducedRow]) -> str:
    """One line per row, run and component (`total` first), unrounded; rows reported only have no run."""
    lines: list[list[object]] = []
    for row in rows:
        published = _published(row.published)
        if not row.measured:
            lines += [
                [row.published.method, "", name, value, "", "", "", ""] for name, value in published.items()
            ]
        for board in row.measured:
            differences = differences_points(row.published, board)
            results = {result.component: result for result in board.components}
            for name, value in published.items():
                figure = measured(board)[name]
                in_percent = None if figure is None else 100 * figure
                counts = _counts(results.get(name))
                lines.append(
                    [row.published.method, board.label, name, value, in_percent, differences[name], *counts]
                )
    return csv_text(CSV_COLUMNS, lines)


def reproduction_json(rows: Sequence[ReproducedRow]) -> list[dict[str, Any]]:
    """JSON-serialisable rows: published in percent, scoreboards on the scale 0..1, differences in points."""
    return [
        {
            "published_percent": published_json(row.published),
            "reported_only": not row.measured,
            "measured": [
                {
                    "scoreboard": scoreboard_json(board),
                    "difference_points": differences_points(row.published, board),
                    "incomplete": coverage_gaps(board),
                }
                for board in row.measured
            ],
        }
        for row in rows
    ]


def _published(row: PublishedRow) -> dict[str, float]:
    return {"total": row.total, **row.components}


def measured(board: Scoreboard) -> dict[str, float | None]:
    """`total` and each component on the scale 0..1; None where nothing was scored."""
    return {"total": board.total, **{result.component: result.value for result in board.components}}


def _counts(result: ComponentResult | None) -> tuple[int | None, int | None]:
    return (None, None) if result is None else (result.expected, result.counted)
