"""What all plots of a report share: sizes, colours, the figure with its title, legend and caption, its bytes.

Sizes are those of a paper's columns; colours are Okabe and Ito's (told apart with any colour vision).
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refbench.bench.errors import one_line
from refbench.bench.scores.aggregate import Scoreboard
from refbench.reports.tables import and_list, scored_components

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_WIDTH_IN = 3.4
PAGE_WIDTH_IN = 7.0
PNG_DPI = 200
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#222222"
FAINT = "#888888"
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


def new_figure(width_in: float, height_in: float, projection: str | None = None) -> tuple[Figure, Axes]:
    """An empty figure of that size in inches, with its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot(projection=projection)


def new_grid(width_in: float, height_in: float, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """An empty figure of that size in inches, with the axes of its panels, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def finished(
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


def short(label: str) -> str:
    """A label that fits beside an axis."""
    return one_line(label, LONGEST_LABEL)


def track_text(boards: Sequence[Scoreboard]) -> str:
    """The track and protocol of the scoreboards, for a title."""
    return f"{boards[0].track} ({boards[0].protocol})"


def unscored(boards: Sequence[Scoreboard]) -> list[str]:
    """Labels of the components that no scoreboard has a value of."""
    scored = scored_components(boards)
    return [result.label for result in boards[0].components if result.component not in scored]


def unscored_text(labels: Sequence[str]) -> str:
    """A sentence that names components without a value, or an empty text."""
    return f"Not scored for any method: {and_list(labels)}." if labels else ""
