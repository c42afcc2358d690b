"""Prepared features: the frozen networks' output for the first epochs, computed once and kept on disk.

    index.json                 what the features belong to: settings, weights, lengths
    features-00000.safetensors the features of 64 positions in order, with their samples' keys

Frame window, references and dropped conditions follow from (seed, epoch, position), so features are kept by
position of the order: `epochs` E of `length` positions. Training with them gives the losses of encoding on
the way, to the bit where it runs on the same machine. Beyond epoch E-1 it goes through the prepared epochs
again: windows, references and dropped conditions repeat then, noise and noise levels do not. A shard appears
when it is whole; an interrupted preparation goes on with those that are missing. Shards are shared out over
processes by number.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from refbench.bench.errors import MissingWeights, UserError, first_fault, one_line
from refbench.bench.files import replacing, write_text
from refbench.bench.weights.catalogue import get_entry
from refbench.bench.weights.checkpoint import write_tensors
from refbench.bench.weights.store import require, require_model_folder, weights_fingerprint
from refbench.refalign.data.dataset import LEFT_OUT, MOST_ATTEMPTS, PositionSampler, TrainingData
from refbench.refalign.data.draws import Draws
from refbench.refalign.data.sample import EpochPosition, Skipped
from refbench.refalign.teacher import get_teacher_spec
from refbench.refalign.training.batch import Example, Features
from refbench.refalign.training.encoder import FeatureEncoder
from refbench.refalign.training.examples import ExampleSource, guarded_items
from refbench.refalign.training.recipes import (
    SETTINGS_OF_BEFORE,
    TrainingConfig,
    flat_settings,
    in_stored_order,
    nested_data_settings,
)

INDEX = "index.json"
POSITIONS_PER_SHARD = 64
HELD_SHARDS = 4
ENCODERS = ("text_encoder", "vae")


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


def feature_settings(config: TrainingConfig) -> dict[str, Any]:
    """The part of a configuration that features depend on."""
    plain = config.plain()
    data = {name: value for name, value in plain["data"].items() if name not in ("workers", "skip")}
    return {
        "data": data,
        "seed": config.run.seed,
        "base": config.model.base,
        "model.patch": config.model.patch,
        "teachers": list(teacher_names(config)),
        "precision": config.run.precision,
    }


def teacher_names(config: TrainingConfig) -> tuple[str, ...]:
    """The teachers that a run needs."""
    return config.alignment.teachers if config.alignment.enabled else ()


def weight_fingerprints(config: TrainingConfig, weights: Path | None) -> dict[str, str]:
    """Digests by name of the frozen networks (text encoder, VAE, teachers) whose files are on disk."""
    find_folder: dict[str, Callable[[], Path]] = {
        part: lambda part=part: require(get_entry(config.model.base), weights) / part  # type: ignore[misc]
        for part in ENCODERS
    }
    for name in teacher_names(config):
        repository = get_teacher_spec(name).repository
        find_folder[name] = lambda repository=repository: require_model_folder(repository, weights)  # type: ignore[misc]
    found = {}
    for name, find in find_folder.items():
        try:
            folder = find()
        except MissingWeights:
            continue
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
        if files:
            found[name] = weights_fingerprint(folder, [Path(file.name) for file in files])
    return found


def sample_digest(data: TrainingData) -> str:
    """The SHA-256 of the first position's clip: key, first frame, prompt and pixels."""
    clip = data.sample(0, 0).clip
    digest = hashlib.sha256(f"{clip.key}\n{clip.first_frame}\n{clip.prompt}\n".encode())
    digest.update(clip.video_FHWC.tobytes())
    digest.update(clip.references_NHWC.tobytes())
    return digest.hexdigest()


def shard_file(folder: Path, number: int) -> Path:
    """The path of shard `number`."""
    return folder / f"features-{number:05d}.safetensors"


