"""Buckets: clips of several sizes and lengths, each cut to the nearest of some given ones.

    data.buckets=832x480x81,480x832x81,624x624x49

A clip goes to the bucket with the smallest distance |ln(aspect / bucket's aspect)| + ln(bucket's frames /
clip's frames), the second term only where the clip is too short to fill the bucket; of equal ones to the one
with more frames, then more pixels, then the first. A clip whose size cannot be read goes to the first one,
where a substitute takes its place as always.

All samples of an update share a bucket, whatever the number of processes and calls, so every process has as
much to do. The order without buckets is taken in windows of 8 updates. The clips of a window are dealt to
their buckets; each of its 8 updates gets a bucket, by systematic sampling over the clips, so that on average
a bucket has updates in proportion to its clips; the updates are shuffled, and each takes the next clips of
its bucket, from the first one again when all were taken. So a clip may come twice in a window, with other
frames and another noise, or not at all. With one bucket it is the order without buckets.

Everything follows from (data, seed, position): a window is planned by whoever needs a sample of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from refbench.bench.errors import SampleError
from refbench.refalign.data.dataset import TrainingData
from refbench.refalign.data.draws import Draws, permutation, uniform
from refbench.refalign.data.sample import ClipRule, ClipSize, TrainingSample

BUCKET = re.compile(r"(\d{1,5})x(\d{1,5})x(\d{1,5})")
UPDATES_IN_WINDOW = 8
HELD_WINDOWS = 2
HELD_SIZES = 65_536


def parse_bucket(text: str, clip: ClipRule) -> ClipRule:
    """The rule of a bucket `832x480x81` (width, height, frames), in all else that of `clip`.

    Raises ValueError.
    """
    match = BUCKET.fullmatch(text)
    if match is None:
        raise ValueError(f"a bucket is WIDTHxHEIGHTxFRAMES, 832x480x81 for instance, not {text!r}")
    width, height, frames = map(int, match.groups())
    return replace(clip, width=width, height=height, num_frames=frames)


def nearest_bucket(size: ClipSize, buckets: Sequence[ClipRule]) -> int:
    """The number of the bucket that a clip of this size goes to (see the file's docstring)."""

    def distance(number: int) -> tuple[float, int, int, int]:
        bucket = buckets[number]
        aspect = abs(math.log(size.width * bucket.height / (size.height * bucket.width)))
        length = max(math.log(bucket.num_frames / size.frames), 0.0)
        # Sums of logarithms that are equal on paper differ in their last bits.
        return round(aspect + length, 9), -bucket.num_frames, -bucket.width * bucket.height, number

    return min(range(len(buckets)), key=distance)


class BucketedData(TrainingData):
    """Training data whose samples are cut to `buckets`, `together` samples in a row (an update) to one."""

    def __init__(self, data: TrainingData, buckets: Sequence[ClipRule], *, together: int) -> None:
        self.seed = data.seed
        self.buckets = tuple(buckets)
        self.together = together
        self._data = data
        self._plans: dict[int, list[tuple[int, int]]] = {}
        self._nearest: dict[tuple[TrainingData, tuple[int, int]], int] = {}

    @property
    def path(self) -> str:
        """The files or folders, absolute, to be recorded."""
        return self._data.path

    def __len__(self) -> int:
        return len(self._data)

    def content_digest(self) -> str:
        """That of the clips, whatever they are cut to."""
        return self._data.content_digest()

    def sample(self, epoch: int, position: int) -> TrainingSample:
        """See the parent; a substitute is cut to the bucket of the clip in whose place it is."""
        number, bucket = self._dealt(epoch, position)
        owner, entry = self._placed_at(number)
        draws = Draws(seed=self.seed, epoch=epoch, position=position)
        return owner.drawn(entry, draws, self.buckets[bucket])

    def placed(self, epoch: int, position: int) -> tuple[TrainingData, tuple[int, int]]:
        """See the parent."""
        return self._placed_at(self._dealt(epoch, position)[0])

    def _dealt(self, epoch: int, position: int) -> tuple[int, int]:
        """Where the clip of a position stands in the order without buckets, and its bucket's number."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        window, within = divmod(epoch * len(self) + position, UPDATES_IN_WINDOW * self.together)
        return self._plan_of(window)[within]

    def _placed_at(self, number: int) -> tuple[TrainingData, tuple[int, int]]:
        return self._data.placed(number // len(self), number % len(self))

    def _plan_of(self, window: int) -> list[tuple[int, int]]:
        if window not in self._plans:
            while len(self._plans) >= HELD_WINDOWS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[window] = self._plan(window)
        return self._plans[window]

    def _plan(self, window: int) -> list[tuple[int, int]]:
        """Of each position in a window: where its clip stands in the order without buckets, counted over all
        epochs, and the bucket's number.
        """
        length = UPDATES_IN_WINDOW * self.together
        members: list[list[int]] = [[] for _ in self.buckets]
        for number in range(window * length, (window + 1) * length):
            owner, entry = self._placed_at(number)
            members[self._bucket_of(owner, entry)].append(number)
        key = f"{self.seed}/buckets {window}"
        points = (np.arange(UPDATES_IN_WINDOW) + uniform(key)) * self.together
        chosen = np.searchsorted(np.cumsum([len(each) for each in members]), points, side="right")
        taken = [0] * len(members)
        plan = []
        for bucket in chosen[permutation(UPDATES_IN_WINDOW, f"{key}/order")].tolist():
            own = members[bucket]
            for _ in range(self.together):
                plan.append((own[taken[bucket] % len(own)], bucket))
                taken[bucket] += 1
        return plan

    def _bucket_of(self, owner: TrainingData, entry: tuple[int, int]) -> int:
        if (owner, entry) not in self._nearest:
            while len(self._nearest) >= HELD_SIZES:
                self._nearest.pop(next(iter(self._nearest)))
            try:
                found = nearest_bucket(owner.source.size(*entry), self.buckets)
            except (SampleError, ValueError, ZeroDivisionError):
                # A size that cannot be read, or is none: decoding says what is wrong.
                found = 0
            self._nearest[owner, entry] = found
        return self._nearest[owner, entry]
