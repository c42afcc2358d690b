"""SkyReels-A2's images, condition and loop against the official code (golden `baselines/skyreels_a2.npz`)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import normal, uint8_image  # noqa: E402
from PIL import Image  # noqa: E402

from kit.golden_loop import (  # noqa: E402
    CPU,
    GoldenCodec,
    WatchedConditioner,
    WatchedSampler,
    golden_codec,
    sampled,
)
from kit.golden_networks import named, read, worst  # noqa: E402
from kit.golden_vae import GoldenVAE  # noqa: E402
from kit.tiny_runs import frames_of, generated, loaded, sample_of  # noqa: E402
from refbench.baselines.skyreels_a2 import SkyReelsA2P14B  # noqa: E402
from refbench.baselines.wan.conditioning import Geometry  # noqa: E402
from refbench.baselines.wan.nets.skyreels_a2 import FrameReferences, padded, reference_clip, vae_copies  # noqa: E402
from refbench.bench.video import ALL_FRAMES  # noqa: E402

ARRAYS = read("baselines/skyreels_a2.npz")
SIZES = [(90, 60), (50, 120), (150, 200), (96, 64)]
GEOMETRY = Geometry(width=96, height=64, num_frames=29)
LATENT_SHAPE = (1, 16, 8, 8, 12)
STEPS = 4
SMALL = {"width": 96, "height": 64, "num_frames": 17, "steps": 1}
# The goldens' uint8 images are Pillow 13's; other versions may round by one level.
LEVELS = 0 if PIL.__version__.startswith("13.") else 1


def picture(index: int) -> Image.Image:
    return Image.fromarray(uint8_image(f"baselines.a2.ref{index}", *SIZES[index]))


def given(name: str, shape: tuple[int, ...], **arguments: float) -> torch.Tensor:
    return named("baselines.a2", name, shape, **arguments)


@pytest.mark.parametrize("index", range(4))
def test_prepared_images(index: int) -> None:
    images = [picture(number) for number in range(4)]
    small, full = vae_copies(images, 96, 64)[index], vae_copies(images, 832, 480)[index]
    square = padded(images[index], 512, 512)
    for found, name in (
        (np.asarray(small), f"vae_copy_64x96/ref{index}"),
        (np.asarray(full)[::8, ::8], f"vae_copy_480x832_every8/ref{index}"),
        (np.asarray(padded(images[index], 96, 64)), f"pad_rule_64x96_wide_tall/ref{index}"),
        (np.asarray(square)[::8, ::8], f"clip_copy_512_every8/ref{index}"),
    ):
        assert worst(found, ARRAYS[name]) <= LEVELS


def test_a_wide_background_loses_its_sides() -> None:
    pixels = np.zeros((60, 180, 3), np.uint8)
    pixels[:, 40:140] = 255
    background = vae_copies([picture(0), picture(1), Image.fromarray(pixels)], 96, 64)[2]
    assert background.size == (96, 64)
    assert np.asarray(background).min() == 255


class Clip(torch.nn.Module):
    """The golden's CLIP: means of 14×14 blocks behind their own mean, times a projection."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.projection = given("clip_projection", (3, 40))
        self.config = SimpleNamespace(image_size=224)
        self.seen: list[torch.Tensor] = []

    def forward(self, pixels: torch.Tensor, output_hidden_states: bool) -> Any:
        assert output_hidden_states
        self.seen.append(pixels)
        blocks = pixels.unfold(2, 14, 14).unfold(3, 14, 14).mean(dim=(4, 5)).flatten(2).transpose(1, 2)
        rows = torch.cat([blocks.mean(dim=1, keepdim=True), blocks], dim=1) @ self.projection
        return SimpleNamespace(hidden_states=(rows + 1, rows, rows - 1))


