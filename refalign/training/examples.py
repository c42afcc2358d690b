"""Where training examples come from: clips that are encoded during training, or prepared features."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
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

    `length` positions make an epoch; `teacher_widths` are the channels of each teacher's tokens,
    `frame_widths` those of the teachers of the clip's frames.
    """

    length: int
    teacher_widths: tuple[int, ...]
    frame_widths: tuple[int, ...] = ()

    _waited_s = 0.0

    @abstractmethod
    def examples(self, *, start: int, rank: int, world_size: int) -> Generator[Example, None, None]:
        """Endless examples of one process: those of the global positions p from `start` on with
        p % world_size == rank. Closing the generator ends threads that read ahead. Raises UserError when the
        data cannot be used.
        """

    def take_waited(self) -> float:
        """Seconds spent waiting for examples since the last call; 0 for a source that does not count them."""
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s

    def timed(self, examples: Iterator[Example]) -> Generator[Example, None, None]:
        """The same examples; the time that each is waited for is counted for `take_waited`."""
        try:
            while True:
                started = time.perf_counter()
                example = next(examples, None)
                self._waited_s += time.perf_counter() - started
                if example is None:
                    return
                yield example
        finally:
            if isinstance(examples, Generator):
                examples.close()


class EncodedSource(ExampleSource):
    """Clips decoded in `workers` processes and encoded in this one, `together` of them at a time: those of an
    update where encoders visit the device.
    """

    def __init__(
        self, data: TrainingData, encoder: FeatureEncoder, *, workers: int, together: int = 1
    ) -> None:
        self.length = len(data)
        self.teacher_widths = tuple(teacher.width for teacher in encoder.teachers.values())
        self.frame_widths = tuple(teacher.width for teacher in encoder.frame_teachers.values())
        self._data = data
        self._encoder = encoder
        self._workers = workers
        self._together = together

    def examples(self, *, start: int, rank: int, world_size: int) -> Generator[Example, None, None]:
        """See the parent. Decoding and encoding in this process count as waiting."""
        order = PositionSampler(self.length, start=start, rank=rank, world_size=world_size)
        return self.timed(self._encoded(order))

    def _encoded(self, order: Iterable[EpochPosition]) -> Iterator[Example]:
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
