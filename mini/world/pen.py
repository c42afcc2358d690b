"""A pen for smooth shapes: antialiased drawing with OpenCV on plain coordinates, quick enough for training.

A canvas is a uint8 array (height, width, 4) of RGB times alpha, and alpha; an empty one is all zero.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

# Points per segment of a smooth curve, per quarter of a rounded corner, and per full ellipse.
CURVE_STEPS = 6
CORNER_STEPS = 4
ELLIPSE_STEPS = 32
# OpenCV takes coordinates as integers with this many binary digits behind the point.
SUBPIXEL_BITS = 4
# A gradient over fewer rows than this cannot be seen.
LEAST_GRADIENT_PX = 5

Point = tuple[float, float]
# Points, or text such as "0,-10 5,0 0,10", as in SVG.
Outline = str | Sequence[Point] | np.ndarray
Colour = str
Texture = Literal["plain", "striped", "dotted", "checked"]
TEXTURES: tuple[Texture, ...] = ("plain", "striped", "dotted", "checked")


@dataclass(frozen=True, kw_only=True)
class Textured:
    """A fill with a pattern of `accent` on `colour`; `repeats` of it fit into the shape's larger side."""

    colour: Colour
    accent: Colour
    texture: Texture
    repeats: float = 3.0


# A colour, a vertical gradient over the shape's height, or a pattern.
Fill = Colour | tuple[Colour, Colour] | Textured
Draw = Callable[["Pen", random.Random], None]


def blank(width: int, height: int) -> np.ndarray:
    """An empty canvas, uint8 (height, width, 4)."""
    return np.zeros((height, width, 4), np.uint8)


def on_white(canvas_HWC: np.ndarray) -> np.ndarray:
    """The canvas on white paper: RGB uint8 (height, width, 3)."""
    paper_HWC: np.ndarray = canvas_HWC[..., :3] + (255 - canvas_HWC[..., 3:])
    return paper_HWC


