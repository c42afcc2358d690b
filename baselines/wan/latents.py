"""The space that a VAE of the family encodes into: its channels and strides. No torch here.

Wan2.1's VAE (and that of Wan2.2's 14B networks) has 16 channels, 8 pixels and 4 frames to a latent;
Wan2.2-TI2V-5B's has 48 channels, 16 pixels and 4 frames. Source: `vae/config.json` of the repositories,
`wan/configs` of Wan-Video/Wan2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """Channels of a latent, pixels of a side of it, and frames after the first one that make one of it."""

    channels: int = 16
    stride_px: int = 8
    stride_frames: int = 4

    @classmethod
    def of(cls, vae: Any) -> LatentSpace:
        """That of diffusers' VAE, from its configuration."""
        config = vae.config
        return cls(
            channels=config.z_dim,
            stride_px=config.scale_factor_spatial,
            stride_frames=config.scale_factor_temporal,
        )

    def shape(self, width: int, height: int, num_frames: int) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a video in pixels and frames."""
        return (
            1 + (num_frames - 1) // self.stride_frames,
            height // self.stride_px,
            width // self.stride_px,
        )


WAN21_LATENTS = LatentSpace()
WAN22_5B_LATENTS = LatentSpace(channels=48, stride_px=16)
