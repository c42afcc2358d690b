"""incidental-likeness: how alike a video is to its references in what identity does not need.

    score = mean of the parts that can be measured, each 0 to 1

* pose: of each face in 32 frames that goes best with a reference's face (CurricularFace), how far the head
  is turned from where the reference's is: max(0, 1 - angle / 30°), mean over frames, then over references.
  The turn is that of an average face fitted to the detector's five landmarks, whatever its scale and place.
* background: the product of two of the detector's unit embeddings of pictures (CLIP ViT-B/32 and its
  adapter), of the reference and of the frame, both with the subject's boxes painted over in the mean colour
  of the rest; at least 0, mean over frames, then over references.
* expression: never measured. Five landmarks do not tell it from pose, and no landmark model is used.

Identity needs none of it, but a prompt alone reaches some (portraits look ahead). The *excess* is what is
left over a text-only control on the same samples: `refbench compare A B --text-only STORE`. Supplementary:
no protocol's total contains it; lower is better at equal identity.

A part that cannot be measured is null in the details, with the reason: no face, no place around the subject
(less than 30 % of the picture), one of which 70 % is plain (white), a reference that is a place itself, a
subject that the detector does not look for or does not find in its own reference.

Source: ours; the networks are those of `metrics/nexusscore.py` and `metrics/facesim.py`. Known failures: the
average face is nobody's, and landmarks of small faces are off by several degrees, so that even a copy has
less than 1; two heads that look into the camera are alike without copying; what is painted over has a shape,
which is part of the embedding, and unrelated backgrounds are far from 0. So read differences over a control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from refbench.bench.errors import NotApplicable, SampleError
from refbench.bench.metric import MetricDeclaration, Score, ScoringCost
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.video import Video, uniform_frames
from refbench.metrics.both_searches import JOB_LIMIT_S, PACKAGES, SHARES, WEIGHTS, OfBoth, OfBothScorer
from refbench.metrics.facesim import FaceSearch, cosines
from refbench.metrics.nets.pixels import distinct_frames
from refbench.metrics.nexusscore import FRAMES, MIN_CONFIDENCE, SubjectSearch, subjects_of
from refbench.metrics.subject_confusion import paired, people_of

# Eyes, nose, corners of the mouth (x right, y down, z away from the camera), in distances of the eyes. Ours:
# rough proportions of an adult's face.
AVERAGE_FACE_53 = np.array(
    [[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.6, -0.45], [-0.4, 1.05, -0.1], [0.4, 1.05, -0.1]]
)
# Ours: heads that are turned so far apart have no pose in common.
DIFFERENT_POSE_DEGREES = 30.0
LEAST_OUTSIDE = 0.3
# Ours: what lies around a subject is plain where so much of it is within so many of 255 grey levels of its
# median. Parts of the subject that its box leaves out are no background.
MOST_OF_ONE_LEVEL = 0.7
LEAST_DEVIATION = 6.0
# Frames held at a time.
FRAMES_HELD = 8
# The embedding (D,) of what lies around a reference's subject, or None and why there is nothing to compare.
OwnBackground = tuple[np.ndarray | None, str]

NO_EXPRESSION = "five landmarks do not tell expression from pose, and no landmark model is used"


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """A likeness, 0 to 1, or the reason why there is none; `of_reference`: it lies in the reference."""

    value: float | None = None
    reason: str | None = None
    of_reference: bool = False


@dataclass(frozen=True, kw_only=True)
class IncidentalLikenessScorer(OfBothScorer):
    """Compares heads and backgrounds of what NexusScore and FaceSim find.

    `known_backgrounds`: what lies around a reference's subject by the digest of its file, found once for all
    its videos.
    """

    known_backgrounds: dict[str, OwnBackground] = field(default_factory=dict, compare=False, repr=False)

    def score(self, sample: Sample, video: Video) -> Score:
        """The mean of pose and background, as far as they can be measured, 0 to 1.

        Raises NotApplicable where no reference has a face or a background, SampleError where nothing of the
        video can be compared, and for a reference or a video that cannot be read.
        """
        parts: dict[str, list[Likeness]] = {
            "pose": pose_likenesses(sample, self.facesim.search, video),
            "background": background_likenesses(
                sample, self.nexusscore.search, video, self.known_backgrounds
            ),
        }
        means = {
            name: float(np.mean(values))
            for name, found in parts.items()
            if (values := [one.value for one in found if one.value is not None])
        }
        if not means:
            everything = [one for found in parts.values() for one in found]
            if all(one.of_reference for one in everything):
                raise NotApplicable("no reference has a face or a background that can be compared")
            reasons = dict.fromkeys(str(one.reason) for one in everything if not one.of_reference)
            raise SampleError(f"nothing can be compared: {'; '.join(reasons)}")
        return Score(value=float(np.mean(list(means.values()))), details=details_of(sample, parts, means))


@metrics.register
class IncidentalLikeness(OfBoth):
    """Needs everything of NexusScore and FaceSim; what they hold is shared with them."""

    declaration = MetricDeclaration(
        name="incidental-likeness",
        version="1",
        summary="supplementary: likeness in pose and background, which identity does not need",
        source="ours; networks of NexusScore and FaceSim (OpenS2V-Nexus@210eb08)",
        uses=frozenset({"video", "references"}),
        weights=WEIGHTS,
        # Assumed: CLIP ViT-B/32 on 32 frames for each of three references, 8.8 GFLOP each.
        cost=ScoringCost(
            assumed_gpu_s=0.05,
            serial_s=0.5,
            tflop=0.9,
            parameter_bytes=2,
            peak_gib=26.9,
            shares=SHARES,
            remarks=("what it does beside nexusscore and facesim is assumed",),
        ),
        job_limit_s=JOB_LIMIT_S,
        packages=PACKAGES,
    )
    scorer_class = IncidentalLikenessScorer

    def not_applicable(self, sample: Sample) -> str | None:
        """A sample without references; what cannot be measured of others is known once they are opened."""
        return None if sample.references else "no references"


def details_of(
    sample: Sample, parts: Mapping[str, Sequence[Likeness]], means: Mapping[str, float]
) -> dict[str, Any]:
    """Each part's mean (None: not measured), and each reference's likenesses or reasons."""
    return {
        "frames": FRAMES,
        **{name: means.get(name) for name in parts},
        "expression": None,
        "not_measured": {"expression": NO_EXPRESSION},
        "references": [
            {
                "path": reference.path,
                **{
                    name: found[number].value
                    if found[number].value is not None
                    else {"not_measured": found[number].reason}
                    for name, found in parts.items()
                },
            }
            for number, reference in enumerate(sample.references)
        ],
    }


# --- pose ------------------------------------------------------------------------------------------------


def head_rotation(landmarks_52: np.ndarray) -> np.ndarray | None:
    """How a head is turned, (3, 3), from five landmarks (x, y); None for landmarks on a line.

    The average face is fitted to them by least squares under an affine camera, whose nearest rotation it is.
    """
    face_53 = AVERAGE_FACE_53 - AVERAGE_FACE_53.mean(axis=0)
    points_52 = landmarks_52.astype(np.float64) - landmarks_52.mean(axis=0)
    camera_32, *_ = np.linalg.lstsq(face_53, points_52, rcond=None)
    left_22, sizes_2, right_23 = np.linalg.svd(camera_32.T, full_matrices=False)
    if sizes_2[1] <= 1e-6 * sizes_2[0]:
        return None
    across, down = left_22 @ right_23
    return np.stack([across, down, np.cross(across, down)])


def pose_likeness(one_33: np.ndarray, other_33: np.ndarray) -> float:
    """1 for heads that are turned alike, falling to 0 at 30 degrees between them.

    >>> pose_likeness(np.eye(3), np.eye(3))
    1.0
    """
    cosine = (np.trace(one_33.T @ other_33) - 1) / 2
    degrees = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return max(0.0, 1 - degrees / DIFFERENT_POSE_DEGREES)


def pose_likenesses(sample: Sample, search: FaceSearch, video: Video) -> list[Likeness]:
    """Of each reference the likeness in pose of the faces that go with it."""
    no_person = Likeness(reason="it shows no person", of_reference=True)
    no_face = Likeness(reason="no face is found in it", of_reference=True)
    found = [no_person] * len(sample.references)
    rotations: dict[int, np.ndarray] = {}
    embeddings: list[np.ndarray] = []
    for number in people_of(sample):
        own = search.reference_face(sample.references[number])
        own_33 = None if own is None else head_rotation(own.landmarks_52)
        found[number] = no_face
        if own is not None and own_33 is not None:
            found[number] = Likeness(reason="no face in any frame")
            rotations[number] = own_33
            embeddings.append(own.curricular_D)
    if not rotations:
        return found
    values: dict[int, list[float]] = {number: [] for number in rotations}
    columns = tuple(rotations)
    for frame, embeddings_FD in search.seen(video).per_frame():
        similarities_FR = np.array([cosines(one_D, embeddings_FD) for one_D in embeddings]).T
        # A face whose embedding is of length zero is as unlike as can be.
        pairing = paired(np.nan_to_num(similarities_FR, nan=-1), [range(len(columns))] * len(frame.faces))
        for face, column in zip(frame.faces, pairing, strict=True):
            rotation_33 = head_rotation(face.landmarks_52)
            if column is not None and rotation_33 is not None:
                likeness = pose_likeness(rotations[columns[column]], rotation_33)
                values[columns[column]] += [likeness] * frame.repeats
    for number, likenesses in values.items():
        if likenesses:
            found[number] = Likeness(value=float(np.mean(likenesses)))
    return found


# --- background ------------------------------------------------------------------------------------------


def rest_of(picture_HWC: np.ndarray, boxes: Sequence[Sequence[float]]) -> np.ndarray | None:
    """What boxes (x1, y1, x2, y2) leave of a picture (H, W, 3), true in (H, W); None for less than 30 %."""
    rest_HW = np.ones(picture_HWC.shape[:2], bool)
    for left, top, right, bottom in boxes:
        rows, columns = (
            slice(max(round(first), 0), max(round(last), 0)) for first, last in ((top, bottom), (left, right))
        )
        rest_HW[rows, columns] = False
    return rest_HW if rest_HW.mean() >= LEAST_OUTSIDE else None


def painted(picture_HWC: np.ndarray, rest_HW: np.ndarray) -> np.ndarray:
    """An RGB uint8 picture (H, W, 3) of which all but the rest has the rest's mean colour."""
    painted_HWC = picture_HWC.copy()
    painted_HWC[~rest_HW] = picture_HWC[rest_HW].mean(axis=0).round().astype(np.uint8)
    return painted_HWC


