"""NexusScore's rules against the official script's numbers, its order of work, and bad input.

Detector and embedder are tables of numbers where the rules are tested, tiny random networks where their use
is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image  # noqa: E402

from kit.goldens import read  # noqa: E402
from refbench.bench.dataset import load_track  # noqa: E402
from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import MissingWeights, SampleError, UserError  # noqa: E402
from refbench.bench.metric import Score  # noqa: E402
from refbench.bench.registry import metrics  # noqa: E402
from refbench.bench.sample import Reference, Sample, category_of  # noqa: E402
from refbench.bench.video import Video, uniform_frames, write_video  # noqa: E402
from refbench.metrics.frame_boxes import MOST_BOXES  # noqa: E402
from refbench.metrics.nets.gme import TEXT_INSTRUCTION, first_resize  # noqa: E402
from refbench.metrics.nets.yolo_world.boxes import Boxes  # noqa: E402
from refbench.metrics.nets.yolo_world.image_prompt_detector import ImagePromptDetector  # noqa: E402
from refbench.metrics.nexusscore import (  # noqa: E402
    CROPS_HELD,
    DETECTOR_FILES,
    NexusScore,
    crop_of,
    score_video,
    subjects_of,
)
from refbench.metrics.small.nexusscore import DETECTOR_FILE  # noqa: E402
from refbench.metrics.weights import CLIP_VIT_B32, GME_QWEN2_VL, OPENS2V_WEIGHT  # noqa: E402

OFFICIAL = read("yolo_world/nexus_score.json")
FRAMES = 32
SIDE = 64


def boxes_of(rows: Sequence[tuple[Sequence[float], float]]) -> Boxes:
    """`Boxes` of (corners, confidence) pairs."""
    corners = torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([row[1] for row in rows], dtype=torch.float32)
    return Boxes(corners=corners, scores=scores, labels=torch.zeros(len(rows), dtype=torch.int64))


@dataclass
class TableDetector:
    """Returns listed boxes: `table[frame][reference]` are (corners, confidence) pairs."""

    table: list[list[list[tuple[Sequence[float], float]]]]
    pairs_per_pass: int = 4
    frames_seen: int = 0
    pictures: list[Image.Image] = field(default_factory=list)

    def prompts(self, pictures: Sequence[Image.Image]) -> int:
        self.pictures += pictures
        return len(pictures)

    def detect(self, frames: Sequence[np.ndarray], prompts: int) -> list[list[Boxes]]:
        assert len(frames) * prompts <= max(self.pairs_per_pass, prompts)
        found = self.table[self.frames_seen : self.frames_seen + len(frames)]
        self.frames_seen += len(frames)
        return [[boxes_of(rows) for rows in row] for row in found]


@dataclass
class TableEmbedder:
    """Unit-like vectors such that every product is a listed number and a mixed-up pair gives 0.875.

    The first coordinates belong to the labels, the others to the reference pictures, which are told apart by
    their width; crops are told apart by their size.
    """

    labels: list[str]
    references: int
    crops: dict[tuple[int, int], tuple[int, int, float, float]]
    texts_seen: list[tuple[str, str | None]] = field(default_factory=list)
    pictures_seen: list[int] = field(default_factory=list)
    crops_seen: list[int] = field(default_factory=list)
    modes_seen: list[str] = field(default_factory=list)

    def embed_texts(self, texts: Sequence[str], instruction: str | None = None) -> Any:
        self.texts_seen += [(text, instruction) for text in texts]
        return torch.stack([self._one(self.labels.index(text)) for text in texts])

    def embed_images(self, images: Sequence[Image.Image], instruction: str | None = None) -> Any:
        assert instruction is None
        self.modes_seen += [image.mode for image in images]
        if images[0].width >= REFERENCE_WIDTH:
            numbers = [image.width - REFERENCE_WIDTH for image in images]
            self.pictures_seen += numbers
            return torch.stack([self._one(len(self.labels) + number) for number in numbers])
        self.crops_seen.append(len(images))
        return torch.stack([self._crop(image.size) for image in images])

    def _one(self, coordinate: int) -> Any:
        return torch.eye(len(self.labels) + self.references)[coordinate]

    def _crop(self, size: tuple[int, int]) -> Any:
        label, reference, text, picture = self.crops[size]
        vector = torch.full((len(self.labels) + self.references,), 0.875)
        vector[label], vector[len(self.labels) + reference] = text, picture
        return vector


REFERENCE_WIDTH = 200


def reference(folder: Path, number: int, label: str) -> Reference:
    """A reference picture on disk whose width says its number."""
    name = f"reference_{number}.png"
    Image.new("RGB", (REFERENCE_WIDTH + number, 90), (10 * number, 90, 200)).save(folder / name)
    return Reference(path=name, root=folder, label=label, kind="object")


def sample_of(folder: Path, sample_id: str, labels: Sequence[str]) -> Sample:
    references = tuple(reference(folder, number, label) for number, label in enumerate(labels))
    return Sample(id=sample_id, category=category_of(sample_id), prompt="", references=references)


def clip(path: Path, frames: int, side: int = SIDE) -> Video:
    """A video of moving noise blobs, every frame another."""
    state = np.random.RandomState(7)
    base = state.randint(0, 255, (side, side, 3), dtype=np.uint8)
    write_video(path, [np.roll(base, 3 * number, axis=1) for number in range(frames)], fps=8)
    return Video(path)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    return clip(tmp_path_factory.mktemp("clip") / "clip.mp4", FRAMES)


def corners_of_size(width: int, height: int) -> tuple[float, float, float, float]:
    return 0.0, 0.0, float(width), float(height)


def tables_of(case: dict[str, Any], sample: Sample) -> tuple[TableDetector, TableEmbedder]:
    """Stand-ins that return the numbers of an official case; every box has a size of its own."""
    used = case["expected"]["references_used"]
    subjects = subjects_of(sample)
    labels = list(dict.fromkeys(subject.label for subject in subjects))
    table: list[list[list[Any]]] = [[[] for _ in subjects] for _ in range(FRAMES)]
    crops = {}
    for number, (frame, original, confidence, text, picture) in enumerate(case["boxes"]):
        size = (1 + number % 60, 1 + number // 60)
        subject = used.index(original)
        table[frame][subject].append((corners_of_size(*size), confidence))
        crops[size] = (labels.index(subjects[subject].label), original, text, picture)
    return TableDetector(table), TableEmbedder(labels, len(sample.references), crops)


@pytest.mark.parametrize("case", OFFICIAL["cases"], ids=lambda case: case["id"])
def test_official_cases(case: dict[str, Any], video: Video, tmp_path: Path) -> None:
    expected = case["expected"]
    # Lists of another length are cut to the shorter one, which is what the official zip does.
    sample = sample_of(tmp_path, case["id"], case["class_label"][: case["n_img_paths"]])
    detector, embedder = tables_of(case, sample)
    used = [int(subject.reference.path[10]) for subject in subjects_of(sample)]
    assert used == expected["references_used"]
    if not expected["present"]:
        with pytest.raises(SampleError):
            score_video(sample, video, detector, embedder)
        return
    score = score_video(sample, video, detector, embedder)
    assert score.value == expected["nexus_score"]
    details = score.details
    assert details["score_per_frame_and_reference"] == expected["per_reference_variant"]
    assert details["frames_with_a_box"] == expected["frame_obj_per_frame"]
    assert details["frame_reference_pairs_with_a_box"] == expected["frame_obj_per_frame_and_reference"]
    assert details["kept"] == expected["kept"]
    assert details["boxes"] == len(case["boxes"])
    listed = details["subject_boxes"]
    assert [box[:2] for box in listed] == [
        [frame, used.index(original)] for frame, original, *_ in sorted(
            case["boxes"], key=lambda box: (box[0], used.index(box[1]))
        )
    ][:MOST_BOXES]  # fmt: skip
    if len(case["boxes"]) <= MOST_BOXES:
        assert sum(box[2] for box in listed) == details["kept"]
    assert all(0 <= side <= 1000 for box in listed for side in box[3:])
    assert len(json.dumps(listed)) <= 4096
    json.dumps(dict(details))
    # Each label and picture once, and of the boxes only those that can be kept.
    assert set(expected["labels_sent"]) <= {text for text, _ in embedder.texts_seen}
    assert len({text for text, _ in embedder.texts_seen}) == len(embedder.texts_seen)
    assert {instruction for _, instruction in embedder.texts_seen} == {TEXT_INSTRUCTION}
    assert embedder.pictures_seen == used
    assert sum(embedder.crops_seen) == sum(row[2] > np.float32(0.6) for row in case["boxes"])
    assert max(embedder.crops_seen, default=0) <= CROPS_HELD
    assert detector.frames_seen == FRAMES


def test_the_cases_would_notice_a_mean_that_is_not_rounded() -> None:
    expected = [case["expected"] for case in OFFICIAL["cases"] if case["expected"]["present"]]
    assert any(entry["nexus_score"] != entry["nexus_score_unrounded"] for entry in expected)
    assert any(entry["nexus_score"] != entry["per_reference_variant"] for entry in expected)


@pytest.mark.parametrize(("sample_id", "label", "rule"), OFFICIAL["label_rule_examples"])
def test_label_rule(tmp_path: Path, sample_id: str, label: str, rule: str) -> None:
    subjects = subjects_of(sample_of(tmp_path, sample_id, [label]))
    assert [subject.label for subject in subjects] == ([] if rule == "skip" else [rule])


@pytest.mark.parametrize(("corners", "size"), OFFICIAL["crop_rule"]["examples"])
def test_crop_rule(corners: list[float], size: list[int]) -> None:
    assert crop_of(Image.new("RGB", (832, 480)), corners).size == tuple(size)


def one_box_per_frame(confidence: float = 0.9) -> list[list[list[Any]]]:
    return [[[(corners_of_size(5, 5), confidence)]] for _ in range(FRAMES)]


ONE_CROP = {(5, 5): (0, 0, 0.5, 0.25)}


def test_the_metric_declares_itself() -> None:
    assert metrics.get("nexusscore") is NexusScore
    declaration = NexusScore.declaration
    assert declaration.component == "nexusscore"
    assert declaration.uses == {"video", "references"}


def test_samples_of_faces_alone_do_not_apply(tmp_path: Path) -> None:
    metric = NexusScore()
    assert metric.not_applicable(sample_of(tmp_path, "singleface_3", ["Man"])) is not None
    assert metric.not_applicable(sample_of(tmp_path, "faceobj_14", ["Man", "Cup"])) is None


def test_a_confidence_in_float32_is_compared_in_float32(tmp_path: Path, video: Video) -> None:
    """float32(0.6) is over 0.6 in float64, and must not count."""
    sample = sample_of(tmp_path, "singleobj_1", ["Cup"])
    for confidence, kept in ((np.float32(0.6), 0), (np.nextafter(np.float32(0.6), np.float32(1)), FRAMES)):
        detector = TableDetector(one_box_per_frame(float(confidence)))
        score = score_video(sample, video, detector, TableEmbedder(["Cup"], 1, ONE_CROP))
        assert score.details["kept"] == kept
        assert score.details["frames_with_a_box"] == FRAMES


def test_nothing_detected_is_no_score(tmp_path: Path, video: Video) -> None:
    sample = sample_of(tmp_path, "singleobj_1", ["Cup"])
    with pytest.raises(SampleError, match="found no reference in any frame"):
        score_video(sample, video, TableDetector([[[]]] * FRAMES), TableEmbedder(["Cup"], 1, {}))


def test_a_reference_without_a_label_is_left_out(tmp_path: Path, video: Video) -> None:
    sample = sample_of(tmp_path, "multiobject_1", ["", "Cup"])
    embedder = TableEmbedder(["Cup"], 2, {(5, 5): (0, 1, 0.5, 0.25)})
    score = score_video(sample, video, TableDetector(one_box_per_frame()), embedder)
    assert score.value == 0.25 / FRAMES
    assert embedder.pictures_seen == [1]
    with pytest.raises(SampleError, match="has no label"):
        score_video(
            sample_of(tmp_path, "singleobj_1", [""]), video, TableDetector([]), TableEmbedder([], 1, {})
        )


@pytest.mark.parametrize("confidence", [0.55, 0.9])
def test_a_box_that_rounds_to_no_pixel_loses_the_video(
    tmp_path: Path, video: Video, confidence: float
) -> None:
    table = one_box_per_frame()
    table[9][0].append(((10.6, 3.0, 11.4, 40.0), confidence))
    sample = sample_of(tmp_path, "singleobj_1", ["Cup"])
    with pytest.raises(SampleError, match="rounds to no pixel"):
        score_video(sample, video, TableDetector(table), TableEmbedder(["Cup"], 1, ONE_CROP))


@pytest.mark.parametrize("corners", [(9.0, 3.0, 9.4, 101.0), (3.0, 9.0, 101.0, 9.4)])
def test_a_long_box_without_a_pixel_across_is_black(
    tmp_path: Path, video: Video, corners: tuple[float, ...]
) -> None:
    crop = crop_of(Image.new("RGB", (832, 480), "white"), corners)
    assert sorted(crop.size) == [0, 98]
    assert sorted(first_resize(crop).size) == [28, 112]
    assert first_resize(crop).getextrema() == ((0, 0),) * 3
    table = one_box_per_frame()
    table[9] = [[(corners, 0.9)]]
    embedder = TableEmbedder(["Cup"], 1, ONE_CROP | {crop.size: (0, 0, 0.125, 0.125)})
    score = score_video(sample_of(tmp_path, "singleobj_1", ["Cup"]), video, TableDetector(table), embedder)
    assert score.value == 0.25 / FRAMES
    assert (score.details["boxes"], score.details["kept"]) == (FRAMES, FRAMES - 1)


@pytest.mark.parametrize("corners", [(9.0, 3.0, 9.4, 100.0), (9.0, 9.0, 9.4, 9.4), (9.0, 3.0, 7.0, 200.0)])
def test_a_box_that_gme_cannot_resize_is_refused(corners: tuple[float, ...]) -> None:
    with pytest.raises(SampleError, match="rounds to no pixel"):
        crop_of(Image.new("RGB", (832, 480)), corners)


def test_a_missing_or_broken_reference_is_the_samples_reason(tmp_path: Path, video: Video) -> None:
    sample = sample_of(tmp_path, "singleobj_1", ["Cup"])
    file = sample.references[0].file
    file.write_bytes(b"no picture")
    with pytest.raises(SampleError, match="cannot be read"):
        score_video(sample, video, TableDetector([]), TableEmbedder(["Cup"], 1, {}))
    file.unlink()
    with pytest.raises(SampleError, match="is missing"):
        score_video(sample, video, TableDetector([]), TableEmbedder(["Cup"], 1, {}))


@pytest.mark.parametrize("content", [b"", b"this is no video" * 99])
def test_an_unreadable_video_is_the_samples_reason(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    sample = sample_of(tmp_path, "singleobj_1", ["Cup"])
    with pytest.raises(SampleError, match="video"):
        score_video(sample, Video(path), TableDetector([]), TableEmbedder(["Cup"], 1, {}))


def with_alpha(path: Path) -> None:
    picture = Image.new("RGBA", (REFERENCE_WIDTH, 90), (200, 30, 40, 0))
    picture.save(path, format="PNG")


def in_cmyk(path: Path) -> None:
    Image.new("CMYK", (REFERENCE_WIDTH, 90), (0, 255, 255, 0)).save(path, format="JPEG")


def rotated_by_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (REFERENCE_WIDTH, 90), (200, 30, 40)).save(path, format="JPEG", exif=exif)


@pytest.mark.parametrize("write", [with_alpha, in_cmyk, rotated_by_exif])
def test_references_are_opened_as_plain_rgb(tmp_path: Path, video: Video, write: Any) -> None:
    """Alpha is dropped, CMYK converted, an EXIF rotation not applied; both models see the same picture."""
    sample = sample_of(tmp_path, "singleobj_1", ["Cup"])
    write(sample.references[0].file)
    detector, embedder = TableDetector(one_box_per_frame()), TableEmbedder(["Cup"], 1, ONE_CROP)
    assert score_video(sample, video, detector, embedder).value == 0.25 / FRAMES
    assert set(embedder.modes_seen) == {"RGB"}
    assert [picture.size for picture in detector.pictures] == [(REFERENCE_WIDTH, 90)]
    red, green, _ = detector.pictures[0].getpixel((50, 50))  # type: ignore[misc]
    assert red > 180 and green < 60


def test_repeated_frames_of_a_short_video_are_looked_at_once(tmp_path: Path) -> None:
    short = clip(tmp_path / "short.mp4", 5)
    detector = TableDetector(one_box_per_frame()[:5])
    embedder = TableEmbedder(["Cup"], 1, ONE_CROP)
    score = score_video(sample_of(tmp_path, "singleobj_1", ["Cup"]), short, detector, embedder)
    assert (detector.frames_seen, sum(embedder.crops_seen)) == (5, 5)
    assert score.details["frames_with_a_box"] == score.details["kept"] == FRAMES
    assert score.value == 0.25 / FRAMES


class ColourEmbedder:
    """Embeds pictures by their mean colour and labels by their length: cheap, and of use to nobody else."""

    def __init__(self) -> None:
        self.embedded = 0

    def embed_texts(self, texts: Sequence[str], instruction: str | None = None) -> Any:
        self.embedded += len(texts)
        vectors = torch.tensor([[1.0, 1.0, 1.0, 0.1 * len(text)] for text in texts])
        return torch.nn.functional.normalize(vectors, dim=-1)

    def embed_images(self, images: Sequence[Image.Image], instruction: str | None = None) -> Any:
        self.embedded += len(images)
        means = [[*(np.asarray(image).mean(axis=(0, 1)) / 255), 0.1] for image in images]
        return torch.nn.functional.normalize(torch.tensor(means, dtype=torch.float32), dim=-1)


@pytest.fixture(scope="module")
def small_detector(small_weights: Path) -> ImagePromptDetector:
    checkpoint = small_weights / OPENS2V_WEIGHT.repository / DETECTOR_FILE
    return ImagePromptDetector.load(checkpoint, small_weights / CLIP_VIT_B32.repository, "cpu")


def in_the_official_order(
    sample: Sample, video: Video, detector: ImagePromptDetector, embedder: ColourEmbedder
) -> tuple[float, int]:
    """(score, boxes) computed box by box: a pass per frame and reference, three embeddings per box."""
    kept, boxes_seen, frames = [], 0, set()
    for number, frame_HWC in enumerate(video.frames(uniform_frames(FRAMES))):
        for subject in subjects_of(sample):
            picture = subject.reference.open_plain_rgb()
            boxes = detector.detect([frame_HWC], detector.prompts([picture]))[0][0]
            for corners, confidence in zip(boxes.corners.tolist(), boxes.scores.numpy(), strict=True):
                boxes_seen += 1
                frames.add(number)
                crop = embedder.embed_images([Image.fromarray(frame_HWC).crop(tuple(corners))])[0].half()
                text = embedder.embed_texts([subject.label], TEXT_INSTRUCTION)[0].half()
                whole = embedder.embed_images([picture])[0].half()
                similarity = (whole * crop).sum()
                if confidence > np.float32(0.6) and (text * crop).sum() > 0.30 and similarity != 0:
                    kept.append(similarity)
    return float(torch.tensor(kept).mean()) / len(frames), boxes_seen


@pytest.mark.parametrize("pairs_per_pass", [1, 8])
def test_equal_to_the_official_order_of_work(
    small_detector: ImagePromptDetector, tmp_path: Path, pairs_per_pass: int
) -> None:
    moving = clip(tmp_path / "moving.mp4", 6, side=160)
    sample = sample_of(tmp_path, "humanobj_1", ["Woman", "Cup"])
    box_by_box, ours = ColourEmbedder(), ColourEmbedder()
    expected, boxes = in_the_official_order(sample, moving, small_detector, box_by_box)
    score = score_video(sample, moving, replace(small_detector, pairs_per_pass=pairs_per_pass), ours)
    assert boxes == score.details["boxes"] > 0
    assert score.details["kept"] > 0
    # The numbers are float16 rounded sums of products; batches move them by one rounding at most.
    assert score.value == pytest.approx(expected, rel=2**-10)
    assert ours.embedded < box_by_box.embedded / 5


def test_unavailable_names_what_is_missing(small_weights: Path, tmp_path: Path) -> None:
    metric = NexusScore()
    assert metric.unavailable(Environment(weights=small_weights)) is None
    reason = metric.unavailable(Environment(weights=tmp_path))
    assert reason is not None and "refbench weights pull" in reason
    for repository in (GME_QWEN2_VL.repository, CLIP_VIT_B32.repository):
        (tmp_path / repository).parent.mkdir(exist_ok=True)
        (tmp_path / repository).symlink_to(small_weights / repository)
    (tmp_path / OPENS2V_WEIGHT.repository).mkdir(parents=True)
    reason = metric.unavailable(Environment(weights=tmp_path))
    assert reason is not None and all(name in reason for name in DETECTOR_FILES)
    with pytest.raises(MissingWeights, match="yolo_world"):
        metric.load(Environment(weights=tmp_path))


def test_load_score_and_close_with_small_weights(small_weights: Path, tmp_path: Path) -> None:
    scorer = NexusScore().load(Environment(weights=small_weights))
    try:
        short = clip(tmp_path / "short.mp4", 2, side=96)
        score = scorer.score(sample_of(tmp_path, "humanobj_1", ["Woman", "Cup"]), short)
        assert isinstance(score, Score) and np.isfinite(score.value)
        assert score.details["frames_with_a_box"] == FRAMES
        assert [entry["label"] for entry in score.details["references"]] == ["human", "Cup"]
        provenance = scorer.provenance()
    finally:
        scorer.close()
    assert provenance["dtype"] == "float32, float32"
    assert len(provenance["weights"]) == 3
    assert all(digest.startswith("tiny:") for digest in provenance["weights"].values())


def test_a_damaged_checkpoint_is_a_user_error(small_weights: Path, tmp_path: Path) -> None:
    for repository in (GME_QWEN2_VL.repository, CLIP_VIT_B32.repository):
        (tmp_path / repository).parent.mkdir(exist_ok=True)
        (tmp_path / repository).symlink_to(small_weights / repository)
    folder = tmp_path / OPENS2V_WEIGHT.repository
    folder.mkdir(parents=True)
    whole = (small_weights / OPENS2V_WEIGHT.repository / DETECTOR_FILE).read_bytes()
    (folder / DETECTOR_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        NexusScore().load(Environment(weights=tmp_path))


def test_the_small_detector_finds_subjects_in_the_sample_video(
    small_detector: ImagePromptDetector, opens2v: Path
) -> None:
    sample = load_track("open-domain", opens2v).sample("faceobj_14")
    assert sample is not None
    video = Video(opens2v / "videos" / "faceobj_14.mp4")
    score = score_video(sample, video, small_detector, ColourEmbedder())
    assert [entry["label"] for entry in score.details["references"]] == ["Clothes", "Square"]
    assert score.value > 0
    assert score.details["frames_with_a_box"] == FRAMES
