"""Phantom's loop against the official code (golden `baselines/phantom.npz`), through the sampler that the
method uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import uint8_image  # noqa: E402
from PIL import Image  # noqa: E402

from kit.golden_loop import (  # noqa: E402
    CPU,
    WatchedConditioner,
    WatchedSampler,
    golden_codec,
    padded_texts,
    sampled,
)
from kit.golden_networks import named, network, read, worst  # noqa: E402
from refbench.baselines.phantom import Phantom13B, Phantom14B  # noqa: E402
from refbench.baselines.wan.conditioning import Conditioner, Geometry, encode_each  # noqa: E402
from refbench.baselines.wan.nets.phantom import PhantomTransformer3DModel  # noqa: E402
from refbench.baselines.wan.nets.transformer import ExactTimesteps, grid_positions, rotary_embedding  # noqa: E402
from refbench.baselines.wan.references import fit_and_pad, fitted_size  # noqa: E402
from refbench.bench.sample import Sample  # noqa: E402

GOLDEN = "baselines.phantom"
ARRAYS = read("baselines/phantom.npz")
SPECIFICATION = read("baselines/phantom_model.json")
GEOMETRY = Geometry(width=96, height=64, num_frames=9)
STEPS = 5
FRAMES = 3
SAMPLE = Sample(id="s_1", category="s", prompt="p", references=())


def given_noise(geometry: Geometry, references: int) -> torch.Tensor:
    assert geometry.latent_shape == (FRAMES, 8, 12)
    return named(GOLDEN, f"noise{references}", (16, FRAMES + references, 8, 12))[None, :, :FRAMES]


def pictures(count: int) -> list[Image.Image]:
    images = [uint8_image(f"baselines.phantom.ref{i}", *size) for i, size in enumerate([(90, 60), (50, 120)])]
    return [Image.fromarray(image) for image in images[:count]]


@pytest.fixture(scope="module")
def transformer() -> Any:
    return network(
        PhantomTransformer3DModel, SPECIFICATION["weights"], SPECIFICATION["config"] | {"eps": 1e-6}
    )


def run(
    transformer: Any, count: int, conditioner: Conditioner[Any], **settings: Any
) -> tuple[torch.Tensor, WatchedSampler]:
    return sampled(
        Phantom13B(),
        transformer,
        pictures(count),
        conditioner,
        codec=golden_codec(padded_texts(GOLDEN)),
        geometry=GEOMETRY,
        steps=STEPS,
        **settings,
    )


@pytest.mark.parametrize("batch_passes", ["no", "yes"])
@pytest.mark.parametrize("count", [1, 2])
def test_guided_loop(transformer: Any, count: int, batch_passes: str) -> None:
    conditioner = WatchedConditioner(Phantom13B().conditioner(SAMPLE, 42), given_noise)
    final, seen = run(transformer, count, conditioner, batch_passes=batch_passes)
    golden = f"refs{count}"
    assert seen.timesteps == ARRAYS[f"{golden}/timesteps"].tolist()
    for step in (0, 4):
        for name, short in (("image_text", "it"), ("image", "i"), ("null", "n")):
            expected = ARRAYS[f"{golden}/step{step}_v_{short}"][:, :FRAMES]
            assert worst(seen.predictions[step][name][0], expected) < 1e-4, (step, name)
    # The official state carries the references' frames along; only the video's matter.
    assert worst(torch.cat(seen.latents), ARRAYS[f"{golden}/latents"][:, :, :FRAMES]) < 2e-4
    assert worst(final[0], ARRAYS[f"{golden}/final"]) < 2e-4


def test_the_generator_s_own_draw(transformer: Any) -> None:
    conditioner = Phantom13B().conditioner(SAMPLE, 42)
    noise = conditioner.draw_noise(GEOMETRY, 2, torch.Generator("cpu").manual_seed(42), CPU)
    assert worst(noise[0], ARRAYS["seed42_refs2/noise"][:, :FRAMES]) == 0
    final, _ = run(transformer, 2, conditioner)
    assert worst(final[0], ARRAYS["seed42_refs2/final"]) < 2e-4


def test_prepared_references() -> None:
    for index, image in enumerate(pictures(2)):
        found = np.asarray(fit_and_pad(image, 96, 64)).astype(int)
        assert np.abs(found - ARRAYS[f"padded_ref{index}"]).max() <= 1
    for count in (1, 2):
        images = [fit_and_pad(image, 96, 64) for image in pictures(count)]
        assert worst(encode_each(golden_codec(), images)[0], ARRAYS[f"refs{count}/ref_latents"]) < 1e-5


def test_placement_at_full_size() -> None:
    for index, image in enumerate(pictures(2)):
        width, height = fitted_size(*image.size, 832, 480)
        left, top = (832 - width) // 2, (480 - height) // 2
        assert [left, top, left + width, top + height] == ARRAYS["box_832x480"][index].tolist()


def test_rotary_and_time_tables() -> None:
    cos, sin = rotary_embedding(grid_positions(5, 4, 6, (0, 0, 0), CPU), 24)
    assert worst(cos[0, :, 0, ::2], ARRAYS["rope_cos"]) < 2e-6
    assert worst(sin[0, :, 0, 1::2], ARRAYS["rope_sin"]) < 2e-6
    assert worst(ExactTimesteps(64)(torch.tensor([731.0])), ARRAYS["sinusoid_t731"]) < 1e-6


def test_cards() -> None:
    small, large = Phantom13B().card(), Phantom14B().card()
    assert (small.width, small.height, small.num_frames, small.fps) == (832, 480, 81, 16)
    assert (large.num_frames, large.fps) == (121, 24)
    assert small.negative_prompt == read("baselines/negative_prompts.json")["phantom"]
    matched = Phantom14B(Phantom14B.Options(settings="matched")).card()
    assert matched.num_frames == 81
    assert "matched: num_frames 81 instead of 121" in matched.deviations
