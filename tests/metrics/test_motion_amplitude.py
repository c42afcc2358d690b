"""MotionAmplitude against the official output, and against the formula written out without streaming."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.sample import Sample
from refbench.bench.video import ALL_FRAMES, Video, write_video
from refbench.metrics.motion_amplitude import MotionAmplitude

SAMPLE = Sample(id="faceobj_14", category="faceobj", prompt="", references=())
OFFICIAL = {"faceobj_14": 0.35025984048843384, "singleface_3": 0.038793787360191345}


def score(path: Path, threads: int = 2) -> float:
    return MotionAmplitude().load(Environment(threads=threads)).score(SAMPLE, Video(path)).value


def written_out(path: Path) -> float:
    """The official formula with every flow map held at once."""
    greys = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in Video(path).frames(ALL_FRAMES)]
    flows = []
    for earlier, later in pairwise(greys):
        flow = cv2.calcOpticalFlowFarneback(earlier, later, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        rows = int(16 * flow.shape[0] / flow.shape[1])
        flows.append(cv2.resize(flow, (16, rows), interpolation=cv2.INTER_AREA))
    return float(abs(np.mean(np.mean(np.stack(flows), axis=0))))


@pytest.mark.parametrize("name", OFFICIAL)
def test_equals_the_official_output_bit_for_bit(name: str, shared: Path) -> None:
    assert score(shared / "data/opens2v_eval/videos" / f"{name}.mp4") == OFFICIAL[name]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (90, 50), (33, 100)])
def test_equals_the_formula_bit_for_bit(make_clip: Callable[..., Path], height: int, width: int) -> None:
    clip = make_clip(frames=9, height=height, width=width, speed=3)
    assert score(clip) == written_out(clip) > 0


def test_does_not_depend_on_the_number_of_threads(make_clip: Callable[..., Path]) -> None:
    clip = make_clip(frames=12, height=96, width=128)
    before = cv2.getNumThreads()
    values = set()
    for opencv_threads, threads in ((0, 1), (1, 2), (4, 3), (2, 16)):
        cv2.setNumThreads(opencv_threads)
        values.add(score(clip, threads))
    cv2.setNumThreads(before)
    assert len(values) == 1


def test_the_grey_weights_are_those_of_bgr_on_rgb(tmp_path: Path) -> None:
    """Red moves over blue of equal official grey (0.114 R): with proper RGB weights the score would
    differ.
    """
    clip = tmp_path / "red.mp4"
    generator = np.random.default_rng(1)
    red = generator.integers(0, 255, (48, 96), dtype=np.uint8)
    frames = [np.dstack([np.roll(red, 2 * i, 1), np.zeros_like(red), np.zeros_like(red)]) for i in range(5)]
    write_video(clip, frames, 8, crf=1)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in Video(clip).frames(ALL_FRAMES)]
    flows = [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in pairwise(greys)]
    proper = abs(np.mean([cv2.resize(flow, (16, 8), interpolation=cv2.INTER_AREA) for flow in flows]))
    assert score(clip) == written_out(clip)
    assert score(clip) != pytest.approx(float(proper), rel=1e-3)


def test_a_pan_scores_high_and_an_oscillation_cancels_out(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    texture = cv2.GaussianBlur(generator.integers(0, 255, (96, 400, 3), dtype=np.uint8), (7, 7), 0)
    pan = [texture[:, 2 * i : 2 * i + 128] for i in range(13)]
    swing = [texture[:, 2 * (i % 2) : 2 * (i % 2) + 128] for i in range(13)]
    write_video(tmp_path / "pan.mp4", pan, 8)
    write_video(tmp_path / "swing.mp4", swing, 8)
    scorer = MotionAmplitude().load(Environment())
    scores = {name: scorer.score(SAMPLE, Video(tmp_path / f"{name}.mp4")) for name in ("pan", "swing")}
    assert scores["pan"].value > 0.5
    assert scores["swing"].value < 0.1
    # Our own detail does not cancel.
    assert scores["swing"].details["mean_flow_magnitude"] > 0.5


def test_videos_without_flow_have_a_reason(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    with pytest.raises(SampleError, match="at least two frames"):
        score(make_clip(frames=1))
    with pytest.raises(SampleError, match="too wide"):
        score(make_clip(frames=3, height=6, width=200, name="wide.mp4"))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(SampleError, match="cannot be decoded"):
        score(tmp_path / "broken.mp4")
