"""Encoders that live on the CPU and visit the card: there inside a block only, and the same losses."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")

from kit.training import SHORT_RUN, logged_steps  # noqa: E402
from refbench.refalign.training.encoder import Visitors  # noqa: E402
from refbench.refalign.training.recipes import build_config  # noqa: E402
from refbench.refalign.training.run import TrainingPaths, train  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_networks_are_on_the_device_inside_of_the_outermost_block_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A copy stands for what is on a card: a CPU has no second device whose tensors a network may take."""
    network = torch.nn.BatchNorm1d(3)
    visitors = Visitors([network], "cpu")
    tensors = [*network.parameters(), *network.buffers()]
    homes = [tensor.data_ptr() for tensor in tensors]
    before = [tensor.clone() for tensor in tensors]
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *place, **how: tensor.clone())

    def away() -> list[bool]:
        return [tensor.data_ptr() != home for tensor, home in zip(tensors, homes, strict=True)]

    with pytest.raises(ValueError, match="inside"), visitors.present():
        with visitors.present():
            assert all(away())
        assert all(away())
        raise ValueError("inside")
    assert not any(away())
    assert all(torch.equal(tensor, value) for tensor, value in zip(tensors, before, strict=True))


def test_losses_are_those_of_encoders_that_stay(weights: Path, clips: Path, tmp_path: Path) -> None:
    found = {}
    for place in ("resident", "offloaded"):
        out = tmp_path / place
        config = build_config("tiny", [*SHORT_RUN, f"run.encoders={place}", "run.max_steps=2"])
        train(config, TrainingPaths(out=out, data=clips, weights=weights), resume=False)
        found[place] = logged_steps(out)
    assert found["resident"] == found["offloaded"]
