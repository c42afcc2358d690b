"""pan-reference: the picture of `static-reference` under a slow pan and zoom.

A control that differs from `static-reference` in camera motion alone. What we expect (reasoned from the
metrics' definitions, not measured):

* MotionAmplitude clearly above 0: it is the mean **signed** flow, which a steady pan adds up and an
  oscillation cancels. With the defaults the picture moves by about 1.2 pixels per frame across and 0.7 down,
  both with the same sign; flat white areas show no flow and pull the mean down.
* MotionSmoothness 1 or hardly below it: the motion is steady and interpolated below the pixel.
* FaceSim, NexusScore, GmeScore, Aesthetics and NaturalScore as for `static-reference`, within a few
  hundredths: the path is short enough that every subject stays nearly whole.

The difference of the two rows is what camera motion alone earns.

The window's centre moves on a straight line at constant speed from upper left to lower right, and the zoom
grows by the same factor per frame up to the picture's own size. Pillow resamples each frame from a window
with fractional corners; an affine warp that rounds positions to 1/32 pixel, as OpenCV's long did, would
jitter.

Source: this project.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from refbench.baselines.controls.canvas import (
    LAYOUT_PREPARATION,
    WHITE,
    CanvasOptions,
    canvas_card,
    reference_layout,
)
from refbench.bench.environment import Environment
from refbench.bench.method import Frames, Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.sample import Sample

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class PanOptions(CanvasOptions):
    """Options of `pan-reference`. Raises ValueError for values outside their range."""

    travel: float = 0.12
    """Length of the pan as a fraction of the frame's sides, 0 to 1."""
    zoom: float = 1.1
    """Size of the picture in the last frame, where it is that of `static-reference`, relative to the
    first frame, 1 to 4.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.travel <= 1:
            raise ValueError(f"travel must be 0 to 1 of the frame's sides, {self.travel} is not")
        if not 1 <= self.zoom <= 4:
            raise ValueError(f"zoom must be 1 to 4, {self.zoom} is not")


@methods.register
class PanReference(Method):
    """A window that glides over the references; the seed changes nothing."""

    name = "pan-reference"
    summary = "control: the references on white under a slow pan and zoom"
    Options = PanOptions

    def card(self) -> MethodCard:
        """The method card for these options."""
        return canvas_card(self, LAYOUT_PREPARATION)

    def load(self, environment: Environment) -> Generator:
        """Ready at once: nothing is loaded."""
        return PanGenerator(options=self.options)


@dataclass(frozen=True, kw_only=True)
class PanGenerator(Generator):
    """Makes videos of a window that moves over the references."""

    options: PanOptions

    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Frames:
        """`num_frames` frames, each resampled when asked for; SampleError without a readable reference."""
        options = self.options
        layout = reference_layout(sample, options.width, options.height)
        return Frames(images=panned(layout, options), fps=options.fps)


def panned(layout: Image.Image, options: PanOptions) -> Iterator[np.ndarray]:
    """RGB uint8 frames (height, width, 3) of a window that moves over `layout`, continued in white."""
    from PIL import Image

    width, height = layout.size
    # Room for the first window, the largest and farthest out.
    reach = (options.zoom - 1 + options.travel) / 2
    margin_x, margin_y = math.ceil(width * reach), math.ceil(height * reach)
    picture = Image.new("RGB", (width + 2 * margin_x, height + 2 * margin_y), WHITE)
    picture.paste(layout, (margin_x, margin_y))
    for index in range(options.num_frames):
        progress = index / max(options.num_frames - 1, 1)
        window_width, window_height = (side * options.zoom ** (1 - progress) for side in (width, height))
        offset = options.travel * (progress - 0.5)
        left = (picture.width - window_width) / 2 + offset * width
        top = (picture.height - window_height) / 2 + offset * height
        # The first window may touch the picture's corner; rounding must not push it over the edge.
        box = (
            max(left, 0.0),
            max(top, 0.0),
            min(left + window_width, picture.width),
            min(top + window_height, picture.height),
        )
        yield np.array(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))