def prepare_features(
    config: TrainingConfig,
    data: TrainingData,
    encoder: FeatureEncoder,
    folder: Path,
    *,
    epochs: int,
    weights: Path | None,
    rank: int = 0,
    world_size: int = 1,
    on_shard: Callable[[int, int], None] | None = None,
) -> FeatureIndex:
    """Write the features of all positions of `epochs` epochs; shards that are there are kept.

    `on_shard` is called with (shards done, shards in all) of this process. Raises UserError for a folder with
    features of other settings and for a disk that is full.
    """
    index = FeatureIndex(
        settings=feature_settings(config),
        weights=weight_fingerprints(config, weights),
        first_sample=sample_digest(data),
        data_files=data.content_digest(),
        length=len(data),
        epochs=epochs,
        teacher_widths=[teacher.width for teacher in encoder.teachers.values()],
    )
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).exists():
        stored = read_index(folder)
        _check_index(stored, index.settings, index.weights, data, folder)
        if stored.epochs > epochs:
            index = stored
    if rank == 0:
        write_text(folder / INDEX, json.dumps(index.model_dump(mode="json"), indent=1) + "\n")
    mine = [
        number for number in range(rank, index.shards, world_size) if not _is_whole(folder, index, number)
    ]
    for done, number in enumerate(mine, start=1):
        try:
            _write_shard(config, data, encoder, folder, index, number)
        except OSError as error:
            raise UserError(
                f"{shard_file(folder, number)} could not be written: "
                f"{one_line(error.strerror or error, 160)}; the same command goes on from there"
            ) from None
        if on_shard is not None:
            on_shard(done, len(mine))
    return index


