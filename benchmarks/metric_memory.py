"""Peak memory of each metric as a whole process, on tiny weights, and how often GME is loaded for its two
metrics.

With released weights on disk (`--weights DIR`) the same figures are those of the real networks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from machine import describe, peak_mib

from refbench.bench.cli.main import app
from refbench.bench.dataset import load_track
from refbench.bench.environment import Environment
from refbench.bench.method import Frames
from refbench.bench.runner.generating import make_method
from refbench.bench.video import write_video
from refbench.mini.demo import write_demo_dataset

METRICS = (
    "motion-amplitude",
    "aesthetics",
    "facesim",
    "gmescore",
    "nexusscore",
    "motion-smoothness",
    "naturalscore",
)
SAMPLE = "faceobj_1"
CHILD = "--evaluate-in-this-process"
LOCAL_JUDGE = ["--set", "naturalscore.backend=local"]


def refbench(*arguments: object) -> None:
    """One command of the program in this process, its output thrown away."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        app([str(argument) for argument in arguments], standalone_mode=False)


def prepare(folder: Path) -> None:
    """A drawn sample and a video of it: 41 frames of 832×480."""
    write_demo_dataset(folder / "dataset")
    sample = load_track("open-domain", folder / "dataset").sample(SAMPLE)
    assert sample is not None
    generator = make_method("pan-reference", {"num_frames": "41"}).load(Environment())
    made = generator.generate(sample, 0)
    assert isinstance(made, Frames)
    (folder / "videos").mkdir()
    write_video(folder / f"videos/{SAMPLE}.mp4", made.images, made.fps)


def evaluation(folder: Path, weights: Path, metrics: str) -> list[object]:
    arguments = ["evaluate", folder / "videos", "--name", "m", "--dataset", folder / "dataset"]
    judge = LOCAL_JUDGE if "naturalscore" in metrics else []
    return [*arguments, "--weights", weights, "--metrics", metrics, "--out", folder / metrics, *judge]


def peak_and_seconds(folder: Path, weights: Path, metric: str) -> tuple[float, float]:
    """Peak resident memory in MiB and wall seconds of a whole process that scores one video."""
    started = time.perf_counter()
    arguments = map(str, evaluation(folder, weights, metric))
    command = [sys.executable, __file__, CHILD, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{metric}: {done.stderr}")
    return float(done.stdout.splitlines()[-1]), time.perf_counter() - started


def gme_loads(folder: Path, weights: Path) -> int:
    """How often GME is loaded when both of its metrics run."""
    from refbench.metrics.nets.gme import GmeEmbedder

    loads = 0
    load = GmeEmbedder.load

    def counted(place: Path, device: str) -> GmeEmbedder:
        nonlocal loads
        loads += 1
        return load(place, device)

    GmeEmbedder.load = counted  # type: ignore[method-assign,assignment]
    refbench(*evaluation(folder, weights, "gmescore,nexusscore"))
    return loads


def main() -> None:
    if sys.argv[1:2] == [CHILD]:
        refbench(*sys.argv[2:])
        print(peak_mib())
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="released weights instead of tiny ones")
    given = parser.parse_args().weights
    print(describe("torch", "transformers", "insightface"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        weights = given or folder / "tiny"
        if given is None:
            refbench("weights", "make-tiny", weights)
        for metric in METRICS:
            peak, taken = peak_and_seconds(folder, weights, metric)
            print(f"{metric:18} peak {peak:6.0f} MiB, {taken:5.1f} s for one video, loading included")
        print(f"gmescore and nexusscore together load GME {gme_loads(folder, weights)} time(s)")


if __name__ == "__main__":
    main()
