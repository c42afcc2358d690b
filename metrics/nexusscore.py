"""NexusScore: are the subjects of the references in the video, and do they look like them?

    score = mean over kept boxes of < picture(reference), picture(crop) >  /  frames with a box

In 32 frames an image-prompt detector (YOLO-World v2-L) looks for each reference; what it finds is cut out and
compared with the whole reference picture and with the class label by GME-Qwen2-VL-7B. A box is kept when its
confidence is over 0.6, its product with the label over 0.30 and its product with the reference not 0. Range
of the raw value: -1 to 1; the protocol drops exact zeros and caps it at 0.05.

Source: `eval/get_nexusscore.py` of PKU-YuanGroup/OpenS2V-Nexus v1.1 (commit 210eb08), key `nexus_score`.
Kept on purpose: in categories with "face" the labels `Man` and `Woman` are left out, in those with "human"
they become `human`; the detector sees BGR; products and their mean are rounded to float16, and a threshold is
rounded to the precision of what it is compared with (0.30 to 0.30005); a box of confidence 0.5 to 0.6 counts
its frame but never enters the mean, so seeing the subject in fewer frames can raise the score; a box
without a pixel across is resized to black if it is at least 98 pixels long, and loses the video if it is
shorter (GME's resize divides by zero there); boxes of which none is kept give 0, no box at all gives no
score.
Different, with the same result: the backbone runs once per frame and not twice per frame and reference,
prompts once per reference; reference pictures and labels are embedded once per video and crops once, in
batches, those under 0.6 not at all; a frame that the sampling of a short video repeats is looked at once.
Metrics of one turn that look for subjects (subject-confusion) share all of that (`SubjectSearch`).
A reference without a label is left out, as the original does when its list of labels is shorter. An empty
label counts as none; the original would compare with the embedding of an empty text, which says nothing of
the subject (the official samples have no such label).

The details hold the counts, and `score_per_frame_and_reference`: a pre-release of the script divided by the
number of (frame, reference) pairs with a box. `subject_boxes` are the boxes of frames, each once: place of
the frame among the 32, number of the reference, 1 for a kept box, the box (`metrics/frame_boxes.py`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer, ScoringCost
from refbench.bench.registry import metrics
from refbench.bench.sample import Reference, Sample
from refbench.bench.scores.columns import NEXUS_FACE_LABELS, NOTHING_FOUND, nexus_not_applicable
from refbench.bench.video import Video, uniform_frames
from refbench.bench.weights.store import file_digests, is_small, require_file, require_model_folder
from refbench.metrics.frame_boxes import in_thousandths, listed
from refbench.metrics.nets.pixels import distinct_frames
from refbench.metrics.nets.sharing import Shared, stamps
from refbench.metrics.weights import CLIP_VIT_B32, GME_QWEN2_VL, OPENS2V_WEIGHT

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from refbench.metrics.nets.yolo_world.boxes import Boxes

# The second is the default of the official script's --yolo_model_path; the first a conversion by the user.
DETECTOR_FILES = (
    "yolo_world_v2_l_image_prompt_adapter-719a7afb.safetensors",
    "yolo_world_v2_l_image_prompt_adapter-719a7afb.pth",
)

FRAMES = 32
HUMAN_LABEL = "human"

# In the precision of what they are compared with.
MIN_CONFIDENCE = np.float32(0.6)
MIN_TEXT_SIMILARITY = np.float16(0.30)

# The reason of a video with a box that cannot be cut out.
TOO_SMALL = "a detected box rounds to no pixel, which the official script cannot score either"

# Crops held at a time; the embedder cuts them into batches by their tokens.
CROPS_HELD = 16


class Embedder(Protocol):
    """What NexusScore asks of a model that embeds texts and pictures in one space."""

    def embed_texts(self, texts: Sequence[str], instruction: str | None = None) -> torch.Tensor:
        """Unit vectors (n, D) of texts, on the CPU."""
        ...

    def embed_images(self, images: Sequence[Image.Image], instruction: str | None = None) -> torch.Tensor:
        """Unit vectors (n, D) of RGB pictures, on the CPU."""
        ...


class Detector(Protocol):
    """What NexusScore asks of a detector."""

    @property
    def pairs_per_pass(self) -> int:
        """The most frames times references of one call of `detect`."""
        ...

    def prompts(self, pictures: Sequence[Image.Image]) -> Any:
        """Prompts of RGB reference pictures, in the form that `detect` takes."""
        ...

    def detect(self, frames: Sequence[np.ndarray], prompts: Any) -> list[list[Boxes]]:
        """Boxes over 0.5 of each frame, RGB uint8 (H, W, 3), and, within it, of each reference."""
        ...


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A reference that is looked for, which of the sample's it is (from 0 on), and the label that its boxes
    are compared with.
    """

    reference: Reference
    number: int
    label: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """A box: where it was seen, the detector's confidence, and the crop's products with label and reference.

    The products are None for a box that cannot be kept because of its confidence. `repeats` says that the
    frame, and with it the box, stands for an earlier one of a short video; `box` is in thousandths.
    """

    frame: int
    subject: int
    repeats: bool
    box: tuple[int, int, int, int]
    confidence: np.float32
    text_similarity: np.float16 | None
    image_similarity: np.float16 | None

    @property
    def kept(self) -> bool:
        """Whether the box enters the mean."""
        if self.text_similarity is None or self.image_similarity is None:
            return False
        return bool(
            self.confidence > MIN_CONFIDENCE
            and self.text_similarity > MIN_TEXT_SIMILARITY
            and self.image_similarity != 0
        )


