"""TotalScore of each method with its interval; where no method has one, the component means.

Bars from zero, but for methods that lie close together: of those, bars show that all are about as long, so
they are dots on an axis of their own range.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from refbench.bench.console import percent
from refbench.bench.scores.aggregate import Scoreboard
from refbench.bench.scores.columns import COMPONENTS
from refbench.reports.plot_figure import (
    COLOURS,
    COLUMN_WIDTH_IN,
    INK,
    Plot,
    finished,
    new_figure,
    short,
    track_text,
    unscored,
    unscored_text,
)
from refbench.reports.tables import and_list, scored_components

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HATCHES = ("", "////", "....", "xxxx")
MARKERS = ("o", "s", "^", "D", "v", "P")
# Methods that are nearer to each other than this are drawn as dots.
CLOSE_POINTS = 2.0
OWN_AXIS = "The axis does not begin at 0."
# Share of a method's line of the plot that its bar takes.
BAR_HEIGHT = 0.62


def draw_bars(boards: Sequence[Scoreboard]) -> Plot:
    """TotalScore with intervals; where no method has one, the component means instead."""
    complete = [board for board in boards if board.total is not None]
    if complete:
        return _total_bars(complete, [board for board in boards if board.total is None])
    return _component_bars(boards)


def _total_bars(boards: Sequence[Scoreboard], incomplete: Sequence[Scoreboard]) -> Plot:
    """One bar (or dot) for each method in the order given; `incomplete` ones are named in the caption."""
    figure, axes = new_figure(COLUMN_WIDTH_IN, 0.62 + 0.2 * len(boards))
    rows = range(len(boards))
    totals = [100 * (board.total or 0.0) for board in boards]
    dots = some_are_close(totals)
    if dots:
        axes.plot(totals, rows, linestyle="none", marker="o", markersize=4, color="#0072B2", zorder=3)
    else:
        axes.barh(rows, totals, height=BAR_HEIGHT, color="#9CC5E3", edgecolor="#0072B2", linewidth=0.5)
    ends = []
    for row, board, total in zip(rows, boards, totals, strict=True):
        low, high = (100 * bound for bound in board.total_interval or (total / 100, total / 100))
        ends.append(max(high, total))
        if board.total_interval is not None:
            axes.plot([low, high], [row, row], color=INK, linewidth=0.9, marker="|", markersize=4)
    # On the bars' lower edge, where it hides no interval.
    strict = axes.plot(
        [100 * (board.strict_total or 0.0) for board in boards],
        [row + BAR_HEIGHT / 2 for row in rows],
        linestyle="none",
        marker="^",
        markersize=3.5,
        color="#D55E00",
        markeredgewidth=0,
        zorder=3,
    )[0]
    if dots:
        lowest = min([*totals, *(100 * board.total_interval[0] for board in boards if board.total_interval)])
        # A strict score far below would take the range away from what is compared.
        strict_shown = [
            value for board in boards if (value := 100 * (board.strict_total or 0.0)) > lowest - CLOSE_POINTS
        ]
        left = min([lowest, *strict_shown])
        span = max(max(ends) - left, CLOSE_POINTS)
        axes.set_xlim(left - 0.06 * span, max(ends) + 0.22 * span)
        offset = 0.03 * span
    else:
        widest = max(*ends, 1.0)
        axes.set_xlim(min(0.0, *totals), 1.16 * widest)
        offset = 0.02 * widest
    for row, end, total in zip(rows, ends, totals, strict=True):
        axes.text(end + offset, row, f"{total:.2f}", va="center", fontsize=6.5, color=INK)
    axes.set_yticks(rows, [short(board.label) for board in boards])
    hidden = [board for board in boards if 100 * (board.strict_total or 0.0) < axes.get_xlim()[0]]
    captions = [_without_total(incomplete)]
    if dots:
        captions.insert(0, OWN_AXIS)
    if hidden:
        captions.append(
            "strict TotalScore left of the axis: "
            + ", ".join(f"{short(board.label)} {percent(board.strict_total)}" for board in hidden)
        )
    _horizontal_bars_style(axes, len(boards), "TotalScore (%) with 95 % bootstrap interval")
    listed = ", ".join(f"{board.label} {percent(board.total)}" for board in boards)
    return finished(
        figure,
        name="total",
        title=f"TotalScore, {track_text(boards)}",
        description=f"{'Dots' if dots else 'Bars'} of TotalScore in percent: {listed}.",
        caption=" ".join(text for text in captions if text),
        legend=[("strict TotalScore: missing and dropped count as worst", strict)],
    )


def _component_bars(boards: Sequence[Scoreboard]) -> Plot:
    """For each component one bar (or dot) of each method that has a mean of it."""
    components = scored_components(boards)
    dots = any(
        some_are_close([100 * result.value for result in results if result.value is not None])
        for results in zip(*(board.components for board in boards), strict=True)
    )
    lines = max(1, len(components)) * (len(boards) + 1)
    figure, axes = new_figure(COLUMN_WIDTH_IN, 0.75 + 0.11 * lines)
    height = 1 / (len(boards) + 1)
    highest, lowest = 1.0, 100.0
    for index, board in enumerate(boards):
        for row, component in enumerate(components):
            result = next(result for result in board.components if result.component == component)
            if result.value is None:
                continue
            value = 100 * result.value
            low, high = (100 * bound for bound in result.interval or (result.value, result.value))
            y = row + (index - (len(boards) - 1) / 2) * height
            if dots:
                axes.plot([value], [y], markersize=3, zorder=3, **_dot_look(index))
            else:
                axes.barh(y, value, height=0.9 * height, **_bar_look(index))
            if result.interval is not None:
                axes.plot([low, high], [y, y], color=INK, linewidth=0.7, marker="|", markersize=2.5)
            axes.annotate(
                f"{value:.2f}",
                (max(value, high), y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=5.5,
            )
            highest, lowest = max(highest, value, high), min(lowest, value, low)
    axes.set_yticks(range(len(components)), [COMPONENTS[component].label for component in components])
    span = max(highest - lowest, CLOSE_POINTS)
    axes.set_xlim(*((lowest - 0.06 * span, highest + 0.2 * span) if dots else (None, 1.15 * highest)))
    _horizontal_bars_style(axes, len(components), "component mean (%) with 95 % bootstrap interval")
    return finished(
        figure,
        name="total",
        title=f"Component means (no method has a TotalScore), {track_text(boards)}",
        description=f"{'Dots' if dots else 'Grouped bars'} of the component means of "
        f"{and_list([board.label for board in boards])}.",
        caption=f"{OWN_AXIS if dots else ''} {unscored_text(unscored(boards))}".strip(),
        legend=[
            (short(board.label), _dot(index) if dots else _patch(index)) for index, board in enumerate(boards)
        ],
    )


def some_are_close(values: Sequence[float]) -> bool:
    """Whether two of these figures in percent lie within two points of each other, as printed."""
    return any(round(high - low, 2) <= CLOSE_POINTS for low, high in pairwise(sorted(values)))


def _horizontal_bars_style(axes: Axes, lines: int, label: str) -> None:
    """The first line on top, faint guides, no frame; the label of the scale below."""
    # Towards the left is room for a label that is longer than the axis: the names of the methods are there.
    axes.set_xlabel(label, loc="right")
    axes.set_ylim(lines - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#E3E3E3", linewidth=0.5)
    axes.set_axisbelow(True)


def _bar_look(index: int) -> dict[str, Any]:
    return {
        "facecolor": COLOURS[index % len(COLOURS)],
        "hatch": HATCHES[index // len(COLOURS) % len(HATCHES)],
        "edgecolor": "white",
        "linewidth": 0.3,
    }


def _patch(index: int) -> Any:
    from matplotlib.patches import Patch

    return Patch(**_bar_look(index))


def _dot_look(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": "none",
        "markeredgewidth": 0,
    }


def _dot(index: int) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], markersize=4, **_dot_look(index))


def _without_total(boards: Sequence[Scoreboard]) -> str:
    listed = "; ".join(
        f"{short(board.label)} "
        f"({and_list(board.missing) + ' not scored' if board.missing else board.no_total_because})"
        for board in boards
    )
    return f"no TotalScore: {listed}" if listed else ""