def is_plain(picture_HWC: np.ndarray, rest_HW: np.ndarray) -> bool:
    """Whether most of the rest of a picture is of one grey level: a studio's wall, or white."""
    grey_N = picture_HWC[rest_HW].mean(axis=1)
    return bool(np.mean(np.abs(grey_N - np.median(grey_N)) < LEAST_DEVIATION) >= MOST_OF_ONE_LEVEL)


def background_likenesses(
    sample: Sample, search: SubjectSearch, video: Video, known: dict[str, OwnBackground]
) -> list[Likeness]:
    """Of each reference the likeness of what lies around its subject to what lies around it in the frames.

    `known` are references' own backgrounds by the digest of their file; new ones are added.
    """
    subjects = subjects_of(sample)
    place_of = {subject.number: place for place, subject in enumerate(subjects)}
    found: list[Likeness] = []
    backgrounds: dict[int, tuple[int, np.ndarray]] = {}
    for number, reference in enumerate(sample.references):
        place = place_of.get(number)
        if reference.kind == "scene":
            found.append(Likeness(reason="it is a place itself", of_reference=True))
        elif place is None:
            found.append(Likeness(reason="the detector does not look for it", of_reference=True))
        else:
            digest = reference.content_digest()
            if digest not in known:
                known[digest] = _own_background(np.asarray(reference.open_plain_rgb()), search)
            own_D, reason = known[digest]
            found.append(Likeness(reason=reason, of_reference=own_D is None))
            if own_D is not None:
                backgrounds[number] = (place, own_D)
    if not backgrounds:
        return found
    seen = search.seen(subjects, video)
    products: dict[int, list[float]] = {number: [] for number in backgrounds}
    frames = zip(distinct_frames(video, uniform_frames(FRAMES)), seen.frames, strict=True)
    while group := list(islice(frames, FRAMES_HELD)):
        for number, (place, own_D) in backgrounds.items():
            around = [
                (painted(frame_HWC, rest_HW), frame.repeats)
                for (frame_HWC, _), frame in group
                if (rest_HW := rest_of(frame_HWC, _sure_corners(frame.boxes, place))) is not None
            ]
            if around:
                likenesses_F = _embedded([painted_HWC for painted_HWC, _ in around], search) @ own_D
                products[number] += np.repeat(
                    np.maximum(likenesses_F, 0), [repeats for _, repeats in around]
                ).tolist()
    for number, values in products.items():
        found[number] = (
            Likeness(value=min(float(np.mean(values)), 1.0))
            if values
            else Likeness(reason="the subject fills every frame")
        )
    return found


