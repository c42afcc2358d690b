"""Plots: what is drawn, what is named instead of drawn, and that the same scores give the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kit.stored_runs import boards_of, run_records
from refbench.bench.scores.record import Record
from refbench.reports.plot_figure import Plot
from refbench.reports.plots import track_plots
from refbench.reports.tables import ranked

TWO_IDS = ("singlehuman_1", "singlehuman_2")
HOSTILE = "$x^{$ <b> _x"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by title, taken as they are saved; saved as a stub, because drawing is what costs time."""
    taken: dict[str, Figure] = {}

    def take(figure: Figure, target: Any, **settings: Any) -> None:
        taken[figure.get_suptitle()] = figure
        target.write(b"picture")

    monkeypatch.setattr(Figure, "savefig", take)
    return taken


def figure_of(figures: dict[str, Figure], start: str) -> Figure:
    return next(figure for title, figure in figures.items() if title.startswith(start))


def captions(figure: Figure) -> str:
    return " ".join(text.get_text().replace("\n", " ") for text in figure.texts)


def tick_labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def plots_of(*runs: list[Record]) -> list[Plot]:
    """The plots of a report on these runs."""
    return track_plots(ranked(boards_of(*runs)))


@pytest.fixture(scope="module")
def drawn() -> list[Plot]:
    return plots_of(run_records("a", ids=TWO_IDS), run_records(HOSTILE, 0.7, ids=TWO_IDS))


def test_every_plot_is_a_png_and_a_pdf(drawn: list[Plot]) -> None:
    assert [plot.name for plot in drawn] == ["total", "radar", "categories"]
    for plot in drawn:
        assert plot.png.startswith(b"\x89PNG") and plot.pdf.startswith(b"%PDF")
        assert b"CreationDate" not in plot.pdf and b"Software" not in plot.png


def test_the_same_scores_give_the_same_bytes(drawn: list[Plot]) -> None:
    again = plots_of(run_records("a", ids=TWO_IDS), run_records(HOSTILE, 0.7, ids=TWO_IDS))
    assert again == drawn


def test_methods_without_a_total_are_named_and_not_drawn(figures: dict[str, Figure]) -> None:
    plots_of(run_records("low", 0.2), run_records("torn", without=("facesim",)), run_records("high"))
    figure = figure_of(figures, "TotalScore")
    axes = figure.axes[0]
    assert tick_labels(axes) == ["high", "low"]
    assert len(axes.patches) == 2
    assert "no TotalScore: torn (FaceSim not scored)" in captions(figure)


@pytest.mark.parametrize("without", [(), ("facesim",)], ids=["total", "components"])
def test_the_label_of_the_scale_is_within_the_picture(
    figures: dict[str, Figure], without: tuple[str, ...]
) -> None:
    plots_of(run_records("a-method-with-a-long-name", variant="generated-shuffled", without=without))
    figure = next(iter(figures.values()))
    figure.draw_without_rendering()
    label = figure.axes[0].xaxis.label.get_window_extent()
    assert 0 <= label.x0 < label.x1 <= figure.bbox.width


def test_component_means_stand_in_where_no_method_has_a_total(figures: dict[str, Figure]) -> None:
    without = ("facesim", "nexusscore", "naturalscore")
    plots_of(run_records("a", without=without), run_records("b", 0.9, without=(*without, "gmescore")))
    figure = figure_of(figures, "Component means (no method has a TotalScore)")
    axes = figure.axes[0]
    assert tick_labels(axes) == ["Aesthetics", "MotionSmoothness", "MotionAmplitude", "GmeScore"]
    assert len(axes.patches) == 4 + 3
    assert "Not scored for any method: FaceSim, NexusScore and NaturalScore." in captions(figure)


