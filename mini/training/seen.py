"""What metrics see of videos: frames of an mp4, as the real encoder and decoder leave them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from refbench.bench.sample import Sample
from refbench.bench.video import ALL_FRAMES, DEFAULT_CRF, Video, write_video
from refbench.metrics.nets.pixels import CLIP_MEAN, CLIP_STD
from refbench.mini.world import FPS
from refbench.mini.world.identity import Split
from refbench.mini.world.render import Rendering, render
from refbench.mini.world.scene import random_scene

# How often training looks at frames that went through an mp4.
WRITTEN_RATE = 0.15


@contextmanager
def written(video_FHWC: np.ndarray, crf: int = DEFAULT_CRF) -> Iterator[Video]:
    """A video file of RGB uint8 frames, which is there for a while."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, video_FHWC, FPS, crf=crf)
        yield Video(path)


def coded(video_FHWC: np.ndarray, crf: int = DEFAULT_CRF) -> np.ndarray:
    """A clip written to a video file and read back."""
    with written(video_FHWC, crf) as video:
        return np.stack(list(video.frames(ALL_FRAMES)))


def now_and_then_written(video_FHWC: np.ndarray, generator: random.Random) -> np.ndarray:
    """The frames, sometimes with the loss of an mp4."""
    return coded(video_FHWC) if generator.random() < WRITTEN_RATE else video_FHWC


def clips(split: Split, count: int, what: str) -> Iterator[tuple[Rendering, random.Random]]:
    """Clips to measure on, each with the generator of what is done to it; the same ones for a name."""
    for number in range(count):
        generator = random.Random(f"{what}/{split}/{number}")
        yield render(random_scene(split, generator)), generator


def sample_of(prompt: str = "a video") -> Sample:
    """A sample for metrics that look at video and prompt alone."""
    return Sample(id="video", category="video", prompt=prompt, references=())


def normalised(frames_FHWC: np.ndarray) -> torch.Tensor:
    """RGB uint8 frames of the size that a network takes as its input (F,3,H,W), float32."""
    pixels_FHW3 = (torch.from_numpy(frames_FHWC) / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    return pixels_FHW3.permute(0, 3, 1, 2).contiguous()
