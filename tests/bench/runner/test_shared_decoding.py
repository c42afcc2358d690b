"""Videos that are decoded once for all metrics of a turn: how often, and that nothing else changes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.cli import Run
from refbench.bench.devices import Place
from refbench.bench.environment import Environment
from refbench.bench.metric import Metric, Score, Scorer
from refbench.bench.registry import metrics
from refbench.bench.runner.executors import InProcessExecutor
from refbench.bench.runner.scoring import ScoringJob, ScoringOutcome, ScoringWorker, read_by
from refbench.bench.sample import Sample
from refbench.bench.scores.store import read_records
from refbench.bench.streams import Budget
from refbench.bench.video import ALL_FRAMES, FramePolicy, Video, VideoError, stride_frames, uniform_frames

READERS = sorted((Path(__file__).parents[2] / "files/readers").glob("*.*4")) + sorted(
    (Path(__file__).parents[2] / "files/readers").glob("*.m[ko]v")
)
POLICIES = (ALL_FRAMES, uniform_frames(4), stride_frames(2), uniform_frames(40))


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was decoded, by its name."""
    counted: Counter[str] = Counter()
    decode = Video._decoded
    lock = threading.Lock()

    def counting(self: Video, container: Any, stream: Any) -> Iterator[Any]:
        with lock:
            counted[self.path.name] += 1
        return decode(self, container, stream)

    monkeypatch.setattr(Video, "_decoded", counting)
    return counted


def seen(video: Video, policy: FramePolicy) -> list[object]:
    """The bytes of the frames, and how reading ended."""
    found: list[object] = []
    try:
        for frame in video.frames(policy):
            found.append(frame.tobytes())
            # What a metric does to a frame is not seen by another.
            assert frame.flags.writeable
            frame[:] = 0
    except VideoError as error:
        found.append(str(error))
    return found


def probed(video: Video) -> object:
    try:
        return video.probe
    except VideoError as error:
        return str(error)


@pytest.mark.parametrize("file", READERS, ids=lambda file: file.name)
def test_each_reader_sees_the_same_frames_whoever_else_reads(file: Path, decodes: Counter[str]) -> None:
    alone = [seen(Video(file), policy) for policy in POLICIES]
    whole = probed(Video(file))
    decodes.clear()
    video = Video(file, ahead=2, budget=Budget(2**28))
    assert [seen(video, policy) for policy in (*POLICIES, *POLICIES)] == alone * 2
    assert probed(video) == whole
    assert decodes == {file.name: 1}
    video.close()
    # Of 100 kB the frames of most files are too many: they are decoded for each.
    for budget in (Budget(0), Budget(100_000)):
        video = Video(file, ahead=2, budget=budget)
        assert [seen(video, policy) for policy in POLICIES] == alone
        assert probed(video) == whole
        video.close()


def test_frames_that_are_stored_as_rgb_are_not_shared_with_a_metric(tmp_path: Path) -> None:
    import av

    with av.open(tmp_path / "rgb.avi", "w") as container:
        stream = container.add_stream("rawvideo", rate=8, width=32, height=16, pix_fmt="rgb24")
        for level in (10, 200):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), level, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = Video(tmp_path / "rgb.avi", budget=Budget(2**20))
    assert seen(video, ALL_FRAMES) == seen(video, ALL_FRAMES) == seen(Video(video.path), ALL_FRAMES)


def test_a_damaged_file_is_decoded_once_and_fails_for_each_reader_in_its_place(
    make_clip: Callable[..., Path], decodes: Counter[str]
) -> None:
    whole = make_clip("whole.mp4", frames=30)
    broken = whole.parent / "broken.mp4"
    broken.write_bytes(whole.read_bytes()[:-300])
    alone = [seen(Video(broken), policy) for policy in POLICIES]
    decodes.clear()
    video = Video(broken, ahead=3, budget=Budget(2**28))
    assert [seen(video, policy) for policy in POLICIES] == alone
    assert all("the video" in str(one[-1]) for one in alone)
    assert decodes["broken.mp4"] <= 1


class Reads(Metric):
    """The mean of the frames that a policy names."""

    declaration = metrics.get("motion-amplitude").declaration

    def __init__(self, policy: FramePolicy) -> None:
        super().__init__()
        self.policy = policy

    def load(self, environment: Environment) -> Scorer:
        policy = self.policy

        class Mean(Scorer):
            def score(self, sample: Sample, video: Video) -> Score:
                return Score(value=float(np.mean([frame.mean() for frame in video.frames(policy)])))

        return Mean()


def scored(jobs: list[ScoringJob], frame_memory_gib: float) -> dict[str, ScoringOutcome]:
    """Job id → its outcome, by one worker in this process."""

    def make(place: Place) -> ScoringWorker:
        return ScoringWorker({}, Environment(), frame_memory_gib=frame_memory_gib)

    executor = InProcessExecutor[ScoringJob, ScoringOutcome](Place(), topic_of=read_by)
    return {
        job.id: outcome for job, outcome in executor.run(make, jobs) if isinstance(outcome, ScoringOutcome)
    }


