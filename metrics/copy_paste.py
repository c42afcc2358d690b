"""copy-paste: how much of the reference pictures reappears in the video as a rigid copy.

    share(r, t) = textured places of reference r that frame t repeats / textured places of r
    score       = mean over references r and 32 frames t of share(r, t)

Per reference and frame: SIFT features are matched, RANSAC fits one similarity transform (scale, rotation,
shift) to them, and the frame is laid over the reference by it. A place of the reference is the window around
one pixel; it is textured where its grey levels have a standard deviation of 6 of 255 or more, and it is
repeated where both windows correlate (normalised) by 0.8 or more. Without a transform that six matches
support, the share is 0. Both pictures are compared at the coarser of their two resolutions.

Range: 0 (nothing is repeated, a new picture of the subject) to 1 (the picture was pasted). Supplementary: no
protocol's total contains it, and lower is not better by itself: a black video scores 0.

A reference in which SIFT finds fewer than 12 features (a plain or nearly plain picture) is left out; a sample
of only such references is not applicable.

Known failures. The whole picture is compared, background included: a subject that was cut out and pasted
onto another ground counts by its part of the texture. A mirrored copy counts 0 and a bent one little, for
neither is a similarity transform; a small one has too few features. Colours are not looked at. What is rigid
in the world (a logo, a place, a box seen from the same side) reappears without having been copied.
`docs/copy-paste.md` has the measured values of the controls.

Source: this project; SIFT (Lowe, IJCV 2004), RANSAC and warping by OpenCV. References are opened as
generators open them (turned by EXIF, transparency on white): a copy is one of what the generator was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from refbench.bench.environment import Environment
from refbench.bench.errors import NotApplicable
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer, ScoringCost
from refbench.bench.registry import metrics
from refbench.bench.sample import Reference, Sample
from refbench.bench.streams import mapped
from refbench.bench.video import Video, uniform_frames
from refbench.metrics.nets.pixels import distinct_frames

FRAMES = 32
# Longer sides in pixels at which features are looked for; the time grows with their squares.
FRAME_SIDE_PX = 384
REFERENCE_SIDE_PX = 320

MOST_FEATURES = 500
SIFT_CONTRAST = 0.02
LEAST_FEATURES = 12
# Lowe's ratio of the distances to the nearest and the second nearest feature.
DISTANCE_RATIO = 0.8
LEAST_MATCHES = 6
RANSAC_ERROR_PX = 3.0
RANSAC_ROUNDS = 500
# Of the reference in the frame, both at the sizes above; beyond, a fit is chance.
SMALLEST_SCALE, LARGEST_SCALE = 0.08, 6.0

WINDOW_PX = 11
LEAST_DEVIATION = 6.0
LEAST_CORRELATION = 0.8


@dataclass(frozen=True, kw_only=True)
class Features:
    """A grey picture, uint8 (H, W), with the places (N, 2; x, y) and SIFT descriptors (N, 128), float32."""

    grey_HW: np.ndarray
    place_N2: np.ndarray
    descriptor_ND: np.ndarray


@metrics.register
class CopyPaste(Metric):
    """Needs no weights and no GPU."""

    declaration = MetricDeclaration(
        name="copy-paste",
        version="1",
        summary="supplementary: share of the references that reappears as a rigid copy; needs no weights",
        source="this project; SIFT and RANSAC of OpenCV",
        uses=frozenset({"video", "references"}),
        job_limit_s=600.0,
        # benchmarks/copy_paste.py.
        cost=ScoringCost(parallel_s=0.94, remarks=("measured with three references at 832×480",)),
        packages=("opencv-python", "pillow", "numpy"),
    )

    def not_applicable(self, sample: Sample) -> str | None:
        """A sample without references has nothing to be copied; flat ones are known once they are opened."""
        return None if sample.references else "no references"

    def load(self, environment: Environment) -> Scorer:
        """A scorer that looks at frames by `environment.threads` threads."""
        return CopyPasteScorer(threads=max(environment.threads, 1))


@dataclass(frozen=True, kw_only=True)
class CopyPasteScorer(Scorer):
    """Streams over the frames."""

    threads: int

    def score(self, sample: Sample, video: Video) -> Score:
        """The mean share, 0 to 1; the details hold each frame's and each reference's (None: left out).

        Raises NotApplicable where every reference is too plain, and SampleError for a reference that is
        missing or cannot be read and for a video that cannot be decoded.
        """
        import cv2

        # OpenCV's own threads would fight ours over the cores; they do not change the numbers.
        cv2.setNumThreads(1)
        references = [reference_features(reference) for reference in sample.references]
        measured = [one for one in references if one is not None]
        if not measured:
            raise NotApplicable("no reference has enough texture to recognise a copy of it")
        shares_of = partial(repeated_shares, references=measured)
        frames = distinct_frames(video, uniform_frames(FRAMES))
        share_FR = np.array(list(chain.from_iterable(mapped(shares_of, frames, self.threads))), np.float64)
        mean_R = iter(share_FR.mean(axis=0).tolist())
        return Score(
            value=float(share_FR.mean()),
            details={
                "per_reference": [None if one is None else next(mean_R) for one in references],
                "frame_scores": share_FR.mean(axis=1).tolist(),
            },
        )


def reference_features(reference: Reference) -> Features | None:
    """The features of a reference, None for one too plain. Raises SampleError where it cannot be read."""
    found = features(np.asarray(reference.open_on_white()), REFERENCE_SIDE_PX)
    return found if len(found.place_N2) >= LEAST_FEATURES else None


def repeated_shares(distinct: tuple[np.ndarray, int], references: Sequence[Features]) -> list[list[float]]:
    """The shares of each place of a frame that stands so many times, see `copied_shares`."""
    frame_HWC, repeats = distinct
    return [copied_shares(frame_HWC, references)] * repeats


def copied_shares(frame_HWC: np.ndarray, references: Sequence[Features]) -> list[float]:
    """The share of each reference, 0 to 1, that a frame, RGB uint8 (H, W, 3), repeats."""
    frame = features(frame_HWC, FRAME_SIDE_PX)
    return [copied_share(reference, frame) for reference in references]


def copied_share(reference: Features, frame: Features) -> float:
    """The share of the reference's textured places that the frame repeats under one similarity transform."""
    transform_23 = similarity_transform(reference, frame)
    return 0.0 if transform_23 is None else explained_share(reference.grey_HW, frame.grey_HW, transform_23)


