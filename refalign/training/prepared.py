"""Training examples from prepared features, read ahead by a thread.

The example at a position is made of what `refbench prepare` kept: the clip's window, its references, its
text. Which condition is dropped is drawn here by the position, as it is where clips are encoded on the way,
so both give the same losses to the bit on the same machine. Beyond the prepared positions a run goes through
them again: windows and references repeat then; dropped conditions, noise and noise levels do not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch

from refbench.bench.errors import UserError
from refbench.bench.streams import read_ahead
from refbench.refalign.data.dataset import LEFT_OUT, MOST_ATTEMPTS, PositionSampler, TrainingData
from refbench.refalign.data.draws import Draws
from refbench.refalign.data.sample import Dropped, EpochPosition, Skipped
from refbench.refalign.training.batch import Example, Features
from refbench.refalign.training.encoder import joined_features
from refbench.refalign.training.examples import ExampleSource
from refbench.refalign.training.feature_store import (
    EMPTY_TEXT,
    FolderIndex,
    OrderIndex,
    OrderReader,
    frames_kind,
    frames_name,
    picture_name,
    read_folder_index,
    read_orders,
    stored_version,
    teacher_kind,
    text_name,
    tokens_name,
    video_name,
)
from refbench.refalign.training.features_by_position import FeaturesByPosition, read_index
from refbench.refalign.training.parts import all_teacher_names, frame_teacher_names, teacher_names
from refbench.refalign.training.prepare import (
    OTHER_FOLDER,
    check_settings,
    check_weights,
    common_settings,
    data_marks,
    is_order_of,
    order_settings,
    settings_by_position,
    weight_fingerprints,
)
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.stored_settings import SETTINGS_OF_BEFORE, flat_settings, in_stored_order

BY_POSITION = (1, 2, 3)
# Examples that are read before they are asked for: those of two calls of the network, and at least so many.
LEAST_AHEAD = 4
SAME_FOLDER = "prepare them again with this setting: the folder keeps both"


class StoredFeatures(Protocol):
    """Features of `positions` positions in a folder; `teacher_widths` of the teachers that a run needs,
    `frame_widths` of those of the clips' frames.
    """

    folder: Path
    positions: int
    teacher_widths: tuple[int, ...]
    frame_widths: tuple[int, ...]

    def digest(self, positions: int) -> str:
        """What the first so many positions are known by. Raises UserError for a file that cannot be read."""

    def described(self, position: int) -> tuple[str, tuple[Skipped, ...]]:
        """The key of a position's clip and what was skipped for it. Raises UserError."""

    def features(self, position: int, dropped: Dropped) -> Features:
        """The features of a position without what it drops. Raises UserError."""


