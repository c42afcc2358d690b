"""incidental-likeness: angles between heads, backgrounds, and reasons of what is not measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fill import uint8_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("insightface")
pytest.importorskip("transformers")

from kit.records import record  # noqa: E402
from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import NotApplicable, SampleError  # noqa: E402
from refbench.bench.sample import Reference, Sample, category_of, kind_of  # noqa: E402
from refbench.bench.scores.comparison import figure_differences  # noqa: E402
from refbench.bench.scores.identity import GAIN_FIGURES  # noqa: E402
from refbench.bench.video import Video, write_video  # noqa: E402
from refbench.metrics.incidental_likeness import (  # noqa: E402
    AVERAGE_FACE_53,
    IncidentalLikeness,
    IncidentalLikenessScorer,
    head_rotation,
    is_plain,
    painted,
    pose_likeness,
    rest_of,
)
from refbench.metrics.nets.yolo_world.boxes import Boxes  # noqa: E402
from refbench.metrics.nexusscore import NexusScorer, SubjectSearch  # noqa: E402

ANGLES = st.floats(-40, 40)


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The rotation of a head by so many degrees."""
    x, y, z = np.radians([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    rotation: np.ndarray = about_z @ about_y @ about_x
    return rotation


def landmarks(rotation: np.ndarray, scale: float = 30.0, place: Sequence[float] = (90, 70)) -> np.ndarray:
    """Where an average face that is turned so has its landmarks in a picture."""
    points: np.ndarray = (AVERAGE_FACE_53 @ rotation.T)[:, :2] * scale + np.array(place)
    return points


@given(ANGLES, ANGLES, ANGLES, st.floats(3, 200))
def test_the_turn_of_a_head_is_found_whatever_its_size(
    yaw: float, pitch: float, roll: float, scale: float
) -> None:
    rotation = turned(yaw, pitch, roll)
    found = head_rotation(landmarks(rotation, scale))
    assert found is not None
    np.testing.assert_allclose(found, rotation, atol=1e-6)
    assert pose_likeness(found, rotation) == pytest.approx(1, abs=1e-3)


@given(ANGLES, st.floats(0, 60))
def test_pose_falls_to_0_at_30_degrees(yaw: float, apart: float) -> None:
    likeness = pose_likeness(turned(yaw, 0, 0), turned(yaw + apart, 0, 0))
    assert likeness == pytest.approx(max(0.0, 1 - apart / 30), abs=1e-3)


def test_landmarks_on_a_line_have_no_pose() -> None:
    assert head_rotation(np.array([[n, 2 * n] for n in range(5)], np.float32)) is None


def test_what_lies_around_a_subject() -> None:
    picture = np.zeros((10, 20, 3), np.uint8)
    picture[:, 10:] = 200
    rest = rest_of(picture, [(0, 0, 10, 10)])
    assert rest is not None and (painted(picture, rest) == 200).all()
    assert rest_of(picture, [(0, 0, 15, 10)]) is None
    # A box may pass the picture, and a frame without one is all around.
    passing = rest_of(picture, [(-5, -5, 10, 30)])
    assert passing is not None and np.array_equal(passing, rest)
    whole = rest_of(picture, [])
    assert whole is not None and np.array_equal(painted(picture, whole), picture)


def test_a_background_is_plain_though_the_box_cuts_off_the_subject_s_feet() -> None:
    picture = np.full((40, 40, 3), 255, np.uint8)
    picture[5:35, 10:30] = 90
    rest = rest_of(picture, [(10, 5, 30, 30)])
    assert rest is not None and is_plain(picture, rest)
    room = np.where(np.indices((40, 40)).sum(axis=0)[..., None] % 4 < 2, 60, 200).repeat(3, axis=2)
    assert not is_plain(room.astype(np.uint8), rest)


# --- on small weights and stand-ins ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer(small_weights: Path) -> Iterator[IncidentalLikenessScorer]:
    loaded = IncidentalLikeness().load(Environment(weights=small_weights, threads=1))
    yield loaded
    loaded.close()


@dataclass
class MiddleDetector:
    """Finds every subject in the middle of each picture; pictures are embedded as their mean colours."""

    pairs_per_pass: int = 4

    def prompts(self, pictures: Sequence[Image.Image]) -> Any:
        means = torch.stack([torch.from_numpy(np.asarray(one).mean((0, 1))).float() for one in pictures])
        return torch.nn.functional.normalize(means, dim=1)

    def detect(self, frames: Sequence[np.ndarray], prompts: Any) -> list[list[Boxes]]:
        height, width = frames[0].shape[:2]
        boxes = Boxes(
            corners=torch.tensor([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]]),
            scores=torch.tensor([0.9]),
            labels=torch.zeros(1, dtype=torch.int64),
        )
        return [[boxes] * len(prompts) for _ in frames]

    def embed_texts(self, texts: Sequence[str], instruction: str | None = None) -> Any:
        return torch.full((len(texts), 3), 0.58)

    def embed_images(self, images: Sequence[Image.Image], instruction: str | None = None) -> Any:
        return self.prompts(images)


def with_stand_ins(scorer: IncidentalLikenessScorer) -> IncidentalLikenessScorer:
    stand_in: Any = MiddleDetector()
    return replace(scorer, nexusscore=NexusScorer(search=SubjectSearch(detector=stand_in, embedder=stand_in)))


def room(colour: tuple[int, int, int], subject: tuple[int, int, int]) -> np.ndarray:
    """A wall with a pattern and something in the middle."""
    picture = np.full((64, 96, 3), colour, np.uint8)
    picture[::2] //= 2
    picture[16:48, 24:72] = subject
    return picture


def sample_of(root: Path, *pictures: np.ndarray, kinds: Sequence[str] = ()) -> Sample:
    references = []
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(root / f"{number}.png")
        kind: Any = kinds[number] if kinds else "object"
        references.append(Reference(path=f"{number}.png", root=root, label="Cup", kind=kind))
    return Sample(id="multiobject_1", category="multiobject", prompt="", references=tuple(references))


def clip(path: Path, images: list[np.ndarray]) -> Video:
    write_video(path, images, 8)
    return Video(path)


RED, GREEN, GREY = (200, 30, 30), (30, 200, 30), (120, 120, 120)


def test_a_background_that_is_kept_and_one_that_is_new(
    scorer: IncidentalLikenessScorer, tmp_path: Path
) -> None:
    sample = sample_of(tmp_path, room(RED, GREY))
    both = with_stand_ins(scorer)
    kept = both.score(sample, clip(tmp_path / "kept.mp4", [room(RED, GREEN)] * 3))
    new = both.score(sample, clip(tmp_path / "new.mp4", [room(GREEN, GREY)] * 3))
    half = both.score(sample, clip(tmp_path / "half.mp4", [room(RED, GREY)] * 16 + [room(GREEN, GREY)] * 16))
    assert kept.value > 0.98 and new.value < 0.5
    assert half.value == pytest.approx((kept.value + new.value) / 2, abs=0.02)
    details = kept.details
    assert details["background"] == kept.value and details["pose"] is None and details["expression"] is None
    assert details["references"][0]["pose"] == {"not_measured": "it shows no person"}
    assert "landmarks" in details["not_measured"]["expression"]
    json.dumps(details, allow_nan=False)


def test_references_without_a_background_are_null_with_their_reason(
    scorer: IncidentalLikenessScorer, tmp_path: Path
) -> None:
    white = np.full((64, 96, 3), 255, np.uint8)
    white[16:48, 24:72] = RED
    sample = sample_of(tmp_path, white, room(RED, GREY), room(RED, GREY), kinds=("object", "scene", "object"))
    both = with_stand_ins(scorer)
    video = clip(tmp_path / "video.mp4", [room(RED, GREEN)] * 2)
    found = [one["background"] for one in both.score(sample, video).details["references"]]
    assert found[:2] == [
        {"not_measured": "its background is plain"},
        {"not_measured": "it is a place itself"},
    ]
    assert found[2] > 0.98
    with pytest.raises(NotApplicable, match="no reference has a face or a background"):
        both.score(replace(sample, references=sample.references[:2]), video)


def person(name: str) -> np.ndarray:
    """A picture bright enough for the tiny face detector."""
    return (110 + 0.55 * uint8_image(f"facesim/{name}", 96, 128)).astype(np.uint8)


def face_sample(root: Path, sample_id: str) -> Sample:
    path = "Images/man/1.png"
    (root / path).parent.mkdir(parents=True)
    Image.fromarray(person("person")).save(root / path)
    reference = Reference(path=path, root=root, label="Man", kind=kind_of(path))
    return Sample(id=sample_id, category=category_of(sample_id), prompt="", references=(reference,))


def test_a_face_that_stands_still_keeps_its_pose(scorer: IncidentalLikenessScorer, tmp_path: Path) -> None:
    sample = face_sample(tmp_path, "singleface_1")
    score = scorer.score(sample, clip(tmp_path / "a.mp4", [person("person")] * 2))
    assert score.value == score.details["pose"] > 0.9 and score.details["background"] is None
    said = score.details["references"][0]["background"]
    assert said == {"not_measured": "the detector does not look for it"}


def test_a_video_without_a_face_is_a_reason(scorer: IncidentalLikenessScorer, tmp_path: Path) -> None:
    sample = face_sample(tmp_path, "singleface_1")
    with pytest.raises(SampleError, match="nothing can be compared: no face in any frame"):
        scorer.score(sample, clip(tmp_path / "black.mp4", [np.zeros((96, 128, 3), np.uint8)] * 2))


def test_the_excess_over_a_control_is_compared_by_part() -> None:
    def records(pose: float) -> list[Any]:
        return [
            record("incidental-likeness", f"singleface_{n}", pose, details={"pose": pose, "background": None})
            for n in range(1, 4)
        ]

    (excess,) = figure_differences(records(0.75), records(0.25), GAIN_FIGURES)
    assert (excess.name, excess.difference, excess.n) == ("pose", 0.5, 3)


def test_it_is_outside_every_protocol_and_needs_references() -> None:
    declaration = IncidentalLikeness.declaration
    assert declaration.component is None and declaration.summary.startswith("supplementary")
    empty = Sample(id="singleobj_1", category="singleobj", prompt="", references=())
    assert IncidentalLikeness().not_applicable(empty) == "no references"
