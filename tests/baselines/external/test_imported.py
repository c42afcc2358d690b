"""Imported runs of models that are registered methods too: their facts stand on the method's card alone."""

from __future__ import annotations

import pytest

from refbench.baselines.external.imported import FOREIGN_MODELS, ForeignModel, imported_card
from refbench.bench.registry import methods
from refbench.bench.runs.import_videos import Measured

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
    assert {model.name for model in REGISTERED} == {"BindWeave", "ConsisID"}
    assert imported_card("BindWeave", MEASURED).licence == "unverified"
    assert imported_card("refalign-14b", MEASURED).licence == "unverified"


def test_sources_that_contradict_each_other_are_both_said() -> None:
    (openness, submitted, _) = imported_card("bindweave", MEASURED).deviations
    assert openness == "closed on the OpenS2V leaderboard, open in RefAlign's Table 1"
    assert "submitted by the authors" in submitted
