"""Small drawn clips, and the samples of the small data set."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

SMALL_IDS = ("singleobj_1", "singlehuman_1", "faceobj_2", "faceobj_10", "singleface_1", "multiface_1")


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