def test_a_worker_decodes_each_video_once_for_all_its_metrics(
    make_clip: Callable[..., Path], decodes: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = {f"reads-{policy.name}": policy for policy in POLICIES}
    monkeypatch.setattr(
        "refbench.bench.runner.scoring.make_metric", lambda name, options: Reads(policies[name])
    )
    files = [make_clip(f"a_{number}.mp4", seed=number, frames=12) for number in range(4)]
    files[2].write_bytes(b"no video")
    jobs = [
        ScoringJob(
            turn=1,
            metric=name,
            sample=Sample(id=file.stem, category="a", prompt="", references=()),
            seed=0,
            video=file,
        )
        for file in files
        for name in policies
    ]
    each = scored(jobs, 0)
    # To count the frames, and for each metric.
    assert decodes == {file.name: 1 + len(POLICIES) for file in files if file != files[2]}
    decodes.clear()
    assert scored(jobs, 1.0) == each
    assert decodes == {file.name: 1 for file in files if file != files[2]}
    # Room for the frames of one video and a half.
    decodes.clear()
    assert scored(jobs, 320_000 / 2**30) == each
    assert decodes == {file.name: 1 for file in files if file != files[2]}
    assert {job.sample.id for job in jobs if each[job.id].value is None} == {"a_2"}


# Metrics by the rules of the official ones, and a decoder that crashes at one video.
PLUGIN = """
import os
import signal
import time
import zlib

from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer
from refbench.bench.registry import metrics
from refbench.bench.video import ALL_FRAMES, Video, stride_frames, uniform_frames

decode = Video._decoded


def crashing(self, container, stream):
    if self.path.stem == os.environ.get("TEST_CRASHES_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(self, container, stream)


Video._decoded = crashing


def register(name, policy):
    class Checksum(Scorer):
        def score(self, sample, video):
            if "TEST_CRASHES_AT" in os.environ:
                # Long enough for the next video's decoder to crash meanwhile.
                time.sleep(0.2)
            sums = [zlib.crc32(frame) for frame in video.frames(policy)]
            return Score(value=float(sum(sums) % 2**32), details={"frames": len(sums)})

    @metrics.register
    class Reads(Metric):
        declaration = MetricDeclaration(
            name=name, version="1", summary="a sum over frames", source="a test", uses=frozenset({"video"})
        )

        def load(self, environment):
            return Checksum()


register("dummy-all", ALL_FRAMES)
register("dummy-uniform", uniform_frames(32))
register("dummy-stride", stride_frames(16))
"""
NAMES = "dummy-all,dummy-uniform,dummy-stride,motion-amplitude"


@pytest.fixture
def readers(tmp_path: Path) -> Path:
    (tmp_path / "reading_plugin.py").write_text(PLUGIN)
    return tmp_path / "reading_plugin.py"


def test_records_are_the_same_however_frames_are_shared(
    refbench: Run, videos: Path, dataset: Path, readers: Path
) -> None:
    (videos / "faceobj_10.mp4").write_bytes((videos / "faceobj_10.mp4").read_bytes()[:-200])
    base = ("evaluate", videos, "--name", "m", "--dataset", dataset, "--plugin", readers, "--metrics", NAMES)
    ways = {
        "each": ("--frame-memory-gib", 0),
        "shared": (),
        "too-little": ("--frame-memory-gib", 1e-5),
        "two-workers": ("--workers", 2),
        "two-turns": ("--memory-gib", 1),
    }
    found = {}
    for name, words in ways.items():
        refbench(*base, *words, "-o", name, expect=1)
        records = read_records(refbench.folder / name / "m/open-domain.jsonl")
        found[name] = {(record.metric, record.sample): record for record in records}
    assert all(records == found["each"] for records in found.values())
    failed = {sample for (_, sample), record in found["each"].items() if record.value is None}
    assert failed == {"faceobj_10"}
    assert len(found["each"]) == 24


def test_a_decoder_that_crashes_ahead_of_its_video_costs_that_video_alone(
    refbench: Run, videos: Path, dataset: Path, readers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_CRASHES_AT", "faceobj_2")
    for workers in (1, 2):
        refbench(
            "evaluate", videos, "--name", "m", "--dataset", dataset, "--plugin", readers,
            "--metrics", "dummy-all,dummy-uniform", "--job-timeout", 100, "--workers", workers,
            "-o", workers, expect=1,
        )  # fmt: skip
        records = list(read_records(refbench.folder / f"{workers}/m/open-domain.jsonl"))
        lost = {(record.metric, record.sample) for record in records if record.value is None}
        assert lost == {("dummy-all", "faceobj_2"), ("dummy-uniform", "faceobj_2")}
        assert len(records) == 12
