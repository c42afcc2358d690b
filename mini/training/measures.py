"""How well a network tells things apart, finds them and ranks them: figures for held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OVERLAP = 0.5


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one picture, and what was to be found.

    `found_N4` with `scores_N`; `wanted_K4`; `ignored_K4`: boxes that are neither right nor wrong to find.
    Boxes are x0, y0, x1, y1.
    """

    found_N4: np.ndarray
    scores_N: np.ndarray
    wanted_K4: np.ndarray
    ignored_K4: np.ndarray


def auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """How often a value of a right pair is above one of a wrong pair; ties count half. NaN without pairs."""
    if not len(right) or not len(wrong):
        return float("nan")
    ordered = np.sort(np.asarray(wrong, float))
    below = np.searchsorted(ordered, right, "left") + np.searchsorted(ordered, right, "right")
    return float(below.mean() / 2 / len(ordered))


def average_precision(pictures: Sequence[Detections], overlap: float = OVERLAP) -> float:
    """The area under precision over recall at an overlap (intersection over union), 0 to 1.

    Greedy by falling score; precision is made to fall monotonously, as PASCAL VOC's since 2010. NaN where
    nothing is to be found.
    """
    scores, right = [], []
    for picture in pictures:
        taken = np.zeros(len(picture.wanted_K4), bool)
        for index in np.argsort(-picture.scores_N, kind="stable"):
            box = picture.found_N4[index]
            overlaps = np.where(taken, -1.0, overlaps_of(box, picture.wanted_K4))
            best = int(overlaps.argmax()) if len(overlaps) else -1
            hit = best >= 0 and overlaps[best] >= overlap
            if hit:
                taken[best] = True
            elif (overlaps_of(box, picture.ignored_K4) >= overlap).any():
                continue
            scores.append(float(picture.scores_N[index]))
            right.append(hit)
    wanted = sum(len(picture.wanted_K4) for picture in pictures)
    if not wanted:
        return float("nan")
    order = np.argsort(-np.array(scores), kind="stable")
    hits = np.cumsum(np.array(right, bool)[order])
    recall = np.concatenate([[0.0], hits / wanted])
    precision = hits / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * falling).sum())


def overlaps_of(box_4: np.ndarray, others_K4: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with others, (K,)."""
    corner = np.minimum(box_4[2:], others_K4[:, 2:]) - np.maximum(box_4[:2], others_K4[:, :2])
    shared_K = corner.clip(0).prod(axis=1)
    areas_K = (others_K4[:, 2:] - others_K4[:, :2]).prod(axis=1)
    joined_K = areas_K + (box_4[2:] - box_4[:2]).prod() - shared_K
    result: np.ndarray = shared_K / np.maximum(joined_K, 1e-9)
    return result


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, with shared ranks for equal values; 0 where one of them never changes."""
    ranks_2N = np.stack([_ranks(np.asarray(values, float)) for values in (first, second)])
    if ranks_2N.std(axis=1).min() == 0:
        return 0.0
    return float(np.corrcoef(ranks_2N)[0, 1])


def _ranks(values_N: np.ndarray) -> np.ndarray:
    _, place_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks_N: np.ndarray = (ends - (counts - 1) / 2)[place_N]
    return ranks_N
