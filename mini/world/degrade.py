"""Damage of a known strength: what teaches a network to tell good videos from bad ones.

Every function takes and returns RGB uint8 frames (frames, height, width, 3); `strength` is 0 (nothing) to 1.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import cv2
import numpy as np

Degradation = Callable[[np.ndarray, float, random.Random], np.ndarray]

MOST_BLUR_PX = 3.0
MOST_NOISE = 70.0
MOST_FLICKER = 0.7
LEAST_JPEG_QUALITY = 2
MOST_JITTER_PX = 7
MOST_WARP_PX = 7.0


def blur(video_FHWC: np.ndarray, strength: float, generator: random.Random) -> np.ndarray:
    """Gaussian blur."""
    if strength <= 0:
        return video_FHWC.copy()
    return np.stack([cv2.GaussianBlur(frame, (0, 0), MOST_BLUR_PX * strength) for frame in video_FHWC])


def noise(video_FHWC: np.ndarray, strength: float, generator: random.Random) -> np.ndarray:
    """Gaussian noise, other in each frame."""
    drawn = np.random.default_rng(generator.randrange(2**32)).standard_normal(video_FHWC.shape)
    return _bytes(video_FHWC + MOST_NOISE * strength * drawn)


def flicker(video_FHWC: np.ndarray, strength: float, generator: random.Random) -> np.ndarray:
    """Each frame brighter or darker than the others."""
    gains = [
        1 + MOST_FLICKER * strength * generator.choice((-1, 1)) * generator.uniform(0.5, 1)
        for _ in video_FHWC
    ]
    return _bytes(video_FHWC * np.array(gains)[:, None, None, None])


def freeze(video_FHWC: np.ndarray, strength: float, generator: random.Random) -> np.ndarray:
    """The video stands still from some frame on: at 1 from the first."""
    frames = len(video_FHWC)
    last = round((frames - 1) * (1 - strength))
    return video_FHWC[np.minimum(np.arange(frames), last)]


def compression(video_FHWC: np.ndarray, strength: float, generator: random.Random) -> np.ndarray:
    """Blocks of a strong JPEG compression."""
    if strength <= 0:
        return video_FHWC.copy()
    quality = round(60 - (60 - LEAST_JPEG_QUALITY) * strength)
    frames = []
    for frame in video_FHWC:
        _, code = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        frames.append(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1])
    return np.stack(frames)


def jitter(video_FHWC: np.ndarray, strength: float, generator: random.Random) -> np.ndarray:
    """Each frame moved a little, each elsewhere."""
    reach = MOST_JITTER_PX * strength
    height, width = video_FHWC.shape[1:3]
    frames = []
    for frame in video_FHWC:
        matrix = np.array(
            [[1, 0, generator.uniform(-reach, reach)], [0, 1, generator.uniform(-reach, reach)]]
        )
        frames.append(cv2.warpAffine(frame, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE))
    return np.stack(frames)


def warp(video_FHWC: np.ndarray, strength: float, generator: random.Random) -> np.ndarray:
    """Shapes that melt: a smooth random displacement that changes from frame to frame."""
    frames, height, width = video_FHWC.shape[:3]
    drawn = np.random.default_rng(generator.randrange(2**32)).uniform(-1, 1, (2, frames, 5, 5, 2))
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    warped = []
    for frame, steady, moving in zip(video_FHWC, drawn[0, :1].repeat(frames, 0), drawn[1], strict=True):
        field = cv2.resize(
            (steady + 0.6 * moving) * MOST_WARP_PX * strength, (width, height), interpolation=cv2.INTER_CUBIC
        ).astype(np.float32)
        warped.append(
            cv2.remap(
                frame,
                columns + field[..., 0],
                rows + field[..., 1],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
        )
    return np.stack(warped)


def pasted(
    video_FHWC: np.ndarray, strength: float, generator: random.Random, *, reference_HWC: np.ndarray
) -> np.ndarray:
    """The reference picture laid still over the video; at 1 it fills the frame."""
    height, width = video_FHWC.shape[1:3]
    side = round(min(height, width) * strength)
    if side < 1:
        return video_FHWC.copy()
    small_HWC = cv2.resize(reference_HWC, (side, side), interpolation=cv2.INTER_AREA)
    top, left = generator.randint(0, height - side), generator.randint(0, width - side)
    video_FHWC = video_FHWC.copy()
    video_FHWC[:, top : top + side, left : left + side] = small_HWC
    return video_FHWC


# What needs nothing but the video; `pasted` needs a reference as well.
DEGRADATIONS: dict[str, Degradation] = {
    "blur": blur,
    "noise": noise,
    "flicker": flicker,
    "freeze": freeze,
    "compression": compression,
    "jitter": jitter,
    "warp": warp,
}


def _bytes(values: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded
