"""copy-paste: pasted references score near 1, other pictures near 0; too plain ones are not applicable."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kit.cli import Run
from refbench.baselines.controls.canvas import CanvasOptions
from refbench.baselines.controls.pan_reference import PanOptions, PanReference
from refbench.baselines.controls.static_reference import StaticReference
from refbench.bench.environment import Environment
from refbench.bench.errors import NotApplicable, SampleError
from refbench.bench.method import Frames, Method
from refbench.bench.metric import Score
from refbench.bench.runner.score import score as score_one
from refbench.bench.sample import Reference, Sample
from refbench.bench.video import Video, uniform_frames, write_video
from refbench.metrics.copy_paste import (
    FRAME_SIDE_PX,
    REFERENCE_SIDE_PX,
    CopyPaste,
    copied_share,
    copied_shares,
    features,
)

SIZE = {"width": 416, "height": 240, "num_frames": 4}
CONTROLS: tuple[Method, ...] = (StaticReference(CanvasOptions(**SIZE)), PanReference(PanOptions(**SIZE)))
# The four crops of real videos, by sample.
REAL_REFERENCES = {
    "faceobj_14": (
        "humanobj/human/crop_woman/celebrity/4.jpg",
        "humanobj/thing/clothes/2.jpg",
        "humanobj/environment/special/14.jpg",
    ),
    "singleface_3": ("singleface/crop_man/11.jpg",),
}


def drawing(seed: int, height: int = 200, width: int = 200) -> np.ndarray:
    """Filled shapes of many colours over each other: corners and edges everywhere."""
    generator = np.random.default_rng(seed)
    picture_HWC = np.full((height, width, 3), 230, np.uint8)
    for _ in range(120):
        corners = generator.integers(0, (width, height), (3, 2)) // 3 + generator.integers(
            0, (2 * width // 3, 2 * height // 3)
        )
        cv2.fillPoly(picture_HWC, [corners], generator.integers(0, 256, 3).tolist())
    return cv2.GaussianBlur(picture_HWC, (0, 0), 0.8)


def sample_of(folder: Path, *pictures: np.ndarray) -> Sample:
    references = []
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}.png")
        references.append(Reference(path=f"{number}.png", root=folder, label="Cup", kind="object"))
    return Sample(id="mine_1", category="mine", prompt="A cup.", references=tuple(references))


def real_sample(opens2v: Path, name: str) -> Sample:
    references = tuple(
        Reference(path=path, root=opens2v / "Images", label="", kind="object")
        for path in REAL_REFERENCES[name]
    )
    return Sample(id=name, category=name.partition("_")[0], prompt="", references=references)


def made_by(method: Method, sample: Sample, path: Path) -> Video:
    made = method.load(Environment()).generate(sample, 0)
    assert isinstance(made, Frames)
    write_video(path, made.images, made.fps)
    return Video(path)


def scored(sample: Sample, video: Video, threads: int = 2) -> Score:
    return CopyPaste().load(Environment(threads=threads)).score(sample, video)


@pytest.mark.parametrize("method", CONTROLS, ids=lambda method: method.name)
def test_pasted_drawings_are_copies_and_other_drawings_are_not(method: Method, tmp_path: Path) -> None:
    sample = sample_of(tmp_path, drawing(1), drawing(2))
    video = made_by(method, sample, tmp_path / "copy.mp4")
    copied = scored(sample, video)
    assert copied.value >= 0.9
    assert min(copied.details["per_reference"]) >= 0.85
    assert len(copied.details["frame_scores"]) == 32
    (tmp_path / "others").mkdir()
    assert scored(sample_of(tmp_path / "others", drawing(3), drawing(4)), video).value <= 0.02


@pytest.mark.parametrize("method", CONTROLS, ids=lambda method: method.name)
@pytest.mark.parametrize("name", REAL_REFERENCES)
def test_pasted_photographs_are_copies(method: Method, name: str, opens2v: Path, tmp_path: Path) -> None:
    sample = real_sample(opens2v, name)
    options = replace(method.options, width=832, height=480)
    video = made_by(type(method)(options), sample, tmp_path / "copy.mp4")
    assert scored(sample, video).value >= 0.9


def test_real_videos_of_other_subjects_are_no_copies(opens2v: Path) -> None:
    for name, other in (("faceobj_14", "singleface_3"), ("singleface_3", "faceobj_14")):
        video = Video(opens2v / "videos" / f"{other}.mp4")
        assert scored(real_sample(opens2v, name), video).value <= 0.02


def test_another_picture_of_the_same_person_is_no_copy(shared: Path) -> None:
    """A real clip, and the pictures that another model made of its woman, her top and the meadow."""
    folder = shared / "data/opens2v_5m_demo"
    references = tuple(
        Reference(path=file.name, root=file.parent, label="", kind="object")
        for file in sorted((folder / "gpt_frames").glob("*/[0-2]_*.png"))
    )
    assert len(references) == 3
    sample = Sample(id="clip_1", category="clip", prompt="", references=references)
    score = scored(sample, Video(next((folder / "videos/dataset1").glob("*.mp4"))))
    assert max(score.details["per_reference"]) <= 0.1


@given(
    scale=st.floats(0.4, 1.2),
    turn=st.floats(-180, 180),
    contrast=st.floats(0.6, 0.85),
    brightness=st.floats(0, 35),
)
@settings(max_examples=15, deadline=None)
def test_a_copy_may_be_turned_scaled_and_lit_otherwise(
    scale: float, turn: float, contrast: float, brightness: float
) -> None:
    height, width = 256, FRAME_SIDE_PX
    reference_HWC, frame_HWC = drawing(1, 160, 160), drawing(5, height, width)
    transform_23 = cv2.getRotationMatrix2D((80, 80), turn, scale)
    transform_23[:, 2] += (width / 2 - 80, height / 2 - 80)
    size = (width, height)
    lit_HWC = (reference_HWC * contrast + brightness).astype(np.uint8)
    small_HWC = cv2.GaussianBlur(lit_HWC, (0, 0), 0.4 / scale) if scale < 1 else lit_HWC
    pasted_HWC = cv2.warpAffine(small_HWC, transform_23, size)
    covered_HW = cv2.warpAffine(np.ones((160, 160), np.uint8), transform_23, size)
    frame_HWC[covered_HW == 1] = pasted_HWC[covered_HW == 1]
    share = copied_share(features(reference_HWC, REFERENCE_SIDE_PX), features(frame_HWC, FRAME_SIDE_PX))
    assert share >= 0.8


def test_half_a_copy_is_half_a_copy() -> None:
    reference_HWC = drawing(1, 240, 240)
    frame_HWC = drawing(5, 240, 240)
    frame_HWC[:, :120] = reference_HWC[:, :120]
    share = copied_share(features(reference_HWC, REFERENCE_SIDE_PX), features(frame_HWC, FRAME_SIDE_PX))
    assert share == pytest.approx(0.5, abs=0.06)


def test_a_copy_counts_by_how_long_it_is_seen(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, drawing(1))
    seen, other = drawing(1), drawing(5)
    write_video(tmp_path / "half.mp4", [seen] * 16 + [other] * 16, 16)
    score = scored(sample, Video(tmp_path / "half.mp4"))
    assert score.value == pytest.approx(0.5, abs=0.03)
    assert min(score.details["frame_scores"][:16]) >= 0.9
    assert max(score.details["frame_scores"][16:]) <= 0.02


def test_a_frame_that_stands_for_several_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = sample_of(tmp_path, drawing(1))
    video = made_by(CONTROLS[1], sample, tmp_path / "pan.mp4")
    references = [features(np.asarray(one.open_on_white()), REFERENCE_SIDE_PX) for one in sample.references]
    naive = [copied_shares(frame, references) for frame in video.frames(uniform_frames(32))]
    looked_at: list[int] = []

    def counted(frame: np.ndarray, references: Any) -> list[float]:
        looked_at.append(frame.size)
        return copied_shares(frame, references)

    monkeypatch.setattr("refbench.metrics.copy_paste.copied_shares", counted)
    score = scored(sample, video, 1)
    assert len(looked_at) == SIZE["num_frames"]
    assert score.details["frame_scores"] == np.array(naive).mean(axis=1).tolist()


def test_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, drawing(1))
    video = made_by(CONTROLS[1], sample, tmp_path / "pan.mp4")
    assert scored(sample, video, 1) == scored(sample, video, 3)


def test_a_plain_reference_is_left_out(tmp_path: Path) -> None:
    plain = np.full((64, 64, 3), 200, np.uint8)
    sample = sample_of(tmp_path, plain, drawing(1))
    score = scored(sample, made_by(CONTROLS[0], sample, tmp_path / "copy.mp4"))
    none, share = score.details["per_reference"]
    assert none is None and share == score.value >= 0.9


def test_only_plain_references_are_not_applicable(tmp_path: Path, refbench: Run) -> None:
    plain = np.full((64, 64, 3), 200, np.uint8)
    sample = sample_of(tmp_path, plain)
    video = made_by(CONTROLS[0], sample, tmp_path / "copy.mp4")
    with pytest.raises(NotApplicable):
        scored(sample, video)
    outcome = score_one(
        video.path, prompt="A cup.", references={"cup": tmp_path / "0.png"}, metrics=["copy-paste"]
    )["copy-paste"]
    assert outcome.value is None
    assert outcome.reason == "not_applicable: no reference has enough texture to recognise a copy of it"
    # It is no failure: the command ends well.
    words = ("score", video.path, "--prompt", "A cup.", "--reference", f"cup={tmp_path / '0.png'}")
    answer = json.loads(refbench(*words, "--metrics", "copy-paste", "--json").stdout)
    assert "not_applicable" in json.dumps(answer)


def test_needs_references_that_can_be_read(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, drawing(1))
    video = made_by(CONTROLS[0], sample, tmp_path / "copy.mp4")
    assert CopyPaste().not_applicable(replace(sample, references=())) == "no references"
    (tmp_path / "0.png").unlink()
    with pytest.raises(SampleError, match=r"0\.png is missing"):
        scored(sample, video)
