"""Drawn people: portraits and full figures from seeded palettes."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from refbench.mini.world.pen import (
    Colour,
    Draw,
    Pen,
    coordinates,
    darker,
    lighter,
    mixed,
)


@dataclass(frozen=True, kw_only=True)
class Person:
    """How a drawn person looks."""

    woman: bool
    skin: Colour
    hair: Colour
    eyes: Colour
    top: Colour
    bottom: Colour
    hair_style: str
    beard: bool
    glasses: bool
    open_smile: bool


SKINS = ("#f6d0b1", "#eeb98f", "#d99b6c", "#b97a4c", "#8d5a36", "#f3c6a5")
HAIRS = ("#2b1d16", "#4a2f1d", "#7b4a24", "#b9772f", "#d8a951", "#1f1f2b", "#8c3f22")
IRISES = ("#3b6ea5", "#4f7d4a", "#6b4a2b", "#4a3325", "#5d7f93")
CLOTHES = ("#e4572e", "#2e86ab", "#3a9d6e", "#f2a541", "#7a5ea8", "#d6498a", "#2f4b7c", "#c8553d", "#4aa3a2")
TROUSERS = ("#33415c", "#5b4636", "#3d4f4a", "#4a4e69", "#6c584c")
WOMENS_HAIR = ("long", "bob", "bun", "curly")
MENS_HAIR = ("short", "quiff", "curly", "short")


def random_person(generator: random.Random, *, woman: bool) -> Person:
    """A person from the palettes."""
    return Person(
        woman=woman,
        skin=generator.choice(SKINS),
        hair=generator.choice(HAIRS),
        eyes=generator.choice(IRISES),
        top=generator.choice(CLOTHES),
        bottom=generator.choice(TROUSERS),
        hair_style=generator.choice(WOMENS_HAIR if woman else MENS_HAIR),
        beard=not woman and generator.random() < 0.45,
        glasses=generator.random() < 0.35,
        open_smile=generator.random() < 0.5,
    )


def portrait(pen: Pen, person: Person) -> None:
    """Head and shoulders in a 512-unit square."""
    bust = pen.moved(256, 226, 1.22)
    hair_behind(bust, person)
    shoulders = "0,126 52,132 112,156 150,196 166,262 172,400 0,420"
    bust.mirrored_blob(shoulders, (lighter(person.top, 0.12), darker(person.top)))
    neck(bust, person)
    head(bust, person)


def neck(pen: Pen, person: Person) -> None:
    """The neck with the neckline, and the head's shadow on it."""
    pen.mirrored_blob("0,40 36,44 37,110 58,130 34,158 0,170", darker(person.skin, 0.1))
    pen.mirrored_blob("0,96 36,88 37,104 20,124 0,128", darker(person.skin, 0.24))
    rim = "-60,130 -36,158 0,171 36,158 60,130"
    pen.stroke(rim, 7, darker(person.top, 0.3))


def head(pen: Pen, person: Person) -> None:
    """The head in units in which it is about 160 wide and 205 high, centred on the origin."""
    skin = (lighter(person.skin, 0.08), darker(person.skin, 0.05))
    for side in (-1, 1):
        pen.ellipse(side * 81, 12, 15, 23, darker(person.skin, 0.08))
        pen.ellipse(side * 82, 13, 8, 14, darker(person.skin, 0.2))
    pen.mirrored_blob("0,-100 52,-90 80,-42 81,12 68,62 36,95 0,104", skin)
    for side in (-1, 1):
        pen.ellipse(side * 47, 44, 20, 13, "#e8604c", opacity=0.26, blur=6)
    if person.beard:
        beard(pen, person)
    eyes(pen, person)
    pen.stroke("-3,12 -10,34 1,40 9,36", 4.5, darker(person.skin, 0.3))
    mouth(pen, person)
    hair_in_front(pen, person)
    if person.glasses:
        glasses(pen)
    if person.woman and person.hair_style in ("bun", "bob"):
        for side in (-1, 1):
            pen.ellipse(side * 83, 44, 7, 9, ("#ffe08a", "#d99a2b"))