@metrics.register
class NexusScore(Metric):
    """Needs the detector, CLIP for its prompts, and GME, which it shares with GmeScore."""

    declaration = MetricDeclaration(
        name="nexusscore",
        version="1",
        component="nexusscore",
        summary="likeness of detected subjects to their references (YOLO-World and GME-Qwen2-VL-7B)",
        source="OpenS2V-Nexus@210eb08 eval/get_nexusscore.py",
        uses=frozenset({"video", "references"}),
        weights=(OPENS2V_WEIGHT, CLIP_VIT_B32, GME_QWEN2_VL),
        # On a processor; a GPU takes seconds.
        job_limit_s=7200.0,
        # docs/measured-gpu.md, `nexus-detector`: 0.727 s, of them 0.25 of letterboxes, and 10.2 TFLOP. A crop
        # is at least 256 tokens to GME: 5.1 TFLOP, counted as in GmeScore, at the 323 TFLOP/s measured there.
        cost=ScoringCost(
            gpu_s=0.477,
            assumed_gpu_s=1.5,
            serial_s=0.25,
            tflop=500.0,
            parameter_bytes=2,
            peak_gib=26.9,
            grows_with="references",
            measured_at=3,
            remarks=(
                "the detector was measured; GME on a crop of each frame for each reference is assumed, and "
                "so is that both peaks of memory add up",
            ),
        ),
        packages=("torch", "torchvision", "transformers", "opencv-python", "pillow", "numpy"),
    )
    modules = ("torch", "torchvision", "transformers")

    def not_applicable(self, sample: Sample) -> str | None:
        """Samples that show nothing but faces, which NexusScore leaves to FaceSim."""
        return nexus_not_applicable(sample)

    def find_weights(self, environment: Environment) -> tuple[Path, Path]:
        """The detector's checkpoint and CLIP's folder; GME's is looked for as well. Raises MissingWeights."""
        require_model_folder(GME_QWEN2_VL, environment.weights)
        clip_folder = require_model_folder(CLIP_VIT_B32, environment.weights)
        return require_file(OPENS2V_WEIGHT, DETECTOR_FILES, environment.weights), clip_folder

    def load(self, environment: Environment) -> NexusScorer:
        """A scorer with the detector and GME, or with GmeScore's where that holds it.

        Raises MissingWeights, and UserError for files that are damaged or do not fit.
        """
        checkpoint, clip_folder = self.find_weights(environment)
        return NexusScorer(search=shared_search(checkpoint, clip_folder, environment))


