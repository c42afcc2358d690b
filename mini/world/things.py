"""Drawn things: a shape in a colour and a texture, in a 512-unit square that stands on its lower edge."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from refbench.mini.world.pen import (
    TEXTURES,
    Colour,
    Draw,
    Fill,
    Pen,
    Texture,
    Textured,
    coordinates,
    darker,
    lighter,
    points_of,
    smooth_curve,
)
from refbench.mini.world.people import COLOURS, accent_of


@dataclass(frozen=True, kw_only=True)
class Look:
    """The colour and the texture of a thing's main part."""

    colour: Colour
    texture: Texture = "plain"

    @property
    def accent(self) -> Colour:
        """What the texture is drawn in."""
        return accent_of(self.colour)

    @property
    def fill(self) -> Fill:
        """The main part's fill."""
        if self.texture == "plain":
            return (lighter(self.colour, 0.15), darker(self.colour, 0.15))
        return Textured(colour=self.colour, accent=self.accent, texture=self.texture, repeats=3.5)


Shape = Callable[[Pen, Look], None]


def random_look(generator: random.Random, texture: Texture | None = None) -> Look:
    """Any colour; a drawn texture where none is given."""
    return Look(
        colour=generator.choice(tuple(COLOURS.values())),
        texture=generator.choice(TEXTURES) if texture is None else texture,
    )


def in_random_look(shape: Shape) -> Draw:
    """A drawing of a plain thing in a random colour."""
    return lambda pen, generator: shape(pen, random_look(generator, "plain"))


def cup(pen: Pen, look: Look) -> None:
    """A mug with a band and steam."""
    colour = look.colour
    pen.shadow(250, 424, 150, 18)
    pen.stroke("356,236 430,236 436,310 348,344", 28, darker(colour, 0.12))
    side = "128,170 372,170 366,300 340,400 306,424 194,424 160,400 134,300"
    pen.blob(side, look.fill)
    pen.ellipse(250, 172, 124, 30, lighter(colour, 0.45))
    pen.ellipse(250, 176, 108, 22, ("#6b3f22", "#3c2213"))
    pen.ellipse(222, 172, 34, 7, "#9a6a42", opacity=0.7)
    pen.stroke("160,216 164,300 184,370", 12, "#ffffff", opacity=0.35)
    for x in (200, 250, 300):
        pen.stroke([(x, 128), (x - 16, 100), (x + 14, 72), (x, 40)], 9, "#b9c2cf", opacity=0.55)


def bike(pen: Pen, look: Look) -> None:
    """A bicycle from the side."""
    colour = look.colour
    pen.shadow(256, 416, 200, 9)
    for x in (128, 384):
        wheel = pen.moved(x, 320)
        wheel.ring(0, 0, 88, 13, "#2b2d36")
        wheel.ring(0, 0, 78, 4, "#a9b0bb")
        for step in range(12):
            angle = math.pi * step / 12
            across, down = 76 * math.cos(angle), 76 * math.sin(angle)
            wheel.stroke([(-across, -down), (across, down)], 1.6, "#b7bec8")
        wheel.ellipse(0, 0, 10, 10, "#4a4e5a")
    rear, front, crank, seat, bar = (128, 320), (384, 320), (238, 322), (202, 196), (346, 184)
    for tube in ((rear, seat), (rear, crank)):
        pen.stroke(tube, 9, darker(colour, 0.2))
    for tube in ((seat, crank), (seat, bar), (crank, bar)):
        pen.stroke(tube, 13, colour)
    pen.stroke([(336, 142), bar, front], 12, darker(colour, 0.12))
    pen.stroke([seat, (194, 166)], 9, "#7b818c")
    pen.blob("150,158 170,150 226,152 232,160 206,170 166,170", "#3b2a22")
    pen.stroke("332,146 352,128 386,132 392,152", 10, "#3b3f4a")
    pen.ring(238, 322, 26, 6, "#60656f")
    pen.stroke([(222, 288), (254, 356)], 8, "#4a4e5a")
    for x, y in ((216, 286), (260, 358)):
        pen.box(x - 16, y - 5, x + 16, y + 5, "#2b2d36", 4)


def hat(pen: Pen, look: Look) -> None:
    """A straw hat with a ribbon."""
    ribbon = look.colour
    pen.shadow(256, 392, 200, 20)
    pen.ellipse(256, 342, 216, 62, ("#f0d28a", "#c99b4c"))
    pen.ellipse(256, 330, 204, 50, ("#f8e2a8", "#e3bd6c"))
    crown = pen.moved(256, 0)
    crown.mirrored_blob("0,128 70,138 112,190 126,310 70,344 0,352", ("#fae6b0", "#d9ae5e"))
    for y in range(160, 270, 22):
        reach = 84 + (y - 160) * 0.3
        crown.stroke([(-reach, y), (0, y + 16), (reach, y)], 2.5, "#c99b4c", opacity=0.6)
    upper, lower = "-119,268 0,296 119,268", "126,312 0,346 -126,312"
    crown.polygon(
        [*smooth_curve(upper, closed=False), *smooth_curve(lower, closed=False)], (ribbon, darker(ribbon))
    )
    for side in (-1, 1):
        crown.blob([(96, 306), (96 + side * 34, 282), (96 + side * 42, 326)], lighter(ribbon, 0.1))
    crown.ellipse(96, 306, 11, 12, darker(ribbon, 0.25))


