"""Prepared features on disk: each encoded thing once, by its content, and the orders that take from them.

    index.json                  what all features of the folder share: settings, weights, teachers
    order-1a2b3c4d/             an order of positions
        order.json                                  its seed, data and their settings; how many are prepared
        features-00000.safetensors                  64 positions in order
        teacher-dinov3-vitb16-00000.safetensors     the same positions' tokens of a teacher

An entry is a tensor under a name: `video/D`, `picture/D` (latents), `text/D`, `teacher/NAME/D` (tokens of a
picture), `frames/NAME/D` (of a video's frames, in files `frames-NAME-…`), where D is a digest of what was
encoded: the pixels of the frame window, those of the letterboxed reference after its augmentation, the
prompt. So two positions share what is the same for both, whatever their epochs, seeds or data sets. A file
holds the entries that its positions need and no file held before; its metadata describe the positions
(`samples`) and name the files of all others that they need (`elsewhere`).
Which condition a position drops is not kept here: that is drawn when it is read.

Shapes: C latent channels, F latent frames, h and w latent rows and columns, L text rows, T tokens of a
picture, D channels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.files import leaves_its_folder, visible
from refbench.bench.provenance import digest_of
from refbench.refalign.data.sample import Skipped, TrainingSample

INDEX, ORDER = "index.json", "order.json"
POSITIONS_PER_FILE = 64
HELD_FILES = 64
# Hexadecimal digits of a digest: 128 bits of a SHA-256.
DIGEST_DIGITS = 32
ORDER_DIGITS = 8
FEATURES = "features"


class FolderIndex(BaseModel):
    """What all features of a folder have in common.

    `settings`: base model, patch, precision. `weights`: digests of the frozen networks by name;
    `teacher_widths`: channels of the tokens of each teacher. Versions 1 to 3 are another layout, by position
    (`refalign.training.features_by_position`).
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[4] = 4
    settings: dict[str, Any]
    weights: dict[str, str]
    teacher_widths: dict[str, int]


