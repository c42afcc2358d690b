"""Pictures and frames as the inputs of image encoders.

The rule of CLIP's image processor in transformers 4.51 (class CLIPImageProcessor, PIL), which the official
Aesthetics script uses: PIL's bicubic resize so that the shorter side fits and the longer is cut to an
integer, a centre crop whose upper left corner is rounded down, then (x/255 - mean) / std. The processors of
open_clip, torchvision and transformers 5 differ from it by up to one pixel of the crop or one level; goldens
`opens2v_eval/aesthetic.json` hold the difference.

Axes: H W rows and columns, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from refbench.bench.errors import SampleError
from refbench.bench.video import FramePolicy, Video

if TYPE_CHECKING:
    from PIL import Image

# The statistics of CLIP's pictures, by which all of its descendants normalise.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# A strip of more than this many pixels would be made by resizing; no video comes near it.
LONGEST_SIDE_PX = 65_535


@dataclass(frozen=True, kw_only=True)
class CropRule:
    """How an encoder takes its pictures: shorter side once resized, side of the crop, mean and std (RGB)."""

    resized_px: int
    crop_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Normalised pixels, float32 (3, crop, crop), of an RGB picture of any size.

        Raises SampleError for a strip whose longer side would become larger than 65,535 pixels.
        """
        from PIL import Image

        short, long = sorted(image.size)
        longer_side = int(self.resized_px * long / short)
        if longer_side > LONGEST_SIDE_PX:
            raise SampleError(f"a picture of {image.width}×{image.height} pixels is too narrow to be cropped")
        portrait = image.width <= image.height
        size = (self.resized_px, longer_side) if portrait else (longer_side, self.resized_px)
        left, top = ((side - self.crop_px) // 2 for side in size)
        cropped = image.resize(size, Image.Resampling.BICUBIC).crop(
            (left, top, left + self.crop_px, top + self.crop_px)
        )
        unit_HWC = (np.asarray(cropped, dtype=np.float64) / 255).astype(np.float32)
        # A division by std, not a product with 1/std: the last bit differs, and the golden is the division.
        normalised_HWC = (unit_HWC - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normalised_HWC.transpose(2, 0, 1))


def distinct_frames(video: Video, policy: FramePolicy) -> Iterator[tuple[np.ndarray, int]]:
    """Each different frame that `policy` names, RGB uint8 (H, W, 3), once, with how often it is named.

    Raises SampleError for a video that cannot be decoded.
    """
    held: np.ndarray | None = None
    times = 0
    for frame_HWC in video.frames(policy):
        if frame_HWC is held:
            times += 1
            continue
        if held is not None:
            yield held, times
        held, times = frame_HWC, 1
    if held is not None:
        yield held, times
