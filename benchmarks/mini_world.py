"""Drawing clips of the mini world, with labels, on one core: claimed to be quick enough to train on the fly.

Beside it what reading the same clips from mp4 files would cost.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
from machine import describe

from refbench.bench.video import ALL_FRAMES, Video, write_video
from refbench.mini.world import FPS
from refbench.mini.world.render import render
from refbench.mini.world.scene import random_scene

CLIPS, READ = 1000, 100


def per_second(count: int, work: Callable[[], object]) -> float:
    """How many of `count` are done in a second of this process's own time."""
    started = time.process_time()
    work()
    return count / (time.process_time() - started)


def main() -> None:
    cv2.setNumThreads(1)
    print(describe("numpy", "opencv-python"))
    scenes = [random_scene("training", random.Random(number)) for number in range(CLIPS)]
    first = per_second(CLIPS, lambda: [render(scene) for scene in scenes])
    again = per_second(CLIPS, lambda: [render(scene) for scene in scenes])
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.mp4" for number in range(READ)]
        for file, scene in zip(files, scenes, strict=False):
            write_video(file, render(scene).video_FHWC, FPS)
        read = per_second(READ, lambda: [list(Video(file).frames(ALL_FRAMES)) for file in files])
    print(
        f"clips of 9 frames, 64×64, a second of processor time: {first:.0f} of new subjects, {again:.0f} of "
        f"subjects that were drawn before (claim ≥ 200); read from mp4: {read:.0f} ({first / read:.1f}×)"
    )


if __name__ == "__main__":
    main()
