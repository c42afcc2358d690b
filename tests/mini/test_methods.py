"""The generators of the drawn world: registered like others, and their weights are made, not pulled."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.cli import complaint
from refbench.bench.registry import methods

NAMES = ("mini-text-only", "refalign-mini", "refalign-mini-no-ra", "refalign-mini-positive-only")


@pytest.mark.parametrize("name", NAMES)
def test_missing_weights_name_the_build(name: str, tmp_path: Path) -> None:
    from kit.cli import invoke

    pytest.importorskip("diffusers", reason="the generators need the extra 'refalign'")
    invoke("mini", "dataset", "--out", tmp_path / "dataset")
    words = ("generate", name, "--track", "mini", "--dataset", tmp_path / "dataset", "--weights", tmp_path)
    told = complaint(*words, "--out", tmp_path / "runs")
    assert "is not on disk; refbench mini build" in told


def test_they_are_on_no_hub(tmp_path: Path) -> None:
    told = complaint("weights", "pull", "mini-base", "--weights", tmp_path)
    assert told == "mini-base is on no hub: refbench mini build makes it"


def test_all_variants_differ_in_weights_alone() -> None:
    cards = [methods.get(name)().card() for name in NAMES[1:]]
    kept = [card.model_dump(exclude={"name", "summary", "weights"}) for card in cards]
    assert kept[0] == kept[1] == kept[2]
    assert (cards[0].width, cards[0].height, cards[0].num_frames, cards[0].fps) == (64, 64, 9, 8.0)
