"""Plots of a report as PNG and PDF: TotalScore bars, the radar of the components, the per-category heat map.

Sizes are those of a paper's columns, colours are Okabe and Ito's (told apart with any colour vision), and no
figure of a method is drawn that was not scored: what is missing is named in the caption line. The same
scoreboards give the same bytes.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refbench.bench.console import percent
from refbench.bench.errors import one_line
from refbench.bench.scores.aggregate import Scoreboard
from refbench.bench.scores.columns import COMPONENTS
from refbench.reports.tables import and_list, scored_components, track_categories

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

COLUMN_WIDTH_IN = 3.4
PAGE_WIDTH_IN = 7.0
PNG_DPI = 200
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "////", "....", "xxxx")
INK = "#222222"
FAINT = "#888888"
MISSING_GREY = "#DDDDDD"
# More outlines than these hide each other.
RADAR_METHODS = 6
# Share of a method's line of the plot that its bar takes.
BAR_HEIGHT = 0.62
LONGEST_LABEL = 32
CAPTION_LINE_IN = 0.1
LEGEND_LINE_IN = 0.13
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "legend.fontsize": 6.5,
    "hatch.linewidth": 0.4,
    # Names come from data files: a dollar sign in one is no formula.
    "text.parse_math": False,
    # Text stays text in the PDF, as publishers ask.
    "pdf.fonttype": 42,
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A finished plot: its file stem, title, a description in words, and its bytes in both formats."""

    name: str
    width_in: float
    title: str
    description: str
    png: bytes
    pdf: bytes


