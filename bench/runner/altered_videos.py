"""Copies of a video that differ from it in one way that nobody means: another decoder, an encoder, a size.

A copy is scored like any video, so whatever a metric says of it and not of the original is the copy's doing.
Copies by another decoder and of another size are stored without loss, so that nothing else differs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from refbench.bench.errors import UserError, one_line
from refbench.bench.reading import Reader
from refbench.bench.registry import unknown_name
from refbench.bench.video import FramePolicy, Video, write_lossless_video, write_video

# The mildest first. 18 is what this project's own videos are written with, 23 is the encoder's default.
DEFAULT_CRFS = (0, 10, 18, 23, 28)
LARGEST_CRF = 51
DEFAULT_SCALES = (0.9, 0.75, 0.5)
LARGEST_SCALE = 4.0
# Bytes of a copy by those of its frames as RGB, for the forecast. Two real videos of 832×480 took 0.25 and
# 0.30 without loss and one of them 0.09 at CRF 0, a drawn one of 64×64 0.61.
LOSSLESS_SHARE = 0.4
ENCODED_SHARE = 0.1

DECODER, REENCODE, RESIZE = "decoder", "reencode", "resize"
DEVICE, JUDGE, SEEDS = "device", "judge", "seeds"
ALTERING = (DECODER, REENCODE, RESIZE)
FAMILIES = (*ALTERING, DEVICE, JUDGE, SEEDS)

READERS = {
    "opencv": (Reader.OPENCV, "reading the colours as OpenCV does"),
    "smooth": (Reader.SMOOTH_CHROMA, "reading with interpolated chroma"),
}


@dataclass(frozen=True, kw_only=True)
class Alteration(ABC):
    """One way to copy a video; `name` is how `--sources` names it (`reencode:23`), `label` what it does."""

    family: ClassVar[str]
    share: ClassVar[float] = LOSSLESS_SHARE

    @property
    @abstractmethod
    def name(self) -> str:
        """`reencode:23`."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What happens to the video: `re-encoding at CRF 23`."""

    @abstractmethod
    def write(self, original: Video, path: Path) -> None:
        """Write the copy. Raises SampleError for a video that cannot be decoded or has no frame rate."""

    def size_bytes(self, frames: int, width: int, height: int) -> float:
        """About what the copy of such a video takes on disk."""
        return self.share * 3 * frames * width * height


@dataclass(frozen=True, kw_only=True)
class OtherDecoder(Alteration):
    """The frames as another reader gives them."""

    family = DECODER
    reader: str

    @property
    def name(self) -> str:
        return f"{DECODER}:{self.reader}"

    @property
    def label(self) -> str:
        return READERS[self.reader][1]

    def write(self, original: Video, path: Path) -> None:
        write_lossless_video(path, original.frames(_all(READERS[self.reader][0])), _fps(original))


@dataclass(frozen=True, kw_only=True)
class Reencoded(Alteration):
    """The frames encoded once more, as this project writes videos, with this CRF."""

    family = REENCODE
    share = ENCODED_SHARE
    crf: int

    @property
    def name(self) -> str:
        return f"{REENCODE}:{self.crf}"

    @property
    def label(self) -> str:
        return f"re-encoding at CRF {self.crf}"

    def write(self, original: Video, path: Path) -> None:
        write_video(path, original.frames(_all(Reader.DECORD)), _fps(original), crf=self.crf)


@dataclass(frozen=True, kw_only=True)
class Resized(Alteration):
    """The frames at another size: by areas where they shrink, bicubic where they grow."""

    family = RESIZE
    scale: float

    @property
    def name(self) -> str:
        return f"{RESIZE}:{self.scale:g}"

    @property
    def label(self) -> str:
        return f"resizing to {100 * self.scale:g} %"

    def write(self, original: Video, path: Path) -> None:
        write_lossless_video(path, self._frames(original), _fps(original))

    def size_bytes(self, frames: int, width: int, height: int) -> float:
        return self.scale**2 * super().size_bytes(frames, width, height)

    def _frames(self, original: Video) -> Iterator[np.ndarray]:
        import cv2

        how = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        for image_HWC in original.frames(_all(Reader.DECORD)):
            height, width = (max(1, round(self.scale * length)) for length in image_HWC.shape[:2])
            yield cv2.resize(image_HWC, (width, height), interpolation=how)


def _all(reader: Reader) -> FramePolicy:
    """Every frame by this reader, one at a time."""
    return FramePolicy(name="all", indices=None, reader=reader)


def _fps(video: Video) -> float:
    return video.glance.fps


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What is measured: families by name, and of the altering ones the alterations, the mildest first."""

    families: tuple[str, ...]
    alterations: tuple[Alteration, ...]

    @classmethod
    def parse(cls, text: str | None) -> Sources:
        """A comma list of families (with their usual strengths) and of single ones (`reencode:23`).

        None is everything. Raises UserError for what is not known.
        """
        parts = [part.strip() for part in (text or ",".join(FAMILIES)).split(",") if part.strip()]
        if not parts:
            raise UserError(f"--sources names nothing: {', '.join(FAMILIES)}, or {REENCODE}:23, say")
        families: dict[str, None] = {}
        found: dict[str, Alteration] = {}
        for part in parts:
            family, _, value = part.partition(":")
            if family not in FAMILIES:
                raise UserError(unknown_name("source", one_line(part, 60), FAMILIES))
            families[family] = None
            found |= {one.name: one for one in _alterations(family, value, part)}
        order = sorted(found.values(), key=lambda one: (FAMILIES.index(one.family), _strength(one)))
        return cls(families=tuple(sorted(families, key=FAMILIES.index)), alterations=tuple(order))


def _alterations(family: str, value: str, part: str) -> list[Alteration]:
    if family not in ALTERING:
        if value:
            raise UserError(f"--sources: {family} takes no value, so not {one_line(part, 60)!r}")
        return []
    if family == DECODER:
        if value and value not in READERS:
            raise UserError(unknown_name("decoder", one_line(value, 60), READERS))
        return [OtherDecoder(reader=name) for name in READERS if value in ("", name)]
    if family == REENCODE:
        if value and not (value.isdecimal() and int(value) <= LARGEST_CRF):
            raise UserError(f"--sources: a CRF is 0 to {LARGEST_CRF}, not {one_line(value, 60)!r}")
        return [Reencoded(crf=crf) for crf in ((int(value),) if value else DEFAULT_CRFS)]
    try:
        scales = (float(value),) if value else DEFAULT_SCALES
    except ValueError:
        scales = (0.0,)
    if not all(0 < scale <= LARGEST_SCALE for scale in scales):
        raise UserError(
            f"--sources: a size is a factor above 0 and at most {LARGEST_SCALE:g} (resize:0.5), not "
            f"{one_line(value, 60)!r}"
        )
    return [Resized(scale=scale) for scale in scales]


def _strength(one: Alteration) -> float:
    if isinstance(one, Reencoded):
        return one.crf
    if isinstance(one, Resized):
        return max(one.scale, 1 / one.scale)
    return list(READERS).index(one.name.partition(":")[2])