class FeaturesByContent:
    """Features of one order, put together from their entries."""

    def __init__(
        self, folder: Path, index: FolderIndex, name: str, order: OrderIndex, config: TrainingConfig
    ) -> None:
        self.folder = folder
        self.positions = order.positions
        self._teachers = teacher_names(config)
        self._frame_teachers = frame_teacher_names(config)
        wanted = list(all_teacher_names(config))
        lacking = [each for each in wanted if each not in index.teacher_widths]
        if lacking:
            raise UserError(
                f"the features in {folder} were prepared with teachers={list(index.teacher_widths)}, not "
                f"{wanted}; run refbench prepare with these: it adds what is missing"
            )
        self.teacher_widths = tuple(index.teacher_widths[each] for each in self._teachers)
        self.frame_widths = tuple(index.teacher_widths[each] for each in self._frame_teachers)
        self._reader = OrderReader(folder, name, order, self._teachers, self._frame_teachers)
        self._patch = config.model.patch
        self._dtype = torch.bfloat16 if config.run.precision == "bfloat16" else torch.float32
        self._made_of = [
            index.settings,
            order.model_dump(mode="json", exclude={"schema_version", "positions"}),
        ]

    def digest(self, positions: int) -> str:
        """SHA-256 over settings and the digests of what was encoded for each position: the same however it is
        spread over files, and whatever else is in the folder.
        """
        digest = hashlib.sha256(json.dumps([*self._made_of, positions], sort_keys=True).encode())
        for entries in islice(self._reader.samples(), positions):
            digest.update(json.dumps(entries.to_json(), sort_keys=True).encode())
        return digest.hexdigest()

    def described(self, position: int) -> tuple[str, tuple[Skipped, ...]]:
        """See `StoredFeatures`."""
        entries = self._reader.sample(position)
        return entries.key, entries.skipped

    def features(self, position: int, dropped: Dropped) -> Features:
        """See `StoredFeatures`."""
        entries, reader = self._reader.sample(position), self._reader
        text = EMPTY_TEXT if dropped in ("text", "both") else entries.text
        pictures = () if dropped in ("references", "both") else entries.pictures
        frames = [
            reader.tensor(position, frames_name(name, entries.video), frames_kind(name))
            for name in self._frame_teachers
        ]
        features = joined_features(
            reader.tensor(position, video_name(entries.video)),
            reader.tensor(position, text_name(text)),
            [reader.tensor(position, picture_name(digest)) for digest in pictures],
            [
                [
                    reader.tensor(position, tokens_name(name, digest), teacher_kind(name))
                    for digest in pictures
                ]
                for name in self._teachers
            ],
            widths=self.teacher_widths,
            patch=self._patch,
            dtype=self._dtype,
        )
        return replace(features, frames=tuple(frames))


class PreparedSource(ExampleSource):
    """Examples from prepared features of either layout.

    `data`, where it is given, is compared with what the features were made of. `weights`, `data_files` (None
    where it was not recorded) and `first_sample` are the digests that the features know. Raises UserError for
    features of other settings, weights or data, and for files that are missing. Features from before
    `data.open_shards` are in the order of one shard after the other.
    """

    def __init__(
        self, folder: Path, config: TrainingConfig, *, weights: Path | None, data: TrainingData | None = None
    ) -> None:
        self.folder = folder
        self.data_files: str | None
        fingerprints = weight_fingerprints(config, weights)
        if stored_version(folder) in BY_POSITION:
            old = read_index(folder)
            if frame_teacher_names(config):
                raise UserError(f"the features in {folder} hold none of the clips' frames; {OTHER_FOLDER}")
            _check_by_position(folder, old.settings, config)
            check_weights(folder, old.weights, fingerprints)
            if data is not None and not _is_data_of(data, old.length, old.data_files, old.first_sample):
                raise _other_data(folder, OTHER_FOLDER)
            self.weights, self.length = dict(old.weights), old.length
            self.data_files, self.first_sample = old.data_files, old.first_sample
            self._stored: StoredFeatures = FeaturesByPosition(folder, old, teacher_names(config))
        else:
            index = read_folder_index(folder)
            check_settings(folder, index.settings, common_settings(config), OTHER_FOLDER)
            check_weights(folder, index.weights, fingerprints)
            name, order = _chosen_order(folder, config, data)
            used = all_teacher_names(config)
            self.weights = {
                each: digest
                for each, digest in index.weights.items()
                if each in used or each not in index.teacher_widths
            }
            self.length = order.length
            self.data_files, self.first_sample = order.data_files, order.first_sample
            self._stored = FeaturesByContent(folder, index, name, order, config)
        self.positions = self._stored.positions
        self.teacher_widths = self._stored.teacher_widths
        self.frame_widths = self._stored.frame_widths
        self._seed = config.run.seed
        self._dropout = config.data.dropout
        self._skip = frozenset(config.data.skip)
        self._ahead = max(LEAST_AHEAD, 2 * config.run.samples_per_call)

    def mark(self) -> list[object]:
        """What two processes that see the same features both find."""
        return [
            self.positions,
            self.length,
            self.first_sample,
            self.data_files,
            dict(sorted(self.weights.items())),
        ]

    def digest(self, positions: int | None = None) -> str:
        """What a run's record knows the features of the first so many positions (None: of all) by.

        Raises UserError for a file that cannot be read.
        """
        return self._stored.digest(self.positions if positions is None else positions)

    def examples(self, *, start: int, rank: int, world_size: int) -> Generator[Example, None, None]:
        """See the parent. A thread reads the next examples; closing this ends it."""
        order = PositionSampler(self.length, start=start, rank=rank, world_size=world_size)
        return self.timed(read_ahead(map(self._example, order), self._ahead))

    def _example(self, wanted: EpochPosition) -> Example:
        """The example at a position, or one drawn for it where its sample is to be left out."""
        position = (wanted.epoch * self.length + wanted.position) % self.positions
        key, found = self._stored.described(position)
        skipped = list(found)
        draws = Draws(seed=self._seed, epoch=wanted.epoch, position=wanted.position)
        for attempt in range(MOST_ATTEMPTS):
            if key not in self._skip:
                break
            skipped.append(Skipped(key=key, reason=LEFT_OUT))
            position = draws.below(self.positions, f"prepared substitute {attempt}")
            key, _ = self._stored.described(position)
        else:
            raise UserError(f"{self.folder}: none of {MOST_ATTEMPTS} samples tried may be used (data.skip)")
        return Example(
            key=key,
            epoch=wanted.epoch,
            position=wanted.position,
            features=self._stored.features(position, draws.dropped(self._dropout)).in_memory(),
            skipped=tuple(skipped),
        )


