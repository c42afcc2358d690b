"""Boxes in a record's details, so that a viewer can draw them over the frames in which they were found.

A box is a list of whole numbers that ends in its left, top, right and lower side in thousandths of the
frame's width and height; the first number is the place of the frame among those that the metric looked at.
At most `MOST_BOXES` are kept of a video, the first ones: about 30 bytes each in a line of the store, so never
more than 4 KB, and 1 KB for the one face of 32 frames. No score is computed from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MOST_BOXES = 128
THOUSANDTHS = 1000


def in_thousandths(corners_4: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Corners (x1, y1, x2, y2) in pixels of a frame, in thousandths of its sides and cut at its edges."""
    sides = (width, height, width, height)
    left, top, right, bottom = (
        min(max(round(THOUSANDTHS * corner / side), 0), THOUSANDTHS)
        for corner, side in zip(corners_4, sides, strict=True)
    )
    return left, top, right, bottom


def listed(boxes: Iterable[Sequence[int]]) -> list[list[int]]:
    """The first `MOST_BOXES` boxes as they stand in details."""
    return [list(box) for box, _ in zip(boxes, range(MOST_BOXES), strict=False)]