def eyes(pen: Pen, person: Person) -> None:
    """Eyes and brows."""
    line = darker(person.hair, 0.45)
    for side in (-1, 1):
        eye = pen.moved(side * 33, 4)
        eye.ellipse(0, 0, 16, 10.5, "#ffffff")
        eye.ellipse(0, 0, 10, 10, (darker(person.eyes, 0.25), lighter(person.eyes, 0.15)))
        eye.ellipse(0, 0, 5.4, 5.4, "#16121c")
        eye.ellipse(-3, -3, 3, 3, "#ffffff")
        eye.stroke("-17,-1 -9,-9 2,-11.5 12,-8 18,-1", 4.2, line)
        if person.woman:
            eye.stroke([(side * 15, -6), (side * 23, -12)], 4, line)
        brow = [(side * -17, -24), (side * -2, -31), (side * 18, -25)]
        eye.stroke(brow, 5 if person.woman else 7.5, darker(person.hair, 0.1))


def mouth(pen: Pen, person: Person) -> None:
    """A smile, open or closed."""
    lip = "#c2434f" if person.woman else mixed(person.skin, "#9b2f35", 0.6)
    if person.open_smile:
        pen.blob("-29,58 0,63 29,58 18,78 0,84 -18,78", "#7a1f2b")
        pen.blob("-24,61 0,65 24,61 16,70 0,73 -16,70", "#ffffff")
        pen.stroke("-30,58 0,63 30,58", 4, lip)
    elif person.woman:
        pen.blob("-28,57 -9,58 0,61 9,58 28,57 12,74 0,78 -12,74", lip)
        pen.stroke("-27,57 -12,65 0,67 12,65 27,57", 2.6, darker(lip, 0.35))
    else:
        pen.stroke("-27,62 -12,69 3,71 27,62", 5, lip)


def beard(pen: Pen, person: Person) -> None:
    """A short full beard with a moustache."""
    outside = "0,48 34,44 60,38 74,2 82,4 72,62 38,99 0,110"
    pen.mirrored_blob(outside, (person.hair, darker(person.hair, 0.2)))


def hair_behind(pen: Pen, person: Person) -> None:
    """What of the hair lies behind head and shoulders."""
    colour = (darker(person.hair, 0.12), darker(person.hair, 0.3))
    if person.hair_style == "long":
        pen.mirrored_blob("0,-122 62,-108 98,-50 104,40 116,130 96,190 50,176 0,150", colour)
    elif person.hair_style == "bob":
        pen.mirrored_blob("0,-122 62,-110 100,-50 108,30 98,92 60,104 0,90", colour)
    elif person.hair_style == "bun":
        pen.ellipse(0, -132, 42, 38, (lighter(person.hair, 0.1), darker(person.hair, 0.1)))
    elif person.hair_style == "curly" and person.woman:
        for x, y, radius in coordinates("-84,10,44 84,10,44 -92,66,42 92,66,42 -72,-50,46 72,-50,46"):
            pen.ellipse(x, y, radius, radius, colour)


