"""static-reference: the references laid out on white and held still, the simplest way to copy.

A control, not a generator: it shows how much of the total can be earned by pasting the inputs. What we expect
(reasoned from the metrics' definitions, not measured):

* FaceSim near its ceiling, about 0.9 to 1.0: the reference photograph is compared with itself.
* NexusScore middling, about 0.45 to 0.6 after its mapping to 0..1: it divides the mean likeness by the number
  of frames with a detection, and here that is all of them.
* MotionSmoothness 1 and MotionAmplitude 0: no two frames differ.
* GmeScore low to middle: the subjects are there, the action and often the place are not.
* NaturalScore near its worst, and Aesthetics below generated videos: a slide, not a scene.

A method that beats it on FaceSim alone has shown nothing; one that is near it in FaceSim and NaturalScore
copies.

Source: this project. The copy-paste failure that it bounds is what OpenS2V-Eval (arXiv 2505.20292) built
NaturalScore for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat

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


@methods.register
class StaticReference(Method):
    """One picture, repeated; the seed changes nothing."""

    name = "static-reference"
    summary = "control: the references on white, frozen for the whole video"
    Options = CanvasOptions

    def card(self) -> MethodCard:
        """The method card for these options."""
        return canvas_card(self, LAYOUT_PREPARATION)

    def load(self, environment: Environment) -> Generator:
        """Ready at once: nothing is loaded."""
        return StaticGenerator(options=self.options)


@dataclass(frozen=True, kw_only=True)
class StaticGenerator(Generator):
    """Makes videos of one picture."""

    options: CanvasOptions

    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Frames:
        """The same read-only frame `num_frames` times; SampleError without a readable reference."""
        picture_HWC = np.array(reference_layout(sample, self.options.width, self.options.height))
        # Every frame is this one array: writing into one would change them all.
        picture_HWC.setflags(write=False)
        return Frames(images=repeat(picture_HWC, self.options.num_frames), fps=self.options.fps)
