"""Shared fixtures: the folder of real data, drawn clips, records, and a plugin with a dummy metric and
method.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.record import Provenance, Record

GOLDENS = Path(__file__).parent / "goldens"

PLUGIN = '''
"""A dummy metric and a dummy method: they make the whole pipeline testable."""
import os
import signal
import time
from dataclasses import dataclass

import numpy as np

from bench.errors import MissingWeights, SampleError
from bench.method import Frames, Method, MethodCard
from bench.metric import Metric, MetricDeclaration, Score
from bench.registry import methods, metrics
from bench.video import ALL_FRAMES


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
        super().load(environment)

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


@methods.register
class Grey(Method):
    name = "dummy-grey"
    summary = "grey frames whose level depends on the sample and the seed"
    Options = GreyOptions

    def card(self):
        return MethodCard(name=self.name, summary=self.summary, options=self.option_values())

    def generate(self, sample, seed):
        if sample.id == self.options.fail_on:
            raise SampleError("asked to fail")
        level = (self.options.level + 7 * sum(map(ord, sample.id)) + 31 * seed) % 200
        shape = (self.options.height, self.options.width, 3)
        return Frames(images=(np.full(shape, level + i, np.uint8) for i in range(4)), fps=8)
'''


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may ask a paid judge, use weights that happen to be here, or reach the hub."""
    for variable in ("OPENAI_API_KEY", "REFBENCH_WEIGHTS", "REFBENCH_DATASET"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real third-party data; tests that need it skip without it."""
    place = os.environ.get("REFBENCH_SHARED")
    if not place:
        pytest.skip("REFBENCH_SHARED is not set: the real data is not here")
    return Path(place)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Reads a golden JSON file by its path below tests/goldens."""
    return lambda name: json.loads((GOLDENS / name).read_text())


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A plugin file with `dummy-brightness` and `dummy-grey`."""
    path = tmp_path / "dummy_plugin.py"
    path.write_text(PLUGIN)
    return path


def moving_square(
    frames: int = 6, height: int = 48, width: int = 64, speed: int = 2, seed: int = 0
) -> Iterable[np.ndarray]:
    """RGB frames of a textured square that moves to the right over a textured ground."""
    generator = np.random.default_rng(seed)
    ground = generator.integers(60, 120, (height, width, 3), dtype=np.uint8)
    square = generator.integers(150, 255, (height // 3, width // 4, 3), dtype=np.uint8)
    for index in range(frames):
        frame = ground.copy()
        left = (4 + index * speed) % (width - square.shape[1])
        frame[height // 3 : height // 3 + square.shape[0], left : left + square.shape[1]] = square
        yield frame


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small mp4 of a moving square: make_clip(name, **moving_square arguments)."""
    from bench.video import write_video

    def make(name: str = "clip.mp4", fps: float = 8, **arguments: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_square(**arguments), fps)
        return path

    return make


SMALL_IDS = ("singleobj_1", "singlehuman_1", "faceobj_2", "faceobj_10", "singleface_1", "multiface_1")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set in the official format: six open-domain samples, two of them in the other tracks."""
    from PIL import Image

    folder = tmp_path / "dataset"
    samples: dict[str, Any] = {}
    for number, sample_id in enumerate(SMALL_IDS):
        category = sample_id.rpartition("_")[0]
        places = {
            "singleobj": [("Images/singleobject/cup/1.png", "Cup")],
            "singlehuman": [("Images/singlehuman/man/1.png", "Man")],
            "faceobj": [
                (f"Images/humanobj/human/crop_woman/{number}.png", "Woman"),
                (f"Images/humanobj/thing/hat/{number}.png", "Hat"),
            ],
            "singleface": [("Images/singleface/crop_man/1.png", "Man")],
            "multiface": [
                ("Images/multiface/crop_man/1.png", "Man"),
                ("Images/multiface/crop_woman/1.png", "Woman"),
            ],
        }[category]
        for path, _ in places:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 32), (40 * number, 80, 120)).save(folder / path)
        samples[sample_id] = {
            "img_paths": [path for path, _ in places],
            "prompt": f"prompt of {sample_id}",
            "synthesis_flag": "wrong",
            "class_label": [label for _, label in places],
        }
    person = {key: samples[key] for key in ("singlehuman_1", "singleface_1")}
    (folder / "Open-Domain_Eval.json").write_text(json.dumps(samples))
    (folder / "Human-Domain_Eval.json").write_text(json.dumps(person))
    (folder / "Single-Domain_Eval.json").write_text(
        json.dumps(person | {"singleobj_1": samples["singleobj_1"]})
    )
    return folder


@pytest.fixture
def videos(make_clip: Callable[..., Path], tmp_path: Path) -> Path:
    """A flat folder with one clip per sample of `dataset`."""
    for number, sample_id in enumerate(SMALL_IDS):
        make_clip(f"videos/{sample_id}.mp4", seed=number, speed=number, frames=5)
    return tmp_path / "videos"


def record(metric: str, sample: str, value: float | None = None, **fields: Any) -> Record:
    """A record with little to say: method `m`, track `open-domain`, seed 0 unless given."""
    defaults: dict[str, Any] = {
        "method": "m",
        "track": "open-domain",
        "category": sample.rpartition("_")[0],
        "reason": None if value is not None else "failed: test",
        "provenance": Provenance(metric_version="1"),
    }
    return Record(metric=metric, sample=sample, value=value, **(defaults | fields))
