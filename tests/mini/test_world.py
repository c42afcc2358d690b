"""The drawn world: the same seeds give the same pixels, nobody is in two splits, labels agree with pixels."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from refbench.mini.world import NUM_FRAMES, SIZE_PX
from refbench.mini.world.degrade import DEGRADATIONS, pasted
from refbench.mini.world.identity import (
    PLACE_NUMBERS,
    SPLITS,
    Place,
    Split,
    Subject,
    Thing,
    code_of,
    nearest,
    person,
    split_of,
    thing,
)
from refbench.mini.world.motion import DIRECTED, PEOPLES_MOTIONS, THINGS_MOTIONS
from refbench.mini.world.pen import channels
from refbench.mini.world.people import COLOURS, HAIR_COLOURS, Person, jittered
from refbench.mini.world.prompts import LIGHT_WORDS, MOTION_WORDS, PLACE_WORDS, prompt_of
from refbench.mini.world.render import reference_picture, render
from refbench.mini.world.scene import LIGHTS, Actor, Scene, random_scene
from refbench.mini.world.things import SHAPES

PARK = Place(name="park", number=0)


def scenes(count: int, split: Split = "training") -> list[Scene]:
    return [random_scene(split, random.Random(seed)) for seed in range(count)]


def alone(subject: Subject, **fields: object) -> Scene:
    actor = replace(Actor(subject=subject, motion="stand"), **fields)  # type: ignore[arg-type]
    return Scene(actors=(actor,), place=PARK)


def test_the_same_scene_gives_the_same_bytes_and_another_seed_others() -> None:
    for scene in scenes(6):
        first = render(scene).video_FHWC
        assert first.shape == (NUM_FRAMES, SIZE_PX, SIZE_PX, 3) and first.dtype == np.uint8
        assert np.array_equal(first, render(scene).video_FHWC)
        assert not np.array_equal(first, render(replace(scene, seed=scene.seed + 1)).video_FHWC)
    assert scenes(6) == scenes(6)


def test_no_subject_of_training_agrees_with_one_of_the_other_splits() -> None:
    codes = {
        split: {code_of(subject.what) for number in range(150) for subject in _both(split, number)}
        for split in SPLITS
    }
    assert not codes["training"] & codes["benchmark"]
    assert not codes["training"] & codes["held-out"]
    assert not codes["held-out"] & codes["benchmark"]
    for split in SPLITS:
        assert all(
            split_of(subject.what) == split for number in range(40) for subject in _both(split, number)
        )
    numbers = [set(PLACE_NUMBERS[split]) for split in SPLITS]
    assert sum(map(len, numbers)) == len(set.union(*numbers))


def _both(split: Split, number: int) -> tuple[Subject, Subject]:
    return person(split, number), thing(split, number)


def test_every_scene_of_a_split_shows_that_split_alone() -> None:
    for split in SPLITS:
        for scene in scenes(40, split):
            assert scene.place.number in PLACE_NUMBERS[split]
            assert {split_of(actor.subject.what) for actor in scene.actors} == {split}


@pytest.mark.parametrize("palette", [COLOURS, HAIR_COLOURS])
def test_a_colour_keeps_its_name_when_it_is_varied(palette: dict[str, str]) -> None:
    generator = random.Random(0)
    for name, colour in palette.items():
        assert all(nearest(jittered(colour, generator), palette) == name for _ in range(100))


def test_masks_lie_in_their_boxes_and_subjects_do_not_share_pixels() -> None:
    for scene in scenes(40):
        rendering = render(scene)
        assert len(rendering.labels) == len(scene.actors)
        together = sum(labels.mask_FHW.astype(int) for labels in rendering.labels)
        assert np.max(together) <= 1
        for labels in rendering.labels:
            for mask_HW, box_K in zip(labels.mask_FHW, labels.box_FK, strict=True):
                assert mask_HW.any() != np.isnan(box_K).any()
                if mask_HW.any():
                    left, top, right, bottom = box_K.astype(int)
                    inside = mask_HW[top:bottom, left:right]
                    assert inside.sum() == mask_HW.sum()
                    assert inside[0].any() and inside[-1].any()
                    assert inside[:, 0].any() and inside[:, -1].any()


def test_what_the_mask_does_not_hold_is_the_place() -> None:
    """Without the subject the picture is the same outside of its mask, but for its shadow and its edge."""
    subject = person("training", 3)
    scene = alone(subject)
    with_subject, empty = render(scene), render(replace(scene, actors=()))
    changed = np.abs(with_subject.video_FHWC.astype(int) - empty.video_FHWC).max(axis=-1) > 60
    mask_FHW = with_subject.labels[0].mask_FHW
    assert 0.1 < mask_FHW.mean() < 0.5
    assert (changed & ~mask_FHW).sum() < 0.1 * mask_FHW.sum()
    assert (changed & mask_FHW).sum() > 0.6 * mask_FHW.sum()


@pytest.mark.parametrize("number", range(8))
def test_the_face_box_holds_skin_and_the_eyes_are_in_it(number: int) -> None:
    subject = person("training", number)
    assert isinstance(subject.what, Person)
    rendering = render(alone(subject))
    labels = rendering.labels[0]
    left, top, right, bottom = np.rint(labels.face_FK[0]).astype(int)
    face_HWC = rendering.video_FHWC[0, top:bottom, left:right].astype(int)
    light = rendering.video_FHWC.max() / 255
    near = np.abs(face_HWC - np.array(channels(subject.what.skin)) * light).max(axis=-1) < 60
    assert near.mean() > 0.2
    eyes_KC = labels.landmarks_FKC[0]
    assert (eyes_KC > (left - 1, top - 1)).all() and (eyes_KC < (right + 1, bottom + 1)).all()
    assert eyes_KC[0, 0] < eyes_KC[1, 0] and eyes_KC[0, 1] < eyes_KC[2, 1] < eyes_KC[3, 1]
    head_K = labels.head_FK[0]
    assert head_K[1] <= labels.face_FK[0, 1] and head_K[0] <= labels.face_FK[0, 0]


def test_whoever_turns_round_shows_no_face() -> None:
    labels = render(alone(person("training", 1), motion="spin")).labels[0]
    seen = ~np.isnan(labels.face_FK).any(axis=1)
    assert seen[0] and seen[-1] and not seen[NUM_FRAMES // 2]
    assert np.array_equal(seen, ~np.isnan(labels.landmarks_FKC).any(axis=(1, 2)))
    assert np.isnan(render(alone(thing("training", 1))).labels[0].head_FK).all()


def test_motions_move_as_they_say() -> None:
    for subject, motions in (
        (person("training", 2), PEOPLES_MOTIONS),
        (thing("training", 2), THINGS_MOTIONS),
    ):
        tracks = {
            (motion, direction): render(alone(subject, motion=motion, direction=direction)).labels[0].box_FK
            for motion in motions
            for direction in (-1, 1)
        }
        for (motion, direction), box_FK in tracks.items():
            middle_F = (box_FK[:, 0] + box_FK[:, 2]) / 2
            moved = middle_F[-1] - middle_F[0]
            if motion in DIRECTED:
                assert moved * direction > 8, (motion, direction)
            else:
                assert abs(moved) < 8, (motion, direction)
        heights = tracks["grow", 1][:, 3] - tracks["grow", 1][:, 1]
        assert heights[-1] > 1.4 * heights[0]
        assert np.ptp(tracks["jump", 1][:, 3]) > 6
        assert np.ptp(tracks["stand", 1], axis=0).max() == 0


def test_different_people_look_different_and_the_same_person_alike() -> None:
    """Of the references, the one of the same person is nearest in the identity's numbers and in pixels."""
    people = [person("held-out", number) for number in range(12)]
    vectors = np.stack([subject.what.vector() for subject in people])
    distances = np.abs(vectors[:, None] - vectors[None]).sum(axis=-1)
    assert (distances[~np.eye(len(people), dtype=bool)] > 0.3).all()
    pictures = np.stack([reference_picture(subject, size_px=32) for subject in people]).astype(int)
    apart = np.abs(pictures[:, None] - pictures[None]).mean(axis=(2, 3, 4))
    assert (apart[~np.eye(len(people), dtype=bool)] > 4).all()
    assert {len(thing("held-out", number).what.vector()) for number in range(9)} == {len(SHAPES) + 6}


