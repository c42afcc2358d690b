"""Pixels of a training clip: which frames, cut and scaled how, and references letterboxed on white.

Source: the rules of RefAlign's trainer and of OpenS2V-Nexus v1.1, `data_process/demo_dataloader.py`. Covering
sizes are computed in integers here, where the original multiplies by a float ratio, which may lose a pixel.
Shape suffixes: F frames, N references, H height, W width, C RGB channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from refbench.baselines.wan.references import WHITE, fitted_size
from refbench.bench.errors import SampleError
from refbench.bench.video import FramePolicy, Video
from refbench.refalign.data.sample import ClipRule


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle of pixels, the right and lower edge excluded."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    def of(self, image_HWC: np.ndarray) -> np.ndarray:
        """The part of an image (H,W,C) inside this region, as a view."""
        return image_HWC[self.top : self.bottom, self.left : self.right]


def window_starts(length: int, rule: ClipRule) -> int:
    """How many windows a clip of `length` usable source frames has to draw from; 1 for a short one."""
    return max(length - rule.window_frames, 0) + 1


def frame_indices(first: int, last: int, rule: ClipRule, pick: Callable[[int], int]) -> list[int]:
    """The `num_frames` ascending source frames of a clip out of frames first … last-1.

    Up to `num_frames` source frames: each is taken, and the first ones are repeated in place until there are
    enough (of 3 frames, 5 are 0 0 1 1 2). Otherwise `linspace`, truncated to int, over a window of
    (num_frames-1)·stride + 1 frames, or over all of a clip that is shorter; `pick(n)` draws the window's
    start out of n. Raises SampleError where there is no frame.
    """
    length = last - first
    if length <= 0:
        raise SampleError(f"no frame lies in [{first}, {last})")
    if length <= rule.num_frames:
        return sorted(first + index % length for index in range(rule.num_frames))
    span = min(length, rule.window_frames)
    start = first + pick(length - span + 1)
    indices: list[int] = np.linspace(start, start + span - 1, rule.num_frames).astype(int).tolist()
    return indices


def read_frames(video: Video, wanted: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(index, RGB uint8 (height, width, 3)) of each wanted frame once, ascending.

    Raises SampleError for a video that cannot be decoded or ends before.
    """
    indices = sorted(set(wanted))
    policy = FramePolicy(name="listed", indices=lambda decoded, declared: indices)
    position = 0
    for frame_HWC in video.frames(policy):
        yield indices[position], frame_HWC
        position += 1
    if position < len(indices):
        raise SampleError(f"the video has no frame {indices[position]}")


def cover(image_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """The image scaled (bilinear, antialiased) to cover width × height and cropped in the middle.

    RGB uint8 (H,W,3) becomes uint8 (height, width, 3).
    """
    rows, columns = image_HWC.shape[:2]
    if columns * height >= width * rows:
        size = (max(columns * height // rows, width), height)
    else:
        size = (width, max(rows * width // columns, height))
    scaled = Image.fromarray(image_HWC).resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.asarray(scaled.crop((left, top, left + width, top + height)))


def letterbox(image_HWC: np.ndarray, rule: ClipRule) -> np.ndarray:
    """The image scaled (bilinear, antialiased) to fit the rule's size, centred on white.

    RGB uint8 (H,W,3) becomes uint8 (height, width, 3) of the rule. Size and margins are those of reference
    images at sampling time; the margin on the left and above is half of the rest, rounded down.
    """
    rows, columns = image_HWC.shape[:2]
    size = fitted_size(columns, rows, rule.width, rule.height)
    scaled = Image.fromarray(image_HWC).resize(size, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (rule.width, rule.height), WHITE)
    canvas.paste(scaled, ((rule.width - size[0]) // 2, (rule.height - size[1]) // 2))
    return np.asarray(canvas)


def stacked_references(images: Sequence[np.ndarray], rule: ClipRule) -> np.ndarray:
    """RGB uint8 images (H,W,3) of any sizes, letterboxed: uint8 (N, height, width, 3); N may be 0."""
    if not images:
        return np.zeros((0, rule.height, rule.width, 3), np.uint8)
    return np.stack([letterbox(image_HWC, rule) for image_HWC in images])


def read_clip(
    video: Video, indices: Sequence[int], region: Region, rule: ClipRule, still: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The clip, uint8 (num_frames, height, width, 3), and frame `still` cut to the region, uint8 (H,W,3).

    `indices`: the source frame of each frame of the clip. The file is decoded once; only frames of the clip's
    size are held. Raises SampleError for a video that cannot be decoded or ends before.
    """
    clip_FHWC = np.empty((len(indices), rule.height, rule.width, 3), np.uint8)
    positions: dict[int, list[int]] = {}
    for position, index in enumerate(indices):
        positions.setdefault(index, []).append(position)
    still_HWC: np.ndarray | None = None
    wanted = set(positions) if still is None else {still, *positions}
    for index, frame_HWC in read_frames(video, wanted):
        cut_HWC = region.of(frame_HWC)
        if index == still:
            still_HWC = cut_HWC.copy()
        if index in positions:
            clip_FHWC[positions[index]] = cover(np.ascontiguousarray(cut_HWC), rule.width, rule.height)
    return clip_FHWC, still_HWC