def stored_order(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The configuration in the order that a folder's features have (`in_stored_order`). Raises UserError."""
    if stored_version(folder) in BY_POSITION:
        return in_stored_order(config, read_index(folder).settings)
    read_folder_index(folder)
    return config


def _check_by_position(folder: Path, stored: dict[str, object], config: TrainingConfig) -> None:
    config = in_stored_order(config, stored)
    wanted = settings_by_position(config)
    if set(teacher_names(config)) <= set(stored.get("teachers", ())):  # type: ignore[call-overload]
        # A run without the alignment loss, or with fewer teachers, leaves the others unread.
        wanted["teachers"] = stored["teachers"]
    check_settings(folder, stored, wanted, OTHER_FOLDER)


def _chosen_order(folder: Path, config: TrainingConfig, data: TrainingData | None) -> tuple[str, OrderIndex]:
    """The order of a recipe and of the data, where they are given. Raises UserError where it is not there."""
    orders, settings = read_orders(folder), order_settings(config)
    alike = {name: order for name, order in orders.items() if is_order_of(order, settings, None)}
    if not alike:
        nearest = min(orders.values(), key=lambda order: _distance(order, settings), default=None)
        if nearest is None:
            raise UserError(f"{folder} holds no prepared features (no order); run refbench prepare")
        check_settings(folder, nearest.settings, settings, SAME_FOLDER)
    if data is not None:
        marks = data_marks(data)
        alike = {name: order for name, order in alike.items() if is_order_of(order, settings, marks)}
        if not alike:
            raise _other_data(folder, "prepare them again for these: the folder keeps both")
    if len(alike) > 1:
        raise UserError(
            f"{folder} holds features of {len(alike)} data sets for these settings; name one with --data"
        )
    return next(iter(alike.items()))


def _distance(order: OrderIndex, settings: dict[str, object]) -> int:
    """How many settings of an order differ."""
    before, now = flat_settings(order.settings), flat_settings(settings)
    return sum(
        before.get(name, SETTINGS_OF_BEFORE.get(name)) != now.get(name) for name in before.keys() | now.keys()
    )


def _is_data_of(data: TrainingData, length: int, data_files: str | None, first_sample: str) -> bool:
    """Whether features come from these data."""
    marks = data_marks(data)
    return marks[0] == length and marks[2] == first_sample and data_files in (None, marks[1])


def _other_data(folder: Path, advice: str) -> UserError:
    return UserError(f"the features in {folder} come from other data; {advice}")
