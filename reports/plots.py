"""The plots of one track as PNG and PDF: bars of TotalScore, the radar of the components, the heat map.

No figure of a method is drawn that was not scored: what is missing is named in the caption. The same
scoreboards give the same bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from refbench.bench.scores.aggregate import Scoreboard
from refbench.reports.plot_bars import draw_bars
from refbench.reports.plot_figure import STYLE, Plot
from refbench.reports.plot_heat_map import draw_heat_map
from refbench.reports.plot_radar import draw_radar


def track_plots(boards: Sequence[Scoreboard]) -> list[Plot]:
    """All plots of one track's scoreboards, drawn in the order given; see `tables.ranked`."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables have it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        return [draw_bars(boards), draw_radar(boards), draw_heat_map(boards)]
