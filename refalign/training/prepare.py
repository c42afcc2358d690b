"""Preparing features: the frozen networks' output, computed once and kept on disk (`feature_store`).

Frame window and references follow from (seed, epoch, position); what is encoded of them is kept by its
content, so that a position takes only what no other one has. An interrupted preparation goes on with the
files that are missing, more positions and other teachers, seeds or data sets are added to what is there, and
only what is new is encoded. Files are shared out over processes by number; two processes that meet the same
thing at the same time both encode it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from refbench.bench.errors import MissingWeights, UserError, one_line, system_reason
from refbench.bench.files import replacing, write_json
from refbench.bench.weights.catalogue import get_entry
from refbench.bench.weights.checkpoint import write_tensors
from refbench.bench.weights.store import require, require_model_folder, weights_fingerprint
from refbench.refalign.data.dataset import TrainingData
from refbench.refalign.data.sample import EpochPosition, TrainingSample
from refbench.refalign.teacher import get_teacher_spec
from refbench.refalign.training.encoder import FeatureEncoder
from refbench.refalign.training.examples import guarded_items
from refbench.refalign.training.feature_store import (
    EMPTY_TEXT,
    FEATURES,
    INDEX,
    ORDER,
    FeatureFile,
    FolderIndex,
    KnownEntries,
    OrderIndex,
    SampleEntries,
    file_name,
    frames_kind,
    frames_name,
    picture_name,
    read_folder_index,
    read_orders,
    teacher_kind,
    text_name,
    tokens_name,
    video_name,
)
from refbench.refalign.training.parts import all_teacher_names, teacher_names
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.stored_settings import SETTINGS_OF_BEFORE, flat_settings

ENCODERS = ("text_encoder", "vae")
# What a line advises where features cannot be added to those that are there.
OTHER_FOLDER = "prepare them again in another folder"


def common_settings(config: TrainingConfig) -> dict[str, Any]:
    """The part of a configuration that all features of a folder have in common."""
    return {
        "base": config.model.base,
        "model.patch": config.model.patch,
        "precision": config.run.precision,
    }


def order_settings(config: TrainingConfig) -> dict[str, Any]:
    """The part of a configuration that says which features stand at a position."""
    data = dict(config.plain()["data"])
    for name in ("workers", "skip", "dropout"):
        del data[name]
    return {"data": data, "seed": config.run.seed}


def settings_by_position(config: TrainingConfig) -> dict[str, Any]:
    """The part of a configuration that features by position depend on (`features_by_position`)."""
    dropout = config.plain()["data"]["dropout"]
    own = order_settings(config)
    return {
        **own,
        "data": own["data"] | {"dropout": dropout},
        "teachers": list(teacher_names(config)),
        **common_settings(config),
    }


def weight_fingerprints(config: TrainingConfig, weights: Path | None) -> dict[str, str]:
    """Digests by name of the frozen networks (text encoder, VAE, teachers) whose files are on disk; of a
    teacher from a plugin the code's belongs to it.
    """
    find_folder: dict[str, Callable[[], Path]] = {
        part: lambda part=part: require(get_entry(config.model.base), weights) / part  # type: ignore[misc]
        for part in ENCODERS
    }
    for name in all_teacher_names(config):
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
        code = None if name in ENCODERS else get_teacher_spec(name).code_digest()
        if files and code is not None:
            found[name] += f"+{code}"
    return found


def sample_digest(data: TrainingData) -> str:
    """The SHA-256 of the first position's clip: key, first frame, prompt and pixels.

    A run that leaves the clip out has the same.
    """
    clip = data.first_clip()
    digest = hashlib.sha256(f"{clip.key}\n{clip.first_frame}\n{clip.prompt}\n".encode())
    digest.update(clip.video_FHWC.tobytes())
    digest.update(clip.references_NHWC.tobytes())
    return digest.hexdigest()


def differing_setting(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting, by name, that differs: (name, stored value, wanted value)."""
    now = flat_settings(wanted)
    earlier = {name: value for name, value in SETTINGS_OF_BEFORE.items() if name in now}
    before = earlier | flat_settings(stored)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return name, before.get(name), now.get(name)
    return None


def check_settings(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any], advice: str) -> None:
    """Raises UserError for features of other settings; `advice` says what to do."""
    differing = differing_setting(stored, wanted)
    if differing is not None:
        name, before, now = differing
        raise UserError(
            f"the features in {folder} were prepared with {name}={one_line(before, 60)}, not "
            f"{one_line(now, 60)}; {advice}"
        )


