"""MotionAmplitude: the size of the mean signed optical flow.

    score = | mean over time, rows, columns and both channels of resize(flow(t, t+1)) |

Dense Farneback flow between all consecutive frames, each flow map reduced to 16 columns, averaged **with its
sign**: a pan scores high, an oscillation cancels out. Range of the raw value: 0 upwards, in pixels per frame;
the protocol caps it at 1.

Source: `eval/get_motion_amplitude.py` of PKU-YuanGroup/OpenS2V-Nexus v1.1 (commit 210eb08), key `motion_fb`.
Kept on purpose: OpenCV's BGR weights are applied to RGB frames, and the average is taken over signed
components. Different: the flow maps are summed as they come instead of held together, and the pairs are
spread over threads; both give the same bits. The details also hold our own reading, `mean_flow_magnitude`,
which does not cancel. `motion_lk` is not computed: no protocol uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer, ScoringCost
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.streams import mapped
from refbench.bench.video import ALL_FRAMES, Video

# Parameters of the official script.
PYRAMID_SCALE = 0.5
PYRAMID_LEVELS = 3
WINDOW_SIZE = 15
ITERATIONS = 3
POLYNOMIAL_NEIGHBOURHOOD = 5
POLYNOMIAL_SIGMA = 1.2
REDUCED_COLUMNS = 16


@metrics.register
class MotionAmplitude(Metric):
    """Needs no weights and no GPU."""

    declaration = MetricDeclaration(
        name="motion-amplitude",
        version="1",
        component="motion_amplitude",
        summary="size of the mean signed optical flow (OpenCV Farneback); needs no weights",
        source="OpenS2V-Nexus@210eb08 eval/get_motion_amplitude.py",
        uses=frozenset({"video"}),
        job_limit_s=1800.0,
        cost=ScoringCost(
            parallel_s=5.7,
            grows_with="frames",
            measured_at=69,
            remarks=("5.7 s of one thread of an Intel Xeon for 69 frames of 832×480 measured",),
        ),
        packages=("opencv-python", "numpy"),
    )

    def load(self, environment: Environment) -> Scorer:
        """A scorer that computes flow by `environment.threads` threads."""
        return MotionAmplitudeScorer(threads=max(environment.threads, 1))


@dataclass(frozen=True, kw_only=True)
class MotionAmplitudeScorer(Scorer):
    """Streams over the frames; at most two flow fields per thread are in memory."""

    threads: int

    def score(self, sample: Sample, video: Video) -> Score:
        """The raw value of one video; SampleError for fewer than two frames or a picture too wide to
        reduce.
        """
        pairs = 0
        magnitude_sum = 0.0
        flow_sum: np.ndarray | None = None
        for flow in reduced_flows(grey_frames(video.frames(ALL_FRAMES)), self.threads):
            # Sequential float32 addition is what numpy's mean over the first axis does.
            flow_sum = flow.copy() if flow_sum is None else flow_sum + flow
            magnitude_sum += float(np.hypot(flow[..., 0], flow[..., 1]).mean(dtype=np.float64))
            pairs += 1
        if flow_sum is None:
            raise SampleError("optical flow needs at least two frames")
        mean_flow = flow_sum / np.float32(pairs)
        return Score(
            value=float(abs(np.mean(mean_flow))),
            details={"pairs": pairs, "mean_flow_magnitude": magnitude_sum / pairs},
        )


def reduced_flows(greys: Iterable[np.ndarray], threads: int) -> Iterator[np.ndarray]:
    """The reduced flow maps, float32 (rows, 16, 2), of neighbouring grey frames (H, W) in order of time.

    `threads` threads compute them. Raises SampleError for pictures too wide to reduce.
    """
    import cv2

    # OpenCV's own threads would fight ours over the cores; they do not change the numbers.
    cv2.setNumThreads(1)
    return mapped(lambda pair: reduced_flow(*pair), pairwise(greys), threads)


def grey_frames(frames_HWC: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Grey uint8 frames (H, W) of RGB frames (H, W, 3), by OpenCV's weights for BGR: the official quirk."""
    import cv2

    for frame_HWC in frames_HWC:
        yield cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2GRAY)


def reduced_flow(earlier_HW: np.ndarray, later_HW: np.ndarray) -> np.ndarray:
    """Farneback flow of two grey uint8 frames (H, W), float32 (int(16·H/W), 16, 2).

    In pixels of the full frame. Raises SampleError for a picture so wide that no row is left.
    """
    import cv2

    height, width = earlier_HW.shape
    rows = int(REDUCED_COLUMNS * height / width)
    if rows < 1:
        raise SampleError(f"a picture of {width}×{height} pixels is too wide for the 16-column flow map")
    flow_HWC = cv2.calcOpticalFlowFarneback(
        earlier_HW,
        later_HW,
        None,
        PYRAMID_SCALE,
        PYRAMID_LEVELS,
        WINDOW_SIZE,
        ITERATIONS,
        POLYNOMIAL_NEIGHBOURHOOD,
        POLYNOMIAL_SIGMA,
        0,
    )
    reduced: np.ndarray = cv2.resize(flow_HWC, (REDUCED_COLUMNS, rows), interpolation=cv2.INTER_AREA)
    return reduced
