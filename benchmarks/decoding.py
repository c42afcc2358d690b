"""Decodes per video and wall time of the seven components, with decoded frames shared and without.

Two videos are scored in one process by the seven components on tiny random weights, which are loaded before:
the two real ones below $REFBENCH_SHARED, else drawn ones of the same size. Two workers take turns: one whose
metrics decode for themselves (as --frame-memory-gib 0), one that decodes each video once for all of them,
and the next video while metrics work on the present one. Their scores must be equal to the last bit.
Claim: one decode of each video per turn of metrics.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from machine import alternating, describe, peak_mib

from refbench.bench import FRAME_MEMORY_GIB
from refbench.bench.cli.main import app
from refbench.bench.dataset import load_track
from refbench.bench.devices import Place
from refbench.bench.environment import Environment, threads_per_job
from refbench.bench.method import Frames
from refbench.bench.runner.evaluate import Evaluation, PreparedEvaluation
from refbench.bench.runner.executors import InProcessExecutor
from refbench.bench.runner.generating import make_method
from refbench.bench.runner.scoring import ScoringJob, ScoringOutcome, ScoringWorker, read_by
from refbench.bench.video import Video, write_video
from refbench.mini.demo import write_demo_dataset

DRAWN = ("faceobj_1", "humanobj_1")
OPTIONS = {"naturalscore": {"backend": "local"}}


def drawn_videos(folder: Path) -> tuple[Path, Path]:
    """A drawn data set, and a folder of two videos of it: 69 frames of 832×480 each."""
    write_demo_dataset(folder / "dataset")
    track = load_track("open-domain", folder / "dataset")
    generator = make_method("pan-reference", {"num_frames": "69"}).load(Environment())
    (folder / "videos").mkdir()
    for name in DRAWN:
        sample = track.sample(name)
        assert sample is not None
        made = generator.generate(sample, 0)
        assert isinstance(made, Frames)
        write_video(folder / f"videos/{name}.mp4", made.images, made.fps)
    return folder / "dataset", folder / "videos"


class Kept:
    """A worker whose metrics stay loaded from one evaluation to the next; frames do not."""

    def __init__(self, environment: Environment, frame_memory_gib: float) -> None:
        self._worker = ScoringWorker(OPTIONS, environment, frame_memory_gib=frame_memory_gib)

    def prepare(self, job: ScoringJob) -> None:
        self._worker.prepare(job)

    def expect(self, job: ScoringJob) -> None:
        self._worker.expect(job)

    def work(self, job: ScoringJob, on_step: Any) -> ScoringOutcome:
        return self._worker.work(job, on_step)

    def close(self) -> None:
        """Let go of frames alone."""
        self._worker.close_videos()


class ProcessorSeconds:
    """What each call of `work` took, of all threads of this process: on a busy machine times vary less."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.all: list[float] = []

    def __call__(self) -> None:
        start = time.process_time()
        self._work()
        self.all.append(time.process_time() - start)


def evaluate(worker: Kept, jobs: list[ScoringJob]) -> dict[str, ScoringOutcome]:
    """Job id → outcome, by this worker in this process."""
    executor = InProcessExecutor[ScoringJob, ScoringOutcome](Place(), topic_of=read_by)
    answers = executor.run(lambda _: worker, jobs)
    return {job.id: outcome for job, outcome in answers if isinstance(outcome, ScoringOutcome)}


def counted(counts: Counter[str]) -> None:
    """From now on, count how often each video is decoded."""
    decoded = Video._decoded
    lock = threading.Lock()

    def counting(self: Video, container: Any, stream: Any) -> Iterator[Any]:
        with lock:
            counts[self.path.name] += 1
        return decoded(self, container, stream)

    Video._decoded = counting  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=int, default=3, help="pairs of evaluations that are timed (default: 3)"
    )
    parser.add_argument(
        "--memory-gib",
        type=float,
        default=FRAME_MEMORY_GIB,
        help=f"memory for shared frames (default: {FRAME_MEMORY_GIB:g}, that of evaluate)",
    )
    arguments = parser.parse_args()
    print(describe("av", "torch", "opencv-python"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = os.environ.get("REFBENCH_SHARED")
        data = Path(shared) / "data/opens2v_eval" if shared else None
        dataset, videos = (data, data / "videos") if data and data.is_dir() else drawn_videos(folder)
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            app(["weights", "make-tiny", str(folder / "tiny")], standalone_mode=False)
        prepared = PreparedEvaluation(
            Evaluation(
                videos=videos,
                track=load_track("open-domain", dataset),
                name="decoding",
                options=OPTIONS,
                weights=folder / "tiny",
                devices="cpu",
                memory_gib=100,
            )
        )
        jobs = prepared.plan().jobs
        environment = Environment(weights=folder / "tiny", threads=threads_per_job())
        each, once = Kept(environment, 0), Kept(environment, arguments.memory_gib)
        counts: Counter[str] = Counter()
        counted(counts)
        found = []
        # The first evaluation loads the metrics.
        for said, worker in (("each metric for itself", each), ("shared", once)):
            counts.clear()
            found.append(evaluate(worker, jobs))
            decodes = ", ".join(f"{video} {count}" for video, count in sorted(counts.items()))
            print(f"decodes, {said}: {decodes}")
        scored = sum(outcome.value is not None for outcome in found[0].values())
        if found[0] != found[1]:
            raise SystemExit("the scores differ")
        sharing = ProcessorSeconds(partial(evaluate, once, jobs))
        apart = ProcessorSeconds(partial(evaluate, each, jobs))
        shared_s, each_s, ratio = alternating(sharing, apart, arguments.runs)
    processor = statistics.median(one / other for one, other in zip(sharing.all, apart.all, strict=True))
    print(
        f"{scored} scores of {len(counts)} videos, equal to the last bit: {shared_s:.2f} s shared against "
        f"{each_s:.2f} s, ratio {ratio:.3f}, of processor time {processor:.3f} (median of {arguments.runs} "
        f"pairs); {threads_per_job()} threads; peak memory of the process {peak_mib():.0f} MiB"
    )


if __name__ == "__main__":
    main()
