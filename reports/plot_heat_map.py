"""The heat map: methods by categories, one panel for each component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refbench.bench.scores.aggregate import Scoreboard
from refbench.bench.scores.columns import COMPONENTS
from refbench.reports.plot_figure import (
    COLUMN_WIDTH_IN,
    FAINT,
    PAGE_WIDTH_IN,
    Plot,
    finished,
    new_grid,
    short,
    track_text,
    unscored,
    unscored_text,
)
from refbench.reports.tables import and_list, scored_components, track_categories

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

# Its middle is a green-blue: nothing that was scored looks like the grey of what was not.
COLOUR_MAP = "viridis"
MISSING_GREY = "#E6E6E6"


def draw_heat_map(boards: Sequence[Scoreboard]) -> Plot:
    """Methods by categories, one panel per component; grey where nothing was scored."""
    import matplotlib
    import numpy as np

    components = scored_components(boards) or [boards[0].components[0].component]
    categories = track_categories(boards)
    columns = min(2, len(components))
    rows = -(-len(components) // columns)
    panel_height = 0.42 + 0.17 * len(boards)
    figure, grid = new_grid(
        PAGE_WIDTH_IN if columns == 2 else COLUMN_WIDTH_IN * 1.15, 0.75 + rows * panel_height, rows, columns
    )
    colours = matplotlib.colormaps[COLOUR_MAP].with_extremes(bad=MISSING_GREY)
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
            [short(category) for category in categories] if index < columns else [],
            rotation=35,
            ha="left",
            fontsize=6,
        )
        first_in_row = index % columns == 0
        axes.set_yticks(
            range(len(boards)), [short(board.label) for board in boards] if first_in_row else [], fontsize=6
        )
    listed = and_list([COMPONENTS[component].label for component in components])
    return finished(
        figure,
        name="categories",
        title=f"Components by category (%), {track_text(boards)}",
        description=f"Heat maps by method and category of {listed}.",
        caption="Colours run from the lowest to the highest figure of each panel; grey: the component does "
        f"not apply or nothing was scored. {unscored_text(unscored(boards))}",
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


def _percent_or_nan(value: float | None) -> float:
    return float("nan") if value is None else 100 * value
