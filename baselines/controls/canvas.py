"""What the control methods share: size options, and a white canvas with the references laid out on it.

No method is registered here. The layout follows what reference-to-video generators do with their inputs
(white background, aspect kept), so that a control shows the same picture of a subject that a generator would
have been given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from refbench.bench.errors import SampleError
from refbench.bench.method import Method, MethodCard
from refbench.bench.sample import Sample

if TYPE_CHECKING:
    from PIL import Image

WHITE = (255, 255, 255)
SMALLEST_SIDE_PX = 16
LARGEST_SIDE_PX = 8192
LARGEST_FRAME_COUNT = 100_000
HIGHEST_FPS = 1000.0
LAYOUT_PREPARATION = (
    "EXIF applied, transparency on white, each reference letterboxed in an equal column of a white canvas"
)


@dataclass(frozen=True, kw_only=True)
class CanvasOptions:
    """Size of a control's videos; the defaults are those of the Wan 2.1 family at 480p.

    Raises ValueError for a value that no video can have.
    """

    width: int = 832
    """Width of the video in pixels, 16 to 8192."""
    height: int = 480
    """Height of the video in pixels, 16 to 8192."""
    num_frames: int = 81
    """Number of frames, 1 to 100,000."""
    fps: float = 16.0
    """Frames per second, above 0 and at most 1000."""

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if not SMALLEST_SIDE_PX <= side <= LARGEST_SIDE_PX:
                raise ValueError(
                    f"{name} must be {SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX} pixels, {side} is not"
                )
        if not 1 <= self.num_frames <= LARGEST_FRAME_COUNT:
            raise ValueError(f"num_frames must be 1 to {LARGEST_FRAME_COUNT:,}, {self.num_frames} is not")
        if not 0 < self.fps <= HIGHEST_FPS:
            raise ValueError(f"fps must be above 0 and at most {HIGHEST_FPS:g}, {self.fps} is not")


def canvas_card(method: Method, reference_preparation: str) -> MethodCard:
    """The method card of a control, whose options are `CanvasOptions`: no base model, no weights."""
    options: CanvasOptions = method.options
    return MethodCard(
        name=method.name,
        summary=method.summary,
        licence="Apache-2.0",
        reference_preparation=reference_preparation,
        width=options.width,
        height=options.height,
        num_frames=options.num_frames,
        fps=options.fps,
        options=method.option_values(),
    )


def letterboxed(image: Image.Image, width: int, height: int) -> Image.Image:
    """An RGB image fitted into width × height pixels on white: aspect kept, centred, Lanczos."""
    from PIL import Image

    scale = min(width / image.width, height / image.height)
    # An extreme aspect ratio must not round a side to nothing.
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    canvas = Image.new("RGB", (width, height), WHITE)
    canvas.paste(
        image.resize(size, Image.Resampling.LANCZOS), ((width - size[0]) // 2, (height - size[1]) // 2)
    )
    return canvas


def reference_layout(sample: Sample, width: int, height: int) -> Image.Image:
    """All references of a sample side by side on white: RGB, width × height pixels.

    Each takes an equal column, in the sample's order. Raises SampleError for a sample without references,
    with more of them than the canvas has columns of pixels, or with an image that is missing or broken.
    """
    from PIL import Image

    count = len(sample.references)
    if count == 0:
        raise SampleError("the sample has no reference")
    if count > width:
        raise SampleError(f"{count} references do not fit into {width} pixels")
    canvas = Image.new("RGB", (width, height), WHITE)
    for index, reference in enumerate(sample.references):
        left, right = index * width // count, (index + 1) * width // count
        canvas.paste(letterboxed(reference.open_on_white(), right - left, height), (left, 0))
    return canvas
