"""The small video autoencoder: diffusers' `AutoencoderKLWan`, so that the real codec loads it.

64×64 pixels and 9 frames become 16 channels of 3×8×8 latents. It learns to draw the world's clips and single
reference pictures again; the loss is L1 and the L1 of differences to neighbours (edges stay sharp without a
perceptual network), and a little Kullback–Leibler divergence. Mean and deviation of the latents, which the
codec normalises with, are measured at the end and stand in the configuration as in Wan's own.

Shapes: B clips, 3 colours, F frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refbench.bench.weights.checkpoint import write_tensors
from refbench.mini.train.loop import Part, PartSettings, StepDraws, draws_of
from refbench.mini.world import SIZE_PX
from refbench.mini.world.identity import Split, Subject
from refbench.mini.world.render import reference_picture, render
from refbench.mini.world.scene import random_scene, random_subjects

CONFIG: dict[str, Any] = {
    "base_dim": 16,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
}
CLIPS_PER_STEP, PICTURES_PER_STEP = 4, 12
# One step in so many is of single pictures: references are encoded alone.
PICTURES_EVERY = 4
EDGE_WEIGHT, KL_WEIGHT = 0.5, 1e-6
FIRST_LOG_VARIANCE = -6.0
# Clips over which the latents' statistics are measured.
MEASURED_CLIPS = 256


@dataclass(frozen=True, kw_only=True)
class VideoVae(Part):
    """The video autoencoder's training."""

    name: str = "video-vae"
    settings: PartSettings = field(default_factory=lambda: PartSettings(steps=5000, learning_rate=2e-3))

    def network(self) -> torch.nn.Module:
        """A fresh autoencoder of `CONFIG`."""
        from diffusers import AutoencoderKLWan

        network: torch.nn.Module = AutoencoderKLWan(**CONFIG)
        vae: Any = network
        with torch.no_grad():
            # The second half is the posterior's log variance: as diffusers initialises it, its noise is three
            # times the signal.
            vae.quant_conv.weight[CONFIG["z_dim"] :] *= 0.1
            vae.quant_conv.bias[CONFIG["z_dim"] :] = FIRST_LOG_VARIANCE
        return network

    def loss(
        self, network: torch.nn.Module, step: int, draws: StepDraws
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Reconstruction of a batch of clips, or of single pictures."""
        if step % PICTURES_EVERY == PICTURES_EVERY - 1:
            pixels_B3FHW = pictures(PICTURES_PER_STEP, "training", draws)
        else:
            pixels_B3FHW = clips(CLIPS_PER_STEP, "training", draws)
        vae: Any = network
        posterior = vae.encode(pixels_B3FHW).latent_dist
        again_B3FHW = decoded(vae, posterior.sample(draws.torch))
        error = (again_B3FHW - pixels_B3FHW).abs().mean()
        edges = sum(
            (again_B3FHW.diff(dim=axis) - pixels_B3FHW.diff(dim=axis)).abs().mean()
            for axis in (2, 3, 4)
            if pixels_B3FHW.shape[axis] > 1
        )
        divergence = posterior.kl().mean()
        loss = error + EDGE_WEIGHT * edges + KL_WEIGHT * divergence
        return loss, {"error": float(error.detach()), "divergence": float(divergence.detach())}

    def finish(self, network: torch.nn.Module, folder: Path) -> None:
        """Write `vae/config.json` and `vae/diffusion_pytorch_model.safetensors`."""
        vae: Any = network
        mean, std = latent_statistics(vae)
        vae.register_to_config(latents_mean=mean, latents_std=std)
        place = folder / "vae"
        vae.save_config(place)
        write_tensors(place / "diffusion_pytorch_model.safetensors", vae.state_dict())


def decoded(vae: Any, latents_B16FHW: torch.Tensor) -> torch.Tensor:
    """What the decoder draws, (B,3,F,H,W), before diffusers' `decode` cuts it at -1 and 1.

    A cut has no gradient outside: once the pictures' white has driven the output beyond it, nothing is
    learned any more.
    """
    pieces: list[torch.Tensor] = []
    hook = vae.decoder.register_forward_hook(lambda module, given, piece: pieces.append(piece))
    try:
        vae.decode(latents_B16FHW)
    finally:
        hook.remove()
    return torch.cat(pieces, dim=2)


def clips(count: int, split: Split, draws: StepDraws) -> torch.Tensor:
    """Random clips, (count,3,9,64,64) in -1 to 1."""
    scenes = [random_scene(split, draws.python) for _ in range(count)]
    return as_pixels(np.stack([render(scene).video_FHWC for scene in scenes]))


def pictures(count: int, split: Split, draws: StepDraws) -> torch.Tensor:
    """Random reference pictures as clips of one frame, (count,3,1,64,64) in -1 to 1."""
    subjects: list[Subject] = []
    while len(subjects) < count:
        subjects += random_subjects(split, draws.python)
    images = [
        reference_picture(subject, face=draws.python.random() < 0.5, size_px=SIZE_PX)
        for subject in subjects[:count]
    ]
    return as_pixels(np.stack(images)[:, None])


def as_pixels(video_BFHWC: np.ndarray) -> torch.Tensor:
    """RGB uint8 clips as the autoencoder takes them."""
    return torch.from_numpy(video_BFHWC).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def latent_statistics(vae: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel over clips and pictures."""
    latents = []
    with torch.no_grad():
        for number in range(MEASURED_CLIPS // CLIPS_PER_STEP):
            draws = draws_of("video-vae/statistics", 0, number)
            for pixels in (
                clips(CLIPS_PER_STEP, "training", draws),
                pictures(CLIPS_PER_STEP, "training", draws),
            ):
                latents.append(vae.encode(pixels).latent_dist.mode().transpose(0, 1).flatten(1))
    together = torch.cat(latents, dim=1)
    return together.mean(dim=1).tolist(), together.std(dim=1).tolist()


def held_out_error(vae: Any, clips_measured: int = 64) -> float:
    """PSNR in dB over clips of subjects that training never saw."""
    errors = []
    with torch.no_grad():
        for number in range(clips_measured // CLIPS_PER_STEP):
            pixels = clips(CLIPS_PER_STEP, "held-out", draws_of("video-vae/held-out", 0, number))
            again = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
            errors.append(float((again - pixels).square().mean()))
    # Pixels span 2.
    return float(10 * np.log10(4 / np.mean(errors)))