def check_weights(folder: Path, stored: Mapping[str, str], weights: Mapping[str, str]) -> None:
    """Raises UserError for features of other frozen networks; what only one side knows is not compared."""
    for name in sorted(stored.keys() & weights.keys()):
        if stored[name] != weights[name]:
            raise UserError(f"the features in {folder} come from other weights of {name}; {OTHER_FOLDER}")


def folder_index(
    config: TrainingConfig, folder: Path, weights: Path | None, widths: Mapping[str, int]
) -> FolderIndex:
    """The index of a folder to prepare in, with what is there and what a recipe adds.

    `widths`: the channels of the recipe's teachers. Raises UserError for a folder of other settings or
    weights.
    """
    index = FolderIndex(
        settings=common_settings(config),
        weights=weight_fingerprints(config, weights),
        teacher_widths=dict(widths),
    )
    if not (folder / INDEX).exists():
        return index
    stored = read_folder_index(folder)
    check_settings(folder, stored.settings, index.settings, OTHER_FOLDER)
    check_weights(folder, stored.weights, index.weights)
    return stored.model_copy(
        update={
            "weights": stored.weights | index.weights,
            "teacher_widths": stored.teacher_widths | index.teacher_widths,
        }
    )


def order_index(
    config: TrainingConfig, data: TrainingData, folder: Path, *, positions: int
) -> tuple[str, OrderIndex]:
    """The folder of a recipe's order within `folder`, whether it is there or not, and its index, of at least
    `positions` positions.
    """
    marks = length, data_files, first_sample = data_marks(data)
    wanted = OrderIndex(
        settings=order_settings(config),
        data_files=data_files,
        first_sample=first_sample,
        length=length,
        positions=positions,
    )
    for name, stored in read_orders(folder).items():
        if is_order_of(stored, wanted.settings, marks):
            return name, stored.model_copy(update={"positions": max(stored.positions, positions)})
    return wanted.folder_name(), wanted


def data_marks(data: TrainingData) -> tuple[int, str, str]:
    """What data are known by: length, the digest of the lists of clips, that of the first clip."""
    return len(data), data.content_digest(), sample_digest(data)


def is_order_of(order: OrderIndex, settings: Mapping[str, Any], marks: tuple[int, str, str] | None) -> bool:
    """Whether an order is that of some settings and, unless None, data (`data_marks`)."""
    if differing_setting(order.settings, settings) is not None:
        return False
    return marks in (None, (order.length, order.data_files, order.first_sample))


def prepare_features(
    config: TrainingConfig,
    data: TrainingData,
    encoder: FeatureEncoder,
    folder: Path,
    *,
    positions: int,
    weights: Path | None,
    rank: int = 0,
    world_size: int = 1,
    on_file: Callable[[int, int], None] | None = None,
) -> OrderIndex:
    """Write what the first `positions` positions of a recipe's order need and the folder does not hold.

    `on_file` is called with (files done, files in all) of this process. Raises UserError for a folder with
    features of other settings or weights, and for a disk that is full.
    """
    every = encoder.teachers | encoder.frame_teachers
    widths = {name: teacher.width for name, teacher in every.items()}
    index = folder_index(config, folder, weights, widths)
    name, order = order_index(config, data, folder, positions=positions)
    with _told(folder):
        if rank == 0:
            _write_index(folder / INDEX, index)
            _write_index(folder / name / ORDER, order)
        writer = _Writer(config, data, encoder, folder, name, order)
    mine = [number for number in range(rank, order.files, world_size) if writer.lacking(number)]
    for done, number in enumerate(mine, start=1):
        with _told(folder / name / file_name(FEATURES, number)):
            writer.write(number)
        if on_file is not None:
            on_file(done, len(mine))
    return order


def _write_index(path: Path, index: FolderIndex | OrderIndex) -> None:
    write_json(path, index.model_dump(mode="json"))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Inside the block what cannot be written, a full disk for instance, is a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {system_reason(error)}; the same command goes on from there"
        ) from None