class Pen:
    """Draws smooth shapes on a canvas; `moved` gives a pen with another origin, scale and turn.

    Without `shadows` a drawing leaves out those on the ground.

    Coordinates are in units of the finished picture, y downwards. A fill is a colour `#rrggbb`, a pair of
    them (a vertical gradient over the shape's height) or a pattern.
    """

    def __init__(
        self, canvas_HWC: np.ndarray, scale: float, origin: Point = (0.0, 0.0), *, shadows: bool = True
    ) -> None:
        self._canvas = canvas_HWC
        self._shadows = shadows
        self._matrix = np.array([[scale, 0.0, origin[0]], [0.0, scale, origin[1]]])
        self._scale = scale

    def moved(self, x: float, y: float, scale: float = 1.0, *, turn: float = 0.0, wide: float = 1.0) -> Pen:
        """A pen on the same canvas whose origin lies at (x, y) and whose unit is `scale` of this one's.

        `turn`: degrees clockwise; `wide`: a further factor across.
        """
        cosine, sine = math.cos(math.radians(turn)) * scale, math.sin(math.radians(turn)) * scale
        inner = np.array([[cosine * wide, -sine, x], [sine * wide, cosine, y], [0.0, 0.0, 1.0]])
        other = Pen.__new__(Pen)
        other._canvas, other._shadows = self._canvas, self._shadows
        other._matrix, other._scale = self._matrix @ inner, self._scale * scale
        return other

    @property
    def matrix(self) -> np.ndarray:
        """From this pen's units to pixels, (2, 3)."""
        return self._matrix

    def at(self, points: Outline) -> np.ndarray:
        """Where points lie on the canvas: (points, 2) in pixels."""
        pixels: np.ndarray = points_of(points) @ self._matrix[:, :2].T + self._matrix[:, 2]
        return pixels

    def polygon(self, points: Outline, fill: Fill, *, opacity: float = 1.0, blur: float = 0.0) -> None:
        """Fill a polygon; `blur` is the radius of a soft edge."""
        self._paint(self.at(points), fill, opacity, blur * self._scale, None)

    def blob(self, points: Outline, fill: Fill, *, opacity: float = 1.0, blur: float = 0.0) -> None:
        """Fill the smooth closed curve through `points`."""
        self.polygon(smooth_curve(points, closed=True), fill, opacity=opacity, blur=blur)

    def mirrored_blob(self, half: Outline, fill: Fill) -> None:
        """A blob that is symmetric about x = 0, from its right half in order from top to bottom."""
        right = points_of(half)
        left = right[::-1] * (-1, 1)
        self.blob(np.concatenate([right, left[left[:, 0] != 0]]), fill)

    def ellipse(
        self,
        x: float,
        y: float,
        radius_x: float,
        radius_y: float,
        fill: Fill,
        *,
        turn: float = 0.0,
        opacity: float = 1.0,
        blur: float = 0.0,
    ) -> None:
        """Fill an ellipse, turned by `turn` degrees clockwise."""
        rim = _circle(ELLIPSE_STEPS) * (radius_x, radius_y)
        if turn:
            cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
            rim = rim @ np.array([[cosine, sine], [-sine, cosine]])
        self.polygon(rim + np.array([x, y]), fill, opacity=opacity, blur=blur)

    def box(
        self, left: float, top: float, right: float, bottom: float, fill: Fill, radius: float = 0.0
    ) -> None:
        """Fill a rectangle with rounded corners."""
        corners = np.array([(right, bottom), (left, bottom), (left, top), (right, top)], float)
        if radius:
            inwards = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * radius
            arcs = _circle(4 * CORNER_STEPS).reshape(4, CORNER_STEPS, 2)
            ends = np.roll(arcs[:, :1], -1, axis=0)
            rounded = np.concatenate([arcs, ends], axis=1) * radius
            corners = ((corners + inwards)[:, None] + rounded).reshape(-1, 2)
        self.polygon(corners, fill)

    def stroke(self, points: Outline, width: float, fill: Fill, *, opacity: float = 1.0) -> None:
        """A smooth line through `points` with round ends."""
        self._paint(self.at(smooth_curve(points, closed=False)), fill, opacity, 0.0, width * self._scale)

    def limb(self, start: Point, end: Point, start_width: float, end_width: float, fill: Fill) -> None:
        """A straight limb whose width changes evenly, with round ends."""
        across, down = end[0] - start[0], end[1] - start[1]
        angle = math.atan2(down, across)
        half = _circle(16)[:9] @ np.array(
            [[math.cos(angle + math.pi / 2), math.sin(angle + math.pi / 2)],
             [-math.sin(angle + math.pi / 2), math.cos(angle + math.pi / 2)]]
        )  # fmt: skip
        self.polygon(np.concatenate([half * (start_width / 2) + start, -half * (end_width / 2) + end]), fill)

    def ring(self, x: float, y: float, radius: float, width: float, fill: Fill) -> None:
        """A circle's outline."""
        circle = _circle(24) * radius + (x, y)
        self.stroke(np.concatenate([circle, circle[:1]]), width, fill)

    def shadow(self, x: float, y: float, radius_x: float, radius_y: float) -> None:
        """A soft shadow on the ground."""
        if not self._shadows:
            return
        self.ellipse(x, y, radius_x, radius_y, "#3a3a4a", opacity=0.28, blur=radius_y * 0.6)

    def _paint(
        self, pixels: np.ndarray, fill: Fill, opacity: float, blur: float, thickness: float | None
    ) -> None:
        """Fill a polygon, or draw a line of `thickness`, in pixels."""
        solid = opacity == 1 and blur == 0
        if solid and isinstance(fill, str):
            _fill(self._canvas, pixels, (*channels(fill), 255), thickness)
            return
        (leftmost, top), (rightmost, bottom) = pixels.min(axis=0).tolist(), pixels.max(axis=0).tolist()
        if solid and isinstance(fill, tuple) and bottom - top < LEAST_GRADIENT_PX:
            _fill(self._canvas, pixels, (*channels(mixed(*fill, 0.5)), 255), thickness)
            return
        margin = math.ceil(blur * 3 + (thickness or 0) / 2) + 2
        height, width = self._canvas.shape[:2]
        x0, y0 = math.floor(leftmost) - margin, math.floor(top) - margin
        x1, y1 = math.ceil(rightmost) + margin, math.ceil(bottom) + margin
        left, upper, right, lower = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if left >= right or upper >= lower:
            return
        mask_HW = np.zeros((y1 - y0, x1 - x0), np.uint8)
        _fill(mask_HW, pixels - (x0, y0), (255,), thickness)
        if blur > 0:
            mask_HW = cv2.GaussianBlur(mask_HW, (0, 0), blur)
        share_HW1 = mask_HW[upper - y0 : lower - y0, left - x0 : right - x0, None] * np.float32(opacity / 255)
        paint_HWC = _painted(fill, x1 - x0, y1 - y0)
        if paint_HWC.shape[0] > 1:
            paint_HWC = paint_HWC[upper - y0 : lower - y0]
        if paint_HWC.shape[1] > 1:
            paint_HWC = paint_HWC[:, left - x0 : right - x0]
        part = self._canvas[upper:lower, left:right]
        part[:] = np.rint(part + (paint_HWC - part) * share_HW1)