def _write_shard(
    config: TrainingConfig,
    data: TrainingData,
    encoder: FeatureEncoder,
    folder: Path,
    index: FeatureIndex,
    number: int,
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    described: dict[str, Any] = {}
    first = number * POSITIONS_PER_SHARD
    positions = range(first, min(first + POSITIONS_PER_SHARD, index.positions))
    order = [EpochPosition(epoch=each // index.length, position=each % index.length) for each in positions]
    for position, sample in zip(positions, guarded_items(data, order, config.data.workers), strict=True):
        features = encoder.encode(sample)
        tensors |= {
            f"{position}/latents": features.latents_CFhw,
            f"{position}/text": features.text_LD,
            f"{position}/references": features.references_CNhw,
        }
        for teacher, tokens in zip(encoder.teachers, features.teachers, strict=True):
            tensors[f"{position}/teacher/{teacher}"] = tokens
        skipped = [[skip.key, skip.reason] for skip in sample.skipped]
        described[str(position)] = {"key": sample.clip.key, "skipped": skipped}
    with replacing(shard_file(folder, number)) as partial:
        write_tensors(partial, tensors, {"samples": json.dumps(described)})


def _is_whole(folder: Path, index: FeatureIndex, number: int) -> bool:
    """Whether a shard is there with all its positions: the last one grows when epochs are added."""
    file = shard_file(folder, number)
    if not file.is_file():
        return False
    last = min((number + 1) * POSITIONS_PER_SHARD, index.positions) - 1
    with _opened(file) as stored:
        return f"{last}/latents" in stored.keys()  # noqa: SIM118 - not a mapping


def read_index(folder: Path) -> FeatureIndex:
    """The index of prepared features. Raises UserError where there is none."""
    path = folder / INDEX
    try:
        return FeatureIndex.model_validate_json(path.read_bytes())
    except OSError:
        raise UserError(
            f"{folder} holds no prepared features ({INDEX} is missing); run refbench prepare"
        ) from None
    except ValidationError as error:
        raise UserError(f"{path} is damaged: {first_fault(error)}") from None


def _check_index(
    stored: FeatureIndex,
    settings: Mapping[str, Any],
    weights: Mapping[str, str],
    data: TrainingData | None,
    folder: Path,
) -> None:
    now = flat_settings(settings)
    earlier = {name: value for name, value in SETTINGS_OF_BEFORE.items() if name in now}
    before = earlier | flat_settings(stored.settings)
    for name in sorted(before.keys() | now.keys()):
        if name == "teachers" and set(now[name]) <= set(before.get(name, ())):
            # A run without the alignment loss, or with fewer teachers, leaves the others unread.
            continue
        if before.get(name) != now.get(name):
            raise UserError(
                f"the features in {folder} were prepared with {name}={one_line(before.get(name), 60)}, not "
                f"{one_line(now.get(name), 60)}; prepare them again in another folder"
            )
    for name in sorted(stored.weights.keys() & weights.keys()):
        if stored.weights[name] != weights[name]:
            raise UserError(
                f"the features in {folder} come from other weights of {name}; prepare them again in another "
                "folder"
            )
    if data is None:
        return
    if (
        len(data) != stored.length
        or sample_digest(data) != stored.first_sample
        or stored.data_files not in (None, data.content_digest())
    ):
        raise UserError(
            f"the features in {folder} come from other data; prepare them again in another folder"
        )


class PreparedSource(ExampleSource):
    """Examples from prepared features.

    `data`, where it is given, is compared with what the features were made of. Raises UserError for
    features of other settings, weights or data, and for a shard that is missing. Features from before
    `data.open_shards` are in the order of one shard after the other.
    """

    def __init__(
        self, folder: Path, config: TrainingConfig, *, weights: Path | None, data: TrainingData | None = None
    ) -> None:
        self.index = read_index(folder)
        config = in_stored_order(config, self.index.settings)
        _check_index(
            self.index,
            feature_settings(config),
            weight_fingerprints(config, weights),
            data,
            folder,
        )
        there = {file.name for file in folder.glob("features-*.safetensors")}
        wanted = range(self.index.shards)
        absent = [number for number in wanted if shard_file(folder, number).name not in there]
        if absent:
            raise UserError(
                f"{folder} lacks {len(absent)} of {self.index.shards} shards, the first is "
                f"{shard_file(folder, absent[0]).name}; run refbench prepare again, it goes on from there"
            )
        self.length = self.index.length
        self.folder = folder
        self._teachers = teacher_names(config)
        widths = dict(zip(self.index.settings["teachers"], self.index.teacher_widths, strict=True))
        self.teacher_widths = tuple(widths[name] for name in self._teachers)
        self._seed = config.run.seed
        self._skip = frozenset(config.data.skip)
        self._open = lru_cache(maxsize=HELD_SHARDS)(_opened_file)

    def digest(self) -> str:
        """SHA-256 over the index and over name, size and header of each file of features.

        A header holds the keys of the file's samples. Raises UserError for a file that cannot be read.
        """
        digest = hashlib.sha256(self.index.model_dump_json(exclude={"schema_version", "data_files"}).encode())
        for number in range(self.index.shards):
            file = shard_file(self.folder, number)
            _, samples = _opened_file(file)
            content = [file.name, file.stat().st_size, samples]
            digest.update(json.dumps(content, sort_keys=True).encode())
        return digest.hexdigest()

    def examples(self, *, start: int, rank: int, world_size: int) -> Iterator[Example]:
        """See the parent."""
        order = PositionSampler(self.length, start=start, rank=rank, world_size=world_size)
        for position in order:
            yield self._example(position)

    def _example(self, wanted: EpochPosition) -> Example:
        """The example at a position, or one drawn for it where its sample is to be left out."""
        position = (wanted.epoch * self.length + wanted.position) % self.index.positions
        stored, described = self._stored(position)
        skipped = [Skipped(key=key, reason=reason) for key, reason in described["skipped"]]
        draws = Draws(seed=self._seed, epoch=wanted.epoch, position=wanted.position)
        for attempt in range(MOST_ATTEMPTS):
            if described["key"] not in self._skip:
                break
            skipped.append(Skipped(key=described["key"], reason=LEFT_OUT))
            position = draws.below(self.index.positions, f"prepared substitute {attempt}")
            stored, described = self._stored(position)
        else:
            raise UserError(f"{self.folder}: none of {MOST_ATTEMPTS} samples tried may be used (data.skip)")
        return Example(
            key=described["key"],
            epoch=wanted.epoch,
            position=wanted.position,
            features=Features(
                latents_CFhw=stored.get_tensor(f"{position}/latents"),
                text_LD=stored.get_tensor(f"{position}/text"),
                references_CNhw=stored.get_tensor(f"{position}/references"),
                teachers=tuple(stored.get_tensor(f"{position}/teacher/{name}") for name in self._teachers),
            ),
            skipped=tuple(skipped),
        )

    def _stored(self, position: int) -> tuple[Any, dict[str, Any]]:
        """The open file that holds a position, and what it says of the position's sample."""
        file = shard_file(self.folder, position // POSITIONS_PER_SHARD)
        stored, samples = self._open(file)
        described: dict[str, Any] | None = samples.get(str(position))
        if described is None:
            raise UserError(f"{file} does not hold all its positions; run refbench prepare again")
        return stored, described


def _opened(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is damaged: {one_line(error, 160)}; remove it and prepare again") from None


def _opened_file(file: Path) -> tuple[Any, dict[str, Any]]:
    stored = _opened(file)
    try:
        samples = json.loads((stored.metadata() or {})["samples"])
    except (KeyError, ValueError):
        raise UserError(f"{file} names no samples; remove it and prepare again") from None
    return stored, samples
