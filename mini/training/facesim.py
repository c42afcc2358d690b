"""The networks of FaceSim: a face detector of three strides, CurricularFace and ArcFace, all narrow.

The detector takes the mean of 4×4 pixels of its 320, which were enlarged from 64 anyway, and then convolves.
It learns the world's face boxes and landmarks, and that nobody is in things, in backs of heads, in places,
noise and plain colours. Both identity networks have CurricularFace's layout and learn that a face in a frame
is nearer, by a margin, to the reference picture of the same person than to those of all others in the batch;
and to tell the traits that the renderer drew the face from. Their crops are the metric's own, around
landmarks that are off by as much as the detector's.

Shapes: B pictures or faces, R references, H W rows and columns, C channels, P points of all levels, K numbers
of a point or corners, D embedding, T traits.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.metric import Score
from refbench.bench.sample import Reference, Sample
from refbench.bench.video import Video, write_video
from refbench.metrics.facesim import NETWORK_FILE, FaceSim
from refbench.metrics.nets.curricularface import CurricularFace, Layout
from refbench.metrics.nets.faces import (
    CROP_SIDE_PX,
    DETECTOR_SIDE_PX,
    aligned_crop,
    framed,
    halved,
)
from refbench.metrics.small.facesim import (
    EMBEDDING,
    HEADS,
    NEVER,
    PACK,
    PICTURE,
    STRIDES,
    Level,
    arcface_model,
    scrfd_model,
    write_pack,
)
from refbench.metrics.weights import OPENS2V_WEIGHT
from refbench.mini.training.aesthetics import NAME as AESTHETICS
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.loop import Schedule, seeded
from refbench.mini.training.measures import Detections, auc, average_precision
from refbench.mini.training.onnx_layers import OnnxLayers
from refbench.mini.training.pictures import as_shown, empty_picture
from refbench.mini.training.seen import coded
from refbench.mini.world import FPS, NUM_FRAMES
from refbench.mini.world.degrade import DEGRADATIONS
from refbench.mini.world.identity import Split, Subject, person
from refbench.mini.world.people import Person
from refbench.mini.world.render import ActorLabels, Rendering, reference_face, reference_picture, render
from refbench.mini.world.scene import FRAMINGS, TRAINING_PEOPLE, compose, random_scene

if TYPE_CHECKING:
    from refbench.metrics.facesim import FaceSimScorer

# --- detector --------------------------------------------------------------------------------------------

POOLED = 4
WIDTHS = (24, 40, 56)
POINT_NUMBERS = sum(HEADS.values())
# The sides of faces, in pixels of the input, that each stride answers for.
FACE_SIDES_PX = {8: (0, 56), 16: (46, 130), 32: (110, math.inf)}
# Of a face's half width and height: points within the first are faces, those beyond the second are not.
CORE, EDGE = 0.5, 1.0
# A face counts as seen where so much of its box belongs to the person, and may be seen from the lower share.
SEEN, HARDLY_SEEN = 0.6, 0.3
CLIPS, FRAMES_OF_CLIP, REFERENCES, EMPTY_PICTURES = 5, 4, 6, 6
FRAMED_RATE = 0.2
BOX_WEIGHT, LANDMARK_WEIGHT = 4.0, 6.0
DETECTOR_SCHEDULE = Schedule(steps=600, learning_rate=3e-3, warmup_steps=50, average=0.99)

# --- identity --------------------------------------------------------------------------------------------

LAYOUT = Layout(stem_width=8, unit_widths=(8, 16, 32, 32, 64, 64), embedding_width=64)
PEOPLE_OF_STEP, FACES_OF_PERSON = 20, 3
# How far landmarks are off, as a share of the distance between the eyes.
LANDMARK_NOISE = 0.05
# CosFace's margin and scale; the weight of the traits.
MARGIN, SCALE, TRAITS_WEIGHT = 0.25, 16.0, 20.0
IDENTITY_SCHEDULE = Schedule(steps=300, learning_rate=3e-3, warmup_steps=50, average=0.99)
# ArcFace's likeness is in no score, only in the details.
ARCFACE_SCHEDULE = replace(IDENTITY_SCHEDULE, steps=150)

# --- measuring -------------------------------------------------------------------------------------------

MEASURED_PEOPLE, MEASURED_SCENES = 80, 60
DAMAGE = 0.5
CRF = 18


class FaceDetector(nn.Module):
    """Pictures (B,3,80,80), the means of 4×4 of 320 pixels in [-1,1], to what each point says (B,P,15): a
    logit, the distances to the sides of a box, and the places of five landmarks, in strides.
    """

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.levels = nn.ModuleList(
            [
                nn.Sequential(*_layer(3, fine, 2), *_layer(fine, fine), *_layer(fine, fine)),
                nn.Sequential(*_layer(fine, middle, 2), *_layer(middle, middle), *_layer(middle, middle)),
                nn.Sequential(*_layer(middle, coarse, 2), *_layer(coarse, coarse)),
            ]
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, POINT_NUMBERS, 1) for width in WIDTHS)
        for head in self.heads:
            nn.init.constant_(head.bias[:1], -4.0)

    def forward(self, pictures_BCHW: torch.Tensor) -> torch.Tensor:
        """All levels' points, row by row."""
        points = []
        features_BCHW = pictures_BCHW
        for level, head in zip(self.levels, self.heads, strict=True):
            features_BCHW = level(features_BCHW)
            points.append(head(features_BCHW).flatten(2).transpose(1, 2))
        return torch.cat(points, dim=1)


