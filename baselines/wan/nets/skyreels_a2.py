"""How SkyReels-A2 encodes references: each as a latent frame at the start of a clip, and with CLIP tokens of
its own.

Source: `infer.py` and `models/pipeline_a2.py` of SkyworkAI/SkyReels-A2@7c14e2e; goldens
`baselines/skyreels_a2.npz`. One reference makes that code fail; here it stands in latent frame 0 with mask 1,
as the first of several does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from refbench.baselines.wan.codec import ImageCodec
from refbench.baselines.wan.conditioning import TEMPORAL_COMPRESSION, Conditioner, Geometry
from refbench.baselines.wan.nets.image_branch import MASK_CHANNELS, ImageCondition
from refbench.baselines.wan.references import WHITE, to_tensor

if TYPE_CHECKING:
    from PIL import Image

CLIP_COPY_PX = 512
# The index of the reference that is taken for the scene's background, and the like after it.
BACKGROUND_FROM = 2


def padded(image: Image.Image, width: int, height: int) -> Image.Image:
    """An RGB image with white margins to the target's aspect ratio, then resized to it (bicubic).

    Each margin is half of what is missing, truncated to whole pixels, so that the ratio is off by up to two
    pixels of the source.
    """
    from PIL import Image

    ratio = width / height
    across = down = 0
    if image.width / image.height > ratio:
        down = int((image.width / ratio - image.height) / 2)
    else:
        across = int((image.height * ratio - image.width) / 2)
    canvas = Image.new("RGB", (image.width + 2 * across, image.height + 2 * down), WHITE)
    canvas.paste(image, (across, down))
    return canvas.resize((width, height), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, width: int, height: int) -> Image.Image:
    """The centre of an RGB image in the target's aspect ratio, resized to fill it (bicubic)."""
    from PIL import Image

    ratio = width / height
    kept_width, kept_height = image.size
    if image.width / image.height > ratio:
        kept_width = max(int(image.height * ratio), 1)
    else:
        kept_height = max(int(image.width / ratio), 1)
    left, top = (image.width - kept_width) // 2, (image.height - kept_height) // 2
    box = (left, top, left + kept_width, top + kept_height)
    return image.crop(box).resize((width, height), Image.Resampling.BICUBIC)


def vae_copies(images: Sequence[Image.Image], width: int, height: int) -> list[Image.Image]:
    """The images for the VAE, width × height pixels: the first two references padded, the others cropped."""
    return [
        (padded if index < BACKGROUND_FROM else cropped)(image, width, height)
        for index, image in enumerate(images)
    ]


def reference_clip(images: Sequence[Image.Image], num_frames: int) -> torch.Tensor:
    """A clip (1,3,num_frames,H,W) of images of one size, mid-grey after them: the first for one frame, the
    others for four, which the VAE makes one latent frame each.

    Raises ValueError for more images than latent frames.
    """
    if 1 + TEMPORAL_COMPRESSION * (len(images) - 1) > num_frames:
        raise ValueError(f"{len(images)} references need more than {num_frames} frames")
    width, height = images[0].size
    clip_BCFHW = torch.zeros(1, 3, num_frames, height, width)
    stop = 0
    for image in images:
        start, stop = stop, stop + (TEMPORAL_COMPRESSION if stop else 1)
        clip_BCFHW[0, :, start:stop] = to_tensor(image)[:, None]
    return clip_BCFHW


class FrameReferences(Conditioner[ImageCodec]):
    """References as the first latent frames, and image by image in CLIP."""

    def encode(
        self,
        codec: ImageCodec,
        references: Sequence[Image.Image],
        geometry: Geometry,
        generator: torch.Generator,
    ) -> ImageCondition:
        """Latents drawn from the VAE's posterior by the noise's generator, mask 1 on their frames, and the
        tokens of all references.
        """
        copies = vae_copies(references, geometry.width, geometry.height)
        latents_B16FHW = codec.encode(reference_clip(copies, geometry.num_frames), generator=generator)
        mask_B4FHW = latents_B16FHW.new_zeros(1, MASK_CHANNELS, *latents_B16FHW.shape[2:])
        mask_B4FHW[:, :, : len(references)] = 1
        squares = [padded(image, CLIP_COPY_PX, CLIP_COPY_PX) for image in references]
        pixels_N3HW = codec.image_processor(images=squares, return_tensors="pt").pixel_values
        return ImageCondition(
            mask_B4FHW=mask_B4FHW,
            latents_B16FHW=latents_B16FHW,
            image_tokens_BTD=codec.image_tokens(pixels_N3HW),
        )
