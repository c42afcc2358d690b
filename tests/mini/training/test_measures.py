"""The figures by which trained networks are judged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refbench.mini.training.measures import Detections, auc, average_precision, rank_correlation

BOX, ELSEWHERE = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]


def picture(
    found: list[list[float]], scores: list[float], wanted: list[list[float]], ignored: list[list[float]]
) -> Detections:
    boxes = (np.reshape(boxes, (-1, 4)).astype(float) for boxes in (found, wanted, ignored))
    found_N4, wanted_K4, ignored_K4 = boxes
    return Detections(
        found_N4=found_N4, scores_N=np.array(scores), wanted_K4=wanted_K4, ignored_K4=ignored_K4
    )


def test_auc() -> None:
    assert auc([2, 3], [0, 1]) == 1 and auc([0], [1]) == 0 and auc([1], [1]) == 0.5
    assert math.isnan(auc([], [1]))


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        ([picture([BOX], [0.9], [BOX], [])], 1.0),
        ([picture([[0, 0, 10, 6]], [0.9], [BOX], [])], 1.0),
        ([picture([[0, 0, 10, 4]], [0.9], [BOX], [])], 0.0),
        # A second box of one face is wrong, but comes after it.
        ([picture([BOX, BOX], [0.9, 0.8], [BOX], [])], 1.0),
        # A surer wrong box halves the precision.
        ([picture([BOX], [0.5], [BOX], []), picture([BOX], [0.9], [], [])], 0.5),
        ([picture([BOX], [0.5], [BOX], []), picture([BOX], [0.9], [], [BOX])], 1.0),
        ([picture([BOX], [0.5], [BOX, ELSEWHERE], [])], 0.5),
        ([picture([], [], [BOX], [])], 0.0),
    ],
)
def test_average_precision(pictures: list[Detections], expected: float) -> None:
    assert average_precision(pictures) == pytest.approx(expected)


def test_nothing_to_be_found_is_no_figure() -> None:
    assert math.isnan(average_precision([picture([BOX], [0.5], [], [])]))


def test_rank_correlation_shares_ranks() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert rank_correlation([1, 2, 2, 3], [4, 3, 3, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert rank_correlation([1, 2], [5, 5]) == 0
