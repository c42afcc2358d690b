"""black: black frames and nothing else.

A control: it shows which scores an empty video gets, and which components do not notice it. What we expect
(reasoned from the metrics' definitions, not measured):

* Aesthetics, GmeScore and NaturalScore at the floor, with `noise`.
* FaceSim 0: no frame holds a face. The official mean counts that 0; it drops single frames, not videos.
* NexusScore has no score, for no frame holds a box: the videos leave the official mean instead of lowering
  it. In a run of nothing else no TotalScore is left; in a method's run a black video passes unpunished, and
  only the coverage and the strict TotalScore show it.
* MotionAmplitude 0.
* MotionSmoothness 1, its best: it counts jumps of a quality score, and equal frames do not jump.

Source: this project. That missing detections are dropped rather than counted is issue 10 of OpenS2V-Nexus.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat

import numpy as np

from refbench.baselines.controls.canvas import CanvasOptions, canvas_card
from refbench.bench.environment import Environment
from refbench.bench.method import Frames, Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.sample import Sample


@methods.register
class Black(Method):
    """One black frame, repeated; sample and seed change nothing."""

    name = "black"
    summary = "control: black frames, whatever is asked for"
    Options = CanvasOptions

    def card(self) -> MethodCard:
        """The method card for these options."""
        return canvas_card(self, "references are not used")

    def load(self, environment: Environment) -> Generator:
        """Ready at once: nothing is loaded."""
        return BlackGenerator(options=self.options)


@dataclass(frozen=True, kw_only=True)
class BlackGenerator(Generator):
    """Makes black videos."""

    options: CanvasOptions

    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Frames:
        """The same read-only frame `num_frames` times."""
        frame_HWC = np.zeros((self.options.height, self.options.width, 3), np.uint8)
        # Every frame is this one array: writing into one would change them all.
        frame_HWC.setflags(write=False)
        return Frames(images=repeat(frame_HWC, self.options.num_frames), fps=self.options.fps)