class _Writer:
    """Writes the files of one order."""

    def __init__(
        self,
        config: TrainingConfig,
        data: TrainingData,
        encoder: FeatureEncoder,
        folder: Path,
        name: str,
        order: OrderIndex,
    ) -> None:
        self.data = data
        self.encoder = encoder
        self.folder = folder
        self.name = name
        self.order = order
        self.workers = config.data.workers
        self.known = KnownEntries(folder)
        self.known.refresh()

    def lacking(self, number: int) -> list[str]:
        """The kinds of files with that number that are missing or not whole: the last one grows."""
        encoder = self.encoder
        kinds = (FEATURES, *map(teacher_kind, encoder.teachers), *map(frames_kind, encoder.frame_teachers))
        return [kind for kind in kinds if not self._is_whole(kind, number)]

    def _of_kinds(self, entries: SampleEntries) -> dict[str, tuple[str, ...]]:
        """The names of a sample's entries in the teachers' files, by the kind of these."""
        encoder = self.encoder
        of_pictures = {teacher_kind(name): entries.teacher_names(name) for name in encoder.teachers}
        of_frames = {
            frames_kind(name): (frames_name(name, entries.video),) for name in encoder.frame_teachers
        }
        return of_pictures | of_frames

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / self.name / file_name(kind, number)

    def _is_whole(self, kind: str, number: int) -> bool:
        """Whether a file has all its positions, and what it takes from others is there."""
        path = self._path(kind, number)
        if not path.is_file():
            return False
        file = FeatureFile(path)
        return file.positions == len(self.order.positions_of(number)) and all(
            self.known.holds(relative, name) for name, relative in file.elsewhere.items()
        )

    def write(self, number: int) -> None:
        """Encode what the files with that number lack, and write them. Raises UserError and OSError."""
        self.known.refresh()
        path = self._path(FEATURES, number)
        samples = FeatureFile(path).samples if path.is_file() else {}
        new: dict[str, torch.Tensor] = {}
        todo = [each for each in self.order.positions_of(number) if not self._is_known(samples.get(each))]
        length = self.order.length
        order = [EpochPosition(epoch=each // length, position=each % length) for each in todo]
        for position, sample in zip(todo, guarded_items(self.data, order, self.workers), strict=True):
            entries = SampleEntries.of(sample)
            stored = samples.setdefault(position, entries)
            if replace(stored, skipped=()) != replace(entries, skipped=()):
                raise UserError(
                    f"{path} was prepared from other pixels of {one_line(entries.key, 160)}; prepare "
                    "the features again in another folder"
                )
            self._encode(sample, entries, new)
        for kind in self.lacking(number):
            self._write_file(kind, number, samples, new)

    def _is_known(self, entries: SampleEntries | None) -> bool:
        """Whether a position needs no decoding: all that it takes is there."""
        return entries is not None and all(name in self.known for name in self._names(entries))

    def _names(self, entries: SampleEntries) -> tuple[str, ...]:
        of_teachers = self._of_kinds(entries).values()
        return (*entries.names, *(name for names in of_teachers for name in names))

    def _encode(self, sample: TrainingSample, entries: SampleEntries, new: dict[str, torch.Tensor]) -> None:
        """Add a sample's entries that are neither known nor among the new ones."""

        def add(name: str, encode: Callable[[], torch.Tensor]) -> None:
            if name not in self.known and name not in new:
                new[name] = encode()

        clip, encoder = sample.clip, self.encoder
        add(video_name(entries.video), lambda: encoder.latents(clip.video_FHWC))
        for name in encoder.frame_teachers:
            add(
                frames_name(name, entries.video),
                lambda name=name: encoder.frame_tokens(name, clip.video_FHWC),  # type: ignore[misc]
            )
        add(text_name(entries.text), lambda: encoder.text(clip.prompt))
        add(text_name(EMPTY_TEXT), lambda: encoder.text(""))
        for digest, picture_HWC in zip(entries.pictures, clip.references_NHWC, strict=True):
            add(picture_name(digest), lambda picture=picture_HWC: encoder.latents(picture[None]))  # type: ignore[misc]
            for name in encoder.teachers:
                add(
                    tokens_name(name, digest),
                    lambda name=name, picture=picture_HWC: encoder.teacher_tokens(name, picture),  # type: ignore[misc]
                )

    def _write_file(
        self, kind: str, number: int, samples: Mapping[int, SampleEntries], new: Mapping[str, torch.Tensor]
    ) -> None:
        """Write a file: what it held, what is new, and where the rest is."""
        path = self._path(kind, number)
        relative = path.relative_to(self.folder).as_posix()
        if kind == FEATURES:
            needed = {name for entries in samples.values() for name in entries.names}
            described = {str(position): samples[position].to_json() for position in sorted(samples)}
        else:
            needed = {name for each in samples.values() for name in self._of_kinds(each)[kind]}
            described = {}
        held = FeatureFile(path) if path.is_file() else None
        # Other files may take from this one, so that it keeps what it has.
        tensors = {} if held is None else {name: held.tensor(name) for name in sorted(held.names)}
        tensors |= {name: new[name] for name in sorted(needed & new.keys())}
        elsewhere = {name: self.known.files[name] for name in sorted(needed - tensors.keys())}
        notes = {
            "positions": json.dumps(len(samples)),
            "samples": json.dumps(described),
            "elsewhere": json.dumps(elsewhere),
        }
        with replacing(path) as partial:
            write_tensors(partial, tensors, notes)
        self.known.add(relative, tensors)