def hair_in_front(pen: Pen, person: Person) -> None:
    """What of the hair lies over the forehead."""
    colour = (lighter(person.hair, 0.14), person.hair)
    match person.hair_style:
        case "short":
            pen.blob(
                "-87,4 -92,-52 -62,-106 0,-122 62,-108 92,-54 87,4 76,-10 "
                "72,-44 40,-62 0,-58 -40,-66 -70,-42 -76,-10",
                colour,
            )
        case "quiff":
            pen.blob(
                "-86,4 -92,-48 -70,-104 -20,-134 44,-140 84,-116 96,-60 86,4 "
                "76,-16 70,-52 40,-76 -10,-70 -58,-62 -74,-14",
                colour,
            )
            pen.stroke("-52,-84 -10,-108 50,-112", 5, lighter(person.hair, 0.3), opacity=0.6)
        case "curly":
            for step in range(9):
                angle = math.pi * (0.04 + 0.92 * step / 8)
                pen.ellipse(-86 * math.cos(angle), -20 - 84 * math.sin(angle), 31, 31, person.hair)
            for x, y in coordinates("-52,-72 -18,-86 20,-84 54,-70"):
                pen.ellipse(x, y, 28, 25, lighter(person.hair, 0.08))
        case "bun":
            pen.blob(
                "-84,0 -90,-52 -60,-104 0,-118 60,-104 90,-52 84,0 74,-30 50,-66 0,-82 -50,-66 -74,-30",
                colour,
            )
        case _:
            parting = (14, -114)
            pen.blob([parting, (-50, -112), (-92, -58), (-94, 24), (-78, 20), (-66, -34), (-22, -66)], colour)
            pen.blob([parting, (58, -108), (94, -54), (94, 24), (78, 20), (70, -32), (44, -66)], colour)
            pen.stroke("-70,-60 -44,-90 -6,-104", 4, lighter(person.hair, 0.35), opacity=0.6)


def glasses(pen: Pen) -> None:
    """Round glasses."""
    for side in (-1, 1):
        pen.ellipse(side * 33, 5, 25, 24, "#dff1ff", opacity=0.25)
        pen.ring(side * 33, 5, 25, 4.5, "#2c2c38")
        pen.stroke([(side * 58, 1), (side * 80, 4)], 4.5, "#2c2c38")
    pen.stroke("-9,2 0,-3 9,2", 4.5, "#2c2c38")


def figure(pen: Pen, person: Person) -> None:
    """A standing person, from head to foot, in 384 × 640 units."""
    body = pen.moved(192, 0)
    body.shadow(0, 612, 110, 13)
    small = body.moved(0, 112, 0.62)
    hair_behind(small, person)
    skirt = person.woman and person.hair_style in ("long", "bun")
    legs(body, person, bare=skirt)
    for side in (-1, 1):
        arm = [(side * 62, 214), (side * 88, 282), (side * 84, 352)]
        body.ellipse(side * 83, 374, 15, 18, person.skin)
        body.stroke(arm, 34, darker(person.top, 0.1))
    torso = "0,186 34,190 70,204 74,250 58,320 62,392 0,398"
    body.mirrored_blob(torso, (lighter(person.top, 0.1), darker(person.top, 0.1)))
    if skirt:
        body.mirrored_blob("0,318 56,322 84,420 98,470 50,480 0,482", (person.top, darker(person.top, 0.22)))
        body.stroke("-56,326 0,331 56,326", 9, darker(person.top, 0.4))
    else:
        body.stroke([(0, 262), (0, 385)], 2.5, darker(person.top, 0.3))
        for y in (276, 312, 348):
            body.ellipse(0, y, 4, 4, lighter(person.top, 0.6))
    neck(small, person)
    head(small, person)


def legs(pen: Pen, person: Person, *, bare: bool) -> None:
    """Legs in trousers, or bare below a skirt, and shoes."""
    colour = (person.skin, darker(person.skin, 0.1)) if bare else (person.bottom, darker(person.bottom, 0.2))
    width = 12 if bare else 24
    for side in (-1, 1):
        x = side * 31
        pen.polygon([(x - width - 8, 370), (x + width + 8, 370), (x + width, 596), (x - width, 596)], colour)
        pen.blob(
            [(x - 24, 604), (x - 20, 584), (x, 578), (x + 20, 584), (x + 24, 604), (x, 612)],
            ("#54423a", "#2c2320"),
        )


def draw_portrait(*, woman: bool) -> Draw:
    """A drawing of a random person's head and shoulders."""
    return lambda pen, generator: portrait(pen, random_person(generator, woman=woman))


def draw_figure(*, woman: bool) -> Draw:
    """A drawing of a random person from head to foot."""
    return lambda pen, generator: figure(pen, random_person(generator, woman=woman))
