"""VACE's network, whose side branch reads a context beside the noise, and how references become that context.

The context has the state's frames and 96 channels: 16 of the inactive part of a source video, 16 of its
reactive part, 64 of a mask (the 8×8 pixels of a latent cell). A reference is a frame of its own before the
video's; the state has the same leading frames, which are dropped before decoding.

Source: `vace/models/wan/wan_vace.py` of ali-vilab/VACE@48eb44f; goldens `baselines/vace.npz`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers import WanVACETransformer3DModel
from torch.nn.functional import interpolate

from refbench.baselines.wan.codec import WanCodec
from refbench.baselines.wan.conditioning import (
    LATENT_CHANNELS,
    SPATIAL_COMPRESSION,
    Condition,
    Conditioner,
    Geometry,
)
from refbench.baselines.wan.guidance import PassReferences
from refbench.baselines.wan.nets.transformer import ExactTimesteps
from refbench.baselines.wan.references import fit_and_pad, stretched, to_tensor

if TYPE_CHECKING:
    from PIL import Image

MASK_CHANNELS = SPATIAL_COMPRESSION**2


class VaceTransformer3DModel(WanVACETransformer3DModel):
    """diffusers' VACE network with the time sinusoid in float64, as in Wan's code."""

    # With the parent's signature, which saving and loading read the configuration's names from.
    @wraps(WanVACETransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.condition_embedder.timesteps_proj = ExactTimesteps(self.config.freq_dim)


@dataclass(frozen=True, kw_only=True)
class VaceContext(Condition):
    """The context (1,96,N+F,h,w), the same in every pass; N of its frames are references."""

    context_BCFHW: torch.Tensor
    leading_frames: int

    def inputs(self, latents: torch.Tensor, references: PassReferences) -> dict[str, torch.Tensor]:
        """State and context. Raises ValueError for a pass without references, which VACE has not."""
        if references != "own":
            raise ValueError("VACE has no pass with zero latents or nothing in the references' place")
        return {"hidden_states": latents, "control_hidden_states": self.context_BCFHW.to(latents.dtype)}


@dataclass(frozen=True, kw_only=True)
class VaceReferences(Conditioner[WanCodec]):
    """References as leading context frames of an empty source video.

    `canvas` is how they come to the video's size: as VACE does it (`prepared_reference`), or as 8-bit images
    with Pillow's bicubic, `padded` with white or `stretched` (VACE-Fun).
    """

    canvas: Literal["vace", "padded", "stretched"] = "vace"

    def leading_noise(self, references: int) -> int:
        """One frame for each reference."""
        return references

    def encode(
        self,
        codec: WanCodec,
        references: Sequence[Image.Image],
        geometry: Geometry,
        generator: torch.Generator,
    ) -> VaceContext:
        """The context: references in the given order, then the empty source, to be made everywhere."""
        height, width = geometry.height, geometry.width
        prepare = CANVASES[self.canvas]
        frames = [
            _reference_frame(codec.encode(prepare(image, width, height)[None, :, None]))
            for image in references
        ]
        # With zero pixels, inactive = source·(1 - mask) and reactive = source·mask are the same clip.
        empty = codec.encode(torch.zeros(1, 3, geometry.num_frames, height, width))
        mask = empty.new_ones(1, MASK_CHANNELS, *empty.shape[2:])
        frames.append(torch.cat([empty, empty, mask], dim=1))
        return VaceContext(context_BCFHW=torch.cat(frames, dim=2), leading_frames=len(references))


def _reference_frame(latent_B16HW: torch.Tensor) -> torch.Tensor:
    """A reference's context (1,96,1,h,w): its latent, nothing reactive, nothing to be made."""
    rest = latent_B16HW.new_zeros(1, LATENT_CHANNELS + MASK_CHANNELS, *latent_B16HW.shape[2:])
    return torch.cat([latent_B16HW, rest], dim=1)


def bicubic_reference(image: Image.Image, width: int, height: int) -> torch.Tensor:
    """An RGB image as float32 (3, height, width) in [-1, 1], scaled with antialiasing to fit and centred on
    white, in 8 bits.

    Source: `videox_fun/utils/utils.py` of aigc-apps/VideoX-Fun@804a425.
    """
    return to_tensor(fit_and_pad(image, width, height, bicubic=True))


def stretched_reference(image: Image.Image, width: int, height: int) -> torch.Tensor:
    """As `bicubic_reference`, without keeping the aspect ratio: the picture fills the canvas."""
    return to_tensor(stretched(image, width, height))


def prepared_reference(image: Image.Image, width: int, height: int) -> torch.Tensor:
    """An RGB image as float32 (3, height, width) in [-1, 1], scaled to fit and centred on white.

    Bilinear without antialiasing and without rounding to 8 bits, so a large photograph is sampled rather than
    averaged, as in the original; an image of the exact size stays as it is.
    """
    pixels_CHW = to_tensor(image)
    if pixels_CHW.shape[1:] == (height, width):
        return pixels_CHW
    rows, columns = pixels_CHW.shape[1:]
    scale = min(height / rows, width / columns)
    size = (max(int(rows * scale), 1), max(int(columns * scale), 1))
    fitted_CHW = interpolate(pixels_CHW[None], size=size, mode="bilinear", align_corners=False)[0]
    canvas_CHW = pixels_CHW.new_ones(3, height, width)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    canvas_CHW[:, top : top + size[0], left : left + size[1]] = fitted_CHW
    return canvas_CHW


CANVASES = {
    "vace": prepared_reference,
    "padded": bicubic_reference,
    "stretched": stretched_reference,
}