@dataclass(frozen=True, kw_only=True)
class NexusScorer(Scorer):
    """Streams over the frames; one pass of the detector and one batch of crops are in memory."""

    search: SubjectSearch

    def score(self, sample: Sample, video: Video) -> Score:
        """The raw value of one video.

        Raises SampleError when no reference can be looked for, one is missing, the video cannot be read,
        nothing is found in any frame, or a box is too small for GME.
        """
        subjects = subjects_of(sample)
        if not subjects:
            raise SampleError("no reference to look for: each is a face or has no label")
        found = found_boxes(self.search.seen(subjects, video))
        if not found:
            raise SampleError(NOTHING_FOUND["nexusscore"])
        return summary_of(found, subjects)

    def provenance(self) -> dict[str, Any]:
        """Precisions (detector, then GME), pairs per pass, digests of all three models."""
        return dict(self.search.provenance)

    def close(self) -> None:
        """Let go of both models; their memory is given back unless another metric holds them."""
        _SEARCHES.release(self.search)


def score_video(sample: Sample, video: Video, detector: Detector, embedder: Embedder) -> Score:
    """The score of one video with any detector and embedder. Raises SampleError as `NexusScorer.score`."""
    return NexusScorer(search=SubjectSearch(detector=detector, embedder=embedder)).score(sample, video)


def subjects_of(sample: Sample) -> list[Subject]:
    """The references that are looked for, with the labels that their boxes are compared with."""
    subjects = []
    for number, reference in enumerate(sample.references):
        is_person = reference.label in NEXUS_FACE_LABELS
        if not reference.label or (is_person and "face" in sample.category):
            continue
        renamed = is_person and "human" in sample.category
        label = HUMAN_LABEL if renamed else reference.label
        subjects.append(Subject(reference=reference, number=number, label=label))
    return subjects


@dataclass(frozen=True, kw_only=True)
class SeenBox:
    """A box of a frame: the number of the subject that it was found for, the detector's confidence, where it
    is, in pixels and in thousandths.

    `crop` is the number of its crop, None where it cannot be kept because of its confidence, or where it
    `is_too_small` to be cut out.
    """

    subject: int
    confidence: np.float32
    corners_4: tuple[float, ...]
    box: tuple[int, int, int, int]
    crop: int | None
    is_too_small: bool


