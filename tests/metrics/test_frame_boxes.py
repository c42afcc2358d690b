"""Boxes in details: in thousandths, cut at the edges, a limited number of them."""

from __future__ import annotations

from refbench.metrics.frame_boxes import MOST_BOXES, in_thousandths, listed


def test_boxes_are_in_thousandths_of_the_frame_and_end_at_its_edges() -> None:
    assert in_thousandths((64.0, 24.0, 96.0, 48.0), 128, 96) == (500, 250, 750, 500)
    assert in_thousandths((-20.0, 5.0, 500.0, 97.0), 128, 96) == (0, 52, 1000, 1000)


def test_a_detector_that_sees_boxes_everywhere_does_not_fill_the_store() -> None:
    boxes = listed((0, number) for number in range(10_000))
    assert len(boxes) == MOST_BOXES and boxes[-1] == [0, MOST_BOXES - 1]
