"""RefAlign's guided sampling against the authors' loop (golden `refalign/guidance.npz`)."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")

from kit.golden_loop import WatchedSampler, golden_codec  # noqa: E402
from kit.golden_networks import named, network, read, worst  # noqa: E402
from refbench.baselines.wan.conditioning import ReferenceLatents  # noqa: E402
from refbench.baselines.wan.guidance import IMAGE_AND_TEXT  # noqa: E402
from refbench.baselines.wan.schedules import make_scheduler  # noqa: E402
from refbench.refalign.method import RefAlign13B, RefAlign14B  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402

SPECIFICATION = read("refalign/dit_tiny.json")
ARRAYS = read("refalign/guidance.npz")
STEPS = 5


def given(name: str) -> torch.Tensor:
    return named("refalign", name, tuple(SPECIFICATION["inputs"][f"refalign.{name}"]))


@pytest.fixture(scope="module")
def transformer() -> Any:
    return network(RefAlignTransformer3DModel, SPECIFICATION["weights"], SPECIFICATION["config"])


def sampled(transformer: Any, scales: dict[str, float], batch_passes: str) -> dict[str, list[torch.Tensor]]:
    """Latents before and after each step and each pass's predictions, of the loop that the method uses."""
    native = RefAlign13B.spec.native
    sampler = WatchedSampler(
        codec=golden_codec(),
        transformer=transformer,
        scheduler=make_scheduler(native.solver, native.shift),
    )
    sampler.scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        sampler.denoise(
            given("guidance.noise"),
            {"prompt": given("context"), "negative": given("context.negative")},
            ReferenceLatents(latents_BCNHW=given("subject_latents")),
            IMAGE_AND_TEXT,
            scales,
            batch_passes=batch_passes,  # type: ignore[arg-type]
            round_timestep=True,
        )
    seen = {"latents": [given("guidance.noise"), *sampler.latents]}
    for predictions in sampler.predictions:
        for name, value in predictions.items():
            seen.setdefault(f"pred_{name}", []).append(value)
    return seen


@pytest.mark.parametrize("batch_passes", ["no", "yes"])
def test_five_guided_steps(transformer: Any, batch_passes: str) -> None:
    scales = dict(RefAlign13B.spec.native.guidance)
    assert scales == {"image": 5.0, "text": 7.5}
    seen = sampled(transformer, scales, batch_passes)
    for name in ("pred_image_text", "pred_image", "pred_null"):
        assert worst(torch.cat(seen[name]), ARRAYS[name]) < 1e-4, name
    assert worst(torch.cat(seen["latents"]), ARRAYS["latents"]) < 2e-4


def test_image_scale_of_one_is_a_single_pass(transformer: Any) -> None:
    seen = sampled(transformer, {"image": 1.0, "text": 7.5}, "no")
    assert set(seen) == {"latents", "pred_image_text"}
    assert worst(torch.cat(seen["latents"]), ARRAYS["latents_cfg1"]) < 1e-4


def test_schedule() -> None:
    for spec in (RefAlign13B.spec, RefAlign14B.spec):
        scheduler = make_scheduler(spec.native.solver, spec.native.shift)
        scheduler.set_timesteps(STEPS)
        assert worst(scheduler.sigmas[:-1], ARRAYS["sigmas"]) < 2e-6
        assert worst(scheduler.timesteps, ARRAYS["timesteps"]) < 1e-3