@pytest.mark.parametrize("face", [False, True])
def test_references_stand_on_white(face: bool) -> None:
    for subject in (person("benchmark", 0), person("benchmark", 1)):
        picture_HWC = reference_picture(subject, face=face)
        assert picture_HWC.shape == (128, 128, 3)
        assert (picture_HWC[0] == 255).all() and (picture_HWC[:4, 0] == 255).all()
        assert picture_HWC.std() > 15


def test_a_prompt_says_what_is_true_and_not_all_of_it() -> None:
    said = ""
    for number, scene in enumerate(scenes(60)):
        prompt = prompt_of(scene, random.Random(number))
        assert PLACE_WORDS[scene.place.name] in prompt[0].lower() + prompt[1:]
        for light in LIGHTS:
            words = LIGHT_WORDS[light].strip()
            assert not words or (words in prompt) == (light == scene.light)
        for actor in scene.actors:
            assert MOTION_WORDS[actor.motion] in prompt
            if actor.hat is not None:
                assert actor.hat.kind in prompt
            if isinstance(actor.subject.what, Thing):
                assert actor.subject.what.shape in prompt
        said += prompt
    assert set(PLACE_WORDS) and all(words in said for words in ("man", "woman", "person", "hair", "wearing"))


@pytest.mark.parametrize("name", [*DEGRADATIONS, "pasted"])
def test_damage_grows_with_its_strength_and_is_nothing_at_0(name: str) -> None:
    video_FHWC = render(random_scene("training", random.Random(5))).video_FHWC
    before = video_FHWC.copy()
    reference_HWC = reference_picture(person("training", 0))

    def damaged(strength: float) -> np.ndarray:
        generator = random.Random(1)
        if name == "pasted":
            return pasted(video_FHWC, strength, generator, reference_HWC=reference_HWC)
        return DEGRADATIONS[name](video_FHWC, strength, generator)

    assert np.array_equal(damaged(0), video_FHWC)
    errors = [np.abs(damaged(strength).astype(int) - video_FHWC).mean() for strength in (0.25, 0.6, 1.0)]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert np.array_equal(damaged(0.6), damaged(0.6))
    assert damaged(1).dtype == np.uint8 and np.array_equal(video_FHWC, before)


def test_some_frames_of_a_scene_are_those_of_the_whole() -> None:
    for number in range(6):
        scene = random_scene("training", random.Random(number))
        whole, some = render(scene), render(scene, [5, 2])
        assert (some.video_FHWC == whole.video_FHWC[[5, 2]]).all()
        for few, all_ in zip(some.labels, whole.labels, strict=True):
            assert (few.mask_FHW == all_.mask_FHW[[5, 2]]).all()
            np.testing.assert_array_equal(few.face_FK, all_.face_FK[[5, 2]])
            np.testing.assert_array_equal(few.landmarks_FKC, all_.landmarks_FKC[[5, 2]])
