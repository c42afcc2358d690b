"""The training order: which clip stands at which position of which epoch, and its draws.

An epoch goes through the shards in a drawn order, several at a time (`open_shards`): their entries are
shuffled together before the next ones come, so that reads stay within a few files and a run shorter than a
shard still meets several. With one shard at a time, or of one shard, it is the order of the versions before
`open_shards`. Several data sets are mixed by shares (`MixedData`).

Everything follows from (seed, epoch, position): any process may make any sample, two processes see together
what one sees, and a run resumes at the position where it stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch

from refbench.bench.errors import SampleError, UserError, one_line
from refbench.refalign.data.draws import Draws, permutation
from refbench.refalign.data.lines import LinesSource
from refbench.refalign.data.opens2v import OpenS2VSource
from refbench.refalign.data.registered import open_registered
from refbench.refalign.data.sample import (
    Clip,
    ClipRule,
    DropoutRates,
    EpochPosition,
    Skipped,
    TrainingSample,
)
from refbench.refalign.data.source import ClipSource, ReferenceRates

# With 64 attempts on a data set with one usable clip in ten, one position in 850 fails.
MOST_ATTEMPTS = 64
SHOWN_REASONS = 3
# An order is 8 bytes an entry: of the shards, of the open ones, and of those next to them.
HELD_ORDERS = 3
OPEN_SHARDS = 16
MOST_SHARES = 10_000
LEFT_OUT = "left out by data.skip"


class TrainingData(torch.utils.data.Dataset):
    """Samples by position of an epoch's order; map-style, for a `DataLoader` with `batch_size=None` and a
    `PositionSampler`.

    `sample(epoch, position)` is a function of its arguments, the seed and the data. An entry that cannot be
    used is replaced by others drawn for that position, and the sample names it in `skipped`; so is a clip
    whose key is in `skip`. Raises UserError for a data set without entries.
    """

    def __init__(
        self,
        source: ClipSource,
        rule: ClipRule,
        *,
        seed: int,
        rates: ReferenceRates = ReferenceRates(),  # noqa: B008 - frozen
        dropout: DropoutRates = DropoutRates(),  # noqa: B008 - frozen
        skip: Collection[str] = (),
        open_shards: int = OPEN_SHARDS,
    ) -> None:
        self.source = source
        self.rule = rule
        self.seed = seed
        self.rates = rates
        self.dropout = dropout
        self.skip = frozenset(skip)
        self.open_shards = open_shards
        self._sizes = np.array([len(shard) for shard in source.shards], np.int64)
        if self._sizes.sum() == 0:
            raise UserError(f"{source.path} holds no training sample")
        self._ends = np.cumsum(self._sizes)
        self._orders: dict[str, np.ndarray] = {}
        self._groups: tuple[int, list[np.ndarray], np.ndarray] | None = None

    @property
    def path(self) -> str:
        """The file or folder, absolute, to be recorded."""
        return str(self.source.path.resolve())

    def __len__(self) -> int:
        return int(self._sizes.sum())

    def __getitem__(self, index: EpochPosition) -> TrainingSample:
        return self.sample(index.epoch, index.position)

    def sample(self, epoch: int, position: int) -> TrainingSample:
        """The sample at that position (0 … len-1) of that epoch.

        Raises UserError when neither its entry nor one of up to 63 substitutes can be used: of a data set of
        up to 64 entries, when none can.
        """
        one, entry = self.placed(epoch, position)
        return one.drawn(entry, Draws(seed=self.seed, epoch=epoch, position=position))

    def first_clip(self) -> Clip:
        """The clip at the first position, whatever a run leaves out: what data are known by. Raises
        UserError as `sample`.
        """
        one, entry = self.placed(0, 0)
        whole = copy(one)
        whole.skip = frozenset()
        return whole.drawn(entry, Draws(seed=self.seed, epoch=0, position=0)).clip

    def placed(self, epoch: int, position: int) -> tuple[TrainingData, tuple[int, int]]:
        """The data set that gives a position's sample (of a mixture one of several), and the entry's shard
        and number in it. Raises IndexError for a position that is none.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        return self, self._entry_at(epoch, position)

    def entry_at(self, number: int) -> tuple[int, int]:
        """Shard and number of the entry that is `number`-th (from 0) of all epochs, one after the other."""
        return self._entry_at(number // len(self), number % len(self))

    def drawn(self, entry: tuple[int, int], draws: Draws, rule: ClipRule | None = None) -> TrainingSample:
        """The sample of an entry, or of one of its substitutes, at the position of `draws`, cut by `rule`
        (None: the data set's).

        Raises UserError as `sample` does.
        """
        skipped: list[Skipped] = []
        for shard, number in self._candidates(entry, draws):
            try:
                clip = self.source.clip(shard, number, rule or self.rule, self.rates, draws)
            except SampleError as error:
                name = self.source.name(shard, number)
                skipped.append(Skipped(key=name, reason=one_line(error)))
                continue
            if clip.key in self.skip:
                skipped.append(Skipped(key=clip.key, reason=LEFT_OUT))
                continue
            return TrainingSample(
                clip=clip,
                epoch=draws.epoch,
                position=draws.position,
                dropped=draws.dropped(self.dropout),
                skipped=(*skipped, *clip.replaced),
            )
        reasons = "; ".join(f"{fault.key}: {fault.reason}" for fault in skipped[:SHOWN_REASONS])
        tried = f"none of {len(skipped)} samples tried can be used"
        raise UserError(f"{self.source.path}: {tried} ({one_line(reasons, 600)})")

    def content_digest(self) -> str:
        """The SHA-256 of the lists of clips: names and content of the shards (`AnnotationShard.digest`)."""
        lines = "".join(f"{shard.name} {shard.digest()}\n" for shard in self.source.shards)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()

    def _candidates(self, own: tuple[int, int], draws: Draws) -> Iterator[tuple[int, int]]:
        """The entry itself, then its substitutes; of a small data set each other entry once."""
        yield own
        total = len(self)
        if total <= MOST_ATTEMPTS:
            others = map(self._split, draws.permutation(total, "substitutes").tolist())
            yield from (other for other in others if other != own)
            return
        for attempt in range(1, MOST_ATTEMPTS):
            yield self._split(draws.below(total, f"substitute {attempt}"))

    def _split(self, entry: int) -> tuple[int, int]:
        """Shard and number of the entry that is `entry`-th in the files' order."""
        shard = int(np.searchsorted(self._ends, entry, side="right"))
        return shard, entry - int(self._ends[shard] - self._sizes[shard])

    def _entry_at(self, epoch: int, position: int) -> tuple[int, int]:
        groups, ends = self._open_together(epoch)
        rank = int(np.searchsorted(ends, position, side="right"))
        shards = groups[rank]
        sizes = self._sizes[shards]
        within = position - int(ends[rank] - sizes.sum())
        name = f"shard {self.source.shards[shards[0]].name}" if len(shards) == 1 else f"open shards {rank}"
        entry = int(self._order(int(sizes.sum()), f"{self.seed}/{epoch}/{name}")[within])
        inside = np.cumsum(sizes)
        which = int(np.searchsorted(inside, entry, side="right"))
        return int(shards[which]), entry - int(inside[which] - sizes[which])

    def _open_together(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The shards of an epoch that are open together, and the position after the last of each group."""
        if self._groups is None or self._groups[0] != epoch:
            order = self._order(len(self._sizes), f"{self.seed}/{epoch}/shards")
            groups = np.array_split(order, math.ceil(len(order) / self.open_shards))
            self._groups = epoch, groups, np.cumsum([self._sizes[group].sum() for group in groups])
        return self._groups[1:]

    def _order(self, count: int, key: str) -> np.ndarray:
        if key not in self._orders:
            while len(self._orders) >= HELD_ORDERS:
                self._orders.pop(next(iter(self._orders)))
            self._orders[key] = permutation(count, key)
        return self._orders[key]


class MixedData(TrainingData):
    """Several data sets in one order: of every `sum(shares)` positions in a row, `shares[k]` are of set k.

    Each set goes through epochs of its own; an epoch of the mixture has as many positions as all sets hold
    together. Raises UserError for other than one positive share a set.
    """

    def __init__(self, sets: Sequence[TrainingData], shares: Sequence[int]) -> None:
        if len(sets) < len(shares):
            mixture = ",".join(map(str, shares))
            raise UserError(
                f"data.mixture={mixture} is for {len(shares)} data sets and {len(sets)} is given: give the "
                "others with --data, or data.mixture= to leave it out"
            )
        if len(shares) != len(sets):
            raise UserError(
                f"{len(sets)} data sets need a share each, data.mixture=3,1 for instance, not {len(shares)}"
            )
        if min(shares) < 1 or sum(shares) > MOST_SHARES:
            raise UserError(f"data.mixture takes whole numbers from 1 on, at most {MOST_SHARES} together")
        self.sets = tuple(sets)
        self.shares = tuple(shares)
        self.seed = sets[0].seed
        self._order_of_sets = np.repeat(np.arange(len(sets)), shares)

    @property
    def path(self) -> str:
        """The files or folders, absolute, to be recorded."""
        return ", ".join(one.path for one in self.sets)

    def __len__(self) -> int:
        return sum(len(one) for one in self.sets)

    def placed(self, epoch: int, position: int) -> tuple[TrainingData, tuple[int, int]]:
        """See the parent; a substitute is of the same data set."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        block, within = divmod(epoch * len(self) + position, len(self._order_of_sets))
        order = self._order_of_sets[permutation(len(self._order_of_sets), f"{self.seed}/mixture {block}")]
        which = int(order[within])
        number = block * self.shares[which] + int((order[:within] == which).sum())
        return self.sets[which], self.sets[which].entry_at(number)

    def content_digest(self) -> str:
        """The SHA-256 of the digests of the data sets, in their order."""
        return hashlib.sha256("".join(one.content_digest() for one in self.sets).encode()).hexdigest()


class PositionSampler(torch.utils.data.Sampler):
    """Endless positions of one process: of the global positions start, start + 1, …, those p with
    p % world_size == rank. Global position p is position p % length of epoch p // length.

    `start` is the number of positions that all processes have consumed together. Raises ValueError for an
    empty length, a negative start and a rank outside the world.
    """

    def __init__(self, length: int, *, start: int, rank: int, world_size: int) -> None:
        if length < 1 or start < 0 or not 0 <= rank < world_size:
            raise ValueError(f"no position for length {length}, start {start}, rank {rank} of {world_size}")
        self.length = length
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[EpochPosition]:
        first = self.start + (self.rank - self.start) % self.world_size
        for position in itertools.count(first, self.world_size):
            yield EpochPosition(epoch=position // self.length, position=position % self.length)


def open_source(path: Path, cache: Path | None) -> ClipSource:
    """Open a folder in OpenS2V-5M's layout, a `.jsonl` file, a folder of such files, or `NAME:PATH` of a
    plugin's data source.

    `cache` keeps the index of the shards; None makes it in memory, in every process. A file that is named
    itself may hold absolute paths. Raises UserError.
    """
    registered = open_registered(path, cache)
    if registered is not None:
        return registered
    if path.is_file():
        if path.suffix != ".jsonl":
            raise UserError(f"{path} is no .jsonl file and no folder in OpenS2V-5M's layout")
        return LinesSource(path, [path], cache, absolute=True)
    if not path.is_dir():
        raise UserError(f"the training data {path} does not exist")
    if (path / "annotations").is_dir():
        return OpenS2VSource(path, cache)
    files = sorted(path.glob("*.jsonl"))
    if not files:
        raise UserError(f"{path} holds neither annotations/*.json (OpenS2V-5M's layout) nor *.jsonl files")
    return LinesSource(path, files, cache)


def open_training_data(
    path: Path,
    rule: ClipRule,
    *,
    seed: int,
    cache: Path | None,
    rates: ReferenceRates = ReferenceRates(),  # noqa: B008 - frozen
    dropout: DropoutRates = DropoutRates(),  # noqa: B008 - frozen
    skip: Collection[str] = (),
    open_shards: int = OPEN_SHARDS,
) -> TrainingData:
    """Open training data (see `open_source`) and make its first sample, so that unusable data is found here.

    Nothing is written but the index, into `cache`. Raises UserError where there is no data, or none that
    can be used.
    """
    data = TrainingData(
        open_source(path, cache),
        rule,
        seed=seed,
        rates=rates,
        dropout=dropout,
        skip=skip,
        open_shards=open_shards,
    )
    data.sample(0, 0)
    return data