def bag(pen: Pen, look: Look) -> None:
    """A leather handbag."""
    colour = look.colour
    pen.shadow(256, 444, 170, 16)
    for offset, shade in ((-12, darker(colour, 0.4)), (0, darker(colour, 0.22))):
        pen.stroke(
            [(176, 214), (182, 110 + offset), (256, 66 + offset), (330, 110 + offset), (336, 214)], 15, shade
        )
    pen.moved(256, 0).mirrored_blob("0,200 120,200 150,214 176,400 164,438 90,446 0,446", look.fill)
    flap = "0,196 122,196 150,212 150,262 110,310 0,330"
    pen.moved(256, 0).mirrored_blob(flap, (lighter(colour, 0.22), darker(colour, 0.04)))
    seam = "118,226 124,270 160,302 256,318 352,302 388,270 394,226"
    pen.stroke(seam, 2.5, lighter(colour, 0.55), opacity=0.8)
    pen.box(228, 304, 284, 356, ("#ffe9a3", "#d19a33"), 10)
    pen.ellipse(256, 328, 9, 9, "#8a5f1a")
    for x in (176, 336):
        pen.ellipse(x, 216, 13, 13, ("#ffe9a3", "#d19a33"))


def dog(pen: Pen, look: Look) -> None:
    """A sitting dog."""
    coat, collar = look.colour, look.accent
    dark, light = darker(coat, 0.25), lighter(coat, 0.55)
    pen.shadow(256, 474, 150, 16)
    body = pen.moved(256, 0)
    body.stroke("112,420 166,400 182,340 168,306", 26, dark)
    for side in (-1, 1):
        body.ellipse(side * 84, 404, 58, 66, (coat, dark))
        body.ellipse(side * 100, 462, 44, 18, light)
    body.mirrored_blob("0,240 66,256 92,340 84,430 40,466 0,470", look.fill)
    body.mirrored_blob("0,290 40,300 50,360 34,420 0,436", light)
    for side in (-1, 1):
        body.stroke([(side * 34, 360), (side * 36, 450)], 38, coat)
        body.ellipse(side * 37, 462, 28, 17, light)
    body.stroke("-62,276 0,296 62,276", 20, collar)
    body.ellipse(0, 312, 14, 14, ("#ffe9a3", "#d19a33"))
    face = body.moved(0, 176)
    face.mirrored_blob("0,-104 62,-92 100,-34 96,40 60,92 0,104", (lighter(coat, 0.1), coat))
    for side in (-1, 1):
        ear = "60,-92 98,-84 134,-20 136,50 112,70 92,20 84,-40"
        face.blob([(side * x, y) for x, y in points_of(ear)], dark)
    face.blob("-14,-100 14,-100 24,-20 46,30 0,20 -46,30 -24,-20", light)
    face.mirrored_blob("0,8 44,18 62,54 40,88 0,94", light)
    for side in (-1, 1):
        face.ellipse(side * 46, -16, 17, 20, "#241a16")
        face.ellipse(side * 46 - 5, -23, 6, 6, "#ffffff")
        face.stroke([(0, 58), (side * 16, 70), (side * 34, 62)], 5, "#4a2f25")
    face.blob("-12,66 12,66 13,92 0,102 -13,92", "#e8707a")
    face.blob("-26,22 0,14 26,22 14,44 0,50 -14,44", ("#4a3a38", "#1d1514"))
    face.ellipse(-8, 24, 7, 4, "#ffffff", opacity=0.5)


def teapot(pen: Pen, look: Look) -> None:
    """A round teapot with dots."""
    colour = look.colour
    pen.shadow(250, 428, 160, 16)
    pen.stroke("140,240 64,232 56,330 140,364", 26, darker(colour, 0.15))
    spout = "346,300 400,250 436,178 474,172 462,236 420,340 360,384"
    pen.blob(spout, (colour, darker(colour, 0.22)))
    pot = pen.moved(244, 0)
    pot.mirrored_blob("0,172 80,186 134,250 138,330 100,404 60,426 0,428", look.fill)
    pot.mirrored_blob("0,136 44,148 76,184 60,200 0,208", (lighter(colour, 0.3), colour))
    pot.ellipse(0, 126, 20, 19, ("#fff3d0", "#dba94a"))
    pot.ellipse(-74, 232, 14, 34, "#ffffff", turn=28, opacity=0.35, blur=3)