def _layer(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


@dataclass(frozen=True, kw_only=True)
class Faces:
    """The faces of one picture, in its pixels: boxes (K,4), landmarks (K,5,2), and boxes (K,4) of those that
    are hidden so far that they may be found or not.
    """

    boxes_K4: np.ndarray
    landmarks_K52: np.ndarray
    doubtful_K4: np.ndarray


NOBODY = Faces(boxes_K4=np.zeros((0, 4)), landmarks_K52=np.zeros((0, 5, 2)), doubtful_K4=np.zeros((0, 4)))


def faces_of(labels: Sequence[ActorLabels], frame: int) -> Faces:
    """The faces of a frame."""
    boxes, landmarks, doubtful = [], [], []
    for one in labels:
        seen = seen_face(one, frame)
        if seen >= SEEN:
            boxes.append(one.face_FK[frame])
            landmarks.append(one.landmarks_FKC[frame])
        elif seen >= HARDLY_SEEN:
            doubtful.append(one.face_FK[frame])
    return Faces(
        boxes_K4=np.reshape(boxes, (-1, 4)),
        landmarks_K52=np.reshape(landmarks, (-1, 5, 2)),
        doubtful_K4=np.reshape(doubtful, (-1, 4)),
    )


def seen_face(labels: ActorLabels, frame: int) -> float:
    """How much of somebody's face is seen, 0 to 1; 0 from behind."""
    box_4 = labels.face_FK[frame]
    if np.isnan(box_4).any():
        return 0.0
    left, top, right, bottom = np.rint(box_4).astype(int)
    part_HW = labels.mask_FHW[frame, top:bottom, left:right]
    # The widest hat and the shape of a head leave out this much of a box that is seen whole.
    return float(min(part_HW.mean() / 0.9, 1.0)) if part_HW.size else 0.0


def reference_faces(subject: Subject, face: bool) -> tuple[np.ndarray, Faces]:
    """A person's reference picture with the face in it."""
    box_4, landmarks_52 = reference_face(_person(subject), face=face)
    return reference_picture(subject, face=face), Faces(
        boxes_K4=box_4[None], landmarks_K52=landmarks_52[None], doubtful_K4=np.zeros((0, 4))
    )


def detector_input(picture_HWC: np.ndarray) -> np.ndarray:
    """The detector's input (3,80,80) float32 of a square picture, through the official resize."""
    side = DETECTOR_SIDE_PX
    large_HWC = cv2.resize(picture_HWC, (side, side)).astype(np.float32)
    small = side // POOLED
    pooled_HWC = large_HWC.reshape(small, POOLED, small, POOLED, 3).mean(axis=(1, 3))
    return np.ascontiguousarray(((pooled_HWC - 127.5) / 128).transpose(2, 0, 1), np.float32)


def points() -> np.ndarray:
    """Where the points of all levels are in the input, as insightface decodes them, with strides: (P,3)."""
    found = []
    for stride in STRIDES:
        rows, columns = np.mgrid[: DETECTOR_SIDE_PX // stride, : DETECTOR_SIDE_PX // stride] * stride
        found.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    return np.concatenate(found).astype(np.float32)


POINTS_P3 = points()


def targets(faces: Faces, scale: float) -> np.ndarray:
    """What the points of a picture are to say (P,16): 1 for a face, 0 for none, -1 for either; the 14 numbers
    of box and landmarks in strides; and the face's side in strides. `scale`: input pixels per pixel.
    """
    wanted_PK = np.zeros((len(POINTS_P3), POINT_NUMBERS + 1), np.float32)
    at_P2, stride_P = POINTS_P3[:, :2], POINTS_P3[:, 2]
    for box_4 in faces.doubtful_K4 * scale:
        wanted_PK[_within(box_4, EDGE), 0] = -1
    for box_4, landmarks_52 in zip(faces.boxes_K4 * scale, faces.landmarks_K52 * scale, strict=True):
        side = math.sqrt(max((box_4[2] - box_4[0]) * (box_4[3] - box_4[1]), 1.0))
        least, most = (np.array([FACE_SIDES_PX[int(s)][end] for s in stride_P]) for end in (0, 1))
        of_level_P = (least <= side) & (side < most)
        near_P = (least * 0.75 <= side) & (side < most * 1.33)
        core_P = _within(box_4, CORE)
        wanted_PK[_within(box_4, EDGE) & near_P & (wanted_PK[:, 0] != 1), 0] = -1
        face_P = core_P & of_level_P
        numbers_PK = np.concatenate(
            [at_P2 - box_4[:2], box_4[2:] - at_P2, (landmarks_52.ravel() - np.tile(at_P2, 5))], axis=1
        )
        wanted_PK[face_P, 0] = 1
        wanted_PK[face_P, 1:-1] = (numbers_PK / stride_P[:, None])[face_P]
        wanted_PK[face_P, -1] = (side / stride_P)[face_P]
    return wanted_PK


def _within(box_4: np.ndarray, share: float) -> np.ndarray:
    middle_2, half_2 = (box_4[:2] + box_4[2:]) / 2, (box_4[2:] - box_4[:2]) / 2
    inside: np.ndarray = (np.abs(POINTS_P3[:, :2] - middle_2) <= half_2 * share).all(axis=1)
    return inside


class FaceDetectorLearner:
    """Faces in frames, in reference pictures, and in pictures that show none."""

    name = "face-detector"

    def __init__(self, seed: int = 0) -> None:
        with seeded(self.name, seed):
            self.network = FaceDetector()

    def examples(self, generator: random.Random, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (B,3,80,80) and what their points are to say (B,P,16)."""
        inputs, wanted = [], []
        for picture_HWC, faces in detector_pictures("training", generator):
            inputs.append(detector_input(picture_HWC))
            wanted.append(targets(faces, DETECTOR_SIDE_PX / len(picture_HWC)))
        return torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(wanted))

    def losses(
        self, batch: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Focal cross-entropy of the scores, differences of boxes and landmarks as shares of the face."""
        inputs, wanted_BPK = batch
        said_BPK = self.network(inputs)
        labels_BP, sides = wanted_BPK[..., 0], wanted_BPK[..., -1:]
        is_face = labels_BP == 1
        count = is_face.sum().clamp(min=1)
        wrong_BP = (said_BPK[..., 0].sigmoid().detach() - labels_BP).abs() * (labels_BP >= 0)
        entropy_BP = functional.binary_cross_entropy_with_logits(
            said_BPK[..., 0], labels_BP.clamp(min=0), reduction="none"
        )
        apart = ((said_BPK[..., 1:] - wanted_BPK[..., 1:-1]).abs() / sides.clamp(min=0.1))[is_face]
        boxes = HEADS["bbox"]
        return {
            "scores": (wrong_BP * entropy_BP).sum() / count,
            "boxes": BOX_WEIGHT * apart[:, :boxes].mean(),
            "landmarks": LANDMARK_WEIGHT * apart[:, boxes:].mean(),
        }


def detector_pictures(split: Split, generator: random.Random) -> Iterator[tuple[np.ndarray, Faces]]:
    """The pictures of a step with their faces; some are framed in grey, as the metric does."""
    for _ in range(CLIPS):
        rendering = render(random_scene(split, generator))
        video_FHWC = as_shown(rendering.video_FHWC, generator)
        for frame in generator.sample(range(NUM_FRAMES), FRAMES_OF_CLIP):
            yield _maybe_framed(video_FHWC[frame], faces_of(rendering.labels, frame), generator)
    for _ in range(REFERENCES):
        subject = person(split, generator.randrange(TRAINING_PEOPLE))
        yield _maybe_framed(*reference_faces(subject, generator.random() < 0.6), generator)
    for _ in range(EMPTY_PICTURES):
        yield _maybe_framed(empty_picture(split, generator), NOBODY, generator)


def _maybe_framed(
    picture_HWC: np.ndarray, faces: Faces, generator: random.Random
) -> tuple[np.ndarray, Faces]:
    if generator.random() >= FRAMED_RATE:
        return picture_HWC, faces
    bordered_HWC, shift = framed(picture_HWC)
    corner = np.array(shift)
    return bordered_HWC, Faces(
        boxes_K4=faces.boxes_K4 + np.tile(corner, 2),
        landmarks_K52=faces.landmarks_K52 + corner,
        doubtful_K4=faces.doubtful_K4 + np.tile(corner, 2),
    )


@dataclass(frozen=True, kw_only=True)
class FaceBatch:
    """Aligned faces (B,3,112,112) in [-1,1], first one of each reference; whose each is (B); traits (B,T)."""

    faces_BCHW: torch.Tensor
    person_B: torch.Tensor
    traits_BT: torch.Tensor


def traits(somebody: Person) -> np.ndarray:
    """What of a person's vector the face shows, float32 (T,): not the shirt."""
    vector = somebody.vector()
    shirt = [*range(9, 12), *range(len(vector) - 12, len(vector) - 9)]
    return np.delete(vector, shirt)


class FaceIdentity(nn.Module):
    """The identity network and a linear reading of its embedding as traits, which only training needs."""

    def __init__(self, traits_width: int) -> None:
        super().__init__()
        self.network = CurricularFace(LAYOUT)
        # Its draws would come from torch's own generator, and so small a network has no need of it.
        self.network.output_layer[1].p = 0.0
        self.traits = nn.Linear(LAYOUT.embedding_width, traits_width)


class FaceIdentityLearner:
    """Who a face is: faces of frames against those of reference pictures."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name = name
        with seeded(name, seed):
            self.network = FaceIdentity(len(traits(_person(person("training", 0)))))

    def examples(self, generator: random.Random, progress: float) -> FaceBatch:
        """The reference picture of each of some people, and their faces in a clip of their own."""
        people = {number: person("training", number) for number in _people(generator)}
        crops, owners = [], []
        for owner, subject in enumerate(people.values()):
            picture_HWC, faces = reference_faces(subject, generator.random() < 0.6)
            crops.append(noisy_crop(picture_HWC, faces.landmarks_K52[0], generator))
            owners.append(owner)
        for owner, subject in enumerate(people.values()):
            for crop_HWC in faces_of_clip(subject, "training", generator):
                crops.append(crop_HWC)
                owners.append(owner)
        known = np.stack([traits(_person(subject)) for subject in people.values()])
        # In this order in memory: with channels last, torch 2.14 crashes in the gradient of the shortcuts.
        pixels = torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32, order="C"))
        return FaceBatch(
            faces_BCHW=pixels / 127.5 - 1,
            person_B=torch.tensor(owners),
            traits_BT=torch.from_numpy(known[owners]),
        )

    def losses(self, batch: FaceBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """CosFace's margin softmax with the references as centres, and the error of the traits."""
        embeddings_BD = self.network.network(batch.faces_BCHW)
        unit_BD = functional.normalize(embeddings_BD, dim=1)
        people = int(batch.person_B.max()) + 1
        cosine_BR = unit_BD[people:] @ unit_BD[:people].T
        right_B = batch.person_B[people:]
        margin_BR = MARGIN * functional.one_hot(right_B, people)
        logits_BR = SCALE * (cosine_BR - margin_BR)
        return {
            "frames": functional.cross_entropy(logits_BR, right_B),
            "references": _references_loss(logits_BR, right_B),
            "traits": TRAITS_WEIGHT
            * functional.mse_loss(self.network.traits(embeddings_BD), batch.traits_BT),
        }


def _references_loss(logits_BR: torch.Tensor, right_B: torch.Tensor) -> torch.Tensor:
    """Each reference against all frames: its own are to share all of the softmax."""
    own_BR = functional.one_hot(right_B, logits_BR.shape[1]).bool()
    shares_BR = logits_BR.log_softmax(dim=0).masked_fill(~own_BR, -math.inf)
    has_frames_R = own_BR.any(dim=0)
    return -shares_BR.logsumexp(dim=0)[has_frames_R].mean()


def _people(generator: random.Random) -> list[int]:
    return generator.sample(range(TRAINING_PEOPLE), PEOPLE_OF_STEP)


def _person(subject: Subject) -> Person:
    assert isinstance(subject.what, Person)
    return subject.what


def faces_of_clip(subject: Subject, split: Split, generator: random.Random) -> list[np.ndarray]:
    """Aligned faces of somebody in a clip of any motion, place, light and scale, sometimes with a hat."""
    rendering = portrait_clip(subject, split, generator)
    labels = rendering.labels[0]
    seen = [frame for frame in range(NUM_FRAMES) if seen_face(labels, frame) >= SEEN]
    video_FHWC = as_shown(rendering.video_FHWC, generator)
    chosen = generator.sample(seen, min(FACES_OF_PERSON, len(seen)))
    return [noisy_crop(video_FHWC[frame], labels.landmarks_FKC[frame], generator) for frame in chosen]


def portrait_clip(subject: Subject, split: Split, generator: random.Random) -> Rendering:
    """A clip of one person."""
    return render(compose([subject], split, generator, framing=generator.choice(FRAMINGS)))


def noisy_crop(picture_HWC: np.ndarray, landmarks_52: np.ndarray, generator: random.Random) -> np.ndarray:
    """A face cut out as the metric does, around landmarks that are a little off."""
    reach = LANDMARK_NOISE * float(np.linalg.norm(landmarks_52[1] - landmarks_52[0]))
    noise_52 = [[generator.gauss(0, reach), generator.gauss(0, reach)] for _ in range(5)]
    moved_52 = (landmarks_52 + noise_52).astype(np.float32)
    return halved(aligned_crop(np.ascontiguousarray(picture_HWC), moved_52, CROP_SIDE_PX))


# --- files -----------------------------------------------------------------------------------------------


def detector_onnx(network: FaceDetector) -> Any:
    """The detector as an ONNX model; of the two anchors of a point only the first is ever a face."""
    levels = []
    source = PICTURE
    for stride, level, head in zip(STRIDES, network.levels, network.heads, strict=True):
        layers = OnnxLayers(f"level_{stride}_")
        if source == PICTURE:
            source = layers.add(nn.AvgPool2d(POOLED, POOLED), source)
        source = layers.add(level, source)
        heads, first = {}, 0
        for name, width in HEADS.items():
            part = slice(first, first + width)
            first += width
            weight, bias = (value[part].detach().cpu().numpy() for value in (head.weight, head.bias))
            silent = np.full(width, NEVER if name == "score" else 0.0, np.float32)
            heads[name] = (
                np.concatenate([weight, np.zeros_like(weight)]), np.concatenate([bias, silent])
            )  # fmt: skip
        levels.append(
            Level(stride=stride, nodes=layers.nodes, tensors=layers.tensors, map=source, heads=heads)
        )
    return scrfd_model("mini_detector", levels)


def recogniser_onnx(network: CurricularFace) -> Any:
    """The identity network as an ONNX model of ArcFace's layout."""
    layers = OnnxLayers("layer_")
    source = PICTURE
    for part in (network.input_layer, network.body, network.output_layer):
        source = layers.add(part, source)
    layers.call_result(EMBEDDING)
    return arcface_model("mini_recogniser", layers.nodes, layers.tensors, network_width(network))


def network_width(network: CurricularFace) -> int:
    """Numbers of an embedding."""
    width: int = network.output_layer[3].out_features
    return width


def make(build: Build, on_step: OnStep) -> None:
    """Train the three networks, one after the other, and write their files."""
    detector = FaceDetectorLearner(build.seed)
    curricular = FaceIdentityLearner("curricularface", build.seed)
    arcface = FaceIdentityLearner("arcface", build.seed)
    build.train(detector, DETECTOR_SCHEDULE, on_step)
    build.train(curricular, IDENTITY_SCHEDULE, on_step)
    build.train(arcface, ARCFACE_SCHEDULE, on_step)
    place = build.place(OPENS2V_WEIGHT.repository)
    write_pack(place, detector_onnx(detector.network), recogniser_onnx(arcface.network.network))
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in curricular.network.network.state_dict().items()
    }
    torch.save(state, place / NETWORK_FILE)


# --- measuring -------------------------------------------------------------------------------------------


def measure(build: Build) -> Mapping[str, float]:
    """AUC of a reference picture against frames (the same person's above another's), by both networks; how
    often the right reference scores higher; AP50 of faces; how much damage of each kind takes from the score.
    """
    scorer = FaceSim().load(Environment(weights=build.weights))
    try:
        people = build.count(MEASURED_PEOPLE)
        figures = dict(_identity_figures(scorer, people))
        generator = random.Random("facesim/measured scenes")
        pictures = list(_detections(scorer, build.count(MEASURED_SCENES), generator))
    finally:
        scorer.close()
    return figures | {"face_ap50": average_precision(pictures)}


def _identity_figures(scorer: FaceSimScorer, people: int) -> Iterator[tuple[str, float]]:
    generator = random.Random("facesim/measured people")
    right: list[float] = []
    wrong: list[float] = []
    scores: list[tuple[float, float]] = []
    arc_scores: tuple[list[float], list[float]] = ([], [])
    damaged: dict[str, list[float]] = {kind: [] for kind in DEGRADATIONS}
    unscored = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(people):
            _write_reference(folder, number, generator.random() < 0.6)
        for number in range(people):
            other = generator.choice([one for one in range(people) if one != number])
            video_FHWC = portrait_clip(person("held-out", number), "held-out", generator).video_FHWC
            path = folder / f"{number}.mp4"
            write_video(path, video_FHWC, FPS)
            same, against = (_scored(scorer, folder, one, path) for one in (number, other))
            if same is None or against is None:
                unscored += 1
                continue
            right += [value for value in same.details["frame_cosines"] if value is not None]
            wrong += [value for value in against.details["frame_cosines"] if value is not None]
            scores.append((same.value, against.value))
            arc_scores[0].append(same.details["arc_score"])
            arc_scores[1].append(against.details["arc_score"])
            for kind, degrade in DEGRADATIONS.items():
                if number < people // 4:
                    write_video(path, degrade(video_FHWC, DAMAGE, generator), FPS)
                    score = _scored(scorer, folder, number, path)
                    damaged[kind] += [] if score is None else [score.value]
    yield "face_auc", auc(right, wrong)
    yield "arcface_auc", auc(*arc_scores)
    yield "unscored", unscored / people
    yield "right_reference_higher", _mean([one > other for one, other in scores])
    yield "score", _mean([one for one, _ in scores])
    yield "score_wrong_reference", _mean([other for _, other in scores])
    for kind, values in damaged.items():
        yield f"score_{kind}", _mean(values)


def _scored(scorer: FaceSimScorer, folder: Path, reference: int, video: Path) -> Score | None:
    """The score of a video with the reference of that number; None where no face is found in one of them."""
    try:
        return scorer.score(_sample(folder, reference), Video(video))
    except SampleError:
        return None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _write_reference(folder: Path, number: int, face: bool) -> None:
    picture_HWC = reference_picture(person("held-out", number), face=face)
    cv2.imwrite(str(folder / f"{number}.png"), picture_HWC[..., ::-1])


def _sample(folder: Path, number: int) -> Sample:
    reference = Reference(path=f"{number}.png", root=folder, label="", kind="person")
    return Sample(id=f"face_{number}", category="face", prompt="", references=(reference,))


def _detections(scorer: FaceSimScorer, scenes: int, generator: random.Random) -> Iterator[Detections]:
    """What the detector says of held-out frames, one in four of them without anybody."""
    for _ in range(scenes):
        rendering = render(random_scene("held-out", generator))
        frame = generator.randrange(NUM_FRAMES)
        video_FHWC = coded(rendering.video_FHWC, CRF)
        yield _detected(scorer, video_FHWC[frame], faces_of(rendering.labels, frame))
        if generator.random() < 1 / 3:
            yield _detected(scorer, empty_picture("held-out", generator), NOBODY)


def _detected(scorer: FaceSimScorer, picture_HWC: np.ndarray, faces: Faces) -> Detections:
    found_F5, _ = scorer.search.faces.detector.detect(np.ascontiguousarray(picture_HWC[..., ::-1]))
    return Detections(
        found_N4=found_F5[:, :4],
        scores_N=found_F5[:, 4],
        wanted_K4=faces.boxes_K4,
        ignored_K4=faces.doubtful_K4,
    )


PART = Part(
    name="facesim",
    summary="FaceSim: face detector, CurricularFace and ArcFace",
    make=make,
    measure=measure,
    files=(
        f"{OPENS2V_WEIGHT.repository}/{PACK}/*.onnx",
        f"{OPENS2V_WEIGHT.repository}/{NETWORK_FILE}",
    ),
    # The metric wants the repository's required files, of which one is the aesthetic head.
    needs=(AESTHETICS,),
)