def _own_background(picture_HWC: np.ndarray, search: SubjectSearch) -> OwnBackground:
    """What lies around a reference's subject."""
    from PIL import Image

    prompts = search.detector.prompts([Image.fromarray(picture_HWC)])
    boxes = search.detector.detect([picture_HWC], prompts)[0][0]
    sure = [
        corners_4
        for corners_4, confidence in zip(boxes.corners.tolist(), boxes.scores.numpy(), strict=True)
        if confidence > MIN_CONFIDENCE
    ]
    if not sure:
        return None, "its subject is not found in itself"
    rest_HW = rest_of(picture_HWC, sure)
    if rest_HW is None:
        return None, "its subject fills it"
    if is_plain(picture_HWC, rest_HW):
        return None, "its background is plain"
    return _embedded([painted(picture_HWC, rest_HW)], search)[0], ""


def _sure_corners(boxes: Sequence[Any], place: int) -> list[Sequence[float]]:
    return [box.corners_4 for box in boxes if box.subject == place and box.confidence > MIN_CONFIDENCE]


def _embedded(pictures: Sequence[np.ndarray], search: SubjectSearch) -> np.ndarray:
    """The detector's unit embeddings (N, D) of RGB uint8 pictures."""
    from PIL import Image

    embeddings: np.ndarray = (
        search.detector.prompts([Image.fromarray(one) for one in pictures]).float().cpu().numpy()
    )
    return embeddings
