"""Drawn people with a continuous identity: portraits and full figures in any pose.

A person stands on the origin and is 100 units high without hair; heads and eyes are large, so that a face of
20 pixels still shows who it is. `draw_limbs` and `draw_bust` together are the whole figure: a renderer may
draw the bust once and move it, and the limbs anew in each frame.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

import numpy as np

from refbench.mini.world.pen import (
    Colour,
    Draw,
    Fill,
    Pen,
    Point,
    Texture,
    Textured,
    channels,
    darker,
    lighter,
    mixed,
    points_of,
)

Glasses = Literal["none", "round", "square"]
HatKind = Literal["cap", "top hat", "beanie"]
HAT_KINDS: tuple[HatKind, ...] = ("cap", "top hat", "beanie")

# From light to dark; a skin lies anywhere between two of them.
SKINS = ("#fbdcc2", "#e9b28a", "#b97a4c", "#7a4a2b")
HAIR_COLOURS = {
    "black": "#26222c", "brown": "#7a4526", "blond": "#e6b84e", "red": "#c64a20", "white": "#dcdde4",
    "blue": "#3d6fd0", "green": "#4a9a55", "pink": "#e072b4",
}  # fmt: skip
IRISES = ("#2f62b8", "#3f8a45", "#6b4021", "#24202a", "#8a4fb0")
COLOURS = {
    "red": "#d8402f", "orange": "#f0902a", "yellow": "#f2cf3a", "green": "#3a9d4e", "blue": "#2f6fd0",
    "purple": "#8050b8", "pink": "#e878b0", "white": "#eeeef2",
}  # fmt: skip
CLOTHES = tuple(COLOURS.values())
TROUSERS = ("#33415c", "#5b4636", "#3d4f4a", "#4a4e69", "#2b2b33")
WOMENS_HAIR = ("long", "bob", "bun", "curly", "ponytail")
MENS_HAIR = ("short", "quiff", "curly", "bald", "spiky")

# Where the head sits on the body, and how large its own units are.
HEAD_Y, HEAD_SCALE = -71.0, 0.225
SHOULDER_Y, SHOULDER_X, HIP_Y, HIP_X = -44.0, 10.5, -24.0, 5.0
ARM_LENGTH, LEG_LENGTH = 19.0, 21.0
EYE_Y, MOUTH_Y, NOSE_Y = 8.0, 66.0, 38.0
# The face without hair, in the head's units: half its width at a face width of 1, top and bottom.
FACE_HALF_WIDTH, FACE_TOP, FACE_BOTTOM = 82.0, -62.0, 104.0
HEAD_HALF_WIDTH, HEAD_TOP = 96.0, -124.0


@dataclass(frozen=True, kw_only=True)
class Hat:
    """What somebody may wear, in the reference or only because a prompt asks for it."""

    kind: HatKind
    colour: Colour


@dataclass(frozen=True, kw_only=True)
class Person:
    """How a person looks: the identity. Sizes are factors around 1."""

    woman: bool
    skin: Colour
    hair: Colour
    hair_style: str
    eyes: Colour
    top: Colour
    texture: Texture
    bottom: Colour
    beard: bool = False
    glasses: Glasses = "none"
    open_smile: bool = False
    face_width: float = 1.0
    eye_size: float = 1.0
    eye_spacing: float = 1.0
    brow: float = 1.0
    nose: float = 1.0
    mouth_width: float = 1.0
    hat: Hat | None = None

    def vector(self) -> np.ndarray:
        """The identity as numbers, float32, most of them 0 to 1; hat and trousers are left out."""
        styles = dict.fromkeys((*WOMENS_HAIR, *MENS_HAIR))
        numbers = [
            *(channel / 255 for colour in (self.skin, self.hair, self.eyes, self.top)
              for channel in channels(colour)),
            *(float(self.hair_style == style) for style in styles),
            *(float(self.glasses == kind) for kind in ("round", "square")),
            *(float(self.texture == kind) for kind in ("striped", "dotted", "checked")),
            float(self.woman), float(self.beard), float(self.open_smile),
            *(getattr(self, field.name) - 0.5 for field in fields(self) if field.type == "float"),
        ]  # fmt: skip
        return np.array(numbers, np.float32)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How the limbs are held: degrees from straight down, outwards for arms, forwards (right) for legs.

    `turn` is how far the body has turned about its height: 0 faces the viewer, 180 shows the back.
    """

    left_arm: float = 12.0
    right_arm: float = 12.0
    left_leg: float = 0.0
    right_leg: float = 0.0
    turn: float = 0.0

    @property
    def from_behind(self) -> bool:
        """Whether the back is seen."""
        return math.cos(math.radians(self.turn)) < 0

    @property
    def width(self) -> float:
        """How wide the body looks, 0.55 to 1."""
        return 0.55 + 0.45 * abs(math.cos(math.radians(self.turn)))


