"""The sampling loop's own parts on tiny checkpoints: text, encoding, decoding, joined passes, timesteps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from PIL import Image  # noqa: E402

from refbench.baselines.small.refalign import write_tiny as write_refalign  # noqa: E402
from refbench.baselines.small.wan_base import write_tiny as write_base  # noqa: E402
from refbench.baselines.wan.checkpoint import load_transformer, read_checkpoint  # noqa: E402
from refbench.baselines.wan.components import add_adapter, load_base, place_models  # noqa: E402
from refbench.baselines.wan.conditioning import ConcatReferences, Geometry  # noqa: E402
from refbench.baselines.wan.guidance import IMAGE_AND_TEXT  # noqa: E402
from refbench.baselines.wan.prompts import WAN_NEGATIVE, cleaned_prompt  # noqa: E402
from refbench.baselines.wan.references import to_tensor  # noqa: E402
from refbench.baselines.wan.sampler import WanSampler  # noqa: E402
from refbench.baselines.wan.schedules import make_scheduler  # noqa: E402
from refbench.bench.errors import MissingWeights, UserError  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402

BASE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
NETWORK = "gudaochangsheng/RefAlign-1.3B"
GEOMETRY = Geometry(width=96, height=64, num_frames=9)
SCALES = {"image": 5.0, "text": 7.5}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-wan")
    write_base(folder)
    write_refalign(folder)
    return folder


@pytest.fixture(scope="module")
def parts(tiny: Path) -> dict[str, Any]:
    return load_base(tiny / BASE, dtype=torch.float32)


@pytest.fixture
def sampler(tiny: Path, parts: dict[str, Any]) -> WanSampler:
    network = load_transformer(RefAlignTransformer3DModel, read_checkpoint(tiny / NETWORK))
    return WanSampler(transformer=network, scheduler=make_scheduler("euler", 5.0), **parts)


def sample(sampler: WanSampler, **changes: Any) -> Any:
    picture = Image.fromarray(np.full((40, 30, 3), (200, 30, 90), np.uint8))
    arguments: dict[str, Any] = {
        "prompt": "a woman in a shop",
        "negative_prompt": WAN_NEGATIVE,
        "references": [picture, picture.rotate(90, expand=True)],
        "conditioner": ConcatReferences(),
        "rule": IMAGE_AND_TEXT,
        "scales": SCALES,
        "geometry": GEOMETRY,
        "steps": 2,
        "generator": torch.Generator().manual_seed(3),
    }
    return sampler(**(arguments | changes))


@pytest.mark.parametrize("text", ["a red &amp;lt; cup  on\n a table", WAN_NEGATIVE, ""])
def test_text_features_are_those_of_the_library_s_pipeline(
    sampler: WanSampler, parts: dict[str, Any], text: str
) -> None:
    from diffusers import WanPipeline

    theirs = WanPipeline(
        tokenizer=parts["tokenizer"],
        text_encoder=parts["text_encoder"],
        vae=parts["vae"],
        scheduler=make_scheduler("euler", 5.0),
    )
    with torch.no_grad():
        expected, _ = theirs.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=512)
        found, note = sampler.encode_text(text)
    assert note is None
    assert found.shape == (1, 512, 32)
    assert torch.equal(found, expected)
    assert not found[0, -1].any()


def test_prompts_are_cleaned_as_wan_does() -> None:
    assert cleaned_prompt("  a &amp;amp; b\n\tc ") == "a & b c"


def test_a_prompt_that_is_too_long_is_cut_and_said(sampler: WanSampler) -> None:
    with torch.no_grad():
        features, note = sampler.encode_text("shop " * 600)
    assert features.shape[1] == 512
    assert note is not None and "the first 512 are used" in note
    made = sample(sampler, prompt="shop " * 600)
    assert made.notes == (f"the prompt {note}",)


def test_latents_are_normalised_and_the_round_trip_is_the_vae_s(sampler: WanSampler) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    pixels = to_tensor(picture)[None, :, None]
    with torch.no_grad():
        found = sampler.encode(pixels)
        raw = sampler.vae.encode(pixels).latent_dist.mode()
        decoded = sampler.vae.decode(raw).sample
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1)
        for v in (sampler.vae.config.latents_mean, sampler.vae.config.latents_std)
    )
    torch.testing.assert_close(found * std + mean, raw, atol=1e-5, rtol=0)
    frames = list(sampler.decode(found))
    assert len(frames) == 1 and frames[0].shape == (64, 96, 3) and frames[0].dtype == np.uint8
    truncated = ((decoded[0, :, 0] + 1) * 127.5).clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    assert np.abs(frames[0].astype(int) - truncated).max() <= 1


def test_tiling_is_for_decoding_only(sampler: WanSampler) -> None:
    latents = torch.zeros(1, 16, 1, 8, 12)
    list(sampler.decode(latents, tiling=True))
    assert not sampler.vae.use_tiling


def test_joined_passes_are_equal_and_fall_back_when_memory_runs_out(
    sampler: WanSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart, joined = (sample(sampler, batch_passes=choice).latents for choice in ("no", "yes"))
    torch.testing.assert_close(joined, apart, atol=2e-4, rtol=0)
    call, sizes = sampler._call, []

    def short_of_memory(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        sizes.append(len(inputs["timestep"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("no memory")
        return call(inputs)

    monkeypatch.setattr(sampler, "_call", short_of_memory)
    sampler._joined_passes = True
    again = sample(sampler, batch_passes="auto").latents
    assert sizes == [3, 1, 1, 1, 1, 1, 1]
    assert torch.equal(again, apart)
    with pytest.raises(torch.OutOfMemoryError):
        sample(sampler, batch_passes="yes")


def test_the_result_is_a_function_of_the_seed(sampler: WanSampler) -> None:
    first = sample(sampler).latents
    assert torch.equal(sample(sampler).latents, first)
    other = sample(sampler, generator=torch.Generator().manual_seed(4)).latents
    assert not torch.equal(other, first)


def test_bfloat16_rounds_what_the_network_sees_and_not_the_step(sampler: WanSampler) -> None:
    seen: list[float] = []
    sampler.transformer.to(torch.bfloat16)
    sampler.text_encoder.to(torch.bfloat16)
    hook = sampler.transformer.condition_embedder.register_forward_pre_hook(
        lambda module, inputs: seen.append(float(inputs[0][0]))
    )
    made = sample(sampler, steps=3, round_timestep=True, state_dtype=torch.bfloat16, batch_passes="yes")
    hook.remove()
    sampler.text_encoder.to(torch.float32)
    assert made.latents.dtype == torch.bfloat16
    exact = sampler.scheduler.timesteps.tolist()
    rounded = [float(torch.tensor(value).bfloat16()) for value in exact]
    assert seen == rounded != exact


def test_steps_are_reported(sampler: WanSampler) -> None:
    heard: list[tuple[int, int]] = []
    sample(sampler, on_step=lambda done, total: heard.append((done, total)))
    assert heard == [(0, 2), (1, 2), (2, 2)]


def test_missing_and_damaged_parts(tiny: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny / BASE, tmp_path / "base")
    (tmp_path / "base/vae/diffusion_pytorch_model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="vae cannot be loaded"):
        load_base(tmp_path / "base", dtype=torch.float32)
    shutil.rmtree(tmp_path / "base/text_encoder")
    with pytest.raises(MissingWeights, match="has no text encoder"):
        load_base(tmp_path / "base", dtype=torch.float32)


def test_what_a_processor_cannot_do_is_said(sampler: WanSampler, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="offload keeps models off a GPU"):
        place_models(sampler, "cpu", "model")
    with pytest.raises(UserError, match=r"must be one \.safetensors file"):
        add_adapter(sampler.transformer, tmp_path)


def test_features_are_zero_where_the_original_code_zeroes(sampler: WanSampler) -> None:
    """Rows after the prompt are zero before the network's text embedding, and are attended to."""
    made = sampler.tokenizer("two words")
    with torch.no_grad():
        features, _ = sampler.encode_text("two words")
    assert features[0, : len(made.input_ids)].abs().sum(dim=1).min() > 0
    assert not features[0, len(made.input_ids) :].any()
