"""Drawn objects, animals and places."""

from __future__ import annotations

import math
import random

from refbench.mini.world.pen import (
    Colour,
    Pen,
    coordinates,
    darker,
    lighter,
    points_of,
    smooth_curve,
)
from refbench.mini.world.people import CLOTHES


def draw_cup(pen: Pen, generator: random.Random) -> None:
    """A mug with a band and steam."""
    colour = generator.choice(CLOTHES)
    pen.shadow(250, 424, 150, 18)
    pen.stroke("356,236 430,236 436,310 348,344", 28, darker(colour, 0.12))
    side = "128,170 372,170 366,300 340,400 306,424 194,424 160,400 134,300"
    pen.blob(side, (lighter(colour, 0.18), darker(colour, 0.15)))
    pen.ellipse(250, 172, 124, 30, lighter(colour, 0.45))
    pen.ellipse(250, 176, 108, 22, ("#6b3f22", "#3c2213"))
    pen.ellipse(222, 172, 34, 7, "#9a6a42", opacity=0.7)
    pen.stroke("136,282 250,302 364,282", 16, "#ffffff", opacity=0.85)
    pen.stroke("160,216 164,300 184,370", 12, "#ffffff", opacity=0.35)
    for x in (200, 250, 300):
        pen.stroke([(x, 128), (x - 16, 100), (x + 14, 72), (x, 40)], 9, "#b9c2cf", opacity=0.55)


def draw_bike(pen: Pen, generator: random.Random) -> None:
    """A bicycle from the side."""
    colour = generator.choice(CLOTHES)
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


def draw_hat(pen: Pen, generator: random.Random) -> None:
    """A straw hat with a ribbon."""
    ribbon = generator.choice(CLOTHES)
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


def draw_bag(pen: Pen, generator: random.Random) -> None:
    """A leather handbag."""
    colour = generator.choice(("#b5562f", "#7a4a2b", "#2f6f73", "#a33b4a", "#c58a2d"))
    pen.shadow(256, 444, 170, 16)
    for offset, shade in ((-12, darker(colour, 0.4)), (0, darker(colour, 0.22))):
        pen.stroke(
            [(176, 214), (182, 110 + offset), (256, 66 + offset), (330, 110 + offset), (336, 214)], 15, shade
        )
    pen.moved(256, 0).mirrored_blob(
        "0,200 120,200 150,214 176,400 164,438 90,446 0,446", (lighter(colour, 0.12), darker(colour, 0.2))
    )
    flap = "0,196 122,196 150,212 150,262 110,310 0,330"
    pen.moved(256, 0).mirrored_blob(flap, (lighter(colour, 0.22), darker(colour, 0.04)))
    seam = "118,226 124,270 160,302 256,318 352,302 388,270 394,226"
    pen.stroke(seam, 2.5, lighter(colour, 0.55), opacity=0.8)
    pen.box(228, 304, 284, 356, ("#ffe9a3", "#d19a33"), 10)
    pen.ellipse(256, 328, 9, 9, "#8a5f1a")
    for x in (176, 336):
        pen.ellipse(x, 216, 13, 13, ("#ffe9a3", "#d19a33"))


def draw_dog(pen: Pen, generator: random.Random) -> None:
    """A sitting dog."""
    coat = generator.choice(("#c98b4b", "#8a5a36", "#e3b778", "#6e6259"))
    collar = generator.choice(CLOTHES)
    dark, light = darker(coat, 0.25), lighter(coat, 0.55)
    pen.shadow(256, 474, 150, 16)
    body = pen.moved(256, 0)
    body.stroke("112,420 166,400 182,340 168,306", 26, dark)
    for side in (-1, 1):
        body.ellipse(side * 84, 404, 58, 66, (coat, dark))
        body.ellipse(side * 100, 462, 44, 18, light)
    body.mirrored_blob("0,240 66,256 92,340 84,430 40,466 0,470", (coat, darker(coat, 0.12)))
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


def draw_teapot(pen: Pen, generator: random.Random) -> None:
    """A round teapot with dots."""
    colour = generator.choice(CLOTHES)
    pen.shadow(250, 428, 160, 16)
    pen.stroke("140,240 64,232 56,330 140,364", 26, darker(colour, 0.15))
    spout = "346,300 400,250 436,178 474,172 462,236 420,340 360,384"
    pen.blob(spout, (colour, darker(colour, 0.22)))
    pot = pen.moved(244, 0)
    pot.mirrored_blob(
        "0,172 80,186 134,250 138,330 100,404 60,426 0,428", (lighter(colour, 0.22), darker(colour, 0.16))
    )
    pot.mirrored_blob("0,136 44,148 76,184 60,200 0,208", (lighter(colour, 0.3), colour))
    pot.ellipse(0, 126, 20, 19, ("#fff3d0", "#dba94a"))
    for x, y in coordinates("-70,270 0,262 70,270 -96,330 -34,332 34,332 96,330 -62,388 62,388"):
        pot.ellipse(x, y, 13, 13, "#ffffff", opacity=0.85)
    pot.ellipse(-74, 232, 14, 34, "#ffffff", turn=28, opacity=0.35, blur=3)


