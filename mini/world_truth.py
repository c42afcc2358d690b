"""world-truth: the scene that a mini prompt describes, drawn by the renderer with the subjects themselves.

The ceiling of the track `mini`: right identity, right text, natural motion. What a component does not give to
these videos it cannot give to any. Other samples than those of the track are refused.

Source: this project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.method import Frames, Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.mini.world import FPS, NUM_FRAMES, SIZE_PX

if TYPE_CHECKING:
    from refbench.mini.benchmark import MiniSample

UNKNOWN = "no sample of the track mini with this prompt (refbench mini dataset writes the present ones)"


@methods.register
class WorldTruth(Method):
    """The renderer's own videos of the track `mini`; the seed changes nothing."""

    name = "world-truth"
    summary = "mini control: the drawn world's own videos, the ceiling of the track mini"

    def card(self) -> MethodCard:
        """The method card."""
        return MethodCard(
            name=self.name,
            summary=self.summary,
            reference_preparation="none: the renderer knows the subjects",
            width=SIZE_PX,
            height=SIZE_PX,
            num_frames=NUM_FRAMES,
            fps=FPS,
        )

    def refuses(self, sample: Sample) -> str | None:
        """A reason for every sample that is not one of the track's own."""
        return None if _own(sample) is not None else UNKNOWN

    def load(self, environment: Environment) -> Generator:
        """Ready at once: nothing is loaded."""
        return WorldTruthGenerator()


@dataclass(frozen=True)
class WorldTruthGenerator(Generator):
    """Draws the scenes of mini samples."""

    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Frames:
        """9 frames of 64×64 pixels; SampleError for a sample of another track."""
        from refbench.mini.world.render import render

        own = _own(sample)
        if own is None:
            raise SampleError(f"{sample.id}: {UNKNOWN}")
        return Frames(images=list(render(own.scene).video_FHWC), fps=FPS)


def _own(sample: Sample) -> MiniSample | None:
    """The mini sample with this id and prompt, or None."""
    from refbench.mini.benchmark import mini_samples

    own = mini_samples().get(sample.id)
    return own if own is not None and own.prompt == sample.prompt else None
