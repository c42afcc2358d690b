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
from refbench.refalign.flow_matching import (  # noqa: E402
    FlowSchedule,
    Sampling,
    add_noise,
    flow_target,
    squared_error,
)

GOLDEN = read("refalign/flow_match.json")
TRAINING = GOLDEN["training"]
RTOL, ATOL = 2e-6, 1e-6


def close(found: Any, expected: Any, *, rtol: float = RTOL, atol: float = ATOL) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=rtol, atol=atol)


def sample(name: str) -> torch.Tensor:
    return torch.from_numpy(normal(f"refalign.flow.{name}", (2, 3, 4)))


def at(timestep: float) -> Any:
    return FlowSchedule().level(torch.tensor([timestep]))


def test_rounded_timesteps_stay_within_their_bounds() -> None:
    """Rounding to bfloat16 brings two of an expert's levels to the other one's first timestep."""
    schedule = FlowSchedule(round_timesteps=True, sampling=Sampling(highest=875.0))
    ids = torch.arange(schedule._first, schedule._first + schedule._count)
    assert float(schedule.level_of_ids(ids).timesteps_B.max()) <= 875
    everything = FlowSchedule(round_timesteps=True)
    assert (everything._first, everything._count) == (0, 1000)


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


def drawn(count: int = 4000, **settings: Any) -> torch.Tensor:
    """Timesteps drawn with a sampling, without the shift."""
    schedule = FlowSchedule(1.0, sampling=Sampling(**settings))
    generator = torch.Generator().manual_seed(3)
    return schedule.timesteps[[schedule.draw(generator) for _ in range(count)]]


def test_the_default_draw_is_the_authors_one() -> None:
    """All 1000 ids equally often, by the same number of the generator as ever."""
    schedule = FlowSchedule()
    for seed in range(5):
        own, plain = (torch.Generator().manual_seed(seed) for _ in range(2))
        assert schedule.draw(own) == int(torch.randint(1000, (), generator=plain))
        assert torch.equal(torch.randn(4, generator=own), torch.randn(4, generator=plain))


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (-0.8, 0.5), (1.2, 2.0)])
def test_logit_normal_draws_have_their_quantiles(mean: float, scale: float) -> None:
    points = drawn(kind="logit-normal", logit_mean=mean, logit_scale=scale).double() / 1000
    # A level stands for the thousandth below it.
    logits = torch.logit(points - 0.0005)
    share = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    expected = mean + scale * torch.special.ndtri(share)
    torch.testing.assert_close(torch.quantile(logits, share), expected, rtol=0.08, atol=0.08)


@pytest.mark.parametrize("kind", ["bell", "uniform", "logit-normal"])
def test_draws_stay_within_their_bounds(kind: str) -> None:
    timesteps = drawn(kind=kind, lowest=300.0, highest=417.5)
    assert (float(timesteps.min()), float(timesteps.max())) == pytest.approx((300, 417))
    middle = float(timesteps.mean())
    assert 350 < middle < 370
    shifted = FlowSchedule(sampling=Sampling(kind=kind, lowest=875.0))
    generator = torch.Generator().manual_seed(0)
    assert float(shifted.timesteps[[shifted.draw(generator) for _ in range(500)]].min()) >= 875


def test_only_the_bell_weights_the_error() -> None:
    ids = torch.arange(0, 1000, 7)
    for kind in ("uniform", "logit-normal"):
        schedule = FlowSchedule(sampling=Sampling(kind=kind))
        assert schedule.level_of_ids(ids).weights_B.tolist() == [1.0] * len(ids)
        torch.testing.assert_close(schedule.timesteps, FlowSchedule().timesteps, rtol=0, atol=0)
    bounded = FlowSchedule(sampling=Sampling(lowest=500.0))
    torch.testing.assert_close(bounded.weights, FlowSchedule().weights, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "flow.sampling=cosine",
            r"flow\.sampling=cosine: Input should be 'bell', 'uniform' or 'logit-n",
        ),
        ("flow.logit_mean=1", r"flow: logit_mean and logit_scale belong to sampling=logit-normal"),
        (
            "flow.lowest_timestep=1000",
            r"flow: lowest_timestep must be below highest_timestep, both in 0\.",
        ),
        ("flow.highest_timestep=0.5", r"flow: no timestep lies in 0\.\.0\.5"),
        ("flow.logit_scale=0", r"flow: logit_mean must lie in -20\.\.20 and logit_scale in 0\.\.20"),
    ],
)
def test_sampling_that_is_refused(override: str, text: str) -> None:
    from refbench.bench.errors import UserError
    from refbench.refalign.training.recipes import build_config

    with pytest.raises(UserError, match=text):
        build_config("tiny", [override])
    far = ["flow.sampling=logit-normal", "flow.logit_mean=20", "flow.logit_scale=0.1"]
    with pytest.raises(
        UserError, match=r"flow: logit-normal draws with mean 20 and scale 0\.1 never lie in 0"
    ):
        build_config("tiny", [*far, "flow.highest_timestep=100"])
