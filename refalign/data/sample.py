"""The nouns of the training data: the rule for a clip, a clip, a sample, what was skipped, a position.

Shape suffixes: F frames, N references, H height, W width, C RGB channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Dropped = Literal["nothing", "text", "references", "both"]

# The VAE packs four frames after the first into one and 8 pixels into one; the network's patches are 2×2.
FRAMES_PER_LATENT = 4
SIZE_MULTIPLE_PX = 16


@dataclass(frozen=True, kw_only=True)
class ClipRule:
    """Geometry and frames of a training clip: size in pixels, frame count, source frames per step.

    Defaults are RefAlign's: 81 frames of 832×480, every third source frame, at most three references. Raises
    ValueError for sizes and frame counts that the VAE cannot hold.
    """

    width: int = 832
    height: int = 480
    num_frames: int = 81
    stride: int = 3
    max_references: int = 3

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < SIZE_MULTIPLE_PX or value % SIZE_MULTIPLE_PX:
                raise ValueError(f"{name} must be a multiple of {SIZE_MULTIPLE_PX}, {value} is not")
        if self.num_frames < 1 or self.num_frames % FRAMES_PER_LATENT != 1:
            raise ValueError(f"num_frames must be 4k+1, {self.num_frames} is not")
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, {self.stride} is not")
        if self.max_references < 0:
            raise ValueError(f"max_references must be at least 0, {self.max_references} is not")

    @property
    def window_frames(self) -> int:
        """Source frames that a clip of full length spans: (num_frames - 1)·stride + 1."""
        return (self.num_frames - 1) * self.stride + 1


@dataclass(frozen=True, kw_only=True)
class ClipSize:
    """The size in pixels and the usable frames of a data set's clip, before it is cut to a `ClipRule`."""

    width: int
    height: int
    frames: int


@dataclass(frozen=True, kw_only=True)
class DropoutRates:
    """Shares of samples, 0 to 1, that are trained without their text, without their references, or without
    both.

    Raises ValueError for a negative share or a sum above 1.
    """

    text: float = 0.1
    references: float = 0.1
    both: float = 0.1

    def __post_init__(self) -> None:
        rates = (self.text, self.references, self.both)
        if not all(0 <= rate <= 1 for rate in rates) or sum(rates) > 1 + 1e-9:
            raise ValueError(f"dropout rates must be shares of one whole, {rates} are not")


@dataclass(frozen=True, kw_only=True)
class EpochPosition:
    """A position of the training order: the epoch, and the position (0 … length-1) in that epoch's order."""

    epoch: int
    position: int


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Something that could not be used: what it was and why, both in one line."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A decoded entry of a data set.

    `key` is unique within the data set and stable over runs (of a JSONL line without an id it names the
    content too). `video_FHWC` is RGB uint8 (num_frames, height, width, 3), `references_NHWC` uint8
    (0 to max_references, height, width, 3), letterboxed on white, one of `labels` each. `first_frame` is the
    source frame that the clip starts with: with `key` the identity of cached latents. `replaced` names
    references that could not be read and for which the clip's own were taken.
    """

    key: str
    prompt: str
    video_FHWC: np.ndarray
    references_NHWC: np.ndarray
    labels: tuple[str, ...]
    first_frame: int
    replaced: tuple[Skipped, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingSample:
    """A clip at a position of the training order.

    The clip holds its prompt and references even where they are `dropped`: the encoder leaves them out.
    `skipped` are the entries that this clip stands in for, and references that were replaced.
    """

    clip: Clip
    epoch: int
    position: int
    dropped: Dropped
    skipped: tuple[Skipped, ...] = ()
