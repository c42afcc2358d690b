"""noise: coloured cells that change with every frame, the floor of the scale.

A control: a video with nothing in it. What we expect (reasoned from the metrics' definitions, not measured):

* Aesthetics, GmeScore and NaturalScore at the floor that any other method must clear.
* FaceSim 0: no frame holds a face.
* NexusScore: no score where no frame holds a box. The official average drops such videos, so this row loses
  less than it should; coverage and the strict TotalScore show it.
* MotionAmplitude low, not 0: signed flow without a direction mostly cancels out (7.4 % measured on the drawn
  benchmark, docs/controls.md).
* MotionSmoothness says little: it counts jumps of a quality score, and frames that are equally bad do not
  jump.

Each frame's cells are the bytes of SHAKE-256 over (sample id, seed, frame number): uniform, different for
every sample and seed, and the same on every machine and with every library version, which numpy does not
promise for its generators. Cells of some pixels' size keep the files small; noise per pixel (`cell_px=1`) is
as large as the codec allows.

Source: this project.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from refbench.baselines.controls.canvas import CanvasOptions, canvas_card
from refbench.bench.environment import Environment
from refbench.bench.method import Frames, Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.sample import Sample


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(CanvasOptions):
    """Options of `noise`. Raises ValueError for a cell larger than the frame."""

    cell_px: int = 8
    """Side of a cell of one colour in pixels; cells at the right and lower edge may be cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.cell_px <= min(self.width, self.height):
            raise ValueError(f"cell_px must be 1 to the shorter side of the frame, {self.cell_px} is not")


@methods.register
class Noise(Method):
    """Uniform RGB noise, keyed by sample and seed; prompt and references are ignored."""

    name = "noise"
    summary = "control: flickering colour noise, which depends on the sample's id and the seed alone"
    Options = NoiseOptions

    def card(self) -> MethodCard:
        """The method card for these options."""
        return canvas_card(self, "references are not used")

    def load(self, environment: Environment) -> Generator:
        """Ready at once: nothing is loaded."""
        return NoiseGenerator(options=self.options)


@dataclass(frozen=True, kw_only=True)
class NoiseGenerator(Generator):
    """Makes the frames of one video after the other."""

    options: NoiseOptions

    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Frames:
        """`num_frames` frames, each made when asked for."""
        return Frames(images=noise_frames(sample.id, seed, self.options), fps=self.options.fps)


def noise_frames(sample_id: str, seed: int, options: NoiseOptions) -> Iterator[np.ndarray]:
    """RGB uint8 frames (height, width, 3) of uniform noise in square cells."""
    rows, columns = (-(-side // options.cell_px) for side in (options.height, options.width))
    for index in range(options.num_frames):
        key = f"{sample_id}/{seed}/{index}".encode()
        stream = hashlib.shake_256(key).digest(rows * columns * 3)
        cells_HWC = np.frombuffer(stream, np.uint8).reshape(rows, columns, 3)
        frame_HWC = cells_HWC.repeat(options.cell_px, axis=0).repeat(options.cell_px, axis=1)
        yield np.ascontiguousarray(frame_HWC[: options.height, : options.width])
