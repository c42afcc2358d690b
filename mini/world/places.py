"""Drawn places, 640 × 448 units; the ground is their lower third; each generator gives another look."""

from __future__ import annotations

import math
import random

from refbench.mini.world.pen import (
    Colour,
    Draw,
    Pen,
    coordinates,
    darker,
    lighter,
    mixed,
    points_of,
    smooth_curve,
)
from refbench.mini.world.things import Look, flower

BRIGHT = ("#e4572e", "#2e86ab", "#3a9d6e", "#f2a541", "#7a5ea8", "#d6498a", "#c8553d", "#4aa3a2")


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


def park(pen: Pen, generator: random.Random) -> None:
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


def beach(pen: Pen, generator: random.Random) -> None:
    """A beach with a parasol, 640 × 448."""
    stripes = generator.choice(BRIGHT)
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


def living_room(pen: Pen, generator: random.Random) -> None:
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
    flower(pen.moved(-8, 262, 0.3), Look(colour=generator.choice(BRIGHT)))


def street(pen: Pen, generator: random.Random) -> None:
    """A street with a row of houses."""
    sky(pen, 640, 300, ("#a8cdf0", "#e9f1f8"))
    left = -30.0
    while left < 640:
        wide, high = generator.uniform(110, 170), generator.uniform(150, 250)
        wall = mixed(generator.choice(BRIGHT), "#f0e4d4", 0.45)
        pen.box(left, 330 - high, left + wide, 332, (lighter(wall, 0.1), wall))
        roof = darker(generator.choice(BRIGHT), 0.4)
        pen.polygon(
            [(left - 8, 332 - high), (left + wide / 2, 270 - high), (left + wide + 8, 332 - high)], roof
        )
        for column in (0.26, 0.74):
            for y in range(round(350 - high), 290, 62):
                x = left + wide * column
                pen.box(x - 15, y, x + 15, y + 34, ("#5f7fa0", "#bcd8ea"))
        left += wide
    pen.box(-4, 328, 644, 366, "#c4c2c0")
    pen.box(-4, 364, 644, 452, ("#6f7178", "#55575e"))
    for x in range(-20, 660, 110):
        pen.box(x, 402, x + 60, 410, "#f2efe2")


def desert(pen: Pen, generator: random.Random) -> None:
    """Dunes with cactuses."""
    pen.box(-4, -4, 644, 300, ("#f6c76a", "#fdeec8"))
    pen.ellipse(generator.uniform(80, 560), 90, 46, 46, "#fff8d8")
    pen.blob("-80,270 90,196 250,260 420,190 620,262 720,220 720,460 -80,460", "#e0a866")
    pen.blob("-80,340 120,300 320,334 520,292 720,330 720,520 -80,520", ("#f0c482", "#dba75e"))
    for _ in range(4):
        x, size = generator.uniform(20, 620), generator.uniform(0.7, 1.3)
        plant = pen.moved(x, generator.uniform(296, 336), size)
        for outline in ("0,0 0,-110", "-2,-50 -36,-56 -38,-90", "2,-34 34,-40 36,-72"):
            plant.stroke(outline, 22, "#3f8a4a")


def snow(pen: Pen, generator: random.Random) -> None:
    """Mountains and firs in snow."""
    pen.box(-4, -4, 644, 320, ("#8fb4dc", "#e6eef6"))
    for x in (60, 250, 430, 610):
        peak, wide = generator.uniform(60, 150), generator.uniform(130, 190)
        pen.polygon([(x - wide, 320), (x, peak), (x + wide, 320)], "#7d8ca4")
        pen.polygon(
            [(x - wide * 0.3, peak + 70), (x, peak), (x + wide * 0.3, peak + 70), (x, peak + 96)], "#f8fbff"
        )
    pen.blob("-80,310 140,290 330,308 520,288 720,306 720,520 -80,520", ("#fbfdff", "#d5e2f0"))
    for _ in range(5):
        fir = pen.moved(generator.uniform(10, 630), generator.uniform(300, 340), generator.uniform(0.7, 1.2))
        for y, wide in ((0, 46), (-40, 38), (-76, 28)):
            fir.polygon([(-wide, y), (0, y - 72), (wide, y)], "#2f6a58")
            fir.polygon([(-wide * 0.4, y - 42), (0, y - 72), (wide * 0.4, y - 42)], "#ffffff")


def forest(pen: Pen, generator: random.Random) -> None:
    """Dark trunks in a wood."""
    pen.box(-4, -4, 644, 330, ("#1f4a34", "#5d8f58"))
    for _ in range(14):
        x, wide = generator.uniform(-10, 650), generator.uniform(14, 40)
        bark = mixed("#4a3524", "#7a5a3c", generator.random())
        pen.polygon([(x - wide, 350), (x - wide * 0.6, -10), (x + wide * 0.6, -10), (x + wide, 350)], bark)
    for _ in range(12):
        pen.ellipse(generator.uniform(0, 640), generator.uniform(-20, 50), 80, 50, "#2f6a3c")
    pen.box(-4, 326, 644, 452, ("#3f6a34", "#2c4d28"))
    for _ in range(7):
        x, y = generator.uniform(10, 630), generator.uniform(345, 430)
        pen.box(x - 5, y, x + 5, y + 22, "#f2e6d0")
        pen.blob([(x - 22, y + 4), (x, y - 20), (x + 22, y + 4)], generator.choice(("#d8402f", "#f0a03a")))


def stage(pen: Pen, generator: random.Random) -> None:
    """A theatre's stage with curtains and spotlights."""
    cloth = generator.choice(("#8a1f3c", "#5a2a86", "#1f4f8a", "#8a4a1a"))
    pen.box(-4, -4, 644, 340, ("#191428", "#3a2c50"))
    for x in (170, 320, 470):
        pen.polygon([(x - 12, -4), (x + 12, -4), (x + 90, 344), (x - 90, 344)], "#6a5c86", opacity=0.5)
    for side in (-1, 1):
        for fold in range(4):
            x = 320 + side * (330 - fold * 44)
            pen.box(x - 26, -4, x + 26, 350, (lighter(cloth, 0.1 + 0.1 * (fold % 2)), darker(cloth, 0.3)), 8)
    for x in range(0, 660, 64):
        pen.ellipse(x, -4, 42, 58, (lighter(cloth, 0.15), darker(cloth, 0.2)))
    pen.box(-4, 338, 644, 452, ("#c08a54", "#8a5a34"))
    for y in (362, 392, 424):
        pen.box(-4, y, 644, y + 4, "#7a4e2c")


# A place's words in a prompt → how it is drawn.
PLACES: dict[str, Draw] = {
    "park": park,
    "beach": beach,
    "living room": living_room,
    "street": street,
    "desert": desert,
    "snowy valley": snow,
    "forest": forest,
    "stage": stage,
}
PLACE_WIDTH, PLACE_HEIGHT = 640, 448
