"""The video VAE: a narrow `AutoencoderKLWan` with Wan's strides and its 16 latent channels.

As Wan2.2's it takes patches of 2×2 pixels at once, which leaves a quarter of the places of the finest level.
It begins as a linear code (`vae_start`). Most steps see single frames (which it takes as Wan's does: a first
frame is a latent frame of its own), the last ones whole clips.

Latents are then normalised, as Wan's configuration states it; but not all channels to the deviation 1. The
first ones hold the picture and the last ones its finest detail, twenty times less of a pixel. Were they
alike, most of a generator's loss would be detail that nobody can foretell. So a channel's deviation follows
the root of what it does to pixels, and the mean of their squares is 1.

Shapes: B examples, F frames, H W rows and columns, C channels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from refbench.bench.weights.tiny import save_tensors
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.loop import Schedule, fixed_threads, seeded
from refbench.mini.training.vae_start import start_as_components
from refbench.mini.world import NUM_FRAMES, SIZE_PX
from refbench.mini.world.identity import person, random_place, thing
from refbench.mini.world.render import place_reference, reference_picture, render
from refbench.mini.world.scene import TRAINING_PEOPLE, TRAINING_THINGS, random_scene

NAME = "vae"
LATENT_CHANNELS = 16
# Of the noise at the start: small, or it drowns the signal.
FIRST_LOG_VARIANCE = -5.0
PATCH = 2
# Of what the linear code at the start is made: half of them references.
START_PICTURES = 400
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
CLIPS_PER_STEP = 2
# Of the steps with single frames.
DRAWN_CLIPS, FRAMES_OF_CLIP, REFERENCES = 4, 2, 2
# Up to this share of the steps single frames are seen.
FRAMES_SHARE = 0.4
EDGE_WEIGHT, COARSE_WEIGHT, DIVERGENCE_WEIGHT = 1.0, 0.5, 1e-6
# Clips over which the latents' statistics are taken, and those on which channels are moved, by how much of
# their deviation.
MEASURED_CLIPS = 256
MOVED_CLIPS, MOVED_BY = 16, 0.3

# The repository of the generators' base, and clips over which reconstruction is measured.
REPOSITORY = "refbench/mini-base"
JUDGED_CLIPS = 64

SCHEDULE = Schedule(steps=3000, learning_rate=2e-3, warmup_steps=50, average=0.995)


class VaeLearner:
    """Reconstruction of frames, reference pictures and clips of the training split."""

    name = NAME

    def __init__(self, seed: int = 0, start_pictures: int = START_PICTURES, batch: int = 1) -> None:
        self.batch = batch
        with seeded(NAME, seed), fixed_threads():
            self.network = new_vae()
            generator = random.Random(f"{NAME}/start/{seed}")
            frames = [
                frame
                for _ in range(start_pictures // 2)
                for frame in (
                    training_clip(generator, [generator.randrange(NUM_FRAMES)])[0],
                    any_reference(generator),
                )
            ]
            pictures = as_pixels(np.stack(frames)[:, None])[:, :, 0]
            start_as_components(self.network, pictures, FIRST_LOG_VARIANCE)
        _quicken_single_frames(self.network)

    def examples(self, generator: random.Random, progress: float) -> torch.Tensor:
        """Pixels (B,3,F,H,W) in [-1,1]: 10 single frames, later two clips; `batch` times as many."""
        if progress >= FRAMES_SHARE:
            clips = [training_clip(generator) for _ in range(CLIPS_PER_STEP * self.batch)]
        else:
            drawn = [training_clip(generator) for _ in range(DRAWN_CLIPS * self.batch)]
            clips = [
                clip[[frame]]
                for clip in drawn
                for frame in generator.sample(range(NUM_FRAMES), FRAMES_OF_CLIP)
            ]
            clips += [any_reference(generator)[None] for _ in range(REFERENCES * self.batch)]
        return as_pixels(np.stack(clips))

    def losses(self, batch: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Differences of pixels, of their edges, and at half the size; and the latents' divergence."""
        posterior = self.network.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        made = uncut(self.network, posterior.mean + posterior.std * noise)
        divergence = posterior.mean.square() + posterior.var - 1 - posterior.logvar
        coarse = (functional.avg_pool3d(clip, (1, 2, 2)) for clip in (made, batch))
        return {
            "pixels": (made - batch).abs().mean(),
            "edges": EDGE_WEIGHT
            * sum(functional.l1_loss(made.diff(dim=d), batch.diff(dim=d)) for d in (3, 4)),
            "coarse": COARSE_WEIGHT * functional.l1_loss(*coarse),
            "divergence": DIVERGENCE_WEIGHT * 0.5 * divergence.sum() / len(batch),
        }


def uncut(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """What the decoder makes of latents before diffusers cuts it at -1 and 1.

    Beyond a cut nothing is learned any more, and white backgrounds drive it there.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    pieces: list[torch.Tensor] = []
    hook = vae.decoder.register_forward_hook(lambda module, given, piece: pieces.append(piece))
    try:
        vae.decode(latents)
    finally:
        hook.remove()
    made: torch.Tensor = unpatchify(torch.cat(pieces, dim=2), vae.config.patch_size)
    return made


def new_vae() -> Any:
    """An untrained VAE: 2.5 million parameters, 4 times shorter, 8 times smaller."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=24,
        decoder_base_dim=20,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 3, 3],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        patch_size=PATCH,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )


def _quicken_single_frames(vae: Any) -> None:
    """Let causal convolutions treat a first frame alone as a picture: in time only their last weights meet
    anything but zeros there. A third of the work, the same sums.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    for module in vae.modules():
        if isinstance(module, WanCausalConv3d) and module.stride[0] == 1:
            module.forward = partial(_causal_convolution, module)


def _causal_convolution(
    conv: Any, x_BCFHW: torch.Tensor, cache_x: torch.Tensor | None = None
) -> torch.Tensor:
    if x_BCFHW.shape[2] > 1 or cache_x is not None:
        result: torch.Tensor = type(conv).forward(conv, x_BCFHW, cache_x)
        return result
    _, height, width = conv.kernel_size
    pictures_BCHW = functional.conv2d(
        x_BCFHW[:, :, 0], conv.weight[:, :, -1], conv.bias, padding=(height // 2, width // 2)
    )
    return pictures_BCHW[:, :, None]


def training_clip(generator: random.Random, frames: Sequence[int] = range(NUM_FRAMES)) -> np.ndarray:
    """A clip of the training split, or these of its frames, RGB uint8 (F,H,W,3)."""
    return render(random_scene("training", generator), frames).video_FHWC


def any_reference(generator: random.Random) -> np.ndarray:
    """A reference picture of the training split at the video's size, RGB uint8 (H,W,3)."""
    import cv2

    kind = generator.random()
    if kind < 0.1:
        picture_HWC = place_reference(random_place("training", generator))
    elif kind < 0.5:
        picture_HWC = reference_picture(thing("training", generator.randrange(TRAINING_THINGS)))
    else:
        somebody = person("training", generator.randrange(TRAINING_PEOPLE))
        picture_HWC = reference_picture(somebody, face=generator.random() < 0.5)
    small_HWC: np.ndarray = cv2.resize(picture_HWC, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
    return small_HWC


def as_pixels(clips_BFHWC: np.ndarray) -> torch.Tensor:
    """uint8 clips (B,F,H,W,3) as float32 pixels (B,3,F,H,W) in [-1,1]."""
    return torch.from_numpy(clips_BFHWC).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


@torch.no_grad()
def latent_statistics(vae: Any, seed: int, clips: int = MEASURED_CLIPS) -> tuple[list[float], list[float]]:
    """Mean of each latent channel over training clips and reference pictures, and what to divide it by."""
    generator = random.Random(f"{NAME}/statistics/{seed}")
    values, moved = [], []
    with fixed_threads():
        for number in range(clips):
            for picture in (training_clip(generator), any_reference(generator)[None]):
                latents = vae.encode(as_pixels(picture[None]).to(vae.device)).latent_dist.mode()
                values.append(latents[0].flatten(1).cpu())
                if number < MOVED_CLIPS:
                    moved.append(latents)
        joined_CV = torch.cat(values, dim=1)
        deviation_C = joined_CV.std(dim=1)
        effect_C = _effects(vae, moved, deviation_C, seed)
    wanted_C = (effect_C / effect_C.mean()).sqrt()
    return joined_CV.mean(dim=1).tolist(), (deviation_C / wanted_C).tolist()


def _effects(
    vae: Any, examples: Sequence[torch.Tensor], deviation_C: torch.Tensor, seed: int
) -> torch.Tensor:
    """By how much of a pixel (C,), root mean square, noise of each channel's deviation moves a picture."""
    noise = torch.Generator().manual_seed(seed)
    squares_C, pixels = torch.zeros(LATENT_CHANNELS), 0
    for latents in examples:
        plain = uncut(vae, latents)
        pixels += plain.numel()
        for channel in range(LATENT_CHANNELS):
            other = latents.clone()
            shape = latents[:, channel].shape
            other[:, channel] += (
                MOVED_BY * float(deviation_C[channel]) * torch.randn(shape, generator=noise).to(other)
            )
            squares_C[channel] += (uncut(vae, other) - plain).square().sum().cpu()
    return (squares_C / pixels).sqrt() / MOVED_BY


def write_vae(vae: Any, folder: Path, seed: int, clips: int = MEASURED_CLIPS) -> None:
    """Write the VAE as a diffusers folder, in half precision, with its latents' statistics."""
    mean, std = latent_statistics(vae, seed, clips)
    vae.register_to_config(latents_mean=mean, latents_std=std)
    folder.mkdir(parents=True, exist_ok=True)
    vae.save_config(folder)
    save_tensors(folder, {key: value.half() for key, value in vae.state_dict().items()}, WEIGHTS_FILE)


def load_vae(build: Build) -> Any:
    """The VAE that a build wrote, in float32."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan.from_pretrained(
        build.weights / REPOSITORY / NAME, torch_dtype=torch.float32
    ).eval()


def make(build: Build, on_step: OnStep) -> None:
    """Train the VAE and write it."""
    learner = VaeLearner(build.seed, build.count(START_PICTURES, least=16), build.wider)
    build.train(learner, SCHEDULE, on_step)
    write_vae(learner.network, build.place(REPOSITORY) / NAME, build.seed, build.count(MEASURED_CLIPS))


@torch.no_grad()
def measure(build: Build) -> dict[str, float]:
    """Peak signal-to-noise ratio of clips of held-out subjects, in dB."""
    vae = load_vae(build)
    generator = random.Random(f"{NAME}/measure")
    errors = []
    with fixed_threads():
        for _ in range(build.count(JUDGED_CLIPS)):
            pixels = as_pixels(render(random_scene("held-out", generator)).video_FHWC[None])
            made = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
            errors.append(float(functional.mse_loss(made, pixels)))
    return {"psnr_db": 10 * math.log10(4 / (sum(errors) / len(errors)))}


PART = Part(
    name=NAME,
    summary="the video VAE of all generators",
    make=make,
    measure=measure,
    files=(f"{REPOSITORY}/{NAME}/*",),
)
