"""A pen for smooth shapes: supersampled drawing with Pillow on plain coordinates."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Points per segment of a smooth curve, and per full ellipse.
CURVE_STEPS = 10
ELLIPSE_STEPS = 72

Point = tuple[float, float]
# Points, or text such as "0,-10 5,0 0,10", as in SVG.
Outline = str | Sequence[Point]
Colour = str
Fill = Colour | tuple[Colour, Colour]
Draw = Callable[["Pen", random.Random], None]


class Pen:
    """Draws smooth shapes on an RGBA image; `moved` gives a pen with another origin and scale.

    Coordinates are in units of the finished picture, y downwards. A fill is a colour `#rrggbb` or a pair of
    them, a vertical gradient over the shape's height.
    """

    def __init__(self, image: Image.Image, scale: float, origin: Point = (0.0, 0.0)) -> None:
        self._image = image
        self._scale = scale
        self._origin = origin

    def moved(self, x: float, y: float, scale: float = 1.0) -> Pen:
        """A pen on the same picture whose origin lies at (x, y) and whose unit is `scale` of this one's."""
        origin = (self._origin[0] + x * self._scale, self._origin[1] + y * self._scale)
        return Pen(self._image, self._scale * scale, origin)

    def polygon(self, points: Outline, fill: Fill, *, opacity: float = 1.0, blur: float = 0.0) -> None:
        """Fill a polygon; `blur` is the radius of a soft edge."""
        from PIL import ImageDraw

        pixels = [self._pixel(point) for point in points_of(points)]
        self._paint(
            pixels, blur, fill, opacity, lambda mask, shifted: ImageDraw.Draw(mask).polygon(shifted, 255)
        )

    def blob(self, points: Outline, fill: Fill, *, opacity: float = 1.0, blur: float = 0.0) -> None:
        """Fill the smooth closed curve through `points`."""
        self.polygon(smooth_curve(points, closed=True), fill, opacity=opacity, blur=blur)

    def mirrored_blob(self, half: Outline, fill: Fill) -> None:
        """A blob that is symmetric about x = 0, from its right half in order from top to bottom."""
        right = points_of(half)
        self.blob([*right, *((-x, y) for x, y in reversed(right) if x != 0)], fill)

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
        cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        angles = [2 * math.pi * step / ELLIPSE_STEPS for step in range(ELLIPSE_STEPS)]
        rim = [(radius_x * math.cos(angle), radius_y * math.sin(angle)) for angle in angles]
        points = [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in rim]
        self.polygon(points, fill, opacity=opacity, blur=blur)

    def box(
        self, left: float, top: float, right: float, bottom: float, fill: Fill, radius: float = 0.0
    ) -> None:
        """Fill a rectangle with rounded corners."""
        points: list[Point] = []
        for corner, (x, y) in enumerate(
            (
                (right - radius, bottom - radius),
                (left + radius, bottom - radius),
                (left + radius, top + radius),
                (right - radius, top + radius),
            )
        ):
            for step in range(CURVE_STEPS + 1):
                angle = math.pi / 2 * (corner + step / CURVE_STEPS)
                points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
        self.polygon(points, fill)

    def stroke(self, points: Outline, width: float, fill: Fill, *, opacity: float = 1.0) -> None:
        """A smooth line through `points` with round ends."""
        from PIL import ImageDraw

        pixels = [self._pixel(point) for point in smooth_curve(points, closed=False)]
        thickness = max(round(width * self._scale), 1)

        def line(mask: Image.Image, shifted: list[Point]) -> None:
            draw = ImageDraw.Draw(mask)
            draw.line(shifted, 255, thickness)
            radius = thickness / 2
            for x, y in shifted:
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), 255)

        self._paint(pixels, width / 2, fill, opacity, line, blurred=False)

    def ring(self, x: float, y: float, radius: float, width: float, fill: Fill) -> None:
        """A circle's outline."""
        angles = [2 * math.pi * step / 24 for step in range(25)]
        circle = [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
        self.stroke(circle, width, fill)

    def shadow(self, x: float, y: float, radius_x: float, radius_y: float) -> None:
        """A soft shadow on the ground."""
        self.ellipse(x, y, radius_x, radius_y, "#3a3a4a", opacity=0.28, blur=radius_y * 0.6)

    def _pixel(self, point: Point) -> Point:
        return (self._origin[0] + point[0] * self._scale, self._origin[1] + point[1] * self._scale)

    def _paint(
        self,
        pixels: list[Point],
        reach: float,
        fill: Fill,
        opacity: float,
        draw: Callable[[Image.Image, list[Point]], None],
        *,
        blurred: bool = True,
    ) -> None:
        """Draw a mask no larger than the shape and lay the fill through it; `reach` widens the mask."""
        from PIL import Image, ImageFilter

        margin = math.ceil(reach * self._scale * (3 if blurred else 1)) + 2
        left = math.floor(min(x for x, _ in pixels)) - margin
        top = math.floor(min(y for _, y in pixels)) - margin
        right = math.ceil(max(x for x, _ in pixels)) + margin
        bottom = math.ceil(max(y for _, y in pixels)) + margin
        mask = Image.new("L", (right - left, bottom - top), 0)
        draw(mask, [(x - left, y - top) for x, y in pixels])
        if blurred and reach > 0:
            mask = mask.filter(ImageFilter.GaussianBlur(reach * self._scale))
        if opacity < 1:
            mask = mask.point([round(level * opacity) for level in range(256)])
        self._image.paste(_filled(mask.size, fill), (left, top), mask)


def coordinates(text: str) -> list[tuple[float, ...]]:
    """`"0,-10,4 5,0,3"` as rows of numbers."""
    return [tuple(float(number) for number in row.split(",")) for row in text.split()]


def points_of(outline: Outline) -> Sequence[Point]:
    """The points of an outline."""
    return [(x, y) for x, y in coordinates(outline)] if isinstance(outline, str) else outline


def smooth_curve(outline: Outline, *, closed: bool) -> list[Point]:
    """A Catmull-Rom curve through the outline's points, as a polyline."""
    points = points_of(outline)
    count = len(points)
    curve: list[Point] = []
    for index in range(count if closed else count - 1):
        if closed:
            p0, p1, p2, p3 = (points[(index + offset) % count] for offset in (-1, 0, 1, 2))
        else:
            p0, p1, p2, p3 = (points[min(max(index + offset, 0), count - 1)] for offset in (-1, 0, 1, 2))
        for step in range(CURVE_STEPS):
            t = step / CURVE_STEPS
            weights = (
                -0.5 * t + t**2 - 0.5 * t**3,
                1 - 2.5 * t**2 + 1.5 * t**3,
                0.5 * t + 2 * t**2 - 1.5 * t**3,
                -0.5 * t**2 + 0.5 * t**3,
            )
            near = list(zip(weights, (p0, p1, p2, p3), strict=True))
            curve.append((sum(w * p[0] for w, p in near), sum(w * p[1] for w, p in near)))
    return curve if closed else [*curve, points[-1]]


def mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with `share` (0 to 1) of `other`."""
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def darker(colour: Colour, share: float = 0.18) -> Colour:
    """A shade of a colour, a little cold."""
    return mixed(colour, "#1c1633", share)


def lighter(colour: Colour, share: float = 0.25) -> Colour:
    """A tint of a colour."""
    return mixed(colour, "#ffffff", share)


def _channels(colour: Colour) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _filled(size: tuple[int, int], fill: Fill) -> Image.Image:
    from PIL import Image

    if isinstance(fill, str):
        return Image.new("RGBA", size, fill)
    top, bottom = (np.array([*_channels(colour), 255], np.float64) for colour in fill)
    progress = np.linspace(0, 1, size[1])[:, None]
    column = (top + (bottom - top) * progress).round().astype(np.uint8)[:, None, :]
    return Image.fromarray(column).resize(size, Image.Resampling.NEAREST)