def track_plots(boards: Sequence[Scoreboard]) -> list[Plot]:
    """All plots of one track's scoreboards, drawn in the order given; see `tables.ranked`."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables have it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        return [_bars(boards), _radar(boards), _heat_map(boards)]


def _bars(boards: Sequence[Scoreboard]) -> Plot:
    """TotalScore with intervals; where no method has one, the component means instead."""
    complete = [board for board in boards if board.total is not None]
    if complete:
        return _total_bars(complete, [board for board in boards if board.total is None])
    return _component_bars(boards)


def _total_bars(boards: Sequence[Scoreboard], incomplete: Sequence[Scoreboard]) -> Plot:
    figure, axes = _new_figure(COLUMN_WIDTH_IN, 0.62 + 0.2 * len(boards))
    places = range(len(boards))
    totals = [100 * (board.total or 0.0) for board in boards]
    axes.barh(places, totals, height=BAR_HEIGHT, color="#9CC5E3", edgecolor="#0072B2", linewidth=0.5)
    ends = []
    for place, board, total in zip(places, boards, totals, strict=True):
        low, high = (100 * bound for bound in board.total_interval or (total / 100, total / 100))
        ends.append(max(high, total))
        if board.total_interval is not None:
            axes.plot([low, high], [place, place], color=INK, linewidth=0.9, marker="|", markersize=4)
    # On the bars' lower edge, where it hides no interval.
    axes.plot(
        [100 * (board.strict_total or 0.0) for board in boards],
        [place + BAR_HEIGHT / 2 for place in places],
        linestyle="none",
        marker="^",
        markersize=3.5,
        color="#D55E00",
        markeredgewidth=0,
    )
    widest = max(*ends, 1.0)
    for place, end, total in zip(places, ends, totals, strict=True):
        axes.text(end + 0.02 * widest, place, f"{total:.2f}", va="center", fontsize=6.5, color=INK)
    axes.set_yticks(places, [_short(board.label) for board in boards])
    axes.set_xlim(min(0.0, *totals), 1.16 * widest)
    axes.set_xlabel("TotalScore (%) with 95 % bootstrap interval")
    _horizontal_bars_style(axes, len(boards))
    listed = ", ".join(f"{board.label} {percent(board.total)}" for board in boards)
    return _finished(
        figure,
        name="total",
        title=f"TotalScore, {_place(boards)}",
        description=f"Bars of TotalScore in percent: {listed}.",
        caption=_without_total(incomplete),
        legend=[("strict TotalScore: missing and dropped count as worst", axes.lines[-1])],
    )


def _component_bars(boards: Sequence[Scoreboard]) -> Plot:
    components = scored_components(boards)
    bars = max(1, len(components)) * (len(boards) + 1)
    figure, axes = _new_figure(COLUMN_WIDTH_IN, 0.75 + 0.11 * bars)
    height = 1 / (len(boards) + 1)
    highest = 1.0
    for index, board in enumerate(boards):
        for place, component in enumerate(components):
            result = next(result for result in board.components if result.component == component)
            if result.value is None:
                continue
            value = 100 * result.value
            low, high = (100 * bound for bound in result.interval or (result.value, result.value))
            y = place + (index - (len(boards) - 1) / 2) * height
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
    axes.set_xlabel("component mean (%) with 95 % bootstrap interval")
    _horizontal_bars_style(axes, len(components))
    return _finished(
        figure,
        name="total",
        title=f"Component means (no method has a TotalScore), {_place(boards)}",
        description=f"Grouped bars of the component means of {and_list([board.label for board in boards])}.",
        caption=_unscored_text(_unscored(boards)),
        legend=[(_short(board.label), _patch(index)) for index, board in enumerate(boards)],
    )


def _radar(boards: Sequence[Scoreboard]) -> Plot:
    """The components of at most six methods; an outline is open where a component is missing."""
    import numpy as np

    shown = boards[:RADAR_METHODS]
    labels = [result.label for result in boards[0].components]
    figure, axes = _new_figure(COLUMN_WIDTH_IN, 2.85, projection="polar")
    angles = np.linspace(0, 2 * np.pi, len(labels), endpoint=False)
    closed = np.append(angles, angles[:1])
    lowest = 0.0
    for index, board in enumerate(shown):
        values = np.array(
            [np.nan if result.value is None else 100 * result.value for result in board.components]
        )
        lowest = min(lowest, np.nanmin(values, initial=0.0))
        axes.plot(
            closed,
            np.append(values, values[:1]),
            color=COLOURS[index],
            linestyle=LINE_STYLES[index],
            linewidth=1.1,
            marker=MARKERS[index],
            markersize=2.8,
            label=_short(board.label),
        )
    _radar_style(axes, angles, labels, lowest)
    listed = and_list([board.label for board in shown])
    return _finished(
        figure,
        name="radar",
        title=f"Components (%), {_place(boards)}",
        description=f"Radar of the component means in percent of {listed}.",
        caption=_radar_caption(shown, len(boards)),
        legend=list(zip((_short(board.label) for board in shown), axes.lines, strict=True)),
    )


def _radar_caption(shown: Sequence[Scoreboard], methods: int) -> str:
    """Which methods are drawn, and what the gaps in their outlines are."""
    nowhere = [label for label in shown[0].missing if all(label in board.missing for board in shown)]
    sentences = [_unscored_text(nowhere)] if nowhere else []
    if methods > len(shown):
        sentences.insert(0, f"The first {len(shown)} of {methods} methods by TotalScore.")
    gaps = {board.label: [label for label in board.missing if label not in nowhere] for board in shown}
    sentences += [f"Gap in {_short(label)}: {and_list(names)}." for label, names in gaps.items() if names]
    return " ".join(sentences)


def _radar_style(axes: Axes, angles: np.ndarray, labels: Sequence[str], lowest: float) -> None:
    import numpy as np

    polar: PolarAxes = axes  # type: ignore[assignment]
    polar.set_theta_zero_location("N")
    polar.set_theta_direction(-1)
    polar.set_rlim(lowest, 100)
    polar.set_rgrids([20, 40, 60, 80, 100], labels=["20", "40", "60", "80", "100"], fontsize=5.5, color=FAINT)
    polar.set_rlabel_position(180 / len(labels))
    polar.set_xticks(angles, [])
    for angle, label in zip(angles, labels, strict=True):
        across, up = np.sin(angle), np.cos(angle)
        polar.text(
            angle,
            lowest + 1.06 * (100 - lowest),
            label.replace("Motion", "Motion\n"),
            ha="center" if abs(across) < 0.1 else "left" if across > 0 else "right",
            va="center" if abs(up) < 0.5 else "bottom" if up > 0 else "top",
        )
    polar.grid(color="#CCCCCC", linewidth=0.5)
    polar.spines["polar"].set_color("#CCCCCC")


def _heat_map(boards: Sequence[Scoreboard]) -> Plot:
    """Methods by categories, one panel per component; grey where nothing was scored."""
    import matplotlib
    import numpy as np

    components = scored_components(boards) or [boards[0].components[0].component]
    categories = track_categories(boards)
    columns = min(2, len(components))
    rows = -(-len(components) // columns)
    panel_height = 0.42 + 0.17 * len(boards)
    figure, grid = _new_grid(
        PAGE_WIDTH_IN if columns == 2 else COLUMN_WIDTH_IN * 1.15, 0.75 + rows * panel_height, rows, columns
    )
    colours = matplotlib.colormaps["cividis"].with_extremes(bad=MISSING_GREY)
    for index, axes in enumerate(grid):
        if index >= len(components):
            axes.set_axis_off()
            continue
        component = components[index]
        values_MC = np.array(
            [
                [
                    _percent_or_nan(board.categories.get(category, {}).get(component))
                    for category in categories
                ]
                for board in boards
            ]
        )
        axes.set_title(COMPONENTS[component].label, pad=3)
        _heat_panel(axes, values_MC, colours)
        # Column names stand above the first panels: a last row that is not full leaves no hole then.
        axes.xaxis.tick_top()
        axes.set_xticks(
            range(len(categories)),
            [_short(category) for category in categories] if index < columns else [],
            rotation=35,
            ha="left",
            fontsize=6,
        )
        first_in_row = index % columns == 0
        axes.set_yticks(
            range(len(boards)), [_short(board.label) for board in boards] if first_in_row else [], fontsize=6
        )
    listed = and_list([COMPONENTS[component].label for component in components])
    return _finished(
        figure,
        name="categories",
        title=f"Components by category (%), {_place(boards)}",
        description=f"Heat maps by method and category of {listed}.",
        caption="Colours run from the lowest to the highest figure of each panel; grey: the component does "
        f"not apply or nothing was scored. {_unscored_text(_unscored(boards))}",
        legend=[],
    )


def _heat_panel(axes: Axes, values_MC: np.ndarray, colours: Any) -> None:
    import numpy as np

    present = values_MC[np.isfinite(values_MC)]
    low, high = (float(present.min()), float(present.max())) if present.size else (0.0, 1.0)
    image = axes.imshow(
        np.ma.masked_invalid(values_MC), cmap=colours, vmin=low, vmax=max(high, low + 1e-9), aspect="auto"
    )
    for (row, column), value in np.ndenumerate(values_MC):
        if not np.isfinite(value):
            axes.text(column, row, "–", ha="center", va="center", fontsize=5.5, color=FAINT)
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
        axes.text(
            column,
            row,
            f"{value:.1f}",
            ha="center",
            va="center",
            fontsize=5.5,
            color="white" if dark else "black",
        )
    axes.set_xticks(np.arange(values_MC.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(values_MC.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _new_figure(width_in: float, height_in: float, projection: str | None = None) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot(projection=projection)


def _new_grid(width_in: float, height_in: float, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _horizontal_bars_style(axes: Axes, lines: int) -> None:
    """The first line on top, faint guides, no frame."""
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
        f"{_short(board.label)} "
        f"({and_list(board.missing) + ' not scored' if board.missing else board.no_total_because})"
        for board in boards
    )
    return f"no TotalScore: {listed}" if listed else ""


def _unscored(boards: Sequence[Scoreboard]) -> list[str]:
    scored = scored_components(boards)
    return [result.label for result in boards[0].components if result.component not in scored]


def _unscored_text(labels: Sequence[str]) -> str:
    return f"Not scored for any method: {and_list(labels)}." if labels else ""


def _short(label: str) -> str:
    return one_line(label, LONGEST_LABEL)


def _place(boards: Sequence[Scoreboard]) -> str:
    return f"{boards[0].track} ({boards[0].protocol})"


def _percent_or_nan(value: float | None) -> float:
    return float("nan") if value is None else 100 * value


def _finished(
    figure: Figure,
    *,
    name: str,
    title: str,
    description: str,
    caption: str,
    legend: Sequence[tuple[str, Any]],
) -> Plot:
    """The plot with its title above, its legend and caption below; the figure grows for these two."""
    width, height = figure.get_size_inches()
    figure.suptitle(textwrap.fill(title, int(15 * width), break_on_hyphens=False), fontsize=7.5)
    lines = textwrap.wrap(one_line(caption, 1200), int(22 * width), break_on_hyphens=False)
    columns = 2 if len(legend) > 1 else 1
    caption_height = CAPTION_LINE_IN * len(lines) + 0.03
    legend_height = LEGEND_LINE_IN * -(-len(legend) // columns) + 0.06
    total = height + legend_height + caption_height
    figure.set_size_inches(width, total)
    below = (caption_height + legend_height) / total
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0, below, 1, 1 - below))
    figure.text(0.012, 0.02 / total, "\n".join(lines), fontsize=5.5, color="#555555", va="bottom")
    figure.legend(
        [handle for _, handle in legend],
        [label for label, _ in legend],
        loc="center",
        bbox_to_anchor=(0.5, (caption_height + legend_height / 2) / total),
        ncols=columns,
        frameon=False,
        handlelength=2.4,
        columnspacing=1.2,
        labelspacing=0.3,
        borderpad=0,
    )
    return Plot(
        name=name,
        width_in=float(width),
        title=title,
        description=description,
        png=_bytes(figure, "png", {"Software": None}),
        pdf=_bytes(figure, "pdf", {"Creator": None, "Producer": None, "CreationDate": None}),
    )


def _bytes(figure: Figure, format: str, metadata: dict[str, None]) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format=format, dpi=PNG_DPI, metadata=metadata)
    return target.getvalue()
