"""The training and inference schedules against the authors' scheduler (golden `refalign/flow_match.json`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")

from fill import normal  # noqa: E402

from kit.golden_networks import read  # noqa: E402
from refbench.baselines.wan.schedules import make_scheduler  # noqa: E402
from refbench.refalign.alignment import AlignmentConfig, timestep_gate  # noqa: E402
from refbench.refalign.flow_matching import FlowSchedule, add_noise, flow_target, squared_error  # noqa: E402

GOLDEN = read("refalign/flow_match.json")
TRAINING = GOLDEN["training"]
RTOL, ATOL = 2e-6, 1e-6


def close(found: Any, expected: Any, *, rtol: float = RTOL, atol: float = ATOL) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=rtol, atol=atol)


def sample(name: str) -> torch.Tensor:
    return torch.from_numpy(normal(f"refalign.flow.{name}", (2, 3, 4)))


def at(timestep: float) -> Any:
    return FlowSchedule().level(torch.tensor([timestep]))


def test_the_training_table() -> None:
    schedule = FlowSchedule()
    ids = TRAINING["ids"]
    assert len(schedule.timesteps) == TRAINING["length"]
    close(schedule.timesteps[ids], TRAINING["timesteps"])
    close(schedule.sigmas[ids], TRAINING["sigmas"])
    close(schedule.weights[ids], TRAINING["linear_timesteps_weights"])
    for table, name in (
        (schedule.timesteps, "timesteps"),
        (schedule.sigmas, "sigmas"),
        (schedule.weights, "weights"),
    ):
        assert table.dtype == torch.float32
        close(table.double().sum(), TRAINING[f"sum_{name}"])
    assert float(schedule.weights.min()) == TRAINING["weight_min"]
    assert int(schedule.weights.argmin()) == TRAINING["weight_argmin"]
    assert int(schedule.weights.argmax()) == TRAINING["weight_argmax"]
    close(schedule.weights.max(), TRAINING["weight_max"])


def test_rounded_timesteps_change_level_and_weight() -> None:
    golden = GOLDEN["training_bfloat16_timestep"]
    schedule = FlowSchedule(round_timesteps=True)
    level = schedule.level_of_ids(torch.tensor(golden["ids"]))
    close(level.timesteps_B, golden["timestep_bf16"], rtol=0, atol=0)
    close(level.sigmas_B, golden["effective_sigma"])
    assert schedule.nearest(level.timesteps_B).tolist() == golden["effective_id"]
    close(level.weights_B, schedule.weights[golden["effective_id"]], rtol=0, atol=0)
    every = schedule.level_of_ids(torch.arange(1000))
    assert len(set(every.timesteps_B.tolist())) == golden["distinct_bf16_timesteps"]
    assert len(set(every.sigmas_B.tolist())) == golden["distinct_effective_ids"]
    change = (every.sigmas_B - schedule.sigmas).abs().max()
    close(change, golden["max_abs_sigma_change"], atol=ATOL)
    assert every.weights_B[:10].tolist() == [0.0] * 10


def test_float32_timesteps_are_the_default() -> None:
    level = FlowSchedule().level_of_ids(torch.tensor([250]))
    close(level.timesteps_B, [937.5], rtol=0, atol=0)


def test_noise_and_target() -> None:
    clean, noise = sample("sample"), sample("noise")
    golden = GOLDEN["add_noise"]
    sigma = FlowSchedule().level_of_ids(torch.tensor([golden["timestep_id"]])).sigmas_B
    close(add_noise(clean[None], noise[None], sigma)[0], golden["out"])
    close(flow_target(clean, noise), GOLDEN["training_target"]["out"])


def test_timesteps_off_the_grid_take_the_nearest_level() -> None:
    golden = GOLDEN["add_noise_off_grid"]
    timestep = torch.tensor([golden["timestep"]])
    assert FlowSchedule().nearest(timestep).tolist() == [golden["nearest_id"]]
    noised = add_noise(sample("sample")[None], sample("noise")[None], at(golden["timestep"]).sigmas_B)
    close(noised[0, 0, 0], golden["out_0_0"])


@pytest.mark.parametrize("timestep", GOLDEN["training_weight"])
def test_training_weights(timestep: str) -> None:
    close(at(float(timestep)).weights_B, [GOLDEN["training_weight"][timestep]])


def test_each_sample_has_its_own_level() -> None:
    ids = torch.tensor([10, 900])
    level = FlowSchedule().level_of_ids(ids)
    clean, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    together = add_noise(clean, noise, level.sigmas_B)
    for index in range(2):
        alone = FlowSchedule().level_of_ids(ids[index : index + 1])
        expected = add_noise(clean[index : index + 1], noise[index : index + 1], alone.sigmas_B)
        torch.testing.assert_close(together[index : index + 1], expected, rtol=0, atol=0)
    errors = squared_error(together, clean)
    torch.testing.assert_close(errors[1], (together[1] - clean[1]).square().mean())


@pytest.mark.parametrize("steps", [50, 5])
def test_the_inference_table(steps: int) -> None:
    golden = GOLDEN[f"inference_{steps}"]
    scheduler = make_scheduler("euler", 5)
    scheduler.set_timesteps(steps)
    close(scheduler.timesteps, golden["timesteps"])
    close(scheduler.sigmas[:-1], golden["sigmas"])
    assert float(scheduler.sigmas[-1]) == 0
    if steps == 50:
        close(scheduler.timesteps.to(torch.bfloat16).float(), golden["timesteps_as_bfloat16"], rtol=0, atol=0)


@pytest.mark.parametrize("golden", GOLDEN["step"], ids=lambda golden: str(golden["timestep_id"]))
def test_inference_steps(golden: dict[str, Any]) -> None:
    scheduler = make_scheduler("euler", 5)
    scheduler.set_timesteps(50)
    timestep = scheduler.timesteps[golden["timestep_id"]]
    close(timestep, golden["timestep"])
    stepped = scheduler.step(sample("model_output"), timestep, sample("sample"), return_dict=False)[0]
    close(stepped, golden["out"])


def test_the_gate() -> None:
    golden, config = GOLDEN["gate"], AlignmentConfig()
    grid = timestep_gate(torch.tensor(golden["t"]), config)
    close(grid, golden["value"], rtol=0, atol=1e-7)
    drawn = timestep_gate(FlowSchedule().timesteps[TRAINING["ids"]], config)
    close(drawn, golden["at_training_ids"], rtol=0, atol=1e-7)