def features(picture_HWC: np.ndarray, side_px: int) -> Features:
    """SIFT features of an RGB uint8 picture (H, W, 3), whose longer side is first made at most `side_px`."""
    import cv2

    grey_HW = cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2GRAY)
    grey_HW = shrunk(grey_HW, side_px / max(grey_HW.shape))
    detector = cv2.SIFT.create(nfeatures=MOST_FEATURES, contrastThreshold=SIFT_CONTRAST)
    points, descriptor_ND = detector.detectAndCompute(grey_HW, None)
    return Features(
        grey_HW=grey_HW,
        place_N2=np.array([point.pt for point in points], np.float32).reshape(-1, 2),
        descriptor_ND=np.empty((0, 128), np.float32) if descriptor_ND is None else descriptor_ND,
    )


def shrunk(grey_HW: np.ndarray, factor: float) -> np.ndarray:
    """The picture made smaller by `factor`, averaged over areas; one of 1 or more changes nothing."""
    import cv2

    if factor >= 1:
        return grey_HW
    height, width = (max(round(side * factor), 1) for side in grey_HW.shape)
    smaller_HW: np.ndarray = cv2.resize(grey_HW, (width, height), interpolation=cv2.INTER_AREA)
    return smaller_HW


def similarity_transform(reference: Features, frame: Features) -> np.ndarray | None:
    """The matrix (2, 3), reference to frame, on which most matches agree; None where too few do."""
    import cv2

    if min(len(reference.place_N2), len(frame.place_N2)) < LEAST_MATCHES:
        return None
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(reference.descriptor_ND, frame.descriptor_ND, k=2)
    matches = [best for best, second in pairs if best.distance < DISTANCE_RATIO * second.distance]
    if len(matches) < LEAST_MATCHES:
        return None
    transform_23, agrees = cv2.estimateAffinePartial2D(
        reference.place_N2[[match.queryIdx for match in matches]],
        frame.place_N2[[match.trainIdx for match in matches]],
        method=cv2.RANSAC,
        ransacReprojThreshold=RANSAC_ERROR_PX,
        maxIters=RANSAC_ROUNDS,
    )
    if transform_23 is None or np.count_nonzero(agrees) < LEAST_MATCHES:
        return None
    return transform_23 if SMALLEST_SCALE <= scale_of(transform_23) <= LARGEST_SCALE else None


def scale_of(transform_23: np.ndarray) -> float:
    """By how much a similarity transform enlarges."""
    return float(np.hypot(transform_23[0, 0], transform_23[1, 0]))


def explained_share(reference_HW: np.ndarray, frame_HW: np.ndarray, transform_23: np.ndarray) -> float:
    """The share of the reference's textured windows that correlate with the frame laid over it, 0 to 1.

    Grey uint8 pictures; where the transform leads out of the frame, nothing is repeated.
    """
    import cv2

    scale = scale_of(transform_23)
    small_HW = shrunk(reference_HW, scale)
    if scale > 1:
        # The frame is read in steps of `scale` pixels: without blur, fine texture would alias.
        frame_HW = cv2.GaussianBlur(frame_HW, (0, 0), 0.4 * scale)
    # From pixels of the shrunk reference to the frame; pixel centres lie at whole numbers.
    ratio_2 = np.array(reference_HW.shape[::-1]) / small_HW.shape[::-1]
    to_frame_23 = np.column_stack(
        [transform_23[:, :2] * ratio_2, transform_23[:, :2] @ (0.5 * ratio_2 - 0.5) + transform_23[:, 2]]
    )
    laid_HW = cv2.warpAffine(
        frame_HW, to_frame_23, small_HW.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    own_HW, other_HW = small_HW.astype(np.float32), laid_HW.astype(np.float32)
    own_variance_HW = window_covariance(own_HW, own_HW)
    other_variance_HW = window_covariance(other_HW, other_HW)
    textured_HW = own_variance_HW >= LEAST_DEVIATION**2
    if not textured_HW.any():
        return 0.0
    norm_HW = np.sqrt(np.maximum(own_variance_HW, 1) * np.maximum(other_variance_HW, 1))
    repeated_HW = window_covariance(own_HW, other_HW) >= LEAST_CORRELATION * norm_HW
    return float(repeated_HW[textured_HW].mean())


def window_covariance(one_HW: np.ndarray, two_HW: np.ndarray) -> np.ndarray:
    """The covariance of two float32 pictures (H, W) in the window around each pixel."""
    import cv2

    window = (WINDOW_PX, WINDOW_PX)
    product_HW = cv2.boxFilter(one_HW * two_HW, -1, window)
    covariance_HW: np.ndarray = product_HW - cv2.boxFilter(one_HW, -1, window) * cv2.boxFilter(
        two_HW, -1, window
    )
    return covariance_HW
