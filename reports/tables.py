"""Tables of a report: what stands in each cell, and which cell is best. `table_formats` prints them.

Rows follow the order of the scoreboards given: `ranked` puts the best first.

Printed figures are percent with two decimals. Best and second are decided on the printed figures, so that two
methods that a reader cannot tell apart share the mark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from refbench.bench.console import coverage_text, interval_text, percent, reasons_text
from refbench.bench.dataset import declared_tracks
from refbench.bench.scores.aggregate import ComponentResult, Scoreboard, natural_order
from refbench.bench.scores.columns import COMPONENTS

NONE = "–"
Mark = Literal["", "best", "second"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: the printed text, the number to sort by (None sorts last), and its marks.

    `partial` says that the figure rests on fewer videos than expected.
    """

    text: str
    number: float | None = None
    mark: Mark = ""
    partial: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table in no particular format; the first column holds the methods, `notes` stand below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def ranked(boards: Iterable[Scoreboard]) -> list[Scoreboard]:
    """The highest TotalScore first; methods without one last, by name."""
    return sorted(
        boards, key=lambda board: (board.total is None, -(board.total or 0.0), natural_order(board.label))
    )


def component_tables(boards: Sequence[Scoreboard]) -> list[Table]:
    """The tables of one track: scores, then intervals, coverage and strict scores of each component."""
    return [score_table(boards), interval_table(boards), coverage_table(boards), strict_table(boards)]


def score_table(boards: Sequence[Scoreboard]) -> Table:
    """TotalScore with interval, strict TotalScore, then the components, in percent."""
    return Table(
        title=f"{_track_text(boards)}: TotalScore and components, %",
        headings=("Method", "TotalScore ↑", "95 % interval", "Strict total ↑", *_component_headings(boards)),
        rows=_marked(
            [
                (
                    Cell(text=board.label, partial=bool(board.notes)),
                    _percent_cell(board.total),
                    Cell(
                        text=interval_text(board.total_interval),
                        number=board.total_interval[0] if board.total_interval else None,
                    ),
                    _percent_cell(board.strict_total),
                    *(
                        _percent_cell(result.value, partial=_is_partial(result))
                        for result in board.components
                    ),
                )
                for board in boards
            ],
            unmarked=(0, 2),
        ),
        notes=score_notes(boards),
    )


def interval_table(boards: Sequence[Scoreboard]) -> Table:
    """The 95 % bootstrap interval of each component, in percent."""

    def cell(result: ComponentResult) -> Cell:
        return Cell(
            text=interval_text(result.interval), number=result.interval[0] if result.interval else None
        )

    return _component_table(boards, "95 % bootstrap intervals over samples, %", cell)


def coverage_table(boards: Sequence[Scoreboard]) -> Table:
    """Videos that entered each component's mean, of those expected."""

    def cell(result: ComponentResult) -> Cell:
        share = result.counted / result.expected if result.expected else None
        return Cell(text=coverage_text(result), number=share)

    table = _component_table(boards, "coverage, videos counted / videos expected", cell)
    return replace(table, notes=coverage_notes(boards))


def strict_table(boards: Sequence[Scoreboard]) -> Table:
    """Each component with the worst of its range in place of every missing or dropped video, in percent."""
    table = _component_table(
        boards, "strict scores, %", lambda result: _percent_cell(result.strict), arrows=True
    )
    return replace(table, rows=_marked(table.rows, unmarked=(0,)))


def category_tables(boards: Sequence[Scoreboard]) -> list[Table]:
    """For each component a table of methods by categories, in percent; `–` where nothing was scored."""
    categories = track_categories(boards)
    return [_category_table(boards, categories, component) for component in scored_components(boards)]


def _category_table(boards: Sequence[Scoreboard], categories: Sequence[str], component: str) -> Table:
    rows = [
        (
            Cell(text=board.label),
            *(_percent_cell(board.categories.get(category, {}).get(component)) for category in categories),
        )
        for board in boards
    ]
    gaps = any(cell.number is None for row in rows for cell in row[1:])
    return Table(
        title=f"{_track_text(boards)}: {COMPONENTS[component].label} by category, %",
        headings=("Method", *(f"{category} ↑" for category in categories)),
        rows=_marked(rows, unmarked=(0,)),
        notes=(f"{NONE}: the component does not apply to the category, or nothing was scored.",)
        if gaps
        else (),
    )


