"""The text of a plugin with a dummy metric and a dummy method."""

PLUGIN = '''
"""A dummy metric and a dummy method: they make the whole pipeline testable."""
import os
import signal
import threading
import time
from dataclasses import dataclass

import numpy as np

from refbench.bench.errors import MissingWeights, SampleError
from refbench.bench.method import Frames, Generator, Method, MethodCard, silent
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer
from refbench.bench.registry import methods, metrics
from refbench.bench.video import ALL_FRAMES


@dataclass(frozen=True, kw_only=True)
class BrightnessOptions:
    offset: float = 0.0
    sleep_s: float = 0.0
    die_on: str = ""
    fail_on: str = ""
    without_weights: bool = False


@metrics.register
class Brightness(Metric):
    declaration = MetricDeclaration(
        name="dummy-brightness",
        version="1",
        summary="mean pixel value",
        source="this test",
        uses=frozenset({"video", "references"}),
    )
    Options = BrightnessOptions

    def load(self, environment):
        if self.options.without_weights:
            raise MissingWeights("no weights at all")
        return BrightnessScorer(self.options)


class BrightnessScorer(Scorer):
    def __init__(self, options):
        self.options = options

    def score(self, sample, video):
        time.sleep(self.options.sleep_s)
        if sample.id == self.options.die_on:
            os.kill(os.getpid(), signal.SIGKILL)
        if sample.id == self.options.fail_on:
            raise SampleError("asked to fail")
        means = [float(frame.mean()) for frame in video.frames(ALL_FRAMES)]
        with_references = [reference.path for reference in sample.references]
        value = float(np.mean(means)) + self.options.offset
        return Score(value=value, details={"references": with_references})


@dataclass(frozen=True, kw_only=True)
class GreyOptions:
    level: int = 100
    width: int = 64
    height: int = 48
    fail_on: str = ""
    die_on: str = ""
    hang_on: str = ""


@methods.register
class Grey(Method):
    name = "dummy-grey"
    summary = "grey frames whose level depends on the sample and the seed"
    Options = GreyOptions

    def card(self):
        return MethodCard(name=self.name, summary=self.summary, options=self.option_values())

    def load(self, environment):
        return GreyGenerator(self.options)


class GreyGenerator(Generator):
    def __init__(self, options):
        self.options = options

    def generate(self, sample, seed, on_step=silent):
        if sample.id == self.options.fail_on:
            raise SampleError("asked to fail")
        if sample.id == self.options.die_on:
            os.kill(os.getpid(), signal.SIGKILL)
        if sample.id == self.options.hang_on:
            threading.Event().wait()
        level = (self.options.level + 7 * sum(map(ord, sample.id)) + 31 * seed) % 200
        shape = (self.options.height, self.options.width, 3)
        return Frames(images=(np.full(shape, level + i, np.uint8) for i in range(4)), fps=8)
'''
