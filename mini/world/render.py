"""The renderer: a scene becomes frames with their labels, and a subject a reference picture.

Shape suffixes: F frames, H height, W width, C channels, K corners of a box or landmarks of a face.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from refbench.mini.world import NUM_FRAMES, REFERENCE_PX, SIZE_PX
from refbench.mini.world.identity import Place, Subject, Thing
from refbench.mini.world.motion import Moment, moment
from refbench.mini.world.pen import Pen, blank, on_white
from refbench.mini.world.people import (
    EYE_Y,
    FACE_BOTTOM,
    FACE_HALF_WIDTH,
    FACE_TOP,
    HEAD_HALF_WIDTH,
    HEAD_SCALE,
    HEAD_TOP,
    HEAD_Y,
    MOUTH_Y,
    NOSE_Y,
    Person,
    draw_back,
    draw_bust,
    draw_limbs,
    figure,
)
from refbench.mini.world.places import PLACE_HEIGHT, PLACE_WIDTH, PLACES
from refbench.mini.world.scene import Actor, Framing, Light, Scene
from refbench.mini.world.things import SHAPES

# A place is a little larger than the frame, so that the camera can move over it.
PLACE_SCALE = 78 / PLACE_HEIGHT
SUPERSAMPLING = 3
# Where the ground is in the frame, as a share of its height; below it where feet are not seen.
GROUND: dict[Framing, float] = {"full": 0.92, "medium": 1.12, "close": 1.55}
# Red, green and blue of each light.
GAINS: dict[Light, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.08, 0.86, 0.66),
    "night": (0.66, 0.72, 0.96),
}
# A person's trunk and head in their own units: left, top, right, bottom.
BUST = (-34.0, -124.0, 34.0, -6.0)
THING_UNITS, THING_GROUND, THING_MIDDLE = 512.0, 452.0, 290.0
# Times its alpha, as canvases hold colours.
SHADOW = (18, 18, 24, 88)
# A pixel belongs to a subject that covers more than half of it.
COVERED = 127


@dataclass(frozen=True, kw_only=True)
class ActorLabels:
    """What is known of one subject in every frame.

    `mask_FHW` is true where the subject is seen. Boxes are x0, y0, x1, y1 in pixels, NaN where there is
    nothing to see: `box_FK` around the mask, `head_FK` and `face_FK` of people, the face only from the front
    and also where somebody stands before it. `landmarks_FKC`: eyes (left in the picture first), nose, corners
    of the mouth, as x, y. `whole_px`: the pixels of the subject where most of it is in the frame, hidden ones
    too.
    """

    actor: Actor
    mask_FHW: np.ndarray
    whole_px: int
    box_FK: np.ndarray
    head_FK: np.ndarray
    face_FK: np.ndarray
    landmarks_FKC: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """A clip, RGB uint8 (9, 64, 64, 3), with the labels of its subjects in the scene's order."""

    scene: Scene
    video_FHWC: np.ndarray
    labels: tuple[ActorLabels, ...]


def render(scene: Scene, frames: Sequence[int] = range(NUM_FRAMES)) -> Rendering:
    """Draw a scene, or only these of its frames; the same scene gives the same bytes on one machine."""
    generator = random.Random(scene.seed)
    video_FHWC, shifts = _background(scene, frames, generator)
    layers = [_layer(actor, scene.framing, frames, shifts) for actor in scene.actors]
    for layer in layers:
        video_FHWC = _over(layer.canvas_FHWC, video_FHWC)
    video_FHWC = _lit(video_FHWC, scene.light, generator)
    labels = []
    hidden_FHW = np.zeros(video_FHWC.shape[:3], bool)
    for layer in reversed(layers):
        covered_FHW = layer.canvas_FHWC[..., 3] > COVERED
        labels.append(_labels(layer, covered_FHW, covered_FHW & ~hidden_FHW))
        hidden_FHW |= covered_FHW
    return Rendering(scene=scene, video_FHWC=video_FHWC, labels=tuple(reversed(labels)))


