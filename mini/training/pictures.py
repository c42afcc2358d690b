"""What the metrics' networks are shown: frames of the drawn world as a video file gives them back, and
pictures without anybody.

Shapes: F frames, H W rows and columns, C channels.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import cv2
import numpy as np

from refbench.mini.training.seen import coded
from refbench.mini.world import SIZE_PX
from refbench.mini.world.identity import Split, random_place
from refbench.mini.world.render import place_reference

# How often frames have been through a video file, with which quality, and how often they are a little soft,
# as those of a generator are.
CODED_RATE, CODED_CRFS = 0.3, (16, 26)
SOFT_RATE, MOST_SOFT_PX = 0.3, 0.7


def as_shown(video_FHWC: np.ndarray, generator: random.Random) -> np.ndarray:
    """A clip with the harmless losses that videos have: now and then of the code, now and then softness."""
    if generator.random() < SOFT_RATE:
        sigma = generator.uniform(0.2, MOST_SOFT_PX)
        video_FHWC = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in video_FHWC])
    if generator.random() < CODED_RATE:
        video_FHWC = coded(video_FHWC, generator.randint(*CODED_CRFS))
    return video_FHWC


def empty_picture(split: Split, generator: random.Random) -> np.ndarray:
    """A frame that shows nobody and nothing, RGB uint8 (64, 64, 3): a place, noise, or a colour."""
    return generator.choice(EMPTY)(split, generator)


def _place(split: Split, generator: random.Random) -> np.ndarray:
    picture_HWC = place_reference(random_place(split, generator), 111)
    top, left = (generator.randint(0, side - SIZE_PX) for side in picture_HWC.shape[:2])
    return picture_HWC[top : top + SIZE_PX, left : left + SIZE_PX]


def _noise(split: Split, generator: random.Random) -> np.ndarray:
    """Noise of any grain around any colour, or of all colours."""
    drawn = np.random.default_rng(generator.randrange(2**32))
    side = generator.choice((4, 8, 16, 32, 64, 64))
    grain = drawn.integers(0, 256, (side, side, 3), dtype=np.uint8)
    noise_HWC = cv2.resize(grain, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_LINEAR)
    share = generator.choice((1.0, 1.0, generator.random()))
    mixed: np.ndarray = cv2.addWeighted(noise_HWC, share, _colour(split, generator), 1 - share, 0)
    return mixed


def _colour(split: Split, generator: random.Random) -> np.ndarray:
    """One colour, black more often than others."""
    colour = generator.choice(((0, 0, 0), (255, 255, 255), [generator.randrange(256) for _ in range(3)]))
    return np.full((SIZE_PX, SIZE_PX, 3), colour, np.uint8)


EMPTY: tuple[Callable[[Split, random.Random], np.ndarray], ...] = (_place, _place, _noise, _noise, _colour)
