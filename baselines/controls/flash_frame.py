"""flash-frame: a drifting pattern in which the references are shown for a moment.

A control that attacks the identity metrics: how much likeness is earned by a picture that is there for a
fifth of a second? What we expect (reasoned from the metrics' definitions, not measured):

* NexusScore at or near its ceiling: it divides the mean likeness by the number of frames with a detection and
  caps the result at 0.05, so a subject seen in one or two of the 32 frames scores 1 (a likeness of 0.7 in all
  32 gives 0.44). With the defaults one or two of the 32 frames show the references, wherever the moment is.
* FaceSim near its ceiling, as for `static-reference`: frames without a face are left out of its mean.
* GmeScore low: nearly all frames show a pattern that no prompt asks for.
* Aesthetics and NaturalScore near the floor: it is a drifting pattern. NaturalScore looks at every fifth
  frame of 81 and may miss the moment altogether.
* MotionAmplitude up to half the pattern's drift (it averages the flow across and down, and the drift is
  across alone), capped at 1; the two cuts add flow without a direction.
* MotionSmoothness about 0.9 or above: only the windows beside two cuts can jump, some eight of 81.

A method whose NexusScore rests on few frames with a box (the metric's details count them) has earned it this
way.

The pattern's cells are the bytes of SHAKE-256 over (sample id, seed), enlarged smoothly into a picture whose
edges meet, and moved by whole pixels: the same frames on every machine with the same Pillow. The references
lie as in `static-reference`.

Source: this project.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from refbench.baselines.controls.canvas import (
    LAYOUT_PREPARATION,
    CanvasOptions,
    canvas_card,
    reference_layout,
)
from refbench.bench.environment import Environment
from refbench.bench.method import Frames, Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.sample import Sample

# Cells repeated around the pattern, so that enlarging sees the other edge: more than its filter reaches.
WRAPPED_CELLS = 4


@dataclass(frozen=True, kw_only=True)
class FlashOptions(CanvasOptions):
    """Options of `flash-frame`.

    Raises ValueError for more flash frames than the clip has and for values outside their range.
    """

    flash_frames: int = 3
    """Number of frames that show the references, 1 to num_frames."""
    flash_at: float = 0.5
    """Position of the middle of these frames in the clip: 0 is the beginning, 1 the end."""
    cell_px: int = 16
    """Size of the pattern's spots in pixels, 1 to the shorter side of the frame."""
    drift_px: int = 2
    """Movement of the pattern to the right in pixels per frame, 0 to the frame's width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.flash_frames <= self.num_frames:
            raise ValueError(f"flash_frames must be 1 to num_frames, {self.flash_frames} is not")
        if not 0 <= self.flash_at <= 1:
            raise ValueError(f"flash_at must be 0 to 1, {self.flash_at} is not")
        if not 1 <= self.cell_px <= min(self.width, self.height):
            raise ValueError(f"cell_px must be 1 to the shorter side of the frame, {self.cell_px} is not")
        if not 0 <= self.drift_px <= self.width:
            raise ValueError(f"drift_px must be 0 to the frame's width, {self.drift_px} is not")

    @property
    def flash(self) -> range:
        """The frames that show the references."""
        start = round(self.flash_at * self.num_frames - self.flash_frames / 2)
        start = min(max(start, 0), self.num_frames - self.flash_frames)
        return range(start, start + self.flash_frames)


@methods.register
class FlashFrame(Method):
    """A drifting pattern, drawn from sample and seed, with the references for a moment; no prompt is used."""

    name = "flash-frame"
    summary = "control: the references shown for a few frames within a drifting pattern"
    Options = FlashOptions

    def card(self) -> MethodCard:
        """The method card for these options."""
        shown = self.options.flash
        where = f"; shown in frames {shown.start} to {shown.stop - 1} alone"
        return canvas_card(self, LAYOUT_PREPARATION + where)

    def load(self, environment: Environment) -> Generator:
        """Ready at once: nothing is loaded."""
        return FlashGenerator(options=self.options)


@dataclass(frozen=True, kw_only=True)
class FlashGenerator(Generator):
    """Makes videos of a pattern with the references in between."""

    options: FlashOptions

    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Frames:
        """`num_frames` frames, each made when asked for; SampleError without a readable reference."""
        options = self.options
        layout_HWC = np.array(reference_layout(sample, options.width, options.height))
        return Frames(images=flashed(layout_HWC, sample.id, seed, options), fps=options.fps)


def flashed(layout_HWC: np.ndarray, sample_id: str, seed: int, options: FlashOptions) -> Iterator[np.ndarray]:
    """RGB uint8 frames (height, width, 3): the drifting pattern, and `layout_HWC` during the flash."""
    pattern_HWC = pattern(sample_id, seed, options)
    for index in range(options.num_frames):
        if index in options.flash:
            yield layout_HWC
        else:
            yield np.roll(pattern_HWC, index * options.drift_px % options.width, axis=1)


def pattern(sample_id: str, seed: int, options: FlashOptions) -> np.ndarray:
    """A smooth pattern of coloured spots, RGB uint8 (height, width, 3), whose opposite edges meet."""
    from PIL import Image

    rows, columns = (max(round(side / options.cell_px), 1) for side in (options.height, options.width))
    stream = hashlib.shake_256(f"{sample_id}/{seed}".encode()).digest(rows * columns * 3)
    cells_HWC = np.frombuffer(stream, np.uint8).reshape(rows, columns, 3)
    wrapped = Image.fromarray(
        np.pad(cells_HWC, ((WRAPPED_CELLS,) * 2, (WRAPPED_CELLS,) * 2, (0, 0)), mode="wrap")
    )
    box = (WRAPPED_CELLS, WRAPPED_CELLS, WRAPPED_CELLS + columns, WRAPPED_CELLS + rows)
    return np.array(wrapped.resize((options.width, options.height), Image.Resampling.BICUBIC, box=box))