def _background(
    scene: Scene, frames: Sequence[int], generator: random.Random
) -> tuple[np.ndarray, np.ndarray]:
    """The place in every frame, and how far the camera has moved, in pixels."""
    place_HWC = place_picture(scene.place)
    height, width = place_HWC.shape[:2]
    travel = scene.pan * SIZE_PX
    room = width - SIZE_PX - abs(travel) - 1
    left = generator.uniform(0, room) + max(-travel, 0)
    top = generator.uniform(0.4, 1.0) * (height - SIZE_PX - 1)
    shifts = np.linspace(0, travel, NUM_FRAMES)[list(frames)]
    windows = [_window(place_HWC, left + shift, top) for shift in (shifts if travel else shifts[:1])]
    return np.stack(windows if travel else windows * len(frames)), shifts - travel / 2


def _window(picture_HWC: np.ndarray, left: float, top: float) -> np.ndarray:
    matrix = np.array([[1, 0, -left], [0, 1, -top]])
    size = (SIZE_PX, SIZE_PX)
    window_HWC: np.ndarray = cv2.warpAffine(picture_HWC, matrix, size, flags=cv2.INTER_LINEAR)
    return window_HWC


@lru_cache(maxsize=256)
def place_picture(place: Place) -> np.ndarray:
    """A place without anybody, RGB uint8 (78, 111, 3)."""
    width, height = round(PLACE_WIDTH * PLACE_SCALE), round(PLACE_HEIGHT * PLACE_SCALE)
    return _place(place, width, height)


def _place(place: Place, width: int, height: int) -> np.ndarray:
    canvas_HWC = blank(width * SUPERSAMPLING, height * SUPERSAMPLING)
    scale = width * SUPERSAMPLING / PLACE_WIDTH
    PLACES[place.name](Pen(canvas_HWC, scale), random.Random(f"{place.name}/{place.number}"))
    return on_white(cv2.resize(canvas_HWC, (width, height), interpolation=cv2.INTER_AREA))


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One subject alone in every frame: canvases, and the pens that drew them."""

    actor: Actor
    canvas_FHWC: np.ndarray
    pens: list[Pen]
    moments: list[Moment]


def _layer(actor: Actor, framing: Framing, frames: Sequence[int], shifts: np.ndarray) -> _Layer:
    what = actor.what
    is_thing = isinstance(what, Thing)
    canvas_FHWC = np.zeros((len(frames), SIZE_PX, SIZE_PX, 4), np.uint8)
    top_FHWC = np.zeros_like(canvas_FHWC)
    height_px = actor.height * SIZE_PX
    # Things stand in the picture whatever the framing.
    ground_px = (GROUND["full"] if is_thing else GROUND[framing]) * SIZE_PX
    moments = [
        moment(actor.motion, index / (NUM_FRAMES - 1), actor.direction, thing=is_thing) for index in frames
    ]
    pens = []
    for index, now in enumerate(moments):
        x = actor.across * SIZE_PX + now.across * height_px - shifts[index]
        canvas_HWC = canvas_FHWC[index]
        reach = height_px * (0.2 if isinstance(what, Person) else 0.34) * now.scale / (1 + now.up)
        _shadow(canvas_HWC, x, ground_px, reach)
        unit = height_px * now.scale / (THING_UNITS * 0.8 if is_thing else 100)
        pen = Pen(canvas_HWC, 1.0).moved(x, ground_px - now.up * height_px, unit, turn=now.tilt)
        if isinstance(what, Thing):
            middle = THING_MIDDLE - THING_GROUND
            pen = pen.moved(0, middle, turn=now.roll).moved(-THING_UNITS / 2, -middle - THING_GROUND)
            sprite_HWC, scale = thing_sprite(what, _sprite_scale(height_px / (THING_UNITS * 0.8)))
            origin = (0.0, 0.0)
        else:
            draw_limbs(pen, what, now.pose)
            behind = now.pose.from_behind
            sprite_HWC, scale = bust_sprite(what, _sprite_scale(height_px / 100), behind)
            pen = pen.moved(0, 0, wide=now.pose.width)
            origin = BUST[:2]
        _put(top_FHWC[index], sprite_HWC, scale, origin, pen)
        pens.append(pen)
    return _Layer(actor=actor, canvas_FHWC=_over(top_FHWC, canvas_FHWC), pens=pens, moments=moments)


def _shadow(canvas_HWC: np.ndarray, x: float, y: float, reach: float) -> None:
    """A shadow on the ground of an empty canvas, not dark enough to count as covered."""
    centre, axes = (round(x * 16), round(y * 16)), (round(reach * 16), round(reach * 3.2))
    cv2.ellipse(canvas_HWC, centre, axes, 0, 0, 360, SHADOW, cv2.FILLED, cv2.LINE_AA, 4)


def _sprite_scale(scale: float) -> float:
    """Somewhat more than the scale in the frame, in steps of a quarter, so that sprites can be kept."""
    return math.pow(2, math.ceil(math.log2(scale * 1.15) * 4) / 4)


@lru_cache(maxsize=4096)
def bust_sprite(person: Person, scale: float, behind: bool) -> tuple[np.ndarray, float]:
    """A person's trunk and head on a canvas of its own, and its pixels per unit."""
    left, top, right, bottom = BUST
    canvas_HWC = blank(math.ceil((right - left) * scale), math.ceil((bottom - top) * scale))
    pen = Pen(canvas_HWC, scale, (-left * scale, -top * scale))
    (draw_back if behind else draw_bust)(pen, person)
    return canvas_HWC, scale


