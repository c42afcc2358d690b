"""MotionAmplitude against the bare Farneback calls it cannot do without, spread over as many threads.

Claim: wall time at most 1.15 times theirs, although ours also decodes, turns grey and reduces; peak memory at
most 400 MB. Uses the two real videos below $REFBENCH_SHARED, else drawn ones of the same size and length.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from machine import alternating, describe, peak_mib

from refbench.bench.environment import Environment, usable_cores
from refbench.bench.sample import Sample
from refbench.bench.video import ALL_FRAMES, Video, write_video
from refbench.metrics.motion_amplitude import MotionAmplitude, grey_frames

RUNS = 5
SAMPLE = Sample(id="benchmark_1", category="benchmark", prompt="", references=())


def videos(folder: Path) -> list[Path]:
    shared = os.environ.get("REFBENCH_SHARED")
    if shared:
        return sorted((Path(shared) / "data/opens2v_eval/videos").glob("*.mp4"))
    path = folder / "drawn.mp4"
    write_video(path, drawn_frames(), 15)
    return [path]


def drawn_frames() -> Iterator[np.ndarray]:
    """69 frames of 832×480: smooth noise that slides."""
    noise = np.random.default_rng(0).integers(0, 255, (480, 1100, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(noise, (15, 15), 0)
    for index in range(69):
        yield texture[:, 3 * index : 3 * index + 832]


def score(path: Path, threads: int) -> float:
    return MotionAmplitude().load(Environment(threads=threads)).score(SAMPLE, Video(path)).value


def bare_flows(greys: list[np.ndarray], threads: int) -> None:
    cv2.setNumThreads(1)

    def flow(pair: tuple[np.ndarray, np.ndarray]) -> None:
        cv2.calcOpticalFlowFarneback(*pair, None, 0.5, 3, 15, 3, 5, 1.2, 0)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(flow, pairwise(greys)))


def main() -> None:
    if len(sys.argv) == 3:
        score(Path(sys.argv[1]), int(sys.argv[2]))
        print(peak_mib())
        return
    threads = usable_cores()
    print(describe("opencv-python", "av", "numpy"))
    with tempfile.TemporaryDirectory() as folder:
        for path in videos(Path(folder)):
            greys = list(grey_frames(Video(path).frames(ALL_FRAMES)))
            ours, bare, ratio = alternating(
                partial(score, path, threads), partial(bare_flows, greys, threads), RUNS
            )
            command = [sys.executable, __file__, str(path), str(threads)]
            peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(
                f"{path.name}: {ours:.2f} s against {bare:.2f} s of bare flow calls on {threads} threads, "
                f"ratio {ratio:.3f} (median of {RUNS}; claim ≤ 1.15); "
                f"peak memory {peak:.0f} MiB (claim ≤ 400)"
            )


if __name__ == "__main__":
    main()
