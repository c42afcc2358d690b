"""A scene: who is where, does what, in which light. Scenes are drawn at random for training, or composed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from refbench.mini.world.identity import Place, Split, Subject, Thing, person, random_place, thing
from refbench.mini.world.motion import PEOPLES_MOTIONS, THINGS_MOTIONS, Motion
from refbench.mini.world.people import Hat, Person, random_hat

Light = Literal["day", "sunset", "night"]
LIGHTS: tuple[Light, ...] = ("day", "sunset", "night")
# Half of all scenes are by day.
DRAWN_LIGHTS: tuple[Light, ...] = ("day", "day", "sunset", "night")
# How near the camera is: whole figures, from the hips, or head and shoulders.
Framing = Literal["full", "medium", "close"]
FRAMINGS: tuple[Framing, ...] = ("full", "medium", "close")
PROMPTED_HAT_RATE = 0.25
# How many people and things a training clip shows.
CASTS = ((1, 0), (1, 0), (0, 1), (1, 1), (1, 1), (2, 0), (0, 2), (2, 1), (0, 3))
# How many of a kind training draws from.
TRAINING_PEOPLE, TRAINING_THINGS = 2000, 600


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A subject in a scene.

    `across` is where it stands (0 left to 1 right), `height` its share of the frame's height. `hat` is worn
    although the references do not show it.
    """

    subject: Subject
    motion: Motion
    direction: int = 1
    across: float = 0.5
    height: float = 0.8
    hat: Hat | None = None

    @property
    def what(self) -> Person | Thing:
        """How it looks here, with the hat."""
        what = self.subject.what
        return replace(what, hat=self.hat) if isinstance(what, Person) and self.hat is not None else what


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that a clip shows.

    `pan` is how far the camera moves to the right over the clip, as a share of the frame's width; `seed`
    decides what nobody would name: the window on the place, the strength of the light.
    """

    actors: tuple[Actor, ...]
    place: Place
    light: Light = "day"
    framing: Framing = "full"
    pan: float = 0.0
    seed: int = 0


def compose(
    subjects: Sequence[Subject],
    split: Split,
    generator: random.Random,
    *,
    framing: Framing = "full",
    place: Place | None = None,
) -> Scene:
    """A scene of these one to three subjects, the first of them on the left; all else is drawn."""
    actors = []
    for number, subject in enumerate(subjects):
        slot = (number + 0.5) / len(subjects) if len(subjects) > 1 else 0.5
        spread = 0.04 if len(subjects) > 1 else 0.12
        is_thing = isinstance(subject.what, Thing)
        may_wear = isinstance(subject.what, Person) and subject.what.hat is None
        actors.append(
            Actor(
                subject=subject,
                motion=generator.choice(THINGS_MOTIONS if is_thing else PEOPLES_MOTIONS),
                direction=generator.choice((-1, 1)),
                across=slot + generator.uniform(-spread, spread),
                height=_height(is_thing, len(subjects), framing) * generator.uniform(0.92, 1.06),
                hat=random_hat(generator) if may_wear and generator.random() < PROMPTED_HAT_RATE else None,
            )
        )
    return Scene(
        actors=tuple(actors),
        place=random_place(split, generator) if place is None else place,
        light=generator.choice(DRAWN_LIGHTS),
        framing=framing,
        pan=generator.choice((0.0, 0.0, -0.15, 0.15)),
        seed=generator.randrange(2**31),
    )


def _height(is_thing: bool, count: int, framing: Framing) -> float:
    if is_thing:
        return {1: 0.6, 2: 0.44, 3: 0.34}[count]
    return {"full": 0.8 if count == 1 else 0.7, "medium": 0.95 if count > 1 else 1.1, "close": 1.5}[framing]


def random_subjects(split: Split, generator: random.Random) -> list[Subject]:
    """One to three subjects of a split, people and things mixed."""
    people, things = generator.choice(CASTS)
    subjects = [person(split, generator.randrange(TRAINING_PEOPLE)) for _ in range(people)]
    subjects += [thing(split, generator.randrange(TRAINING_THINGS)) for _ in range(things)]
    generator.shuffle(subjects)
    return subjects


def random_framing(subjects: Sequence[Subject], generator: random.Random) -> Framing:
    """How near the camera is to these subjects: close only to somebody alone, whole things always."""
    if all(isinstance(subject.what, Thing) for subject in subjects):
        return "full"
    return generator.choice(FRAMINGS if len(subjects) == 1 else FRAMINGS[:2])


def random_scene(split: Split, generator: random.Random) -> Scene:
    """A scene of one to three subjects of a split: what training sees."""
    subjects = random_subjects(split, generator)
    return compose(subjects, split, generator, framing=random_framing(subjects, generator))
