"""Reference images as the Wan family prepares them: on a canvas of the video's size, aspect kept, white
around.

EXIF and transparency are applied before, by `Reference.open_on_white`. The original scripts drop alpha and
ignore EXIF, which spoils transparent PNGs (41 of OpenS2V-Eval's 320 references may have alpha).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from refbench.baselines.wan.spec import SIZE_MULTIPLE_PX
from refbench.bench.environment import quiet_onnx
from refbench.bench.errors import UserError, one_line
from refbench.bench.sample import Reference

if TYPE_CHECKING:
    import torch
    from PIL import Image

WHITE = (255, 255, 255)
# ImageNet's statistics, which segmenters of the BiRefNet kind take their input in.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PAD_MULTIPLE_PX = 32


def fitted_size(width: int, height: int, target_width: int, target_height: int) -> tuple[int, int]:
    """The largest (width, height) of the same aspect ratio inside the target: one side is the target's, the
    other is truncated to whole pixels.

    Source: `generate.py` of Phantom-video/Phantom, the same rule in RefAlign, MAGREF and Kaleido.
    """
    ratio = width / height
    if ratio > target_width / target_height:
        return target_width, max(int(target_width / ratio), 1)
    return max(int(target_height * ratio), 1), target_height


def fit_and_pad(image: Image.Image, width: int, height: int, *, bicubic: bool = False) -> Image.Image:
    """An RGB image scaled with Lanczos (or `bicubic`, Pillow's) to fit width × height pixels and centred on
    white.

    The margin on the left and above is half of the rest, rounded down.
    """
    from PIL import Image

    size = fitted_size(image.width, image.height, width, height)
    canvas = Image.new("RGB", (width, height), WHITE)
    offset = ((width - size[0]) // 2, (height - size[1]) // 2)
    resampling = Image.Resampling.BICUBIC if bicubic else Image.Resampling.LANCZOS
    canvas.paste(image.convert("RGB").resize(size, resampling), offset)
    return canvas


def stretched(image: Image.Image, width: int, height: int) -> Image.Image:
    """An RGB image at width × height pixels, its aspect ratio not kept, resized with Pillow's bicubic."""
    from PIL import Image

    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def own_size_of(width: int, height: int, limit_px: int) -> tuple[int, int]:
    """The (width, height) that a picture has as a reference of its own size: sides that are multiples of 16
    (to the nearest, to the even multiple between two), the longer one at most `limit_px`; smaller pictures
    are not enlarged further than that.

    Source: `bernini/data_utils.py` of bytedance/Bernini@ed504e3.
    """

    def snapped(width: int, height: int, scale: float) -> tuple[int, int]:
        sides = (round(round(side * scale) / SIZE_MULTIPLE_PX) * SIZE_MULTIPLE_PX for side in (width, height))
        first, second = (max(SIZE_MULTIPLE_PX, side) for side in sides)
        return first, second

    scale = max(min(limit_px / max(width, height), 1.0), 1 / min(width, height))
    size = snapped(width, height, scale)
    # A picture so thin that one pixel of its width takes more than the limit of its length.
    return snapped(*size, limit_px / max(size)) if max(size) > limit_px else size


def own_size(image: Image.Image, limit_px: int) -> Image.Image:
    """An RGB image at the size of `own_size_of`, resized with Pillow's bicubic (antialiased) where it has
    another.
    """
    size = own_size_of(image.width, image.height, limit_px)
    return image if size == image.size else stretched(image, *size)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB image as float32 (3, height, width) in [-1, 1]: 2·x/255 - 1."""
    import torch

    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return pixels.float() * (2 / 255) - 1


class Segmenter(Protocol):
    """Finds the foreground of an image, as a background-matting model does."""

    def foreground(self, image: Image.Image) -> Image.Image:
        """A mask (mode L) of the image's size: 255 the subject, 0 the background."""


class OnnxSegmenter:
    """A salient-object network in ONNX form, such as BiRefNet: from an image to logits.

    RefAlign's 1.3B script mattes with BiRefNet from the hub's own code, which is not run here; an export of
    the same weights is. Raises UserError for a file that ONNX Runtime cannot read.
    """

    def __init__(self, path: Path) -> None:
        quiet_onnx()
        try:
            import onnxruntime
        except ImportError:
            raise UserError("background matting needs onnxruntime; pip install onnxruntime") from None
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - the runtime raises kinds of its own
            raise UserError(f"{path} is no segmentation network: {one_line(error, 120)}") from None

    def foreground(self, image: Image.Image) -> Image.Image:
        """The mask; the image is padded with black to a multiple of 32, as RefAlign's script does."""
        from PIL import Image

        columns, rows = (-(-side // PAD_MULTIPLE_PX) * PAD_MULTIPLE_PX for side in image.size)
        padded = Image.new("RGB", (columns, rows))
        padded.paste(image, (0, 0))
        pixels_HWC = np.asarray(padded, np.float32) / 255
        normalised = (pixels_HWC - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
        name = self._session.get_inputs()[0].name
        logits = np.asarray(self._session.run(None, {name: normalised.transpose(2, 0, 1)[None]})[-1])
        probability_HW = 1 / (1 + np.exp(-logits.reshape(logits.shape[-2:]).astype(np.float64)))
        mask = Image.fromarray((255 * probability_HW).astype(np.uint8))
        return mask.resize(padded.size, Image.Resampling.BILINEAR).crop((0, 0, *image.size))


def on_white(image: Image.Image, segmenter: Segmenter) -> Image.Image:
    """The RGB image with its background replaced by white."""
    from PIL import Image

    return Image.composite(image, Image.new("RGB", image.size, WHITE), segmenter.foreground(image))


def open_without_background(reference: Reference, segmenter: Segmenter) -> Image.Image:
    """A reference's RGB image, a person's or an object's background replaced by white.

    A scene is its own subject: RefAlign's script removes backgrounds of persons and objects alone. Raises
    SampleError for an image that is missing or cannot be read.
    """
    image = reference.open_on_white()
    return image if reference.kind == "scene" else on_white(image, segmenter)
