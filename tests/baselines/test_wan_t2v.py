"""The text-only control: Wan's own loop, and references that are never looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")


from kit.golden_networks import worst  # noqa: E402
from kit.stock_pipeline import own_latents, stock_latents  # noqa: E402
from kit.tiny_runs import frames_of, generated, loaded, sample_of  # noqa: E402
from refbench.baselines.wan.method import WanGenerator  # noqa: E402
from refbench.baselines.wan.spec import WanOptions  # noqa: E402
from refbench.baselines.wan_t2v import TextToVideo13B, TextToVideo14B, TextToVideo22Ti2v5B  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.runs.folder import read_run  # noqa: E402
from refbench.bench.sample import Sample  # noqa: E402
from refbench.bench.video import ALL_FRAMES  # noqa: E402

SMALL = {"width": 96, "height": 64, "num_frames": 9, "steps": 3}
PROMPT = "A woman in a green coat walks a dog."


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints in the layouts of the released ones."""
    from refbench.baselines.small import wan_base

    folder = tmp_path_factory.mktemp("weights")
    wan_base.write_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def generator(weights: Path) -> WanGenerator:
    made = loaded(TextToVideo13B(WanOptions(**SMALL)), weights)
    assert isinstance(made, WanGenerator)
    return made


def sample(prompt: str = PROMPT, references: int = 0) -> Sample:
    return sample_of(["not/there.png"] * references, kind="person", prompt=prompt)


def test_the_loop_is_that_of_diffusers_on_the_original_grid(generator: WanGenerator) -> None:
    """diffusers' own pipeline and network, with our scheduler, from text to latents."""
    size = {"width": 96, "height": 64, "num_frames": 9}
    call = {**size, "num_inference_steps": 3, "guidance_scale": 5.0}
    expected = stock_latents(generator, sample(), 7, pipeline={}, call=call)
    assert expected.shape == (1, 16, 3, 8, 12)
    assert worst(own_latents(generator, sample(), 7), expected) < 2e-4


def test_ti2v_5b_is_diffusers_loop_with_a_timestep_for_each_token(weights: Path) -> None:
    """48 channels of 16 pixels; from text alone all tokens have the sample's timestep."""
    made = loaded(TextToVideo22Ti2v5B(WanOptions(**SMALL)), weights)
    assert isinstance(made, WanGenerator)
    call = {"width": 96, "height": 64, "num_frames": 9, "num_inference_steps": 3, "guidance_scale": 5.0}
    expected = stock_latents(made, sample(), 7, pipeline={"expand_timesteps": True}, call=call)
    assert expected.shape == (1, 48, 3, 4, 6)
    assert worst(own_latents(made, sample(), 7), expected) < 2e-4
    assert frames_of(made, sample()).shape == (9, 64, 96, 3)


def test_sizes_of_ti2v_5b_are_multiples_of_32() -> None:
    card = TextToVideo22Ti2v5B().card()
    assert (card.width, card.height, card.num_frames, card.fps) == (1280, 704, 121, 24)
    with pytest.raises(UserError, match="height must be a multiple of 32 pixels, 720 is not; 704 is"):
        TextToVideo22Ti2v5B(WanOptions(height=720))


def test_references_are_not_even_opened(generator: WanGenerator) -> None:
    assert np.array_equal(frames_of(generator, sample()), frames_of(generator, sample(references=3)))


def test_prompt_and_seed_matter(generator: WanGenerator) -> None:
    base = frames_of(generator, sample())
    assert base.shape == (9, 64, 96, 3)
    assert not np.array_equal(base, frames_of(generator, sample("A red boat on a lake.")))
    assert not np.array_equal(base, frames_of(generator, sample(), seed=1))


def test_facts_of_the_two_methods() -> None:
    for made in (TextToVideo13B(), TextToVideo14B()):
        card = made.card()
        assert (card.width, card.height, card.num_frames, card.fps) == (832, 480, 81, 16)
        assert (card.steps, card.solver, card.shift, card.guidance) == (50, "unipc", 5.0, {"text": 5.0})
        assert made.refuses(sample(references=9)) is None
        assert made.refuses(sample()) is None
        assert made.spec.matched() == replace(made.spec.native)


@pytest.mark.parametrize("name", ["wan-t2v-1.3b", "wan-t2v-14b", "wan2.2-ti2v-5b"])
def test_generate_with_tiny_weights(name: str, weights: Path, dataset: Path, tmp_path: Path) -> None:
    videos = generated(name, SMALL, dataset=dataset, weights=weights, out=tmp_path / "runs", limit=2)
    assert len(videos) == 2
    found = list(videos[0].frames(ALL_FRAMES))
    assert (len(found), found[0].shape) == (9, (64, 96, 3))
    card = read_run(videos[0].path.parents[1] / "run.json").card
    assert card is not None and card.max_references is None
