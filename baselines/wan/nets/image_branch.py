"""What the networks on Wan's image-to-video layout share (MAGREF, SkyReels-A2, BindWeave): 36 input channels
and CLIP tokens that the cross-attention reads before the text.

The input is the noisy state (16 channels), a mask (4) and the latents of a clip (16). diffusers' attention
takes the last 512 rows for text and all rows before them for image tokens, so any number of images
fits.

Shapes: B samples, N images, F latent frames, H and W rows and columns, T image tokens, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from refbench.baselines.wan.conditioning import Condition
from refbench.baselines.wan.guidance import PassReferences
from refbench.baselines.wan.nets.transformer import ExactTimesteps

MASK_CHANNELS = 4
# [x0, y0, x1, y1) in pixels.
Box = tuple[int, int, int, int]


class ImageWanTransformer3DModel(WanTransformer3DModel):
    """diffusers' Wan network with the time sinusoid in float64, as in Wan's code."""

    # With the parent's signature, which saving and loading read the configuration's names from.
    @wraps(WanTransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.condition_embedder.timesteps_proj = ExactTimesteps(self.config.freq_dim)


@dataclass(frozen=True, kw_only=True)
class ImageCondition(Condition):
    """Mask and clip latents beside the state, image tokens beside the text; the same in every pass."""

    mask_B4FHW: torch.Tensor
    latents_B16FHW: torch.Tensor
    image_tokens_BTD: torch.Tensor

    def inputs(self, latents: torch.Tensor, references: PassReferences) -> dict[str, torch.Tensor]:
        """State, mask, clip latents on the channel axis. Raises ValueError for a pass without references."""
        if references != "own":
            raise ValueError(
                "networks with an image branch have no pass with zero latents or nothing for references"
            )
        parts = (latents, self.mask_B4FHW, self.latents_B16FHW)
        return {
            "hidden_states": torch.cat([part.to(latents.dtype) for part in parts], dim=1),
            "encoder_hidden_states_image": self.image_tokens_BTD.to(latents.dtype),
        }


def clip_normalised(pixels_N3HW: torch.Tensor) -> torch.Tensor:
    """Pixels (N,3,H,W) in 0 to 1 with CLIP's mean and standard deviation."""
    mean, std = (
        torch.tensor(values, dtype=pixels_N3HW.dtype).view(1, -1, 1, 1)
        for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    )
    return (pixels_N3HW - mean) / std