@dataclass(frozen=True, kw_only=True)
class SeenFrame:
    """A different frame: its first place among the 32, how many places it has, and its boxes in the order of
    subjects and the detector.
    """

    place: int
    repeats: int
    boxes: tuple[SeenBox, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenVideo:
    """What was found of subjects in a video, with the embeddings (D,), float16, of crops, by their number,
    and of the subjects' labels and whole reference pictures.
    """

    frames: tuple[SeenFrame, ...]
    crops: Sequence[torch.Tensor]
    labels: Sequence[torch.Tensor]
    pictures: Sequence[torch.Tensor]


def nothing_to_give_back() -> None:
    """For a detector and an embedder whose memory is somebody else's."""


@dataclass(kw_only=True, eq=False)
class SubjectSearch:
    """The detector and GME, with what they saw in the last video: metrics of one turn look at it once.

    `provenance` is what records say of both.
    """

    detector: Detector
    embedder: Embedder
    provenance: Mapping[str, Any] = field(default_factory=dict)
    give_back: Callable[[], None] = nothing_to_give_back
    _last: tuple[weakref.ref[Video], tuple[tuple[str, str], ...], SeenVideo] | None = field(
        init=False, default=None
    )

    @classmethod
    def load(cls, checkpoint: Path, clip_folder: Path, environment: Environment) -> SubjectSearch:
        """From the detector's checkpoint and CLIP's folder, with GmeScore's GME where that holds it.

        Raises MissingWeights, and UserError for files that are damaged or do not fit.
        """
        from refbench.bench.weights.hf_folder import weight_digests
        from refbench.metrics.nets.gme import release_embedder, shared_embedder
        from refbench.metrics.nets.yolo_world.image_prompt_detector import ImagePromptDetector

        detector = ImagePromptDetector.load(checkpoint, clip_folder, environment.device)
        embedder = shared_embedder(environment)
        detector_name = f"{OPENS2V_WEIGHT.name}/{checkpoint.name}"

        def give_back() -> None:
            detector.close()
            release_embedder(embedder)

        return cls(
            detector=detector,
            embedder=embedder,
            provenance={
                "dtype": f"float32, {str(embedder.dtype).removeprefix('torch.')}",
                "batch_size": detector.pairs_per_pass,
                "weights": file_digests(checkpoint.parent, {detector_name: checkpoint})
                | weight_digests(clip_folder, CLIP_VIT_B32.name)
                | dict(embedder.weight_digests),
            },
            give_back=give_back,
        )

    def seen(self, subjects: Sequence[Subject], video: Video) -> SeenVideo:
        """What is found of one subject or more in a video; of the last video and subjects it is known.

        Raises SampleError for a reference or a video that cannot be read.
        """
        key = tuple((subject.reference.content_digest(), subject.label) for subject in subjects)
        last = self._last
        if last is not None and last[0]() is video and last[1] == key:
            return last[2]
        seen = self._look(subjects, video)
        self._last = (weakref.ref(video), key, seen)
        return seen

    def close(self) -> None:
        """Give the detector's memory back, and GME's unless GmeScore holds it."""
        self._last = None
        self.give_back()

    def _look(self, subjects: Sequence[Subject], video: Video) -> SeenVideo:
        pictures = [subject.reference.open_plain_rgb() for subject in subjects]
        prompts = self.detector.prompts(pictures)
        labels = label_embeddings(subjects, self.embedder)
        embedded = picture_embeddings(pictures, self.embedder)
        crops = _Crops(self.embedder)
        frames = []
        place = 0
        distinct = distinct_frames(video, uniform_frames(FRAMES))
        frames_per_pass = max(self.detector.pairs_per_pass // len(subjects), 1)
        while group := list(islice(distinct, frames_per_pass)):
            detected = self.detector.detect([frame_HWC for frame_HWC, _ in group], prompts)
            for (frame_HWC, repeats), per_subject in zip(group, detected, strict=True):
                boxes = tuple(_seen_boxes(frame_HWC, per_subject, crops))
                frames.append(SeenFrame(place=place, repeats=repeats, boxes=boxes))
                place += repeats
        return SeenVideo(frames=tuple(frames), crops=crops.embedded(), labels=labels, pictures=embedded)


_SEARCHES: Shared[SubjectSearch] = Shared()


def shared_search(checkpoint: Path, clip_folder: Path, environment: Environment) -> SubjectSearch:
    """The process's search with these files, loaded by the first caller; to be given back by closing the
    scorer that has it.

    Raises MissingWeights, and UserError for files that are damaged or do not fit.
    """
    files = (checkpoint, *sorted(clip_folder.iterdir()))
    key = (stamps(files), is_small(checkpoint.parent), environment.device, environment.weights)
    return _SEARCHES.hold(key, lambda: SubjectSearch.load(checkpoint, clip_folder, environment))


class _Crops:
    """Crops of all boxes of a video, embedded in batches as they come."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._waiting: list[Image.Image] = []
        self._embedded: list[torch.Tensor] = []

    def add(self, crop: Image.Image) -> int:
        """The number of the crop."""
        self._waiting.append(crop)
        number = len(self._embedded) + len(self._waiting) - 1
        if len(self._waiting) == CROPS_HELD:
            self._embed()
        return number

    def embedded(self) -> list[torch.Tensor]:
        """The embeddings (D,), float16, of all crops so far."""
        if self._waiting:
            self._embed()
        return self._embedded

    def _embed(self) -> None:
        self._embedded += self._embedder.embed_images(self._waiting).half()
        self._waiting = []


def _seen_boxes(frame_HWC: np.ndarray, per_subject: Sequence[Boxes], crops: _Crops) -> Iterator[SeenBox]:
    """The boxes of a frame, RGB uint8 (H, W, 3); what they show joins the crops."""
    from PIL import Image

    picture = Image.fromarray(frame_HWC)
    for subject, boxes in enumerate(per_subject):
        for corners_4, confidence in zip(boxes.corners.tolist(), boxes.scores.numpy(), strict=True):
            try:
                crop = crop_of(picture, corners_4)
            except SampleError:
                crop = None
            yield SeenBox(
                subject=subject,
                confidence=confidence,
                corners_4=tuple(corners_4),
                box=in_thousandths(corners_4, picture.width, picture.height),
                crop=crops.add(crop) if crop is not None and confidence > MIN_CONFIDENCE else None,
                is_too_small=crop is None,
            )


def found_boxes(seen: SeenVideo) -> list[Found]:
    """All boxes in the order of frames, references and the detector; repeated frames repeat theirs.

    Raises SampleError for a box that is too small for GME.
    """
    if any(box.is_too_small for frame in seen.frames for box in frame.boxes):
        raise SampleError(TOO_SMALL)
    return [
        Found(
            frame=frame.place + repeat,
            subject=box.subject,
            repeats=repeat > 0,
            box=box.box,
            confidence=box.confidence,
            text_similarity=_product(seen.labels, seen.crops, box),
            image_similarity=_product(seen.pictures, seen.crops, box),
        )
        for frame in seen.frames
        for repeat in range(frame.repeats)
        for box in frame.boxes
    ]


def _product(
    of_subjects: Sequence[torch.Tensor], crops: Sequence[torch.Tensor], box: SeenBox
) -> np.float16 | None:
    return None if box.crop is None else half_product(of_subjects[box.subject], crops[box.crop])


def summary_of(found: Sequence[Found], subjects: Sequence[Subject]) -> Score:
    """The score and its details; `found` is not empty."""
    import torch

    frames = len({box.frame for box in found})
    pairs = len({(box.frame, box.subject) for box in found})
    similarities = [
        float(box.image_similarity) for box in found if box.kept and box.image_similarity is not None
    ]
    # Summed in float32 and rounded to float16 once; only the division by the count is in float64.
    mean = float(torch.tensor(similarities, dtype=torch.float16).mean()) if similarities else 0.0
    references = [
        {
            "path": subject.reference.path,
            "label": subject.label,
            "boxes": sum(box.subject == number for box in found),
            "kept": sum(box.subject == number and box.kept for box in found),
        }
        for number, subject in enumerate(subjects)
    ]
    return Score(
        value=mean / frames,
        details={
            "frames": FRAMES,
            "boxes": len(found),
            "kept": len(similarities),
            "frames_with_a_box": frames,
            "frame_reference_pairs_with_a_box": pairs,
            "mean_similarity": mean,
            "score_per_frame_and_reference": mean / pairs,
            "references": references,
            "subject_boxes": listed(
                (box.frame, box.subject, int(box.kept), *box.box) for box in found if not box.repeats
            ),
        },
    )


def label_embeddings(subjects: Sequence[Subject], embedder: Embedder) -> list[torch.Tensor]:
    """The embedding (D,) of each subject's label, float16; each label is embedded once."""
    from refbench.metrics.nets.gme import TEXT_INSTRUCTION

    labels = list(dict.fromkeys(subject.label for subject in subjects))
    # One at a time: what is computed once shall not depend on what else the sample holds.
    of_label = {label: embedder.embed_texts([label], TEXT_INSTRUCTION)[0].half() for label in labels}
    return [of_label[subject.label] for subject in subjects]


def picture_embeddings(pictures: Sequence[Image.Image], embedder: Embedder) -> list[torch.Tensor]:
    """The embedding (D,) of each RGB picture, float16, embedded one at a time."""
    return [embedder.embed_images([picture])[0].half() for picture in pictures]


def crop_of(picture: Image.Image, corners_4: Sequence[float]) -> Image.Image:
    """The part of a picture within (x1, y1, x2, y2), each rounded half to even, x2 and y2 excluded.

    It may be without a pixel across, and is then resized to black. Raises SampleError where Pillow's crop or
    GME's resize of no pixels fails: there the official script loses the video.
    """
    from refbench.metrics.nets.gme import first_size

    left, top, right, bottom = (round(corner) for corner in corners_4)
    try:
        crop = picture.crop((left, top, right, bottom))
        first_size(crop.height, crop.width)
    except (ValueError, ZeroDivisionError):
        raise SampleError(TOO_SMALL) from None
    return crop


def half_product(one_D: torch.Tensor, other_D: torch.Tensor) -> np.float16:
    """The product of two float16 vectors: rounded per element, summed in float32, rounded again."""
    similarity: np.float16 = (one_D * other_D).sum().numpy()[()]
    return similarity