def _fill(canvas: np.ndarray, pixels: np.ndarray, colour: tuple[int, ...], thickness: float | None) -> None:
    fixed = np.rint(pixels * (1 << SUBPIXEL_BITS)).astype(np.int32)
    if thickness is None:
        cv2.fillPoly(canvas, [fixed], colour, cv2.LINE_AA, SUBPIXEL_BITS)
    else:
        cv2.polylines(canvas, [fixed], False, colour, max(round(thickness), 1), cv2.LINE_AA, SUBPIXEL_BITS)


def _painted(fill: Fill, width: int, height: int) -> np.ndarray:
    """The fill as float32 RGBA (height or 1, width or 1, 4)."""
    if isinstance(fill, str):
        return np.array([[[*channels(fill), 255]]], np.float32)
    if isinstance(fill, tuple):
        upper, lower = (np.array([*channels(colour), 255], np.float32) for colour in fill)
        progress = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        return upper + (lower - upper) * progress
    period = max(width, height) / fill.repeats
    rows = np.arange(height)[:, None] / period
    columns = np.arange(width)[None] / period
    if fill.texture == "striped":
        marked = (rows % 1 < 0.45) & (columns >= 0)
    elif fill.texture == "checked":
        marked = (np.floor(rows * 1.6) + np.floor(columns * 1.6)) % 2 == 0
    elif fill.texture == "dotted":
        marked = np.hypot(rows * 1.3 % 1 - 0.5, columns * 1.3 % 1 - 0.5) < 0.3
    else:
        marked = np.zeros((height, width), bool)
    tones = [np.array([*channels(colour), 255], np.float32) for colour in (fill.colour, fill.accent)]
    return np.where(marked[..., None], tones[1], tones[0])


@lru_cache(maxsize=4096)
def _parsed(text: str) -> np.ndarray:
    points = np.array([[float(number) for number in row.split(",")] for row in text.split()])
    points.flags.writeable = False
    return points


@lru_cache(maxsize=32)
def _circle(steps: int) -> np.ndarray:
    angles = np.arange(steps) * (2 * math.pi / steps)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@lru_cache(maxsize=1)
def _curve_weights() -> np.ndarray:
    """Catmull-Rom weights of four neighbours at the steps of a segment: (steps, 4)."""
    t = np.arange(CURVE_STEPS) / CURVE_STEPS
    return np.stack(
        [-0.5 * t + t**2 - 0.5 * t**3, 1 - 2.5 * t**2 + 1.5 * t**3, 0.5 * t + 2 * t**2 - 1.5 * t**3,
         -0.5 * t**2 + 0.5 * t**3], axis=1,
    )  # fmt: skip


def coordinates(text: str) -> list[tuple[float, ...]]:
    """`"0,-10,4 5,0,3"` as rows of numbers."""
    return [tuple(float(number) for number in row.split(",")) for row in text.split()]


def points_of(outline: Outline) -> np.ndarray:
    """The points of an outline: (points, 2)."""
    return _parsed(outline) if isinstance(outline, str) else np.asarray(outline, float)


def smooth_curve(outline: Outline, *, closed: bool) -> np.ndarray:
    """A Catmull-Rom curve through the outline's points, as a polyline (points, 2)."""
    points = points_of(outline)
    count = len(points)
    starts = np.arange(count if closed else count - 1)[:, None] + np.arange(-1, 3)
    near = points[starts % count if closed else starts.clip(0, count - 1)]
    curve = (_curve_weights() @ near).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with `share` (0 to 1) of `other`."""
    pairs = zip(channels(colour), channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def darker(colour: Colour, share: float = 0.18) -> Colour:
    """A shade of a colour, a little cold."""
    return mixed(colour, "#1c1633", share)


def lighter(colour: Colour, share: float = 0.25) -> Colour:
    """A tint of a colour."""
    return mixed(colour, "#ffffff", share)


def channels(colour: Colour) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255."""
    value = int(colour[1:], 16)
    return value >> 16, value >> 8 & 255, value & 255