def test_methods_within_two_points_are_dots_on_an_axis_of_their_own(figures: dict[str, Figure]) -> None:
    plots_of(run_records("a", 0.5), run_records("b", 0.51), run_records("c", 0.6))
    figure = figure_of(figures, "TotalScore")
    axes = figure.axes[0]
    assert not axes.patches
    assert list(map(float, np.asarray(axes.lines[0].get_xdata()))) == sorted(
        map(float, np.asarray(axes.lines[0].get_xdata())), reverse=True
    )
    assert len(axes.lines) == 1 + 3 + 1
    assert axes.get_xlim()[0] > 30
    assert "The axis does not begin at 0." in captions(figure)
    figures.clear()
    plots_of(run_records("a", 0.5), run_records("c", 0.6))
    axes = figure_of(figures, "TotalScore").axes[0]
    assert (len(axes.patches), axes.get_xlim()[0]) == (2, 0)


def test_close_component_means_are_dots_too(figures: dict[str, Figure]) -> None:
    without = ("facesim",)
    plots_of(run_records("a", 0.5, without=without), run_records("b", 0.51, without=without))
    axes = figure_of(figures, "Component means").axes[0]
    assert not axes.patches and len(axes.lines) == 2 * 2 * 6


def test_the_radars_markers_are_drawn_whole(figures: dict[str, Figure]) -> None:
    plots_of(run_records("best", 1.0), run_records("low", 0.1))
    axes = figure_of(figures, "Components (%)").axes[0]
    assert not any(line.get_clip_on() for line in axes.lines[:2])


def test_no_scored_colour_is_the_grey_of_nothing() -> None:
    """Of any score the colour is far from each grey: its channels differ."""
    import matplotlib

    from refbench.reports.plot_heat_map import COLOUR_MAP, MISSING_GREY

    scored = matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 1, 101))[:, :3]
    assert (scored.max(axis=1) - scored.min(axis=1)).min() > 0.2
    assert len(set(matplotlib.colors.to_rgb(MISSING_GREY))) == 1


def test_the_radar_leaves_a_gap_and_names_it(figures: dict[str, Figure]) -> None:
    plots_of(run_records("whole"), run_records("torn", 0.7, without=("facesim",)))
    figure = figure_of(figures, "Components (%)")
    whole, torn = (np.asarray(line.get_ydata()) for line in figure.axes[0].lines[:2])
    assert np.isfinite(whole).all()
    assert np.isnan(torn[3]) and np.isfinite(np.delete(torn, 3)).all()
    assert "Gap in torn: FaceSim." in captions(figure)


def test_the_radar_shows_the_first_methods_only(figures: dict[str, Figure]) -> None:
    plots_of(*(run_records(f"m{number}", 0.1 * number, ids=TWO_IDS) for number in range(1, 9)))
    figure = figure_of(figures, "Components (%)")
    assert [text.get_text() for text in figure.legends[0].texts] == ["m8", "m7", "m6", "m5", "m4", "m3"]
    assert "The first 6 of 8 methods by TotalScore." in captions(figure)


def test_the_heat_map_greys_what_was_not_scored(figures: dict[str, Figure]) -> None:
    plots_of(run_records("a"), run_records("b", without=("facesim",)))
    panels = {axes.get_title(): axes for axes in figure_of(figures, "Components by category").axes}
    values = panels["FaceSim"].images[0].get_array()
    assert isinstance(values, np.ma.MaskedArray)
    # singleobj, singlehuman, faceobj, multiface, singleface
    assert values.mask.tolist() == [[True, False, False, True, False], [True] * 5]
    assert [text.get_text() for text in panels["FaceSim"].texts][:5] == ["–", "51.0", "48.0", "–", "50.0"]


def test_nothing_scored_at_all_still_gives_plots(figures: dict[str, Figure]) -> None:
    run = [
        one.model_copy(update={"value": None, "reason": "missing_video"}) for one in run_records(ids=TWO_IDS)
    ]
    plots = plots_of(run)
    assert len(plots) == 3
    assert all("Not scored for any method: Aesthetics" in captions(figure) for figure in figures.values())
