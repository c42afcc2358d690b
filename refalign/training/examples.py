"""Where training examples come from: clips that are encoded during training, or prepared features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from refbench.bench.errors import UserError
from refbench.refalign.data.dataset import PositionSampler, TrainingData
from refbench.refalign.data.sample import EpochPosition
from refbench.refalign.training.batch import Example
from refbench.refalign.training.encoder import FeatureEncoder


class ExampleSource(ABC):
    """Examples by position of the training order.

    `length` positions make an epoch; `teacher_widths` are the channels of each teacher's tokens.
    """

    length: int
    teacher_widths: tuple[int, ...]

    @abstractmethod
    def examples(self, *, start: int, rank: int, world_size: int) -> Iterator[Example]:
        """Endless examples of one process: those of the global positions p from `start` on with
        p % world_size == rank. Raises UserError when the data cannot be used.
        """


class EncodedSource(ExampleSource):
    """Clips decoded in `workers` processes and encoded in this one, `together` of them at a time: those of an
    update where encoders visit the device.
    """

    def __init__(
        self, data: TrainingData, encoder: FeatureEncoder, *, workers: int, together: int = 1
    ) -> None:
        self.length = len(data)
        self.teacher_widths = tuple(teacher.width for teacher in encoder.teachers.values())
        self._data = data
        self._encoder = encoder
        self._workers = workers
        self._together = together

    def examples(self, *, start: int, rank: int, world_size: int) -> Iterator[Example]:
        """See the parent."""
        order = PositionSampler(self.length, start=start, rank=rank, world_size=world_size)
        samples = guarded_items(self._data, order, self._workers)
        while several := list(islice(samples, self._together)):
            with self._encoder.at_work():
                encoded = [self._encoder.encode(sample) for sample in several]
            for sample, features in zip(several, encoded, strict=True):
                yield Example(
                    key=sample.clip.key,
                    epoch=sample.epoch,
                    position=sample.position,
                    features=features,
                    skipped=sample.skipped,
                )


@dataclass(frozen=True, kw_only=True)
class _Failure:
    text: str


class _Guarded(torch.utils.data.Dataset):
    """`items`, where a UserError is returned as a value: a loader's worker would turn it into a traceback."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __getitem__(self, position: EpochPosition) -> Any:
        try:
            return self._items[position]
        except UserError as error:
            return _Failure(text=str(error))


def guarded_items(items: Any, order: Iterable[EpochPosition], workers: int) -> Iterator[Any]:
    """`items[position]` for each position of `order`, made in `workers` processes (0: in this one).

    Raises UserError as the items do.
    """
    loader = torch.utils.data.DataLoader(
        _Guarded(items), sampler=order, batch_size=None, num_workers=workers, collate_fn=_as_it_is
    )
    for item in loader:
        if isinstance(item, _Failure):
            raise UserError(item.text)
        yield item


def _as_it_is(item: Any) -> Any:
    return item
