"""subject-confusion: laws of its matrices, pairing, what it applies to, and scores on small weights."""

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
from hypothesis.extra.numpy import arrays
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("insightface")
pytest.importorskip("transformers")

from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import SampleError  # noqa: E402
from refbench.bench.metric import Score  # noqa: E402
from refbench.bench.sample import Reference, Sample, category_of, kind_of  # noqa: E402
from refbench.bench.scores.columns import NOTHING_FOUND  # noqa: E402
from refbench.bench.video import Video, write_video  # noqa: E402
from refbench.metrics.nets.yolo_world.boxes import Boxes  # noqa: E402
from refbench.metrics.nexusscore import NexusScorer, SubjectSearch  # noqa: E402
from refbench.metrics.subject_confusion import (  # noqa: E402
    MIN_FACE_COSINE,
    Compared,
    Pair,
    SubjectConfusion,
    SubjectConfusionScorer,
    overlap,
    paired,
    pairs_of,
    summary_of,
)

FOLDERS = {"Man": "man", "Woman": "woman", "Cup": "cup", "Dog": "dog", "": "nameless"}


def sample_of(sample_id: str, labels: list[str], root: Path = Path()) -> Sample:
    references = []
    for number, label in enumerate(labels):
        path = f"Images/{FOLDERS[label]}/{number}.png"
        references.append(Reference(path=path, root=root, label=label, kind=kind_of(path)))
    return Sample(id=sample_id, category=category_of(sample_id), prompt="", references=tuple(references))


def score_of(matrices: list[np.ndarray], own: list[int]) -> Score:
    """The score of a video whose frames have these similarities (detections, references)."""
    count = matrices[0].shape[1]
    pairs = [
        Pair(own=column, similarities_R=row)
        for matrix in matrices
        for column, row in zip(own, matrix, strict=True)
    ]
    everything = tuple(range(count))
    compared = Compared(references=everything, sought=everything, pairs=tuple(pairs))
    return summary_of(sample_of("multiobject_1", ["Cup"] * count), {"pictures": compared})


# Distinct numbers: where two are equal, their order decides.
MATRICES = st.integers(2, 4).flatmap(
    lambda count: arrays(np.float64, (count, count), elements=st.floats(-1, 1, width=32), unique=True)
)


def test_a_perfect_diagonal_is_never_confused() -> None:
    score = score_of([np.eye(3)] * 4, [0, 1, 2])
    assert score.value == 0 and score.details["presence"] == 1 and score.details["margin"] == 1
    assert score.details["pictures"]["mean_similarity"] == np.eye(3).tolist()


def test_swapped_subjects_are_confused_and_present() -> None:
    score = score_of([np.eye(2)[::-1]], [0, 1])
    assert score.value == 1 and score.details["presence"] == 1 and score.details["margin"] == -1


def test_two_subjects_that_look_like_one_reference() -> None:
    """The identity of the first leaks into the second: half is confused, and the second is absent."""
    similarities_DR = np.array([[0.9, 0.1], [0.8, 0.3]])
    assert paired(similarities_DR, [{0, 1}] * 2) == [0, 1]
    score = score_of([similarities_DR], [0, 1])
    assert score.value == 0.5 and score.details["presence"] == 0.5


def test_a_missing_subject_costs_presence_alone() -> None:
    score = score_of([np.array([[0.9, 0.1]])], [0])
    assert score.value == 0 and score.details["presence"] == 0.5
    assert score.details["pictures"]["mean_similarity"][1] is None
    assert score.details["references"][1] == {
        "path": "Images/cup/1.png",
        "sought": True,
        "present": False,
        "pictures": {"frames": 0, "confused": 0},
    }


def test_equally_near_is_not_confused() -> None:
    score = score_of([np.array([[0.5, 0.5], [0.5, 0.5]])], [0, 1])
    assert score.value == 0 and score.details["presence"] == 1


