"""Who and what there is: numbered subjects, and which of them training may see.

A subject's *code* is what a person would name of it (hair style and colour, skin, glasses, shirt; shape,
colour and texture). Every code belongs to one split for ever, so training never meets a subject that agrees
with one of the benchmark or of the held-out ones in all of it, however many are drawn.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np

from refbench.mini.world.pen import Colour, channels
from refbench.mini.world.people import COLOURS, HAIR_COLOURS, SKINS, Person, random_hat, random_person
from refbench.mini.world.places import PLACES
from refbench.mini.world.things import SHAPES, Look, random_look

Split = Literal["training", "held-out", "benchmark"]
SPLITS: tuple[Split, ...] = ("training", "held-out", "benchmark")
# Of eight codes one is of the benchmark, one is held out to measure networks, six are for training.
CODE_SHARES = 8
HAT_RATE = 0.2
# Looks of a place, by number: those of the benchmark are in no training clip.
PLACE_NUMBERS: Mapping[Split, range] = {
    "training": range(6),
    "held-out": range(6, 8),
    "benchmark": range(8, 12),
}

Code = tuple[str | bool, ...]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A thing: what it is and how it looks."""

    shape: str
    look: Look

    def vector(self) -> np.ndarray:
        """Its appearance as numbers, float32 (17,)."""
        numbers = [
            *(float(self.shape == shape) for shape in SHAPES),
            *(channel / 255 for channel in channels(self.look.colour)),
            *(float(self.look.texture == kind) for kind in ("striped", "dotted", "checked")),
        ]
        return np.array(numbers, np.float32)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place in one of its looks."""

    name: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Somebody or something with an identity: `id` is unique, `label` the class label of references."""

    id: str
    what: Person | Thing

    @property
    def label(self) -> str:
        """`Man`, `Woman`, or the thing's word (`Ball`)."""
        if isinstance(self.what, Thing):
            return self.what.shape.capitalize()
        return "Woman" if self.what.woman else "Man"


# What a reference can show.
Shown = Subject | Place


def nearest(colour: Colour, palette: Mapping[str, Colour]) -> str:
    """The name of the palette's colour that is nearest to this one."""
    here = np.array(channels(colour))
    return min(palette, key=lambda name: float(np.square(here - channels(palette[name])).sum()))


def code_of(what: Person | Thing) -> Code:
    """What a person would name of a subject; the split follows from it."""
    if isinstance(what, Thing):
        return (what.shape, nearest(what.look.colour, COLOURS), what.look.texture)
    skin = nearest(what.skin, {str(number): colour for number, colour in enumerate(SKINS)})
    hair = "none" if what.hair_style == "bald" and not what.beard else nearest(what.hair, HAIR_COLOURS)
    shirt = nearest(what.top, COLOURS)
    return (what.woman, what.hair_style, hair, skin, what.glasses, what.beard, shirt, what.texture)


def split_of(what: Person | Thing) -> Split:
    """Where a subject may appear."""
    rest = zlib.crc32(repr(code_of(what)).encode()) % CODE_SHARES
    return "benchmark" if rest == 0 else "held-out" if rest == 1 else "training"


Kind = TypeVar("Kind", Person, Thing)


def _drawn(split: Split, generator: random.Random, draw: Callable[[random.Random], Kind]) -> Kind:
    while True:
        found = draw(generator)
        if split_of(found) == split:
            return found


@lru_cache(maxsize=8192)
def person(split: Split, number: int, woman: bool | None = None) -> Subject:
    """The person of that number: a man or a woman, drawn where it is not said."""
    generator = random.Random(f"person/{split}/{number}/{woman}")
    is_woman = generator.random() < 0.5 if woman is None else woman
    found = _drawn(split, generator, lambda drawn: random_person(drawn, woman=is_woman))
    if generator.random() < HAT_RATE:
        found = replace(found, hat=random_hat(generator))
    kind = "person" if woman is None else "woman" if woman else "man"
    return Subject(id=f"{split}/{kind}/{number}", what=found)


@lru_cache(maxsize=8192)
def thing(split: Split, number: int) -> Subject:
    """The thing of that number."""
    generator = random.Random(f"thing/{split}/{number}")
    return Subject(id=f"{split}/thing/{number}", what=_drawn(split, generator, _random_thing))


def _random_thing(generator: random.Random) -> Thing:
    return Thing(shape=generator.choice(tuple(SHAPES)), look=random_look(generator))


def random_place(split: Split, generator: random.Random) -> Place:
    """A place that this split may show."""
    numbers = PLACE_NUMBERS[split]
    return Place(name=generator.choice(tuple(PLACES)), number=generator.choice(numbers))
