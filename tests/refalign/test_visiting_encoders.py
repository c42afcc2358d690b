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


def test_networks_are_on_the_device_inside_of_the_outermost_block_alone() -> None:
    network = torch.nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def places() -> set[str]:
        return {tensor.device.type for tensor in (*network.parameters(), *network.buffers())}

    visitors = Visitors([network], "meta")
    with pytest.raises(ValueError, match="inside"), visitors.present():
        with visitors.present():
            assert places() == {"meta"}
        assert places() == {"meta"}
        raise ValueError("inside")
    assert places() == {"cpu"}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_losses_are_those_of_encoders_that_stay(weights: Path, clips: Path, tmp_path: Path) -> None:
    found = {}
    for place in ("resident", "offloaded"):
        out = tmp_path / place
        config = build_config("tiny", [*SHORT_RUN, f"run.encoders={place}", "run.max_steps=2"])
        train(config, TrainingPaths(out=out, data=clips, weights=weights), resume=False)
        found[place] = logged_steps(out)
    assert found["resident"] == found["offloaded"]
