"""What subject-confusion adds to NexusScore and FaceSim scored in the same turn, and what it takes alone.

    python benchmarks/subject_confusion.py [--samples 3] [--repeats 3]

Claim: at most 5 % added. Samples of the track mini that all three metrics score (`faceobj`, `humanobj`; two
or three references), with the renderer's own videos, each frame shifted by 0 to 3 pixels so that all differ.
The networks are those that come with the package. They are small: what subject-confusion does beside them
weighs more than beside released ones. Jobs are done by a scoring worker as in an evaluation, video by video;
each time the video is opened anew. Seconds are of the processor, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from machine import describe

from refbench.bench.dataset import load_track
from refbench.bench.environment import Environment
from refbench.bench.method import Frames
from refbench.bench.runner.generating import make_method
from refbench.bench.runner.scoring import ScoringJob, ScoringWorker
from refbench.bench.sample import Sample
from refbench.bench.video import write_video
from refbench.mini.benchmark import write_mini_dataset
from refbench.mini.track import MINI
from refbench.mini.weights import TRAINED

BASE = ("nexusscore", "facesim")
ADDED = "subject-confusion"
CATEGORIES = ("faceobj", "humanobj")
SHIFTS = 4


def drawn_video(sample: Sample, folder: Path) -> Path:
    """The renderer's video of a mini sample, so that no two frames are equal."""
    made = make_method("world-truth").load(Environment()).generate(sample, 0)
    assert isinstance(made, Frames)
    frames = [np.roll(frame, shift, axis=1) for frame in made.images for shift in range(SHIFTS)]
    write_video(folder / f"{sample.id}.mp4", frames, made.fps)
    return folder / f"{sample.id}.mp4"


def job_seconds(worker: ScoringWorker, names: Sequence[str], sample: Sample, video: Path) -> dict[str, float]:
    """Processor seconds of each metric's job, one after the other on a video that is opened anew."""
    worker.close_videos()
    taken = {}
    for name in names:
        job = ScoringJob(turn=1, metric=name, sample=sample, seed=0, video=video)
        worker.prepare(job)
        start = time.process_time()
        worker.work(job)
        taken[name] = time.process_time() - start
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=3, help="of each of the two categories (default: 3)")
    parser.add_argument("--repeats", type=int, default=3, help="of each sample (default: 3)")
    arguments = parser.parse_args()
    print(describe("torch", "onnxruntime", "transformers", "numpy"))
    worker = ScoringWorker({}, Environment(weights=TRAINED, threads=1))
    added, alone, base, extra = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        write_mini_dataset(Path(name) / "dataset")
        track = load_track(MINI.name, Path(name) / "dataset").samples
        chosen = [
            sample
            for category in CATEGORIES
            for sample in [one for one in track if one.category == category][: arguments.samples]
        ]
        videos = {sample.id: drawn_video(sample, Path(name)) for sample in chosen}
        job_seconds(worker, (*BASE, ADDED), chosen[0], videos[chosen[0].id])
        for _ in range(arguments.repeats):
            for sample in chosen:
                together = job_seconds(worker, (*BASE, ADDED), sample, videos[sample.id])
                lone = job_seconds(worker, (ADDED,), sample, videos[sample.id])
                both_s = sum(together[name] for name in BASE)
                base.append(both_s)
                extra.append(together[ADDED])
                added.append(together[ADDED] / both_s)
                alone.append(lone[ADDED] / both_s)
    worker.close()
    print(f"{len(base)} videos: nexusscore and facesim {sum(base):.2f} s, with {ADDED} {sum(extra):.3f} more")
    print(
        f"{100 * sum(extra) / sum(base):.1f} % more (claim ≤ 5); of a video "
        f"{100 * statistics.median(added):.1f} % (median) to {100 * max(added):.1f} %; alone "
        f"{100 * statistics.median(alone):.0f} % of both (median)"
    )


if __name__ == "__main__":
    main()
