"""The codec and the sampling loop on tiny checkpoints: text, encoding, decoding, joined passes, timesteps."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from PIL import Image  # noqa: E402

from kit.tiny_runs import frames_of, loaded, sample_of  # noqa: E402
from refbench.baselines.small.refalign import write_tiny as write_refalign  # noqa: E402
from refbench.baselines.small.wan_base import write_tiny as write_base  # noqa: E402
from refbench.baselines.wan.checkpoint import load_transformer, read_checkpoint  # noqa: E402
from refbench.baselines.wan.codec import WanCodec  # noqa: E402
from refbench.baselines.wan.conditioning import ConcatenatedReferences, Geometry  # noqa: E402
from refbench.baselines.wan.execution import place_models  # noqa: E402
from refbench.baselines.wan.guidance import IMAGE_AND_TEXT  # noqa: E402
from refbench.baselines.wan.loading import load_base, models_of  # noqa: E402
from refbench.baselines.wan.method import WanGenerator  # noqa: E402
from refbench.baselines.wan.prompts import WAN_NEGATIVE, cleaned_prompt  # noqa: E402
from refbench.baselines.wan.references import to_tensor  # noqa: E402
from refbench.baselines.wan.sampler import WanSampler  # noqa: E402
from refbench.baselines.wan.schedules import make_scheduler  # noqa: E402
from refbench.bench.errors import MissingWeights, UserError  # noqa: E402
from refbench.refalign.method import RefAlignTiny  # noqa: E402
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
def codec(tiny: Path) -> WanCodec:
    parts = load_base(tiny / BASE, dtype=torch.float32)
    return WanCodec(**parts, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def sampler(tiny: Path, codec: WanCodec) -> WanSampler:
    network = load_transformer(RefAlignTransformer3DModel, read_checkpoint(tiny / NETWORK))
    return WanSampler(codec=codec, transformer=network, scheduler=make_scheduler("euler", 5.0))


def sample(sampler: WanSampler, **changes: Any) -> Any:
    picture = Image.fromarray(np.full((40, 30, 3), (200, 30, 90), np.uint8))
    arguments: dict[str, Any] = {
        "prompt": "a woman in a shop",
        "negative_prompt": WAN_NEGATIVE,
        "references": [picture, picture.rotate(90, expand=True)],
        "conditioner": ConcatenatedReferences(),
        "rule": IMAGE_AND_TEXT,
        "scales": SCALES,
        "geometry": GEOMETRY,
        "steps": 2,
        "generator": torch.Generator().manual_seed(3),
    }
    return sampler(**(arguments | changes))


@pytest.mark.parametrize("text", ["a red &amp;lt; cup  on\n a table", WAN_NEGATIVE, ""])
def test_text_features_are_those_of_the_library_s_pipeline(codec: WanCodec, text: str) -> None:
    from diffusers import WanPipeline

    theirs = WanPipeline(
        tokenizer=codec.tokenizer,
        text_encoder=codec.text_encoder,
        vae=codec.vae,
        scheduler=make_scheduler("euler", 5.0),
    )
    with torch.no_grad():
        expected, _ = theirs.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=512)
        found, note = codec.encode_text(text)
    assert note == ""
    assert found.shape == (1, 512, 32)
    assert torch.equal(found, expected)
    assert not found[0, -1].any()


def test_prompts_are_cleaned_as_wan_does() -> None:
    assert cleaned_prompt("  a &amp;amp; b\n\tc ") == "a & b c"


def test_a_prompt_that_is_too_long_is_cut_and_said(sampler: WanSampler) -> None:
    with torch.no_grad():
        features, note = sampler.codec.encode_text("shop " * 600)
    assert features.shape[1] == 512
    assert "the first 512 are used" in note
    made = sample(sampler, prompt="shop " * 600)
    assert made.notes == (f"the prompt {note}",)


def test_a_text_is_encoded_once_for_all_seeds_and_samples(
    sampler: WanSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two samples with three seeds each share a negative prompt: three texts, and the same latents."""
    encoded: list[str] = []
    encode = WanCodec.encode_text

    def counted(codec: WanCodec, text: str) -> tuple[torch.Tensor, str]:
        encoded.append(text)
        return encode(codec, text)

    monkeypatch.setattr(WanCodec, "encode_text", counted)
    prompts = ("a cup on a table", "shop " * 600)
    many = WanSampler(codec=sampler.codec, transformer=sampler.transformer, scheduler=sampler.scheduler)
    for seed in range(3):
        for prompt in prompts:
            alone = WanSampler(
                codec=sampler.codec, transformer=sampler.transformer, scheduler=sampler.scheduler
            )
            made, expected = (
                sample(one, prompt=prompt, steps=1, generator=torch.Generator().manual_seed(seed))
                for one in (many, alone)
            )
            assert torch.equal(made.latents, expected.latents)
            assert made.notes == expected.notes
    # Samplers of one video encode two texts each.
    assert len(encoded) == 3 + 2 * 6


