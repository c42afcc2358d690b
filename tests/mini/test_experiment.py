"""The experiment's figures: intervals over seeds and samples, and how they are set beside the paper's."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="training needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="training needs the extra 'refalign'")

import numpy as np

from kit.mini_records import contest_records
from refbench.bench.scores.aggregate import scoreboard
from refbench.mini.experiment import Estimate, agrees, estimates, paper_says
from refbench.mini.experiment_pictures import draw_losses, draw_tokens, separability
from refbench.mini.experiment_report import tables
from refbench.mini.protocol import MINI_1_0

NO_RA, POSITIVE = "refalign-mini-no-ra", "refalign-mini-positive-only"
METHODS = ("refalign-mini", NO_RA, POSITIVE)
DIFFERENCE = f"refalign-mini - {NO_RA}"


def three_seeds(spread: float):  # type: ignore[no-untyped-def]
    """Our method 0.1 above, each seed of its own quality."""
    return [
        [
            *contest_records("refalign-mini", 0.6 + shift),
            *contest_records(NO_RA, 0.5 + shift, facesim=0.7),
            *contest_records(POSITIVE, 0.6 + shift),
        ]
        for shift in (-spread, 0.0, spread)
    ]


def test_one_seed_has_the_scoreboards_values() -> None:
    records = three_seeds(0.0)[0]
    found = estimates([records], MINI_1_0, METHODS)
    board = scoreboard([one for one in records if one.method == "refalign-mini"], MINI_1_0)
    assert found["refalign-mini"]["total"].value == pytest.approx(board.total)
    for result in board.components:
        assert found["refalign-mini"][result.component].value == pytest.approx(result.value)


def test_the_interval_holds_the_spread_of_seeds() -> None:
    narrow, wide = (estimates(three_seeds(spread), MINI_1_0, METHODS) for spread in (0.0, 0.1))
    total = wide["refalign-mini"]["total"]
    assert total.interval is not None and total.interval[0] < 0.55 < 0.65 < total.interval[1]
    assert [round(value or 0, 2) for value in total.by_seed] == [0.5, 0.6, 0.7]
    low, high = narrow["refalign-mini"]["total"].interval or (0, 0)
    assert high - low < 0.01
    # Seeds are drawn alike for both sides, so what they share does not widen a difference.
    low, high = wide[DIFFERENCE]["aesthetics"].interval or (0, 0)
    assert 0.09 < low <= high < 0.11


def test_directions_stand_beside_the_papers() -> None:
    found = estimates(three_seeds(0.02), MINI_1_0, METHODS)
    assert paper_says(DIFFERENCE, "facesim") == "lower" and paper_says(DIFFERENCE, "gmescore") == ""
    assert agrees(found[DIFFERENCE]["facesim"], "lower") == "yes"
    assert agrees(found[DIFFERENCE]["naturalscore"], "lower") == "no"
    open_one = Estimate(value=0.0, interval=(-1.0, 1.0), by_seed=(0.0,))
    assert agrees(open_one, "higher") == "open" and agrees(open_one, "about equal") == "yes"
    text = tables(found, {"before": 0.6})
    assert f"| {DIFFERENCE} | FaceSim |" in text and "| before | 0.600 |" in text


def test_separable_tokens_are_told_from_mixed_ones() -> None:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((3, 16, 8)).astype(np.float32)
    apart = mixed * 0.1 + 3 * np.eye(8, dtype=np.float32)[:3, None]
    assert separability([apart]) > 0.99 and abs(separability([mixed]) - 0.5) < 0.05
    assert draw_tokens({"a": mixed, "b": apart}).startswith(b"\x89PNG")
    assert draw_losses({"run": {"squared error": list(rng.random(60))}}).startswith(b"\x89PNG")