def track_categories(boards: Sequence[Scoreboard]) -> list[str]:
    """All categories of one track's scoreboards, in the official order, others after them."""
    declared = declared_tracks().get(boards[0].track)
    order = list(declared.category_counts) if declared is not None else []
    found = {category for board in boards for category in board.categories}
    known = [category for category in order if category in found]
    return known + sorted(found - set(known), key=natural_order)


def scored_components(boards: Sequence[Scoreboard]) -> list[str]:
    """The components that at least one of the scoreboards has a value of, in the protocol's order."""
    return [
        results[0].component
        for results in zip(*(board.components for board in boards), strict=True)
        if any(result.value is not None for result in results)
    ]


def score_notes(boards: Sequence[Scoreboard]) -> tuple[str, ...]:
    """What must be said under a table of scores: missing totals, thin coverage, unusual sample counts."""
    notes = [
        f"No TotalScore for {and_list(names)}: {reason}."
        for reason, names in _labels_by(
            (_no_total_because(board), board) for board in boards if board.total is None
        )
    ]
    notes += [
        f"† {and_list(names)}: {text}."
        for text, names in _labels_by((text, board) for board in boards for text in board.notes)
    ]
    if any(_is_partial(result) for board in boards for result in board.components):
        notes.append("† at a score: fewer videos counted than expected, see the table of coverage.")
    notes += [
        f"{board.label}, outside the protocol: {metric} {mean:.4f} (raw mean over {videos} videos)."
        for board in boards
        for metric, (mean, videos) in board.supplementary.items()
    ]
    return (
        *notes,
        "Interval: 95 % bootstrap over samples. Strict: a missing or dropped video counts as the worst.",
    )


def _no_total_because(board: Scoreboard) -> str:
    return f"nothing was scored for {and_list(board.missing)}" if board.missing else board.no_total_because


def coverage_notes(boards: Sequence[Scoreboard]) -> tuple[str, ...]:
    """For each method why videos that were expected were not counted."""
    notes = []
    for board in boards:
        partial = [
            f"{result.label} {coverage_text(result)} ({reasons_text(result)})"
            for result in board.components
            if result.counted < result.expected
        ]
        if partial:
            notes.append(f"{board.label}: {', '.join(partial)}.")
    return tuple(notes)


def _labels_by(pairs: Iterable[tuple[str, Scoreboard]]) -> Iterable[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for text, board in pairs:
        groups.setdefault(text, []).append(board.label)
    return groups.items()


def and_list(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _track_text(boards: Sequence[Scoreboard]) -> str:
    return f"{boards[0].track}, {boards[0].protocol}"


def _component_headings(boards: Sequence[Scoreboard]) -> list[str]:
    return [f"{result.label} ↑" for result in boards[0].components]


def _component_table(
    boards: Sequence[Scoreboard], what: str, cell: Callable[[ComponentResult], Cell], *, arrows: bool = False
) -> Table:
    headings = _component_headings(boards) if arrows else [result.label for result in boards[0].components]
    return Table(
        title=f"{_track_text(boards)}: {what}",
        headings=("Method", *headings),
        rows=tuple(
            (Cell(text=board.label), *(cell(result) for result in board.components)) for board in boards
        ),
    )


def _is_partial(result: ComponentResult) -> bool:
    return result.value is not None and result.counted < result.expected


def _percent_cell(value: float | None, *, partial: bool = False) -> Cell:
    return Cell(text=percent(value), number=value, partial=partial)


def _marked(rows: Sequence[tuple[Cell, ...]], unmarked: tuple[int, ...]) -> tuple[tuple[Cell, ...], ...]:
    """The rows with the best and the second figure of each column marked; ties share a mark.

    A column with a single figure has no best.
    """
    columns = [list(column) for column in zip(*rows, strict=True)]
    for index, column in enumerate(columns):
        printed = [cell.text for cell in column if cell.number is not None]
        if index in unmarked or len(printed) < 2:
            continue
        marks: dict[str, Mark] = {}
        for text, mark in zip(sorted(set(printed), key=float, reverse=True), _MARKS, strict=False):
            marks[text] = mark
        columns[index] = [
            cell if cell.number is None else replace(cell, mark=marks.get(cell.text, "")) for cell in column
        ]
    return tuple(zip(*columns, strict=True))


_MARKS: tuple[Mark, ...] = ("best", "second")