@lru_cache(maxsize=4096)
def thing_sprite(thing: Thing, scale: float) -> tuple[np.ndarray, float]:
    """A thing on a canvas of its own, and its pixels per unit."""
    side = math.ceil(THING_UNITS * scale * SUPERSAMPLING)
    canvas_HWC = blank(side, side)
    SHAPES[thing.shape](Pen(canvas_HWC, scale * SUPERSAMPLING, shadows=False), thing.look)
    small = round(side / SUPERSAMPLING)
    return cv2.resize(canvas_HWC, (small, small), interpolation=cv2.INTER_AREA), small / THING_UNITS


def _put(
    canvas_HWC: np.ndarray, sprite_HWC: np.ndarray, scale: float, origin: tuple[float, float], pen: Pen
) -> None:
    """Lay a sprite, whose corner is `origin` in the pen's units, where the pen stands."""
    matrix = pen.matrix.copy()
    matrix[:, :2] /= scale
    matrix[:, 2] += pen.matrix[:, :2] @ np.array(origin)
    cv2.warpAffine(
        sprite_HWC, matrix, (canvas_HWC.shape[1], canvas_HWC.shape[0]), dst=canvas_HWC, flags=cv2.INTER_LINEAR
    )


def _over(top_FHWC: np.ndarray, below_FHWC: np.ndarray) -> np.ndarray:
    """One layer over another, or over frames without alpha."""
    frames, height, width, channels = below_FHWC.shape
    flat_top = top_FHWC.reshape(frames * height, width, 4)
    flat_below = below_FHWC.reshape(frames * height, width, channels)
    rest = cv2.bitwise_not(flat_top[..., 3])
    kept = cv2.multiply(flat_below, cv2.merge([rest] * channels), scale=1 / 255)
    joined: np.ndarray = cv2.add(kept, np.ascontiguousarray(flat_top[..., :channels]))
    return joined.reshape(below_FHWC.shape)


def _lit(video_FHWC: np.ndarray, light: Light, generator: random.Random) -> np.ndarray:
    strength = generator.uniform(0.85, 1.1)
    levels = np.arange(256)[:, None] * np.array(GAINS[light]) * strength
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)[None]
    flat = video_FHWC.reshape(-1, SIZE_PX, 3)
    lit: np.ndarray = cv2.LUT(flat, table)
    return lit.reshape(video_FHWC.shape)


