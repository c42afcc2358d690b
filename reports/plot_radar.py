"""The radar: one outline of the component means for each of the first methods, open where one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from refbench.bench.scores.aggregate import Scoreboard
from refbench.reports.plot_figure import (
    COLOURS,
    COLUMN_WIDTH_IN,
    FAINT,
    Plot,
    finished,
    new_figure,
    short,
    track_text,
    unscored_text,
)
from refbench.reports.tables import and_list

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.projections.polar import PolarAxes

LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
# More outlines than these hide each other.
RADAR_METHODS = 6


def draw_radar(boards: Sequence[Scoreboard]) -> Plot:
    """The components of at most six methods; an outline is open where a component is missing."""
    import numpy as np

    shown = boards[:RADAR_METHODS]
    labels = [result.label for result in boards[0].components]
    figure, axes = new_figure(COLUMN_WIDTH_IN, 2.85, projection="polar")
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
            label=short(board.label),
            # A marker at 100 or at the centre is drawn whole.
            clip_on=False,
            zorder=3,
        )
    _radar_style(axes, angles, labels, lowest)
    listed = and_list([board.label for board in shown])
    return finished(
        figure,
        name="radar",
        title=f"Components (%), {track_text(boards)}",
        description=f"Radar of the component means in percent of {listed}.",
        caption=_radar_caption(shown, len(boards)),
        legend=list(zip((short(board.label) for board in shown), axes.lines, strict=True)),
    )


def _radar_caption(shown: Sequence[Scoreboard], methods: int) -> str:
    """Which methods are drawn, and what the gaps in their outlines are."""
    nowhere = [label for label in shown[0].missing if all(label in board.missing for board in shown)]
    sentences = [unscored_text(nowhere)] if nowhere else []
    if methods > len(shown):
        sentences.insert(0, f"The first {len(shown)} of {methods} methods by TotalScore.")
    gaps = {board.label: [label for label in board.missing if label not in nowhere] for board in shown}
    sentences += [f"Gap in {short(label)}: {and_list(names)}." for label, names in gaps.items() if names]
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
