"""What NexusScore's detector is asked of a frame: references of what it shows, and of what it does not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from refbench.mini.world import SIZE_PX
from refbench.mini.world.identity import Place, Shown, Split, Subject, code_of, person, random_place, thing
from refbench.mini.world.render import ActorLabels, Rendering, place_reference, reference_picture
from refbench.mini.world.scene import TRAINING_PEOPLE, TRAINING_THINGS

PAIRS_OF_FRAME = 3
PLACE_RATE, ALIKE_RATE, TRIES = 0.15, 0.5, 200
# A subject of which less is seen, or fewer pixels, may be found or not.
LEAST_SEEN, LEAST_PIXELS = 0.35, 40

Kind = TypeVar("Kind", Subject, Place)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A reference that a frame is asked for: the box (4,) in the frame's pixels, or None where it is not
    seen; `doubtful`: it is seen so little that any answer will do.
    """

    shown: Shown
    box_4: np.ndarray | None
    doubtful: bool = False


def questions_of(
    rendering: Rendering, frames: list[int], split: Split, generator: random.Random
) -> list[list[Question]]:
    """The questions to each of these frames: one or two about what the clip shows, the others about subjects
    or places that it does not show, half of them alike.
    """
    scene = rendering.scene
    labels = generator.sample(rendering.labels, min(len(rendering.labels), PAIRS_OF_FRAME - 1))
    absent = [absent_reference(rendering, split, generator) for _ in range(PAIRS_OF_FRAME - len(labels))]
    place = scene.place if generator.random() < PLACE_RATE else None
    found = []
    for frame in frames:
        of_frame = [question_about(one, frame) for one in labels]
        of_frame += [Question(shown=one, box_4=None) for one in absent]
        if place is not None:
            of_frame[-1] = question_about_place(place)
        found.append(of_frame)
    return found


def question_about(labels: ActorLabels, frame: int) -> Question:
    """The question about a subject of the clip in one of its frames."""
    pixels = int(labels.mask_FHW[frame].sum())
    box_4 = labels.box_FK[frame]
    doubtful = pixels < LEAST_PIXELS or pixels < LEAST_SEEN * labels.whole_px
    seen = None if np.isnan(box_4).any() else box_4
    return Question(shown=labels.actor.subject, box_4=seen, doubtful=doubtful)


def question_about_place(place: Place) -> Question:
    """The question about the place of a frame, which fills it."""
    return Question(shown=place, box_4=np.array([0, 0, SIZE_PX, SIZE_PX], float))


def absent_reference(rendering: Rendering, split: Split, generator: random.Random) -> Shown:
    """A subject that the clip does not show, often of the kind of one that it shows; or another place."""
    scene = rendering.scene
    if generator.random() < PLACE_RATE:
        return _drawn(lambda: random_place(split, generator), lambda one: one.name != scene.place.name)
    present = {code_of(actor.subject.what) for actor in scene.actors}
    like = generator.choice(scene.actors).subject if generator.random() < ALIKE_RATE else None
    for _ in range(TRIES):
        found = another(split, generator)
        alike = like is None or found.label == like.label
        if alike and code_of(found.what) not in present:
            return found
    # A small split may have a single look of a thing.
    return _drawn(lambda: another(split, generator), lambda one: code_of(one.what) not in present)


def another(split: Split, generator: random.Random) -> Subject:
    """Any subject."""
    if generator.random() < 0.5:
        return person(split, generator.randrange(TRAINING_PEOPLE))
    return thing(split, generator.randrange(TRAINING_THINGS))


def _drawn(draw: Callable[[], Kind], fits: Callable[[Kind], bool]) -> Kind:
    while True:
        found = draw()
        if fits(found):
            return found


def reference_of(shown: Shown) -> np.ndarray:
    """The reference picture: a whole figure, a thing, or a place."""
    return place_reference(shown) if isinstance(shown, Place) else reference_picture(shown)