def draw_flower(pen: Pen, generator: random.Random) -> None:
    """A potted plant in bloom."""
    petals = generator.choice(("#e2557b", "#f2a541", "#8f6fd1", "#e4572e", "#f06fa8"))
    pot = generator.choice(("#c8653d", "#2e86ab", "#8a6f5a"))
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
    pen.polygon("168,366 344,366 318,472 194,472", (lighter(pot, 0.1), darker(pot, 0.18)))
    pen.box(156, 340, 356, 378, (lighter(pot, 0.22), pot), 10)


def sky(pen: Pen, width: int, height: int, colours: tuple[Colour, Colour]) -> None:
    """A sky with a sun and clouds."""
    pen.box(-4, -4, width + 4, height, colours)
    pen.ellipse(width * 0.82, 84, 74, 74, "#fff6cf", opacity=0.5, blur=18)
    pen.ellipse(width * 0.82, 84, 38, 38, "#fff1a8")
    for x, y, scale in ((130, 92, 1.0), (356, 60, 0.7), (470, 142, 0.6)):
        cloud = pen.moved(x, y, scale)
        for offset, rise, radius in coordinates("-56,8,30 -20,-10,40 24,-4,36 60,10,26"):
            cloud.ellipse(offset, rise, radius, radius * 0.8, "#ffffff")
        cloud.box(-84, 8, 84, 32, "#ffffff", 12)


def tree(pen: Pen, generator: random.Random) -> None:
    """A broad-leaved tree that stands on its origin, about 200 high."""
    leaves = generator.choice(("#4f9d4d", "#6bb04a", "#3f8f5f", "#86b84a"))
    pen.ellipse(0, 0, 70, 10, "#2f5a2f", opacity=0.35, blur=5)
    pen.polygon("-12,2 -8,-90 8,-90 12,2", ("#8a6242", "#5f4029"))
    for x, y, radius in coordinates("-44,-112,44 44,-112,44 0,-98,46 -26,-154,42 28,-152,42 0,-178,36"):
        pen.ellipse(x, y, radius, radius, (lighter(leaves, 0.14), darker(leaves, 0.14)))
    for x, y in coordinates("-30,-150 12,-176 36,-122 -50,-108"):
        pen.ellipse(x, y, 12, 8, lighter(leaves, 0.4), opacity=0.5)


def draw_park(pen: Pen, generator: random.Random) -> None:
    """A park with trees, a path and a bench, 640 × 448."""
    sky(pen, 640, 260, ("#8ccbf2", "#e8f6fb"))
    pen.blob("-80,240 80,186 230,226 380,176 540,216 720,190 720,330 -80,330", "#9fcf8f")
    pen.box(-4, 242, 644, 452, ("#8fca62", "#5a9e44"))
    pen.blob("296,246 330,246 390,320 470,470 150,470 250,330", ("#efdcb0", "#d9bf86"))
    for x, y, scale in coordinates(
        "70,268,0.62 196,262,0.5 440,262,0.55 590,270,0.66 520,300,0.9 98,350,1.3"
    ):
        tree(pen.moved(x, y, scale), generator)
    for _ in range(26):
        x, y = generator.uniform(10, 630), generator.uniform(330, 440)
        if not 210 < x < 420:
            pen.ellipse(x, y, 4, 4, generator.choice(("#ffffff", "#ffd95e", "#f28fb1")))
    bench = pen.moved(500, 372)
    bench.ellipse(0, 36, 84, 9, "#2f5a2f", opacity=0.4, blur=4)
    for y in (-38, -20, 4):
        bench.box(-76, y, 76, y + 12, ("#b4713d", "#8d5228"), 4)
    for x in (-60, 52):
        bench.box(x, -42, x + 8, 36, "#4a4e5a", 3)


