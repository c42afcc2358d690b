"""Flicker: how much the brightness of a video jumps from one frame to the next.

    flicker = mean over t of |b[t + 1] - b[t]|,   b[t]: mean of frame t's pixels, 0 to 1

0 is a still light, 1 is black and white in turn. A file like this one is all that a metric needs:

    refbench evaluate my_videos/ --name mine --suite my_suite.jsonl --metrics flicker \\
        --plugin examples/add_a_metric.py
    python examples/add_a_metric.py a.mp4

docs/plugins.md says how a metric gets weights.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

import refbench
from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.video import ALL_FRAMES, Video


@dataclass(frozen=True, kw_only=True)
class FlickerOptions:
    """What counts as a jump."""

    smallest_jump: float = 0.0
    """Changes of brightness below this, of 0 to 1, count as none."""

    def __post_init__(self) -> None:
        if not 0 <= self.smallest_jump <= 1:
            raise ValueError("smallest_jump must be between 0 and 1")


@metrics.register
class Flicker(Metric):
    """The light part: what the metric is called, is for, and can be told. Nothing is loaded yet."""

    declaration = MetricDeclaration(
        name="flicker",
        # Raise it when a change moves values: old scores are then made again, and not mixed with new ones.
        version="1",
        summary="how much brightness jumps between frames (0 to 1)",
        source="examples/add_a_metric.py",
    )
    Options = FlickerOptions

    def load(self, environment: Environment) -> FlickerScorer:
        """Ready to score; a metric with a network would load it here."""
        return FlickerScorer(smallest_jump=self.options.smallest_jump)


@dataclass(frozen=True)
class FlickerScorer(Scorer):
    """Scores one video after the other."""

    smallest_jump: float

    def score(self, sample: Sample, video: Video) -> Score:
        """The flicker of a video; one of a single frame has none, which is a reason and not a zero."""
        brightness = [float(frame.mean()) / 255 for frame in video.frames(ALL_FRAMES)]
        if len(brightness) < 2:
            raise SampleError("a video of one frame cannot flicker")
        jumps = np.abs(np.diff(brightness))
        value = float(np.where(jumps < self.smallest_jump, 0, jumps).mean())
        # Details are kept with the score, for whoever wants to know why.
        return Score(value=value, details={"brightness": brightness})


if __name__ == "__main__":
    scored = refbench.score(sys.argv[1], prompt="", metrics="flicker")["flicker"]
    print(f"flicker: {scored.value:.4f}" if scored.value is not None else f"no flicker: {scored.reason}")