class OrderIndex(BaseModel):
    """An order of positions, of which the first `positions` are prepared.

    `settings`: seed and data; `data_files`: the digest of the lists of clips; `first_sample`: that of the
    first position's clip; `length`: positions of an epoch.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[4] = 4
    settings: dict[str, Any]
    data_files: str
    first_sample: str
    length: int
    positions: int

    @property
    def files(self) -> int:
        """How many files of features there are, and as many of each teacher."""
        return math.ceil(self.positions / POSITIONS_PER_FILE)

    def folder_name(self) -> str:
        """The name of a new folder for this order."""
        digest = digest_of([self.settings, self.data_files, self.first_sample])
        return f"order-{digest[:ORDER_DIGITS]}"

    def positions_of(self, number: int) -> range:
        """The positions of file `number`."""
        first = number * POSITIONS_PER_FILE
        return range(first, min(first + POSITIONS_PER_FILE, self.positions))


@dataclass(frozen=True, kw_only=True)
class SampleEntries:
    """A position's clip and what was encoded of it, by digest; `skipped` as in `TrainingSample`."""

    key: str
    first_frame: int
    skipped: tuple[Skipped, ...]
    video: str
    text: str
    pictures: tuple[str, ...]

    @classmethod
    def of(cls, sample: TrainingSample) -> SampleEntries:
        """The entries of a decoded sample."""
        clip = sample.clip
        return cls(
            key=clip.key,
            first_frame=clip.first_frame,
            skipped=sample.skipped,
            video=pixel_digest(clip.video_FHWC),
            text=text_digest(clip.prompt),
            pictures=tuple(pixel_digest(picture_HWC) for picture_HWC in clip.references_NHWC),
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SampleEntries:
        """Read what `to_json` made."""
        skipped = tuple(Skipped(key=key, reason=reason) for key, reason in stored["skipped"])
        return cls(**{**stored, "skipped": skipped, "pictures": tuple(stored["pictures"])})

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data."""
        skipped = [[skip.key, skip.reason] for skip in self.skipped]
        return {**self.__dict__, "skipped": skipped, "pictures": list(self.pictures)}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the entries, that of the empty prompt included."""
        return (
            video_name(self.video),
            text_name(self.text),
            text_name(EMPTY_TEXT),
            *map(picture_name, self.pictures),
        )

    def teacher_names(self, teacher: str) -> tuple[str, ...]:
        """The names of a teacher's entries."""
        return tuple(tokens_name(teacher, picture) for picture in self.pictures)


def pixel_digest(pixels: np.ndarray) -> str:
    """The digest of a video (F,H,W,3) or a picture (H,W,3), uint8."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:DIGEST_DIGITS]


def text_digest(prompt: str) -> str:
    """The digest of a prompt."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_DIGITS]


EMPTY_TEXT = text_digest("")


def video_name(digest: str) -> str:
    """The name of a video's latents (C,F,h,w), float32."""
    return f"video/{digest}"


def picture_name(digest: str) -> str:
    """The name of a picture's latents (C,1,h,w), float32."""
    return f"picture/{digest}"


def text_name(digest: str) -> str:
    """The name of a prompt's features (L,D)."""
    return f"text/{digest}"


def tokens_name(teacher: str, digest: str) -> str:
    """The name of a teacher's tokens (T,D) of a picture."""
    return f"teacher/{teacher}/{digest}"


def frames_name(teacher: str, digest: str) -> str:
    """The name of a teacher's tokens (F,T,D) of a video's frames, one for each latent frame."""
    return f"frames/{teacher}/{digest}"


def file_name(kind: str, number: int) -> str:
    """The name of file `number`; `kind` is `FEATURES` or `teacher_kind(…)`."""
    return f"{kind}-{number:05d}.safetensors"


def teacher_kind(teacher: str) -> str:
    """The kind of a teacher's files."""
    return f"teacher-{quote(teacher, safe='')}"


def frames_kind(teacher: str) -> str:
    """The kind of the files of a teacher that sees the videos' frames."""
    return f"frames-{quote(teacher, safe='')}"


def _open_tensors(path: Path) -> Any:
    from safetensors import safe_open

    tensors: Any = safe_open(path, framework="pt")
    return tensors


class FeatureFile:
    """One file, open. Raises UserError for a damaged one."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError

        self.path = path
        try:
            self._tensors = _open_tensors(path)
            notes = self._tensors.metadata() or {}
            self.positions: int = json.loads(notes["positions"])
            self.elsewhere: dict[str, str] = json.loads(notes["elsewhere"])
            self._samples: dict[str, Any] = json.loads(notes["samples"])
            if any(leaves_its_folder(str(each)) for each in self.elsewhere.values()):
                raise ValueError("it takes entries from outside of its folder")
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is damaged: {one_line(error, 160)}; remove it and run refbench prepare again"
            ) from None

    @cached_property
    def names(self) -> frozenset[str]:
        """The entries that this file holds."""
        return frozenset(self._tensors.keys())

    @cached_property
    def samples(self) -> dict[int, SampleEntries]:
        """What each position is made of; a teacher's file has none."""
        return {int(key): SampleEntries.from_json(each) for key, each in self._samples.items()}

    def tensor(self, name: str) -> Any:
        """An entry of this file."""
        return self._tensors.get_tensor(name)


@dataclass
class KnownEntries:
    """Which file of a folder holds an entry, by the paths relative to the folder.

    `refresh` reads what has appeared since: other processes write into the folder as well.
    """

    folder: Path
    files: dict[str, str] = field(default_factory=dict)
    _read: set[str] = field(default_factory=set)

    def refresh(self) -> None:
        """Read the files that have appeared. Raises UserError for a damaged one."""
        for path in visible(self.folder, "order-*/*.safetensors"):
            relative = path.relative_to(self.folder).as_posix()
            if relative not in self._read:
                self.add(relative, FeatureFile(path).names)

    def add(self, relative: str, names: Iterable[str]) -> None:
        """Take note of a file's entries; what an earlier file holds stays with that one."""
        self._read.add(relative)
        for name in names:
            self.files.setdefault(name, relative)

    def holds(self, relative: str, name: str) -> bool:
        """Whether a file, by its path relative to the folder, holds an entry."""
        if relative not in self._read:
            return False
        return self.files.get(name) == relative or name in FeatureFile(self.folder / relative).names

    def __contains__(self, name: str) -> bool:
        return name in self.files


def read_folder_index(folder: Path) -> FolderIndex:
    """The index of a folder of features. Raises UserError where there is none."""
    found: FolderIndex = _read_json(folder / INDEX, FolderIndex, folder)
    return found


def stored_version(folder: Path) -> int | None:
    """The version of a folder's index; None where there is none, or none that can be read."""
    try:
        stored = json.loads((folder / INDEX).read_bytes())
        return int(stored["schema_version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_orders(folder: Path) -> dict[str, OrderIndex]:
    """The orders of a folder by the names of theirs. Raises UserError for a damaged one."""
    return {
        path.parent.name: _read_json(path, OrderIndex, folder)
        for path in sorted(folder.glob(f"order-*/{ORDER}"))
    }


def _read_json(path: Path, kind: Any, folder: Path) -> Any:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError:
        raise UserError(
            f"{folder} holds no prepared features ({path.name} is missing); run refbench prepare"
        ) from None
    except ValidationError as error:
        raise UserError(f"{path} is damaged: {first_fault(error)}") from None


class OrderReader:
    """The positions of one order, read entry by entry; not for several threads at a time.

    Raises UserError for files of features, or of one of `teachers` or `frame_teachers`, that are missing.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        order: OrderIndex,
        teachers: Iterable[str],
        frame_teachers: Iterable[str] = (),
    ) -> None:
        self.folder = folder
        self.order = order
        self._home = folder / name
        self._open = lru_cache(maxsize=HELD_FILES)(FeatureFile)
        there = {path.name for path in self._home.glob("*.safetensors")}
        for kind in (FEATURES, *map(teacher_kind, teachers), *map(frames_kind, frame_teachers)):
            wanted = [file_name(kind, number) for number in range(order.files)]
            absent = [each for each in wanted if each not in there]
            if absent:
                raise UserError(
                    f"{self._home} lacks {len(absent)} of {len(wanted)} files of {kind}, the first is "
                    f"{absent[0]}; run refbench prepare again, it goes on from there"
                )

    def sample(self, position: int) -> SampleEntries:
        """What a position (0 … positions - 1) is made of."""
        found = self._file(FEATURES, position).samples.get(position)
        if found is None:
            raise self._incomplete(FEATURES, position)
        return found

    def samples(self) -> Iterator[SampleEntries]:
        """What all positions are made of; a file at a time is open.

        Raises UserError where a file is gone from which these take entries.
        """
        for number in range(self.order.files):
            file = FeatureFile(self._home / file_name(FEATURES, number))
            gone = [each for each in set(file.elsewhere.values()) if not (self.folder / each).is_file()]
            if gone:
                raise UserError(
                    f"{file.path} takes entries from {min(gone)}, which is gone; run refbench prepare again"
                )
            for position in self.order.positions_of(number):
                if position not in file.samples:
                    raise self._incomplete(FEATURES, position)
                yield file.samples[position]

    def tensor(self, position: int, name: str, kind: str = FEATURES) -> Any:
        """An entry that a position needs, from its own file or from the one that holds it."""
        file = self._file(kind, position)
        if name in file.names:
            return file.tensor(name)
        elsewhere = file.elsewhere.get(name)
        if elsewhere is None:
            raise self._incomplete(kind, position)
        other = self._open(self.folder / elsewhere)
        if name not in other.names:
            raise UserError(
                f"{file.path} takes an entry from {other.path}, which does not hold it any more; run "
                "refbench prepare again"
            )
        return other.tensor(name)

    def _file(self, kind: str, position: int) -> FeatureFile:
        return self._open(self._home / file_name(kind, position // POSITIONS_PER_FILE))

    def _incomplete(self, kind: str, position: int) -> UserError:
        path = self._home / file_name(kind, position // POSITIONS_PER_FILE)
        return UserError(f"{path} does not hold all its positions; run refbench prepare again")
