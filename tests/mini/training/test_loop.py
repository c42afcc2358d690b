"""The training loop: a run is a function of its seed, interrupted or not."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs the extra 'refalign'")

from torch import nn  # noqa: E402

from refbench.bench.errors import UserError  # noqa: E402
from refbench.mini.training.loop import (  # noqa: E402
    LOG_FILE,
    STATE_FILE,
    Average,
    Run,
    Schedule,
    on_device,
    seeded,
)

SCHEDULE = Schedule(steps=6, learning_rate=0.1, warmup_steps=2, average=0.5)


class Line:
    """Learns y = 2x with a dropout, whose draws come from torch's loss generator."""

    name = "line"

    def __init__(self, seed: int = 0, stop_at: int | None = None) -> None:
        with seeded(self.name, seed):
            self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.stop_at = stop_at
        self.calls = 0

    def examples(self, generator: random.Random, progress: float) -> torch.Tensor:
        return torch.tensor([[generator.random() for _ in range(3)] for _ in range(5)])

    def losses(self, batch: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        noise = torch.rand(batch.shape, generator=generator)
        return {"fit": (self.network(batch + 0.1 * noise)[:, 0] - 2 * batch[:, 0]).square().mean()}


@dataclass(frozen=True)
class Labelled:
    """A batch as learners make them."""

    pictures: list[torch.Tensor]
    labels: tuple[torch.Tensor, int]


def trained(folder: Path, *learners: Line, **changes: object) -> dict[str, torch.Tensor]:
    for learner in learners:
        try:
            Run(learner=learner, schedule=replace(SCHEDULE, **changes), folder=folder).train()
        except KeyboardInterrupt:
            continue
    return learners[-1].network.state_dict()


def test_an_interrupted_run_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "a", Line())
    monkeypatch.setattr("refbench.mini.training.loop.SAVE_EVERY_S", -1.0)
    pieces = trained(tmp_path / "b", Line(stop_at=3), Line(stop_at=3), Line())
    assert all(torch.equal(whole[key], pieces[key]) for key in whole)
    again = Line()
    again.stop_at = 1  # a finished run computes nothing more
    assert all(torch.equal(whole[key], value) for key, value in trained(tmp_path / "a", again).items())


def test_a_seed_is_a_run(tmp_path: Path) -> None:
    other = Run(learner=Line(1), schedule=SCHEDULE, folder=tmp_path / "b", seed=1)
    other.train()
    first = trained(tmp_path / "a", Line())
    assert not torch.equal(first["0.weight"], other.learner.network.state_dict()["0.weight"])


def test_workers_change_no_bit(tmp_path: Path) -> None:
    alone = trained(tmp_path / "a", Line())
    helped = Run(learner=Line(), schedule=SCHEDULE, folder=tmp_path / "b", workers=2)
    helped.train()
    assert all(torch.equal(alone[key], value) for key, value in helped.learner.network.state_dict().items())


def test_a_batch_goes_to_the_device_whole() -> None:
    batch = Labelled(pictures=[torch.ones(2), torch.ones(3)], labels=(torch.ones(1), 7))
    moved = on_device(batch, "meta")
    assert [one.device.type for one in (*moved.pictures, moved.labels[0])] == 3 * ["meta"]
    assert moved.labels[1] == 7 and batch.pictures[0].device.type == "cpu"


def test_other_settings_are_no_continuation(tmp_path: Path) -> None:
    trained(tmp_path, Line())
    with pytest.raises(UserError, match="of other settings"):
        trained(tmp_path, Line(), learning_rate=0.2)
    with pytest.raises(UserError, match="of other settings"):
        Run(learner=Line(), schedule=SCHEDULE, folder=tmp_path, batch=2).train()


def test_it_learns_and_logs(tmp_path: Path) -> None:
    trained(tmp_path, Line(), steps=200, average=None)
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150, 200]
    assert lines[-1]["fit"] < 0.3 * lines[0]["fit"]
    assert (tmp_path / STATE_FILE).is_file()


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    learner = Line()
    learner.network[2].weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="line: the loss is not finite at step 0"):
        trained(tmp_path, learner)


def test_the_rate_rises_then_falls_to_a_twentieth() -> None:
    schedule = Schedule(steps=1000, learning_rate=1.0, warmup_steps=10)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(9) == pytest.approx(1.0, abs=1e-3)
    assert schedule.rate(1000) == pytest.approx(0.05)


def test_the_average_follows_slowly_and_copies_counters() -> None:
    network = nn.BatchNorm1d(1)
    average = Average(network, 0.9)
    network.weight.data.fill_(2.0)
    network.num_batches_tracked += 5
    average.update(network, 10_000)
    assert average.tensors["weight"].item() == pytest.approx(1.1)
    assert average.tensors["num_batches_tracked"].item() == 5