def _labels(layer: _Layer, covered_FHW: np.ndarray, mask_FHW: np.ndarray) -> ActorLabels:
    box_FK = np.stack([_box_around(mask_HW) for mask_HW in mask_FHW])
    head_FK = np.full((len(mask_FHW), 4), np.nan)
    face_FK, landmarks_FKC = head_FK.copy(), np.full((len(mask_FHW), 5, 2), np.nan)
    what = layer.actor.what
    if isinstance(what, Person):
        for index, (pen, now) in enumerate(zip(layer.pens, layer.moments, strict=True)):
            head = pen.moved(0, HEAD_Y, HEAD_SCALE)
            half = HEAD_HALF_WIDTH * max(what.face_width, 1.0)
            head_FK[index] = _within(_bounds(head, -half, HEAD_TOP, half, FACE_BOTTOM))
            if now.pose.from_behind:
                continue
            box, landmarks = _face(head, what)
            face_FK[index] = _within(box)
            if not np.isnan(face_FK[index]).any():
                landmarks_FKC[index] = landmarks
    return ActorLabels(
        actor=layer.actor,
        mask_FHW=mask_FHW,
        whole_px=int(covered_FHW.sum(axis=(1, 2)).max()),
        box_FK=box_FK,
        head_FK=head_FK,
        face_FK=face_FK,
        landmarks_FKC=landmarks_FKC,
    )


def _face(head: Pen, person: Person) -> tuple[np.ndarray, np.ndarray]:
    """Box (4,) and landmarks (5, 2) of a face in pixels, by the pen of its head."""
    face = head.moved(0, 0, wide=person.face_width)
    eye, corner = 37 * person.eye_spacing, 28 * person.mouth_width
    points = [(-eye, EYE_Y), (eye, EYE_Y), (0, NOSE_Y), (-corner, MOUTH_Y), (corner, MOUTH_Y)]
    return _bounds(face, -FACE_HALF_WIDTH, FACE_TOP, FACE_HALF_WIDTH, FACE_BOTTOM), face.at(points)


def _box_around(mask_HW: np.ndarray) -> np.ndarray:
    left, top, width, height = cv2.boundingRect(mask_HW.view(np.uint8))
    if not width:
        return np.full(4, np.nan)
    return np.array([left, top, left + width, top + height], float)


def _bounds(pen: Pen, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    corners = pen.at([(left, top), (right, top), (right, bottom), (left, bottom)])
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _within(box: np.ndarray) -> np.ndarray:
    """The part of a box that lies in the frame; NaN where that is less than a third of it."""
    inside = box.clip(0, SIZE_PX)
    area = (box[2] - box[0]) * (box[3] - box[1])
    left = max(inside[2] - inside[0], 0) * max(inside[3] - inside[1], 0)
    return inside if left * 3 >= area else np.full(4, np.nan)


def reference_picture(subject: Subject, *, face: bool = False, size_px: int = REFERENCE_PX) -> np.ndarray:
    """The subject in its canonical pose on white, RGB uint8 (size, size, 3); of a person the face alone."""
    canvas_HWC = blank(size_px * SUPERSAMPLING, size_px * SUPERSAMPLING)
    pen = Pen(canvas_HWC, size_px * SUPERSAMPLING)
    what = subject.what
    if isinstance(what, Thing):
        SHAPES[what.shape](pen.moved(0.05, 0.05, 0.9 / THING_UNITS), what.look)
    else:
        figure(_reference_pen(pen, what, face), what)
    return on_white(cv2.resize(canvas_HWC, (size_px, size_px), interpolation=cv2.INTER_AREA))


def _reference_pen(pen: Pen, person: Person, face: bool) -> Pen:
    """Where a person stands in a reference picture, of which the pen's unit is the side."""
    # A top hat makes the figure higher.
    height = 122 if person.hat is not None else 105
    return pen.moved(0.5, 1.28, 1.24 / height) if face else pen.moved(0.5, 0.96, 0.9 / height)


def reference_face(
    person: Person, *, face: bool = False, size_px: int = REFERENCE_PX
) -> tuple[np.ndarray, np.ndarray]:
    """Box (4,) and landmarks (5, 2) of the face in a person's `reference_picture`, as in `ActorLabels`."""
    pen = _reference_pen(Pen(blank(1, 1), size_px), person, face)
    return _face(pen.moved(0, HEAD_Y, HEAD_SCALE), person)


def place_reference(place: Place, width_px: int = 160) -> np.ndarray:
    """A place without anybody as a reference picture, RGB uint8."""
    return _place(place, width_px, round(width_px * PLACE_HEIGHT / PLACE_WIDTH))