def draw_seaside(pen: Pen, generator: random.Random) -> None:
    """A beach with a parasol, 640 × 448."""
    stripes = generator.choice(CLOTHES)
    sky(pen, 640, 220, ("#7cc4f0", "#fdebd2"))
    pen.box(-4, 208, 644, 350, ("#2f8fbf", "#7fd3d6"))
    for x, y, length in coordinates("60,232,60 220,246,90 420,236,70 540,262,80 120,276,70 330,284,90"):
        pen.stroke([(x, y), (x + length / 2, y - 4), (x + length, y)], 3, "#ffffff", opacity=0.55)
    boat = pen.moved(366, 214)
    boat.polygon("-34,0 34,0 24,14 -24,14", "#8d5228")
    boat.polygon("-2,-4 -2,-62 30,-4", "#ffffff")
    boat.polygon("-6,-4 -6,-48 -26,-4", "#f4e3e0")
    shore = "-60,336 90,318 240,338 400,314 560,330 720,310 720,520 -60,520"
    pen.blob([(x, y - 9) for x, y in points_of(shore)], "#ffffff")
    pen.blob(shore, ("#f6dfa6", "#e0bd78"))
    for _ in range(60):
        pen.ellipse(generator.uniform(0, 640), generator.uniform(360, 445), 1.6, 1.2, "#b98f4e", opacity=0.6)
    pen.ellipse(196, 420, 120, 14, "#8a6a3a", opacity=0.4, blur=6)
    pen.box(100, 402, 260, 424, (lighter(stripes, 0.5), lighter(stripes, 0.2)), 8)
    pen.stroke([(186, 420), (170, 230)], 7, "#e9e4da")
    parasol = pen.moved(168, 226)
    top = (0.0, -70.0)
    edge = [(-130 + 260 * step / 6, 22 - 16 * math.sin(math.pi * step / 6)) for step in range(7)]
    dome = [
        (-130 * math.cos(math.pi * step / 6), -70 * math.sin(math.pi * step / 6) + 14) for step in range(7)
    ]
    parasol.polygon([*smooth_curve(dome, closed=False), *reversed(edge)], stripes)
    for step in (1, 3, 5):
        parasol.polygon([top, edge[step], edge[step + 1]], "#fff7ea")
    parasol.ellipse(0, -60, 6, 6, "#e9e4da")
    ball = pen.moved(420, 396)
    ball.shadow(0, 30, 34, 6)
    ball.ellipse(0, 0, 32, 32, ("#ffffff", "#dfe4ea"))
    ball.blob("-30,-10 0,-32 6,0 -14,28", stripes)
    ball.blob("10,-30 32,-4 22,22 8,2", "#f2a541")


def draw_livingroom(pen: Pen, generator: random.Random) -> None:
    """A living room with a sofa and a window, 640 × 448."""
    sofa = generator.choice(("#4aa3a2", "#2e86ab", "#c8553d", "#7a5ea8"))
    pen.box(-4, -4, 644, 320, ("#f6ead9", "#efdcc4"))
    pen.box(-4, 318, 644, 452, ("#c99a68", "#a97745"))
    for x in range(-40, 700, 92):
        pen.stroke([(x, 320), (x * 1.5 - 160, 452)], 2, "#8d5f36", opacity=0.6)
    pen.box(-4, 308, 644, 322, "#fff7ea")
    pen.box(60, 50, 252, 220, "#ffffff", 6)
    pen.box(72, 62, 240, 208, ("#9fd4f4", "#e8f6fb"))
    pen.blob("72,206 72,176 130,150 190,178 240,160 240,206", "#8fca7a")
    pen.box(152, 58, 160, 212, "#ffffff")
    for x, side in ((60, -1), (252, 1)):
        pen.polygon(
            [(x + side * 30, 40), (x - side * 26, 40), (x + side * 4, 240), (x + side * 30, 240)], "#e8a598"
        )
    pen.stroke([(20, 40), (292, 40)], 7, "#8d5f36")
    for x, y, tint in ((372, 70, "#f2a541"), (452, 92, "#2f4b7c")):
        pen.box(x - 34, y - 30, x + 34, y + 52, "#5b4636", 3)
        pen.box(x - 27, y - 23, x + 27, y + 45, "#fffaf2")
        pen.ellipse(x, y + 10, 17, 20, tint)
    pen.ellipse(320, 420, 240, 34, ("#f4dfcf", "#dcb8a2"))
    pen.ellipse(320, 420, 200, 25, "#efe9e1")
    couch = pen.moved(330, 330)
    couch.ellipse(0, 68, 190, 12, "#5f4029", opacity=0.4, blur=5)
    couch.box(-160, -96, 160, 40, (lighter(sofa, 0.12), sofa), 26)
    for side in (-1, 1):
        couch.box(side * 76 - 74, -14, side * 76 + 74, 34, (lighter(sofa, 0.25), lighter(sofa, 0.05)), 14)
        couch.box(side * 172 - 28, -44, side * 172 + 28, 62, (sofa, darker(sofa, 0.18)), 20)
        couch.box(side * 150 - 8, 58, side * 150 + 8, 74, "#5b4636", 3)
    couch.box(-150, 28, 150, 62, (sofa, darker(sofa, 0.2)), 8)
    couch.box(-124, -58, -64, -4, ("#ffd98a", "#f2b04a"), 10)
    lamp = pen.moved(576, 330)
    lamp.ellipse(0, 54, 34, 8, "#4a4e5a")
    lamp.stroke([(0, 52), (0, -150)], 6, "#4a4e5a")
    lamp.ellipse(0, -160, 100, 84, "#fff1a8", opacity=0.35, blur=18)
    lamp.polygon("-28,-206 28,-206 48,-138 -48,-138", ("#fff1c4", "#f7cf7e"))
    draw_flower(pen.moved(-8, 262, 0.3), generator)
