"""The stand-in for a VAE in the baselines' goldens: temporal groups, 8×8 means, a projection; behind
diffusers' interface, so that the real loop runs on it.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from fill import normal

PATCH = 8
LATENTS = 16


class GoldenVAE(torch.nn.Module):
    """`encode(x).latent_dist.mode()` as the goldens' README defines it; `offset` is added to a drawn
    sample.
    """

    def __init__(self, offset: torch.Tensor | None = None, mean: object = None, std: object = None) -> None:
        super().__init__()
        self.projection = torch.from_numpy(normal("baselines.vae.projection", (LATENTS, 3)))
        self.bias = torch.from_numpy(normal("baselines.vae.bias", (LATENTS,), std=0.1))
        self.offset = offset
        self.config = SimpleNamespace(
            latents_mean=[0.0] * LATENTS if mean is None else list(mean),
            latents_std=[1.0] * LATENTS if std is None else list(std),
        )
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.use_tiling = False
        self.seen: list[torch.Tensor] = []

    def encode(self, pixels_BCFHW: torch.Tensor) -> SimpleNamespace:
        self.seen.append(pixels_BCFHW)
        first, rest = pixels_BCFHW[:, :, :1], pixels_BCFHW[:, :, 1:]
        groups = [first, *rest.split(4, dim=2)] if rest.shape[2] else [first]
        frames = torch.stack([group.mean(dim=2) for group in groups], dim=2)
        cells = frames.unfold(3, PATCH, PATCH).unfold(4, PATCH, PATCH).mean(dim=(5, 6))
        latents = torch.einsum("ck,bkfhw->bcfhw", self.projection, cells) + self.bias.view(1, -1, 1, 1, 1)
        drawn = latents if self.offset is None else latents + self.offset
        return SimpleNamespace(
            latent_dist=SimpleNamespace(mode=lambda: latents, sample=lambda generator=None: drawn)
        )