def flower(pen: Pen, look: Look) -> None:
    """A potted plant in bloom."""
    petals = pot = look.colour
    pen.shadow(256, 474, 110, 13)
    heads = coordinates("256,110,1 156,176,0.78 354,170,0.82")
    for x, y, _ in heads:
        pen.stroke([(256, 370), ((x + 256) / 2 + (x - 256) * 0.25, 280), (x, y)], 9, "#4c8c4a")
    for x, y, turn in coordinates("196,316,35 320,306,-35 216,262,50 300,250,-50"):
        pen.ellipse(x, y, 52, 18, ("#7cbf6b", "#3f7f45"), turn=turn)
    for x, y, size in heads:
        bloom = pen.moved(x, y, size)
        for step in range(8):
            angle = math.pi * step / 4
            across, down = 46 * math.cos(angle), 46 * math.sin(angle)
            shades = (lighter(petals, 0.25), darker(petals, 0.06))
            bloom.ellipse(across, down, 34, 20, shades, turn=math.degrees(angle))
        bloom.ellipse(0, 0, 27, 27, ("#ffd95e", "#d98e22"))
    pen.polygon("168,366 344,366 318,472 194,472", look.fill)
    pen.box(156, 340, 356, 378, (lighter(pot, 0.22), pot), 10)


def ball(pen: Pen, look: Look) -> None:
    """A ball."""
    pen.shadow(256, 446, 120, 14)
    pen.ellipse(256, 290, 156, 156, look.fill)
    pen.ellipse(206, 226, 40, 26, "#ffffff", turn=-35, opacity=0.5, blur=8)


def box(pen: Pen, look: Look) -> None:
    """A box with a lid and a bow."""
    pen.box(106, 216, 406, 446, look.fill, 6)
    pen.box(86, 166, 426, 226, darker(look.colour, 0.25), 8)
    pen.box(230, 166, 282, 446, "#f6e7b0")
    for side in (-1, 1):
        pen.ellipse(256 + side * 52, 132, 54, 30, "#f6e7b0", turn=side * 24)


def car(pen: Pen, look: Look) -> None:
    """A car from the side."""
    pen.blob("106,300 150,196 210,176 320,176 372,220 400,300 330,330 140,330", darker(look.colour, 0.1))
    pen.polygon("150,286 178,214 246,208 246,286", "#cfeaf8")
    pen.polygon("266,208 316,212 356,286 266,286", "#cfeaf8")
    pen.box(36, 280, 476, 398, look.fill, 40)
    pen.ellipse(458, 326, 16, 20, "#fff1a8")
    for x in (136, 376):
        pen.ellipse(x, 398, 58, 58, "#2b2d36")
        pen.ellipse(x, 398, 26, 26, "#c9ced6")


def robot(pen: Pen, look: Look) -> None:
    """A robot."""
    for side in (-1, 1):
        pen.box(256 + side * 60 - 32, 380, 256 + side * 60 + 32, 456, "#5b616e", 8)
        pen.limb((256 + side * 116, 270), (256 + side * 168, 350), 36, 36, "#8d94a2")
    pen.box(136, 236, 376, 400, look.fill, 16)
    pen.stroke([(256, 100), (256, 60)], 10, "#5b616e")
    pen.ellipse(256, 54, 20, 20, "#e4572e")
    pen.box(156, 90, 356, 230, "#b9c0cc", 22)
    for side in (-1, 1):
        pen.ellipse(256 + side * 48, 148, 30, 30, "#ffffff")
        pen.ellipse(256 + side * 48, 148, 14, 14, "#1c2a4a")
    pen.box(206, 190, 306, 208, "#3a4152", 6)


def chair(pen: Pen, look: Look) -> None:
    """A chair."""
    for x in (140, 340):
        pen.box(x, 330, x + 34, 456, "#6b4a2c", 4)
    pen.box(130, 66, 384, 300, look.fill, 20)
    pen.box(110, 290, 404, 350, darker(look.colour, 0.2), 16)


def duck(pen: Pen, look: Look) -> None:
    """A toy duck."""
    pen.blob("60,300 130,290 230,300 300,280 420,310 436,372 372,440 180,444 96,400", look.fill)
    pen.ellipse(352, 196, 104, 98, (lighter(look.colour, 0.1), look.colour))
    pen.blob("436,176 500,190 506,214 440,232", "#f08a24")
    pen.ellipse(376, 172, 22, 24, "#ffffff")
    pen.ellipse(380, 174, 11, 13, "#16121c")
    pen.blob("150,330 240,316 300,350 240,398 170,380", darker(look.colour, 0.22))


# The word for a thing → how it is drawn. Bicycles and straw hats are in the demo alone: of their colours and
# textures nothing would be left in 20 pixels.
SHAPES: dict[str, Shape] = {
    "ball": ball,
    "box": box,
    "car": car,
    "cup": cup,
    "teapot": teapot,
    "bag": bag,
    "dog": dog,
    "robot": robot,
    "flower": flower,
    "chair": chair,
    "duck": duck,
}