STANDING = Pose()


def random_person(generator: random.Random, *, woman: bool) -> Person:
    """A person from the palettes, with colours and proportions that nobody else has."""
    step = generator.uniform(0, len(SKINS) - 1.001)
    glasses: tuple[Glasses, ...] = ("none", "none", "round", "square")
    textures: tuple[Texture, ...] = ("plain", "striped", "dotted", "checked")
    return Person(
        woman=woman,
        skin=mixed(SKINS[int(step)], SKINS[int(step) + 1], step % 1),
        hair=jittered(generator.choice(tuple(HAIR_COLOURS.values())), generator),
        hair_style=generator.choice(WOMENS_HAIR if woman else MENS_HAIR),
        eyes=generator.choice(IRISES),
        top=jittered(generator.choice(CLOTHES), generator),
        texture=generator.choice(textures),
        bottom=generator.choice(TROUSERS),
        beard=not woman and generator.random() < 0.35,
        glasses=generator.choice(glasses),
        open_smile=generator.random() < 0.5,
        face_width=generator.uniform(0.86, 1.12),
        eye_size=generator.uniform(0.8, 1.25),
        eye_spacing=generator.uniform(0.82, 1.18),
        brow=generator.uniform(0.5, 1.6),
        nose=generator.uniform(0.6, 1.6),
        mouth_width=generator.uniform(0.7, 1.3),
    )


def random_hat(generator: random.Random) -> Hat:
    """A hat of any kind and colour."""
    return Hat(kind=generator.choice(HAT_KINDS), colour=jittered(generator.choice(CLOTHES), generator))


def jittered(colour: Colour, generator: random.Random, reach: int = 14) -> Colour:
    """A colour near another: each channel moved by up to `reach`."""
    return "#" + "".join(
        f"{min(max(channel + generator.randint(-reach, reach), 0), 255):02x}" for channel in channels(colour)
    )


def accent_of(colour: Colour) -> Colour:
    """What stands out as a pattern on a colour."""
    red, green, blue = channels(colour)
    return "#3a3a58" if 0.3 * red + 0.59 * green + 0.11 * blue > 165 else "#fbf8ee"


def cloth(colour: Colour, texture: Texture) -> Fill:
    """The fill of clothes."""
    if texture == "plain":
        return (lighter(colour, 0.1), darker(colour, 0.1))
    return Textured(colour=colour, accent=accent_of(colour), texture=texture)


def figure(pen: Pen, person: Person, pose: Pose = STANDING) -> None:
    """The whole person, standing on the origin."""
    draw_limbs(pen, person, pose)
    body = pen.moved(0, 0, wide=pose.width)
    if pose.from_behind:
        draw_back(body, person)
    else:
        draw_bust(body, person)


def draw_limbs(pen: Pen, person: Person, pose: Pose = STANDING) -> None:
    """Legs, shoes, arms and hands: what moves against the body."""
    skirt = wears_skirt(person)
    trousers = person.skin if skirt else person.bottom
    squeeze = pose.width
    for side, swing in ((-1, pose.left_leg), (1, pose.right_leg)):
        hip = (side * HIP_X * squeeze, HIP_Y)
        foot = moved_point(hip, LEG_LENGTH, swing)
        pen.limb(hip, foot, 5 if skirt else 8.5, 4.5 if skirt else 7, trousers)
        pen.ellipse(foot[0] + side * 0.8, foot[1] + 0.8, 5, 3, "#3a2c28")
    sleeve = darker(person.top, 0.14)
    for side, raised in ((-1, pose.left_arm), (1, pose.right_arm)):
        shoulder = (side * SHOULDER_X * squeeze, SHOULDER_Y)
        hand = moved_point(shoulder, ARM_LENGTH, side * raised)
        pen.limb(shoulder, hand, 7.5, 5.5, sleeve)
        pen.ellipse(*hand, 3.6, 3.6, person.skin)


def moved_point(start: Point, length: float, degrees: float) -> Point:
    """The end of a limb that hangs down, turned to the right by `degrees`."""
    angle = math.radians(degrees)
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def wears_skirt(person: Person) -> bool:
    """Whether the person's legs are bare below a skirt."""
    return person.woman and person.hair_style in ("long", "bun", "curly")


def draw_bust(pen: Pen, person: Person) -> None:
    """Trunk and head from the front."""
    face = pen.moved(0, HEAD_Y, HEAD_SCALE)
    hair_behind(face, person)
    trunk(pen, person)
    face.mirrored_blob("0,60 34,64 34,112 0,124", darker(person.skin, 0.16))
    head(face, person)