@given(similarities=MATRICES, data=st.data())
def test_permuted_references_permute_the_matrix(similarities: np.ndarray, data: Any) -> None:
    count = len(similarities)
    order = data.draw(st.permutations(range(count)))
    candidates = [data.draw(st.sets(st.integers(0, count - 1))) for _ in range(count)]
    place = {column: new for new, column in enumerate(order)}
    own = paired(similarities, candidates)
    moved = paired(similarities[:, order], [{place[column] for column in columns} for columns in candidates])
    assert moved == [None if column is None else place[column] for column in own]
    if all(column is None for column in own):
        return
    everything = tuple(range(count))

    def compared(matrix: np.ndarray, columns: list[int | None]) -> Compared:
        pairs = [
            Pair(own=column, similarities_R=row)
            for column, row in zip(columns, matrix, strict=True)
            if column is not None
        ]
        return Compared(references=everything, sought=everything, pairs=tuple(pairs))

    before, after = compared(similarities, own), compared(similarities[:, order], moved)
    assert after.present == {place[column] for column in before.present}
    for new, column in enumerate(order):
        row = before.matrix()[column]
        assert after.matrix()[new] == (None if row is None else [row[other] for other in order])
    sample = sample_of("multiobject_1", ["Cup"] * count)
    scores = [summary_of(sample, {"pictures": one}) for one in (before, after)]
    assert scores[0].value == scores[1].value and 0 <= scores[0].value <= 1
    assert scores[0].details["margin"] == pytest.approx(scores[1].details["margin"])
    assert scores[0].details["presence"] == scores[1].details["presence"]


@given(similarities=MATRICES, data=st.data())
def test_nothing_is_paired_twice_or_with_what_it_was_not_found_for(
    similarities: np.ndarray, data: Any
) -> None:
    columns = st.sets(st.integers(0, len(similarities) - 1))
    candidates = [data.draw(columns) for _ in similarities]
    own = paired(similarities, candidates)
    given_away = [column for column in own if column is not None]
    assert len(given_away) == len(set(given_away))
    for detection, column in enumerate(own):
        assert column is None or column in candidates[detection]
        # Who got nothing could have had nothing: what they may have is taken by somebody more alike.
        if column is None:
            assert candidates[detection] <= set(given_away)


def test_a_repeated_frame_counts_as_often_as_it_stands() -> None:
    pairs = [*pairs_of(np.eye(2), [{0}, {1}], 3), *pairs_of(np.eye(2)[::-1], [{0}, {1}], 1)]
    compared = Compared(references=(0, 1), sought=(0, 1), pairs=tuple(pairs))
    assert summary_of(sample_of("multiobject_1", ["Cup", "Dog"]), {"pictures": compared}).value == 0.25
    assert compared.counted(0) == {"frames": 4, "confused": 1}
    assert compared.matrix() == [[0.75, 0.25], [0.25, 0.75]]


def test_what_is_not_there_and_what_has_nothing_beside_it() -> None:
    sample = sample_of("faceobj_1", ["Man", "Cup"])
    nothing = Compared(references=(0, 1), sought=(1,), pairs=())
    no_face = Compared(references=(0,), sought=(0,), pairs=())
    with pytest.raises(SampleError, match=NOTHING_FOUND["subject-confusion"]):
        summary_of(sample, {"pictures": nothing, "faces": no_face})
    face = replace(no_face, pairs=(Pair(own=0, similarities_R=np.array([0.9])),))
    alone = summary_of(sample, {"pictures": nothing, "faces": face})
    assert (alone.value, alone.details["presence"], alone.details["margin"]) == (0, 0.5, None)
    cup = replace(nothing, pairs=(Pair(own=1, similarities_R=np.array([0.2, 0.6])),))
    score = summary_of(sample, {"pictures": cup, "faces": face})
    # The face has nothing to be confused with, yet it is there; the margin is the cup's alone.
    assert score.value == 0 and score.details["presence"] == 1
    assert score.details["margin"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("sample_id", "labels", "reason"),
    [
        ("singleobj_1", [], "no references"),
        ("singleobj_1", ["Cup"], "one reference cannot be confused"),
        ("faceobj_1", ["Man", ""], "no two references can be compared"),
        ("faceobj_1", ["Man", "Cup"], None),
        ("multiface_1", ["Man", "Woman"], None),
        ("multihuman_1", ["Man", "Woman"], None),
        ("multiobject_1", ["Cup", "Dog"], None),
    ],
)
def test_what_it_applies_to(sample_id: str, labels: list[str], reason: str | None) -> None:
    said = SubjectConfusion().not_applicable(sample_of(sample_id, labels))
    assert said is None if reason is None else said is not None and reason in said


