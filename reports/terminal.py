"""Tables of a report on the terminal: one row for each method, within the width there is."""

from __future__ import annotations

from collections.abc import Sequence

from refbench.bench import console
from refbench.bench.console import interval_text, percent, print_lines, print_table, print_text
from refbench.bench.scores.aggregate import Scoreboard
from refbench.bench.scores.columns import COMPONENTS
from refbench.reports.table1 import REPORTED_ONLY, ROW_KINDS
from refbench.reports.tables import Table, coverage_notes, score_table

SHORT_HEADINGS = {
    **{component.label: component.short for component in COMPONENTS.values()},
    "TotalScore": "Total",
    "Strict total": "Strict",
}
# Left out first where the screen is narrow; of the components the one with the least weight first.
DROPPED_FIRST = ("95 % interval", "Strict total", "MotionAmplitude", "MotionSmoothness", "GmeScore")
SHORT_ROWS = dict(zip(ROW_KINDS, ("pub", "run", "diff"), strict=True))


def print_score_table(boards: Sequence[Scoreboard]) -> None:
    """The methods of one track, best first, with what must be said of their totals and coverage."""
    table = score_table(boards)
    columns = [heading.removesuffix(" ↑") for heading in table.headings]
    rows = [[f"{cell.text}{'†' if cell.partial else ''}" for cell in row] for row in table.rows]
    if console.screen_width() is not None:
        # The lines below the table say where a mark would stand; a variant may go to a line of its own.
        rows = [[cell.text for cell in row] for row in table.rows]
        rows = [[row[0].replace(" (", "\n("), *row[1:]] for row in rows]
    print_table(table.title, columns, rows, short=SHORT_HEADINGS, drop=DROPPED_FIRST)
    for board in boards:
        if board.total is not None:
            total = f"{percent(board.total)} {interval_text(board.total_interval)}"
            print_lines([f"{board.label}: TotalScore {total}, strict {percent(board.strict_total)}"])
    print_lines(table.notes)
    print_lines(f"not counted, {text}" for text in coverage_notes(boards))
    print_text("")


def print_noise(tables: Sequence[Table]) -> None:
    """Noise floors of a track and what they say of it, below its scores."""
    for table in tables:
        print_table(
            table.title,
            table.headings,
            [[cell.text for cell in row] for row in table.rows],
            short=SHORT_HEADINGS,
            drop=DROPPED_FIRST[2:],
            texts=table.headings[:1],
        )
        print_lines(table.notes)
        print_text("")


def print_reproduction(table: Table) -> None:
    """Table 1 beside measured runs; where it is narrow its rows are called `pub`, `run` and `diff`."""
    rows = [[cell.text for cell in row] for row in table.rows]
    if console.screen_width() is not None:
        rows = [[SHORT_ROWS.get(cell, cell) for cell in row] for row in rows]
    drop = ["Remark", *DROPPED_FIRST]
    left_out = print_table(table.title, table.headings, rows, short=SHORT_HEADINGS, drop=drop)
    if "Remark" in left_out:
        alone = sum(row[-1].text == REPORTED_ONLY for row in table.rows)
        print_lines(
            [f"{alone} rows are {REPORTED_ONLY}; pub: published, run: measured, diff: the difference"]
        )