def draw_back(pen: Pen, person: Person) -> None:
    """Trunk and head from behind: no face."""
    face = pen.moved(0, HEAD_Y, HEAD_SCALE)
    trunk(pen, person)
    face.mirrored_blob("0,60 34,64 34,112 0,124", darker(person.skin, 0.16))
    wide = face.moved(0, 0, wide=person.face_width)
    wide.mirrored_blob("0,-100 52,-90 80,-42 81,12 68,62 36,95 0,104", darker(person.skin, 0.08))
    hair_behind(face, person)
    if person.hair_style != "bald":
        face.mirrored_blob("0,-120 62,-106 96,-50 98,20 84,70 40,88 0,92", darker(person.hair, 0.08))
    if person.hat is not None:
        hat(face, person.hat)


def trunk(pen: Pen, person: Person) -> None:
    """Shirt, or dress."""
    fill = cloth(person.top, person.texture)
    if wears_skirt(person):
        pen.mirrored_blob("0,-51 6,-50 12,-46 12,-36 12,-26 19,-12 0,-10", fill)
    else:
        pen.mirrored_blob("0,-51 6,-50 13,-46 13,-36 11,-22 0,-20", fill)


def head(pen: Pen, person: Person) -> None:
    """The head in units in which it is about 160 wide and 205 high, centred on the origin."""
    face = pen.moved(0, 0, wide=person.face_width)
    for side in (-1, 1):
        face.ellipse(side * 82, 14, 15, 22, darker(person.skin, 0.12))
    face.mirrored_blob("0,-100 52,-90 80,-42 81,12 68,62 36,95 0,104", person.skin)
    for side in (-1, 1):
        face.ellipse(side * 50, 48, 19, 12, mixed(person.skin, "#e8604c", 0.3))
    if person.beard:
        beard(face, person)
    eyes(face, person)
    nose = 10 + 14 * person.nose
    face.limb((0, NOSE_Y - nose), (0, NOSE_Y), 6, 8 + 10 * person.nose, darker(person.skin, 0.3))
    mouth(face, person)
    hair_in_front(pen, person)
    if person.glasses != "none":
        glasses(face, person)
    if person.hat is not None:
        hat(pen, person.hat)


def eyes(pen: Pen, person: Person) -> None:
    """Eyes and brows."""
    line = darker(person.hair, 0.5)
    size = person.eye_size
    for side in (-1, 1):
        eye = pen.moved(side * 37 * person.eye_spacing, EYE_Y)
        eye.ellipse(0, 0, 21 * size, 21 * size, "#ffffff")
        eye.ellipse(0, 1, 14 * size, 15 * size, person.eyes)
        eye.ellipse(0, 1, 6 * size, 7 * size, "#16121c")
        eye.ellipse(-5 * size, -6 * size, 4, 4, "#ffffff")
        if person.woman:
            eye.stroke([(-21 * size, -6), (0, -21 * size), (21 * size, -6)], 5, "#1d1820")
            eye.stroke([(side * 19 * size, -8), (side * 30 * size, -18)], 5, "#1d1820")
        brow = [(side * -18, -30 * size - 4), (0, -36 * size - 4), (side * 20, -30 * size)]
        eye.stroke(brow, 4 + 7 * person.brow, line)


def mouth(pen: Pen, person: Person) -> None:
    """A smile, open or closed."""
    lip = "#c2333f" if person.woman else mixed(person.skin, "#8b2530", 0.65)
    half = 28 * person.mouth_width
    place = pen.moved(0, MOUTH_Y)
    if person.open_smile:
        wide = place.moved(0, 0, wide=half)
        wide.blob("-1,-8 0,-4 1,-8 0.6,13 0,19 -0.6,13", "#7a1f2b")
        wide.polygon("-0.85,-5 0,-1 0.85,-5 0.6,4 -0.6,4", "#ffffff")
    elif person.woman:
        place.blob([(-half, 0), (-8, -7), (0, -3), (8, -7), (half, 0), (10, 12), (-10, 12)], lip)
    else:
        place.stroke([(-half, -2), (0, 7), (half, -2)], 9, lip)


def beard(pen: Pen, person: Person) -> None:
    """A full beard."""
    pen.mirrored_blob("0,44 30,42 58,40 78,0 86,4 76,66 42,106 0,116", darker(person.hair, 0.08))


def hair_behind(pen: Pen, person: Person) -> None:
    """What of the hair lies behind head and shoulders."""
    colour = darker(person.hair, 0.2)
    match person.hair_style:
        case "long":
            pen.mirrored_blob("0,-122 62,-108 100,-50 108,40 120,150 100,220 50,226 0,190", colour)
        case "bob":
            pen.mirrored_blob("0,-122 62,-110 104,-50 116,30 108,96 60,108 0,90", colour)
        case "bun":
            pen.ellipse(0, -130, 46, 40, colour)
        case "ponytail":
            pen.blob("40,-100 100,-110 140,-60 136,40 110,110 96,40 92,-40", colour)
        case "curly" if person.woman:
            for x, y in points_of("-88,10 88,10 -96,70 96,70 -76,-52 76,-52 -80,120 80,120"):
                pen.ellipse(x, y, 46, 46, colour)