def test_it_is_outside_every_protocol() -> None:
    declaration = SubjectConfusion.declaration
    assert declaration.component is None and declaration.summary.startswith("supplementary")


def test_overlap() -> None:
    assert overlap((0, 0, 4, 4), (0, 0, 4, 4)) == 1
    assert overlap((0, 0, 4, 4), (4, 0, 8, 4)) == 0
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


# --- on small weights ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer(small_weights: Path) -> Iterator[SubjectConfusionScorer]:
    loaded = SubjectConfusion().load(Environment(weights=small_weights, threads=1))
    yield loaded
    loaded.close()


def person(name: str) -> np.ndarray:
    """A picture bright enough for the tiny face detector."""
    return (110 + 0.55 * uint8_image(f"facesim/{name}", 96, 128)).astype(np.uint8)


def written(sample: Sample, root: Path) -> Sample:
    for number, reference in enumerate(sample.references):
        (root / reference.path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(person(f"person {number}")).save(root / reference.path)
    return replace(sample, references=tuple(replace(reference, root=root) for reference in sample.references))


def clip(path: Path, images: list[np.ndarray]) -> Video:
    write_video(path, images, 8)
    return Video(path)


def test_faces_of_two_people(scorer: SubjectConfusionScorer, tmp_path: Path) -> None:
    sample = written(sample_of("multiface_1", ["Man", "Woman"]), tmp_path)
    video = clip(tmp_path / "multiface_1.mp4", [person("person 0")] * 3)
    score = scorer.score(sample, video)
    assert 0 <= score.value <= 1
    assert score.details["references"][0]["faces"]["frames"] == 32
    # NexusScore leaves faces out, so no picture is looked for.
    assert "pictures" not in score.details
    matrix = score.details["faces"]["mean_similarity"]
    assert matrix[0][0] >= MIN_FACE_COSINE
    json.dumps(score.details, allow_nan=False)


@dataclass
class ColourEmbedder:
    """The mean colour of a picture as a unit vector; every text is alike to all of them."""

    dtype: Any = torch.float32

    def embed_texts(self, texts: Sequence[str], instruction: str | None = None) -> Any:
        return torch.full((len(texts), 3), 0.58)

    def embed_images(self, images: Sequence[Image.Image], instruction: str | None = None) -> Any:
        means = torch.stack([torch.from_numpy(np.asarray(image).mean((0, 1))).float() for image in images])
        return torch.nn.functional.normalize(means, dim=1)


@dataclass
class HalvesDetector:
    """Finds every reference in the left and in the right half of each frame, in the right one surer.

    A box of too little confidence and one without a pixel are found as well.
    """

    pairs_per_pass: int = 4

    def prompts(self, pictures: Sequence[Image.Image]) -> int:
        return len(pictures)

    def detect(self, frames: Sequence[np.ndarray], prompts: int) -> list[list[Boxes]]:
        height, width = frames[0].shape[:2]
        half = width / 2
        corners = [[0, 0, half, height], [half, 0, width, height], [0, 0, width, height], [5, 5, 5, 9]]
        boxes = Boxes(
            corners=torch.tensor(corners, dtype=torch.float32),
            scores=torch.tensor([0.7, 0.9, 0.55, 0.95]),
            labels=torch.zeros(4, dtype=torch.int64),
        )
        return [[boxes] * prompts for _ in frames]


def with_stand_ins(scorer: SubjectConfusionScorer) -> SubjectConfusionScorer:
    detector: Any = HalvesDetector()
    embedder: Any = ColourEmbedder()
    search = SubjectSearch(detector=detector, embedder=embedder)
    return replace(scorer, nexusscore=NexusScorer(search=search))


RED, BLUE, GREEN = (220, 20, 20), (20, 20, 220), (20, 220, 20)


def halves(left: tuple[int, ...], right: tuple[int, ...]) -> np.ndarray:
    frame = np.zeros((64, 128, 3), np.uint8)
    frame[:, :64], frame[:, 64:] = left, right
    return frame


@pytest.mark.parametrize(
    ("left", "right", "confused", "presence"),
    [
        (RED, BLUE, 0, 1),
        # Who stands where is not asked.
        (BLUE, RED, 0, 1),
        (RED, RED, 0.5, 0.5),
        (BLUE, BLUE, 0.5, 0.5),
    ],
)
def test_subjects_that_the_detector_takes_for_each_other(
    left: tuple[int, ...],
    right: tuple[int, ...],
    confused: float,
    presence: float,
    scorer: SubjectConfusionScorer,
    tmp_path: Path,
) -> None:
    sample = written(sample_of("multiobject_1", ["Cup", "Dog", ""]), tmp_path)
    for reference, colour in zip(sample.references, (RED, BLUE, GREEN), strict=True):
        Image.new("RGB", (40, 40), colour).save(reference.file)
    both = with_stand_ins(scorer)
    score = both.score(sample, clip(tmp_path / "multiobject_1.mp4", [halves(left, right)] * 5))
    assert (score.value, score.details["presence"]) == (confused, presence)
    # A reference without a label is not looked for, and still compared with.
    assert score.details["references"][2] == {
        "path": "Images/nameless/2.png",
        "sought": False,
        "present": False,
    }
    matrix = score.details["pictures"]["mean_similarity"]
    assert [row and len(row) for row in matrix] == [3, 3, None]
    assert sum(one["pictures"]["frames"] for one in score.details["references"][:2]) == 64


def test_faces_count_beside_subjects(scorer: SubjectConfusionScorer, tmp_path: Path) -> None:
    sample = written(sample_of("humanobj_1", ["Woman", "Cup"]), tmp_path)
    both = with_stand_ins(scorer)
    video = clip(tmp_path / "humanobj_1.mp4", [np.roll(person("person 0"), 9 * n, axis=1) for n in range(4)])
    score = both.score(sample, video)
    kinds = [set(reference) & {"pictures", "faces"} for reference in score.details["references"]]
    assert kinds == [{"pictures", "faces"}, {"pictures"}]
    assert score.details["references"][0]["faces"] == {"frames": 32, "confused": 0}
    assert both.score(sample, video) == score


def test_provenance_names_the_files_of_both(scorer: SubjectConfusionScorer) -> None:
    weights = scorer.provenance()["weights"]
    of_both = [metric.provenance()["weights"] for metric in (scorer.nexusscore, scorer.facesim)]
    assert weights.keys() == of_both[0].keys() | of_both[1].keys()
    assert all(digest.startswith("tiny:") for digest in weights.values())


def test_a_video_without_anything_is_a_reason(scorer: SubjectConfusionScorer, tmp_path: Path) -> None:
    sample = written(sample_of("multiface_1", ["Man", "Woman"]), tmp_path)
    with pytest.raises(SampleError, match=NOTHING_FOUND["subject-confusion"]):
        scorer.score(sample, clip(tmp_path / "black.mp4", [np.zeros((96, 128, 3), np.uint8)] * 2))


def test_references_without_a_face_are_a_reason(scorer: SubjectConfusionScorer, tmp_path: Path) -> None:
    sample = written(sample_of("multiface_1", ["Man", "Woman"]), tmp_path)
    for reference in sample.references:
        Image.new("RGB", (96, 96)).save(reference.file)
    with pytest.raises(SampleError, match="no face is found in their pictures"):
        scorer.score(sample, clip(tmp_path / "multiface_1.mp4", [person("person 0")] * 2))


def test_without_weights_it_says_how_to_get_them(tmp_path: Path) -> None:
    reason = SubjectConfusion().unavailable(Environment(weights=tmp_path))
    assert reason is not None and "refbench weights pull" in reason
