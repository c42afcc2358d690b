"""VAEs of released models as their configurations name them."""

from __future__ import annotations

from typing import Any

# `vae/config.json` of Wan-AI/Wan2.2-TI2V-5B-Diffusers, as far as sizes follow from it.
WIDE_VAE: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}