def hair_in_front(pen: Pen, person: Person) -> None:
    """What of the hair lies over the forehead."""
    colour = (lighter(person.hair, 0.14), person.hair)
    match person.hair_style:
        case "bald":
            return
        case "short":
            pen.blob(
                "-87,4 -92,-52 -62,-106 0,-122 62,-108 92,-54 87,4 76,-10 "
                "72,-44 40,-62 0,-58 -40,-66 -70,-42 -76,-10",
                colour,
            )
        case "quiff":
            pen.blob(
                "-86,4 -92,-48 -70,-108 -20,-144 44,-158 92,-130 98,-60 86,4 "
                "76,-16 70,-52 40,-76 -10,-70 -58,-62 -74,-14",
                colour,
            )
        case "spiky":
            pen.polygon(
                "-88,10 -104,-60 -74,-76 -78,-130 -40,-108 -22,-156 6,-116 40,-154 50,-108 88,-124 "
                "80,-74 106,-54 88,10 74,-30 44,-62 0,-70 -44,-62 -74,-30",
                colour,
            )
        case "curly":
            for step in range(9):
                angle = math.pi * (0.04 + 0.92 * step / 8)
                pen.ellipse(-86 * math.cos(angle), -20 - 84 * math.sin(angle), 31, 31, person.hair)
            for x, y in points_of("-52,-72 -18,-86 20,-84 54,-70"):
                pen.ellipse(x, y, 28, 25, lighter(person.hair, 0.08))
        case "bun" | "ponytail":
            pen.blob(
                "-84,0 -90,-52 -60,-104 0,-118 60,-104 90,-52 84,0 74,-30 50,-66 0,-82 -50,-66 -74,-30",
                colour,
            )
        case _:
            parting = (14, -114)
            pen.blob([parting, (-50, -112), (-92, -58), (-94, 24), (-78, 20), (-66, -34), (-22, -66)], colour)
            pen.blob([parting, (58, -108), (94, -54), (94, 24), (78, 20), (70, -32), (44, -66)], colour)


def glasses(pen: Pen, person: Person) -> None:
    """Round or square glasses."""
    frame = "#1f1f2a"
    for side in (-1, 1):
        x = side * 37 * person.eye_spacing
        if person.glasses == "round":
            pen.ring(x, EYE_Y, 31, 6, frame)
        else:
            corners = [(-32, -26), (32, -26), (32, 26), (-32, 26), (-32, -26)]
            for start, end in pairwise(corners):
                pen.stroke([(x + start[0], EYE_Y + start[1]), (x + end[0], EYE_Y + end[1])], 6, frame)
    pen.stroke([(-8, EYE_Y - 2), (8, EYE_Y - 2)], 6, frame)


def hat(pen: Pen, worn: Hat) -> None:
    """The hat on the head."""
    shades = (lighter(worn.colour, 0.12), darker(worn.colour, 0.12))
    match worn.kind:
        case "cap":
            pen.mirrored_blob("0,-136 60,-126 96,-76 96,-48 0,-44", shades)
            pen.limb((20, -50), (128, -44), 22, 16, darker(worn.colour, 0.3))
        case "top hat":
            pen.box(-66, -216, 66, -70, shades, 8)
            pen.box(-66, -104, 66, -80, accent_of(worn.colour))
            pen.ellipse(0, -66, 122, 18, darker(worn.colour, 0.2))
        case "beanie":
            pen.mirrored_blob("0,-150 56,-138 98,-84 98,-50 0,-48", shades)
            pen.box(-102, -76, 102, -44, darker(worn.colour, 0.22), 12)
            pen.ellipse(0, -156, 24, 24, accent_of(worn.colour))


def draw_portrait(*, woman: bool) -> Draw:
    """A drawing of a random person's head and shoulders, 512 × 512."""
    return lambda pen, generator: portrait(pen, random_person(generator, woman=woman))


def portrait(pen: Pen, person: Person) -> None:
    """Head and shoulders in a 512-unit square."""
    bust = pen.moved(256, 640, 5.4)
    draw_limbs(bust, person)
    draw_bust(bust, person)


def draw_figure(*, woman: bool) -> Draw:
    """A drawing of a random person from head to foot, 384 × 640."""

    def draw(pen: Pen, generator: random.Random) -> None:
        pen.shadow(192, 612, 110, 13)
        figure(pen.moved(192, 604, 5.6), random_person(generator, woman=woman))

    return draw
