"""Bars: TotalScore of each method with its interval; where no method has one, the component means."""

from __future__ import annotations

from collections.abc import Sequence
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
# Share of a method's line of the plot that its bar takes.
BAR_HEIGHT = 0.62


def draw_bars(boards: Sequence[Scoreboard]) -> Plot:
    """TotalScore with intervals; where no method has one, the component means instead."""
    complete = [board for board in boards if board.total is not None]
    if complete:
        return _total_bars(complete, [board for board in boards if board.total is None])
    return _component_bars(boards)


def _total_bars(boards: Sequence[Scoreboard], incomplete: Sequence[Scoreboard]) -> Plot:
    """One bar for each method in the order given; `incomplete` methods are named in the caption."""
    figure, axes = new_figure(COLUMN_WIDTH_IN, 0.62 + 0.2 * len(boards))
    rows = range(len(boards))
    totals = [100 * (board.total or 0.0) for board in boards]
    axes.barh(rows, totals, height=BAR_HEIGHT, color="#9CC5E3", edgecolor="#0072B2", linewidth=0.5)
    ends = []
    for row, board, total in zip(rows, boards, totals, strict=True):
        low, high = (100 * bound for bound in board.total_interval or (total / 100, total / 100))
        ends.append(max(high, total))
        if board.total_interval is not None:
            axes.plot([low, high], [row, row], color=INK, linewidth=0.9, marker="|", markersize=4)
    # On the bars' lower edge, where it hides no interval.
    axes.plot(
        [100 * (board.strict_total or 0.0) for board in boards],
        [row + BAR_HEIGHT / 2 for row in rows],
        linestyle="none",
        marker="^",
        markersize=3.5,
        color="#D55E00",
        markeredgewidth=0,
    )
    widest = max(*ends, 1.0)
    for row, end, total in zip(rows, ends, totals, strict=True):
        axes.text(end + 0.02 * widest, row, f"{total:.2f}", va="center", fontsize=6.5, color=INK)
    axes.set_yticks(rows, [short(board.label) for board in boards])
    axes.set_xlim(min(0.0, *totals), 1.16 * widest)
    _horizontal_bars_style(axes, len(boards), "TotalScore (%) with 95 % bootstrap interval")
    listed = ", ".join(f"{board.label} {percent(board.total)}" for board in boards)
    return finished(
        figure,
        name="total",
        title=f"TotalScore, {track_text(boards)}",
        description=f"Bars of TotalScore in percent: {listed}.",
        caption=_without_total(incomplete),
        legend=[("strict TotalScore: missing and dropped count as worst", axes.lines[-1])],
    )


def _component_bars(boards: Sequence[Scoreboard]) -> Plot:
    """For each component one bar of each method that has a mean of it."""
    components = scored_components(boards)
    lines = max(1, len(components)) * (len(boards) + 1)
    figure, axes = new_figure(COLUMN_WIDTH_IN, 0.75 + 0.11 * lines)
    height = 1 / (len(boards) + 1)
    highest = 1.0
    for index, board in enumerate(boards):
        for row, component in enumerate(components):
            result = next(result for result in board.components if result.component == component)
            if result.value is None:
                continue
            value = 100 * result.value
            low, high = (100 * bound for bound in result.interval or (result.value, result.value))
            y = row + (index - (len(boards) - 1) / 2) * height
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
            highest = max(highest, value, high)
    axes.set_yticks(range(len(components)), [COMPONENTS[component].label for component in components])
    axes.set_xlim(None, 1.15 * highest)
    _horizontal_bars_style(axes, len(components), "component mean (%) with 95 % bootstrap interval")
    return finished(
        figure,
        name="total",
        title=f"Component means (no method has a TotalScore), {track_text(boards)}",
        description=f"Grouped bars of the component means of {and_list([board.label for board in boards])}.",
        caption=unscored_text(unscored(boards)),
        legend=[(short(board.label), _patch(index)) for index, board in enumerate(boards)],
    )


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


def _without_total(boards: Sequence[Scoreboard]) -> str:
    listed = "; ".join(
        f"{short(board.label)} "
        f"({and_list(board.missing) + ' not scored' if board.missing else board.no_total_because})"
        for board in boards
    )
    return f"no TotalScore: {listed}" if listed else ""