class StandIn(torch.nn.Module):
    """The golden's network: a sum of everything that it is given."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor,
    ) -> Any:
        noisy, mask, latents = hidden_states[:, :16], hidden_states[:, 16:17], hidden_states[:, 20:]
        text, image = (
            rows.mean(dim=(1, 2)).view(-1, 1, 1, 1, 1)
            for rows in (encoder_hidden_states, encoder_hidden_states_image)
        )
        return SimpleNamespace(sample=0.3 * noisy + 0.1 * latents + 0.2 * mask + 0.05 * text + 0.05 * image)


def given_noise(geometry: Geometry, references: int) -> torch.Tensor:
    return given(f"noise{references}", LATENT_SHAPE)


def with_given_noise() -> WatchedConditioner:
    return WatchedConditioner(FrameReferences(), given_noise)


def codec_for(references: int, vae: Any = None) -> GoldenCodec:
    from transformers import CLIPImageProcessorPil

    offset = 0.1 * given(f"posterior{references}", LATENT_SHAPE)
    mean = normal("baselines.a2.vae_mean", (16,), 0.5)
    std = 1 + 0.2 * np.abs(normal("baselines.a2.vae_std", (16,)))
    return golden_codec(
        {
            "prompt": given("context", (1, 512, 32)),
            "negative": given("context_negative", (1, 512, 32)),
        },
        vae=GoldenVAE(offset, mean, std) if vae is None else vae,
        image_encoder=Clip(),
        image_processor=CLIPImageProcessorPil(),
    )


def run(references: int, conditioner: WatchedConditioner) -> WatchedSampler:
    final, seen = sampled(
        SkyReelsA2P14B(),
        StandIn(),
        [picture(index) for index in range(references)],
        conditioner,
        codec=codec_for(references),
        geometry=GEOMETRY,
        steps=STEPS,
    )
    assert torch.equal(final, seen.latents[-1])
    return seen


@pytest.mark.parametrize("references", [2, 3])
def test_condition_and_loop(references: int) -> None:
    conditioner = with_given_noise()
    seen = run(references, conditioner)
    golden = f"refs{references}"
    condition = conditioner.condition
    assert worst(condition.mask_B4FHW[0], ARRAYS[f"{golden}/mask"]) == 0
    assert worst(condition.latents_B16FHW[0], ARRAYS[f"{golden}/condition"]) < 1e-5
    assert seen.timesteps == ARRAYS[f"{golden}/timesteps"].tolist()
    (pixels,) = seen.codec.image_encoder.seen
    assert worst(pixels[:, :, ::16, ::16], ARRAYS[f"{golden}/clip_pixels_every16"]) < 0.03
    # Means of 196 pixels each: single levels of a resize average out.
    assert worst(condition.image_tokens_BTD, ARRAYS[f"{golden}/image_embeds"]) < 0.01
    assert worst(torch.cat(seen.latents), ARRAYS[f"{golden}/latents"]) < 2e-4


@pytest.mark.parametrize("references", [2, 3])
def test_frames_given_to_the_vae(references: int) -> None:
    copies = vae_copies([picture(index) for index in range(references)], 96, 64)
    clip = reference_clip(copies, GEOMETRY.num_frames)[0]
    golden = f"refs{references}"
    assert worst(clip.mean(dim=(0, 2, 3)), ARRAYS[f"{golden}/pixel_frame_mean"]) < 1e-5
    singles = [reference_clip([copy], 1)[0, :, 0] for copy in copies]
    held = [
        next((index for index, one in enumerate(singles) if torch.equal(one, frame)), -1)
        for frame in clip.unbind(1)
    ]
    assert held == ARRAYS[f"{golden}/pixel_frames_same_as_ref"].tolist()
    with pytest.raises(ValueError, match="3 references need more than 5 frames"):
        reference_clip([*copies, *copies][:3], 5)


def test_one_reference_stands_in_the_first_latent_frame() -> None:
    """The original code fails here; ours does for one what it does for the first of several."""
    conditioner, two = with_given_noise(), with_given_noise()
    states = run(1, conditioner).latents
    run(2, two)
    mask = conditioner.condition.mask_B4FHW[0]
    assert bool(mask[:, 0].all())
    assert not mask[:, 1:].any()
    noise = 0.1 * (given("posterior1", LATENT_SHAPE) - given("posterior2", LATENT_SHAPE))
    std = 1 + 0.2 * given("vae_std", (16,)).abs().view(1, -1, 1, 1, 1)
    shifted = two.condition.latents_B16FHW + noise / std
    assert worst(conditioner.condition.latents_B16FHW[:, :, 0], shifted[:, :, 0].numpy()) < 1e-5
    assert conditioner.condition.image_tokens_BTD.shape == (1, 257, 40)
    assert all(bool(torch.isfinite(state).all()) for state in states)


class StandardVAE(GoldenVAE):
    """A posterior of mean 0 and deviation 1, drawn by diffusers' own code."""

    def encode(self, pixels_BCFHW: torch.Tensor) -> Any:
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        latents = super().encode(pixels_BCFHW).latent_dist.mode()
        moments = torch.zeros_like(latents).repeat(1, 2, 1, 1, 1)
        return SimpleNamespace(latent_dist=DiagonalGaussianDistribution(moments))


