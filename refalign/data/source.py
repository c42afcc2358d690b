"""The interface of a training data set: shards of entries, each of which can be decoded to a clip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from refbench.bench.errors import UserError
from refbench.refalign.data.augmentation import ReferenceAugmentation
from refbench.refalign.data.draws import Draws
from refbench.refalign.data.sample import Clip, ClipRule, ClipSize

# RefAlign's trainer draws against 0.23; a comment beside it speaks of 30 %.
CROSS_PAIR_PROBABILITY = 0.23


@dataclass(frozen=True, kw_only=True)
class ReferenceRates:
    """How often, 0 to 1, a clip's references come from elsewhere, where the data set has something.

    `cross_pair`: from a linked clip. `gpt`: pictures drawn by GPT, which come first where both are drawn; the
    published rules name no probability for them, so they are off unless asked for. `augmentation` changes the
    references that come from the clip itself. Raises ValueError outside 0 … 1.
    """

    cross_pair: float = CROSS_PAIR_PROBABILITY
    gpt: float = 0.0
    augmentation: ReferenceAugmentation = field(default_factory=ReferenceAugmentation)

    def __post_init__(self) -> None:
        for name in ("cross_pair", "gpt"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a probability, {getattr(self, name)} is not")


@dataclass(frozen=True, kw_only=True)
class ClipOutline:
    """What is known of an entry before its pixels are read.

    `key` as in `Clip`; `first_frame`: the earliest that a window may start with, of `starts` in a row;
    `references`: how many of its own are taken; `own_references`: whether those are cut from the clip itself,
    and so augmented, or exchanged for a linked clip's.
    """

    key: str
    prompt: str
    first_frame: int
    starts: int
    references: int
    own_references: bool


class Shard(Protocol):
    """A part of a data set whose entries stand together, as those of one file.

    `name` is unique in the data set; `digest()` changes when the list of its entries does.
    """

    name: str

    def __len__(self) -> int: ...

    def digest(self) -> str: ...


class ClipSource(ABC):
    """A data set as shards of numbered entries; stateless, so that worker processes may hold copies.

    `path`: the file or folder, for messages.
    """

    path: Path
    shards: Sequence[Shard]

    @abstractmethod
    def name(self, shard: int, number: int) -> str:
        """The entry's name in messages, also where the entry cannot be read."""

    @abstractmethod
    def clip(self, shard: int, number: int, rule: ClipRule, rates: ReferenceRates, draws: Draws) -> Clip:
        """Decode an entry. Raises SampleError when it cannot be used."""

    def outline(self, shard: int, number: int, rule: ClipRule) -> ClipOutline | None:
        """What is known of an entry without decoding it, to say beforehand how much space its features take;
        None where the data set does not tell. Raises SampleError when it cannot be used.
        """
        return None

    def size(self, shard: int, number: int) -> ClipSize:
        """The size of an entry's clip, without decoding it. Raises SampleError when it cannot be used, and
        UserError for a data set that does not tell.
        """
        raise UserError(f"{self.path} does not tell the sizes of its clips, which data.buckets needs")
