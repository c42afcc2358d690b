"""Imported runs of models that are registered methods too: their facts stand on the method's card alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from refbench.baselines.external.imported import FOREIGN_MODELS, ForeignModel, imported_card, method_name
from refbench.bench.registry import methods
from refbench.bench.runs.import_videos import Measured

ROOT = Path(__file__).parents[3]
MEASURED = Measured(width=832, height=480, num_frames=69, fps=15.0, remarks=(), damaged={})
REGISTERED = [model for model in FOREIGN_MODELS if model.method]


@pytest.mark.parametrize("model", REGISTERED, ids=lambda model: model.name)
def test_facts_of_a_registered_method_are_its_card_s(model: ForeignModel) -> None:
    own = methods.get(model.method)().card()
    card = imported_card(model.name, MEASURED)
    assert (card.summary, card.base_model) == (own.summary, own.base_model)
    assert (card.licence, card.max_references) == (own.licence or "unverified", own.max_references)
    # The model alone says nothing that the card says.
    facts = (model.summary, model.base_model, model.licence, model.max_references, model.defaults)
    assert not any(facts)
    # How these videos were made is not the card's to say, nor are our differences from the authors' code.
    assert (card.name, card.steps, card.reference_preparation) == (model.name, None, None)
    assert not set(own.deviations) & set(card.deviations)
    size = f"{own.width}×{own.height}, {own.generated_frames} frames, {own.fps:g} fps"
    assert f"the authors' defaults, not verified for these videos: {size}" in card.deviations[-1]


def test_a_licence_that_nobody_verified_is_said_in_one_wording() -> None:
    assert {model.name for model in REGISTERED} == {"BindWeave", "ConsisID", "SkyReels-V3"}
    assert imported_card("BindWeave", MEASURED).licence == "unverified"
    assert imported_card("refalign-14b", MEASURED).licence == "unverified"


def test_sources_that_contradict_each_other_are_both_said() -> None:
    (openness, submitted, _) = imported_card("bindweave", MEASURED).deviations
    assert openness == (
        "closed on the OpenS2V leaderboard, open in RefAlign's Table 1; licence of the weights not verified"
    )
    assert openness in " ".join((ROOT / "docs/generators.md").read_text().split())
    assert "submitted by the authors" in submitted


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("HuMo-17B", "HuMo-17B"),
        ("humo 17b", "HuMo-17B"),
        ("HuMo-1.7B", "HuMo-1.7B"),
        ("humo_1.7b", "HuMo-1.7B"),
        ("HUMO-1-7B", "HuMo-1.7B"),
        ("stand in", "Stand-In"),
        ("stand-in 2.2", "Stand-In"),
        ("StandIn-Wan2.1", "Stand-In-Wan2.1"),
        ("lynx", "Lynx"),
        ("lynx_lite", "Lynx-Lite"),
        ("skyreels-v3", "SkyReels-V3"),
        ("vidu20", "Vidu-2.0"),
    ],
)
def test_sizes_that_differ_by_a_point_are_two_models(spelling: str, name: str) -> None:
    assert method_name(spelling) == imported_card(spelling, MEASURED).name == name


def test_newer_open_models_are_known_by_their_facts() -> None:
    stand_in, older = (imported_card(name, MEASURED) for name in ("Stand-In", "Stand-In-Wan2.1"))
    assert stand_in.base_model.startswith("Wan2.2-T2V-A14B")
    assert "16 fps" in stand_in.deviations[-1] and "25 fps" in older.deviations[-1]
    assert (stand_in.max_references, older.base_model) == (1, "Wan2.1-T2V-14B")
    lynx, lite = (imported_card(name, MEASURED) for name in ("Lynx", "Lynx-Lite"))
    assert lynx.base_model == lite.base_model == "Wan2.1-T2V-14B"
    assert "81 frames, 16 fps" in lynx.deviations[-1] and "121 frames, 24 fps" in lite.deviations[-1]
    large, small = (imported_card(name, MEASURED) for name in ("HuMo-17B", "HuMo-1.7B"))
    assert large.max_references is small.max_references is None
    assert "36 input channels" in large.base_model and "1.3B" in small.base_model
    assert "97 frames, 25 fps" in large.deviations[-1]