def test_noise_is_drawn_before_the_posterior() -> None:
    conditioner = SkyReelsA2P14B().conditioner(sample_of(()), 42)
    generator = torch.Generator("cpu").manual_seed(42)
    noise = conditioner.draw_noise(GEOMETRY, 2, generator, CPU)
    assert noise.shape == LATENT_SHAPE
    codec = codec_for(2, StandardVAE())
    drawn = conditioner.encode(codec, [picture(0), picture(1)], GEOMETRY, generator).latents_B16FHW
    assert worst(noise.flatten()[:8], ARRAYS["seed42/first_draw_noise8"]) == 0
    assert worst(drawn.flatten()[:8], ARRAYS["seed42/second_draw_posterior8"]) == 0


def test_card() -> None:
    method = SkyReelsA2P14B()
    card = method.card()
    assert (card.width, card.height, card.fps) == (832, 480, 15)
    assert (card.generated_frames, card.num_frames) == (81, 69)
    assert (card.steps, card.solver, card.shift, card.guidance) == (50, "unipc", 8.0, {"text": 5.0})
    assert card.negative_prompt == read("baselines/negative_prompts.json")["skyreels_a2"]
    assert any("single reference" in text for text in card.deviations)
    sample = sample_of([f"{index}.png" for index in range(4)])
    assert "4 references, skyreels-a2-p14b takes 3" in str(method.refuses(sample))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints in the layout of the released ones."""
    from refbench.baselines.small import skyreels_a2

    folder = tmp_path_factory.mktemp("weights")
    skyreels_a2.write_tiny(folder)
    return folder


def test_every_reference_reaches_the_video(weights: Path, tmp_path: Path) -> None:
    for index in range(4):
        picture(index).save(tmp_path / f"{index}.png")
    generator = loaded(SkyReelsA2P14B(SkyReelsA2P14B.Options(**SMALL)), weights)

    def made(*indices: int) -> np.ndarray:
        return frames_of(generator, sample_of([f"{index}.png" for index in indices], tmp_path), 3)

    base = made(0, 1, 2)
    assert base.shape == (5, 64, 96, 3)
    assert np.array_equal(base, made(0, 1, 2))
    for other in ((3, 1, 2), (0, 3, 2), (0, 1, 3), (0,)):
        assert not np.array_equal(base, made(*other)), other


def test_generate_with_tiny_weights(weights: Path, dataset: Path, tmp_path: Path) -> None:
    small = SMALL | {"dtype": "bfloat16"}
    videos = generated("skyreels-a2-p14b", small, dataset=dataset, weights=weights, out=tmp_path, limit=2)
    assert len(videos) == 2
    found = list(videos[0].frames(ALL_FRAMES))
    # The first twelve are dropped.
    assert (len(found), found[0].shape) == (5, (64, 96, 3))
