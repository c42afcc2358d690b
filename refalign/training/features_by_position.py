"""Prepared features of versions 1 to 3, by position of the order: read, and not written any more.

    index.json                 what the features belong to: settings, weights, lengths
    features-00000.safetensors the features of 64 positions in order, with their samples' keys

Each position holds all of its features, conditions already dropped: `epochs` E of `length` positions. Beyond
epoch E-1 a run goes through the prepared epochs again: windows, references and dropped conditions repeat
then, noise and noise levels do not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from refbench.bench.errors import UserError, first_fault, one_line
from refbench.refalign.data.sample import Dropped, Skipped
from refbench.refalign.training.batch import Features
from refbench.refalign.training.feature_store import INDEX
from refbench.refalign.training.stored_settings import nested_data_settings

POSITIONS_PER_SHARD = 64
HELD_SHARDS = 4


class FeatureIndex(BaseModel):
    """What prepared features were made of; `data_files` is the digest of the lists of clips.

    Version 1 had a flat section `data`, and versions 1 and 2 had no `data_files`; both are still read.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[3] = 3
    settings: dict[str, Any]
    weights: dict[str, str]
    first_sample: str
    data_files: str | None = None
    length: int
    epochs: int
    teacher_widths: list[int]

    @model_validator(mode="before")
    @classmethod
    def _from_older_versions(cls, stored: Any) -> Any:
        if not isinstance(stored, dict) or stored.get("schema_version") not in (1, 2):
            return stored
        settings = stored.get("settings")
        if stored["schema_version"] == 1:
            settings = nested_data_settings(settings)
        return stored | {"schema_version": 3, "settings": settings}

    @property
    def positions(self) -> int:
        """How many positions of the training order are prepared."""
        return self.length * self.epochs

    @property
    def shards(self) -> int:
        """How many files of features there are."""
        return math.ceil(self.positions / POSITIONS_PER_SHARD)


def shard_file(folder: Path, number: int) -> Path:
    """The path of shard `number`."""
    return folder / f"features-{number:05d}.safetensors"


def read_index(folder: Path) -> FeatureIndex:
    """The index of features by position. Raises UserError where there is none."""
    path = folder / INDEX
    try:
        return FeatureIndex.model_validate_json(path.read_bytes())
    except OSError:
        raise UserError(f"{folder} holds no prepared features ({INDEX} is missing)") from None
    except ValidationError as error:
        raise UserError(f"{path} is damaged: {first_fault(error)}") from None


class FeaturesByPosition:
    """Features of all positions of some epochs; see `prepared.StoredFeatures`.

    Raises UserError for a shard that is missing.
    """

    def __init__(self, folder: Path, index: FeatureIndex, teachers: tuple[str, ...]) -> None:
        self.folder = folder
        self.index = index
        self.positions = index.positions
        there = {file.name for file in folder.glob("features-*.safetensors")}
        wanted = range(index.shards)
        absent = [number for number in wanted if shard_file(folder, number).name not in there]
        if absent:
            raise UserError(
                f"{folder} lacks {len(absent)} of {index.shards} shards, the first is "
                f"{shard_file(folder, absent[0]).name}; prepare the features again in another folder"
            )
        self._teachers = teachers
        widths = dict(zip(index.settings["teachers"], index.teacher_widths, strict=True))
        self.teacher_widths = tuple(widths[name] for name in teachers)
        self.frame_widths: tuple[int, ...] = ()
        self._open = lru_cache(maxsize=HELD_SHARDS)(_opened_file)

    def digest(self, positions: int) -> str:
        """SHA-256 over the index and over name, size and header of each file of features, always of all
        positions: nothing is added to such a folder.

        A header holds the keys of the file's samples. Raises UserError for a file that cannot be read.
        """
        digest = hashlib.sha256(self.index.model_dump_json(exclude={"schema_version", "data_files"}).encode())
        for number in range(self.index.shards):
            file = shard_file(self.folder, number)
            _, samples = _opened_file(file)
            content = [file.name, file.stat().st_size, samples]
            digest.update(json.dumps(content, sort_keys=True).encode())
        return digest.hexdigest()

    def described(self, position: int) -> tuple[str, tuple[Skipped, ...]]:
        """The key of a position's clip and what was skipped for it."""
        _, described = self._stored(position)
        skipped = tuple(Skipped(key=key, reason=reason) for key, reason in described["skipped"])
        return described["key"], skipped

    def features(self, position: int, dropped: Dropped) -> Features:
        """The features of a position, which have dropped their conditions before, whatever `dropped` says."""
        stored, _ = self._stored(position)
        return Features(
            latents_CFhw=stored.get_tensor(f"{position}/latents"),
            text_LD=stored.get_tensor(f"{position}/text"),
            references_CNhw=stored.get_tensor(f"{position}/references"),
            teachers=tuple(stored.get_tensor(f"{position}/teacher/{name}") for name in self._teachers),
        )

    def _stored(self, position: int) -> tuple[Any, Mapping[str, Any]]:
        """The open file that holds a position, and what it says of the position's sample."""
        file = shard_file(self.folder, position // POSITIONS_PER_SHARD)
        stored, samples = self._open(file)
        described: dict[str, Any] | None = samples.get(str(position))
        if described is None:
            raise UserError(
                f"{file} does not hold all its positions; prepare the features again in another folder"
            )
        return stored, described


def _opened_file(file: Path) -> tuple[Any, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        stored: Any = safe_open(file, framework="pt")
        return stored, json.loads((stored.metadata() or {})["samples"])
    except (OSError, SafetensorError) as error:
        reason = f"is damaged: {one_line(error, 160)}"
    except (KeyError, ValueError):
        reason = "names no samples"
    raise UserError(f"{file} {reason}; prepare the features again in another folder")