def test_a_picture_is_encoded_once_and_a_draw_stays_one(
    codec: WanCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six references of which three differ: three encodings; the mode and a draw are those of the VAE."""
    codec = replace(codec, kept_pictures=OrderedDict())
    encoded: list[tuple[int, ...]] = []
    encode = codec.vae.encode

    def counted(pixels: torch.Tensor) -> object:
        encoded.append(tuple(pixels.shape))
        return encode(pixels)

    monkeypatch.setattr(codec.vae, "encode", counted)
    monkeypatch.setattr("refbench.baselines.wan.codec.MOST_KEPT_PICTURES", 3)
    pictures = [torch.rand(1, 3, 1, 32, 48, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    with torch.no_grad():
        for seed in range(2):
            for picture in pictures:
                fresh = replace(codec, kept_pictures=OrderedDict())
                assert torch.equal(codec.encode(picture), fresh.encode(picture))
                draws = [
                    one.encode(picture, generator=torch.Generator().manual_seed(seed))
                    for one in (codec, fresh)
                ]
                assert torch.equal(*draws) and not torch.equal(draws[0], codec.encode(picture))
        # Fresh ones encode each picture once, the kept ones three in all.
        assert len(encoded) == 3 + 6
        # A clip is no picture, and a fourth picture takes the place of the oldest.
        codec.encode(torch.zeros(1, 3, 5, 32, 48))
        codec.encode(torch.zeros(1, 3, 1, 32, 48))
        codec.encode(pictures[2])
        assert len(encoded) == 11 and len(codec.kept_pictures) == 3
        codec.encode(pictures[0])
        assert len(encoded) == 12


def test_latents_are_normalised_and_the_round_trip_is_the_vae_s(codec: WanCodec) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    pixels = to_tensor(picture)[None, :, None]
    with torch.no_grad():
        found = codec.encode(pixels)
        raw = codec.vae.encode(pixels).latent_dist.mode()
        decoded = codec.vae.decode(raw).sample
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1)
        for v in (codec.vae.config.latents_mean, codec.vae.config.latents_std)
    )
    torch.testing.assert_close(found * std + mean, raw, atol=1e-5, rtol=0)
    frames = list(codec.decode(found))
    assert len(frames) == 1 and frames[0].shape == (64, 96, 3) and frames[0].dtype == np.uint8
    truncated = ((decoded[0, :, 0] + 1) * 127.5).clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    assert np.abs(frames[0].astype(int) - truncated).max() <= 1


def test_tiling_is_for_decoding_only(codec: WanCodec) -> None:
    latents = torch.zeros(1, 16, 1, 8, 12)
    list(codec.decode(latents, tiling=True))
    assert not codec.vae.use_tiling


class ShortOfMemory(torch.nn.Module):
    """A network on a device with memory for one pass at a time."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.dtype = network, network.dtype
        self.batches: list[int] = []

    def forward(self, **inputs: torch.Tensor) -> Any:
        self.batches.append(len(inputs["timestep"]))
        if self.batches[-1] > 1:
            raise torch.OutOfMemoryError("no memory")
        return self.network(**inputs)


def test_joined_passes_are_equal_and_fall_back_when_memory_runs_out(sampler: WanSampler) -> None:
    apart, joined = (sample(sampler, batch_passes=choice).latents for choice in ("no", "yes"))
    torch.testing.assert_close(joined, apart, atol=2e-4, rtol=0)
    sampler.transformer = short = ShortOfMemory(sampler.transformer)
    # As on a GPU.
    sampler.auto_joins = True
    again = sample(sampler, batch_passes="auto").latents
    assert short.batches == [3, 1, 1, 1, 1, 1, 1]
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
    sampler.codec.text_encoder.to(torch.bfloat16)
    hook = sampler.transformer.condition_embedder.register_forward_pre_hook(
        lambda module, inputs: seen.append(float(inputs[0][0]))
    )
    made = sample(sampler, steps=3, round_timestep=True, state_dtype=torch.bfloat16, batch_passes="yes")
    hook.remove()
    sampler.codec.text_encoder.to(torch.float32)
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
    with pytest.raises(UserError, match=r"vae/.* is damaged or no checkpoint: it begins like neither"):
        load_base(tmp_path / "base", dtype=torch.float32)
    shutil.rmtree(tmp_path / "base/text_encoder")
    with pytest.raises(MissingWeights, match="has no text encoder"):
        load_base(tmp_path / "base", dtype=torch.float32)


def test_what_a_processor_cannot_do_is_said(sampler: WanSampler) -> None:
    with pytest.raises(UserError, match="offload keeps models off a GPU"):
        place_models(models_of(sampler), "cpu", "model")


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloaded_models_make_the_same_video(offload: str, tmp_path: Path) -> None:
    """diffusers' hooks on all models of the loop; here the CPU stands for the GPU as well."""
    Image.fromarray(np.full((40, 30, 3), (200, 30, 90), np.uint8)).save(tmp_path / "0.png")
    wanted = sample_of(["0.png"], tmp_path)
    method = RefAlignTiny(RefAlignTiny.Options(num_frames=5, steps=1))
    generator = loaded(method, tmp_path)
    assert isinstance(generator, WanGenerator)
    resident = frames_of(generator, wanted)
    if offload == "model":
        generator.models.enable_model_cpu_offload(device="cpu")
    else:
        cpu = torch.device("cpu")
        generator.models.enable_group_offload(cpu, cpu, offload_type="leaf_level")
    assert np.array_equal(frames_of(generator, wanted), resident)
    # And again after the models went back.
    assert np.array_equal(frames_of(generator, wanted), resident)
    generator.close()
    assert not hasattr(generator, "sampler")


def test_features_are_zero_where_the_original_code_zeroes(codec: WanCodec) -> None:
    """Rows after the prompt are zero before the network's text embedding, and are attended to."""
    made = codec.tokenizer("two words")
    with torch.no_grad():
        features, _ = codec.encode_text("two words")
    assert features[0, : len(made.input_ids)].abs().sum(dim=1).min() > 0
    assert not features[0, len(made.input_ids) :].any()
