"""The text-only control: Wan's own loop, and references that are never looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from typer.testing import CliRunner  # noqa: E402

from kit.golden_networks import worst  # noqa: E402
from refbench.baselines.wan.spec import WanOptions  # noqa: E402
from refbench.baselines.wan_t2v import TextToVideo13B, TextToVideo14B  # noqa: E402
from refbench.bench.metric import Environment  # noqa: E402
from refbench.bench.runs.folder import read_run  # noqa: E402
from refbench.bench.sample import Reference, Sample  # noqa: E402
from refbench.bench.video import ALL_FRAMES, Video  # noqa: E402

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
def method(weights: Path) -> Any:
    loaded = TextToVideo13B(WanOptions(**SMALL))
    loaded.load(Environment(device="cpu", weights=weights))
    return loaded


def sample(prompt: str = PROMPT, references: int = 0) -> Sample:
    absent = Reference(path="not/there.png", root=Path(), label="Woman", kind="person")
    return Sample(id="s_1", category="s", prompt=prompt, references=(absent,) * references)


def frames(method: Any, wanted: Sample, seed: int = 0) -> np.ndarray:
    return np.stack(list(method.generate(wanted, seed).images))


def test_the_loop_is_that_of_diffusers_on_the_original_grid(method: Any, weights: Path) -> None:
    """diffusers' own pipeline and network, with our scheduler, from text to latents."""
    from diffusers import WanPipeline, WanTransformer3DModel

    sampler = method._sampler
    stock = WanTransformer3DModel(**{k: v for k, v in sampler.transformer.config.items() if k[0] != "_"})
    stock.load_state_dict(sampler.transformer.state_dict())
    pipeline = WanPipeline(
        tokenizer=sampler.tokenizer,
        text_encoder=sampler.text_encoder,
        transformer=stock.eval(),
        vae=sampler.vae,
        scheduler=sampler.scheduler,
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt=PROMPT,
        negative_prompt=method.settings.negative_prompt,
        width=96,
        height=64,
        num_frames=9,
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=torch.Generator("cpu").manual_seed(7),
        output_type="latent",
    ).frames
    seen = []
    decode = sampler.decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "decode", lambda latents, **k: seen.append(latents) or decode(latents, **k))
        frames(method, sample(), seed=7)
    assert expected.shape == (1, 16, 3, 8, 12)
    assert worst(seen[0], expected.numpy()) < 2e-4


def test_references_are_not_even_opened(method: Any) -> None:
    assert np.array_equal(frames(method, sample()), frames(method, sample(references=3)))


def test_prompt_and_seed_matter(method: Any) -> None:
    base = frames(method, sample())
    assert base.shape == (9, 64, 96, 3)
    assert not np.array_equal(base, frames(method, sample("A red boat on a lake.")))
    assert not np.array_equal(base, frames(method, sample(), seed=1))


def test_facts_of_the_two_methods() -> None:
    for made in (TextToVideo13B(), TextToVideo14B()):
        card = made.card()
        assert (card.width, card.height, card.num_frames, card.fps) == (832, 480, 81, 16)
        assert (card.steps, card.solver, card.shift, card.guidance) == (50, "unipc", 5.0, {"text": 5.0})
        assert made.refuses(sample(references=9)) is None
        assert made.refuses(sample()) is None
        assert made.spec.matched() == replace(made.spec.native)


@pytest.mark.parametrize("name", ["wan-t2v-1.3b", "wan-t2v-14b"])
def test_generate_with_tiny_weights(name: str, weights: Path, dataset: Path, tmp_path: Path) -> None:
    from refbench.bench.cli.main import app

    small = [f"--set={key}={value}" for key, value in SMALL.items()]
    command = ["generate", name, "--dataset", dataset, "--weights", weights, "--out", tmp_path / "runs"]
    done = CliRunner().invoke(app, [*map(str, command), "--limit", "2", *small])
    assert done.exit_code == 0, (done.output, done.exception)
    (folder,) = (tmp_path / "runs").rglob("seed-0")
    videos = sorted(folder.glob("*.mp4"))
    assert len(videos) == 2
    found = list(Video(videos[0]).frames(ALL_FRAMES))
    assert (len(found), found[0].shape) == (9, (64, 96, 3))
    assert read_run(folder.parent / "run.json").card.max_references is None
