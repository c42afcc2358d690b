"""What a prompt says of a scene: who or what, where, how, and what the references do not show.

People are named as a user names them (`a woman with curly hair`), never completely: who it is, only the
references say. Everything that is said is true of the scene.
"""

from __future__ import annotations

import random

from refbench.mini.world.identity import Thing, nearest
from refbench.mini.world.motion import DIRECTED
from refbench.mini.world.pen import TEXTURES
from refbench.mini.world.people import COLOURS, HAIR_COLOURS, HAT_KINDS
from refbench.mini.world.scene import Actor, Light, Scene
from refbench.mini.world.things import SHAPES

# A person is called a man or a woman, or now and then only this.
PERSON_RATE = 0.15
HAIR_WORDS = {
    "long": "long hair",
    "bob": "straight hair",
    "bun": "a bun",
    "curly": "curly hair",
    "ponytail": "a ponytail",
    "short": "short hair",
    "quiff": "a quiff",
    "bald": "a bald head",
    "spiky": "spiky hair",
}
PLACE_WORDS = {
    "park": "in a park",
    "beach": "on a beach",
    "living room": "in a living room",
    "street": "on a street",
    "desert": "in a desert",
    "snowy valley": "in a snowy valley",
    "forest": "in a forest",
    "stage": "on a stage",
}
LIGHT_WORDS: dict[Light, str] = {"day": "", "sunset": " at sunset", "night": " at night"}
MOTION_WORDS = {
    "stand": "standing still",
    "walk": "walking",
    "jump": "jumping",
    "spin": "spinning around",
    "wave": "waving a hand",
    "grow": "growing larger",
    "dance": "dancing",
    "slide": "sliding",
    "swing": "swaying",
}


def prompt_of(scene: Scene, generator: random.Random) -> str:
    """A prompt for the scene; the generator picks the words."""
    people = [_named(actor, generator) for actor in scene.actors]
    doings = [_doing(actor) for actor in scene.actors]
    where = PLACE_WORDS[scene.place.name] + LIGHT_WORDS[scene.light]
    first, others = people[0], list(zip(people[1:], doings[1:], strict=True))
    beside = "".join(f", next to {name} {doing}" for name, doing in others)
    return generator.choice(
        (
            f"{_capital(first)} is {doings[0]} {where}{beside}.",
            f"{_capital(where)}, {first} is {doings[0]}{beside}.",
            f"A video of {first} {doings[0]} {where}{beside}.",
        )
    )


def _named(actor: Actor, generator: random.Random) -> str:
    what = actor.subject.what
    if isinstance(what, Thing):
        return _thing(what, generator)
    noun = "person" if generator.random() < PERSON_RATE else "woman" if what.woman else "man"
    seen = [HAIR_WORDS[what.hair_style]]
    if what.hair_style not in ("bald", "bun", "ponytail", "quiff"):
        seen.append(f"{nearest(what.hair, HAIR_COLOURS)} hair")
    if what.glasses != "none":
        seen.append("glasses")
    if what.beard:
        seen.append("a beard")
    seen.append(f"{_article(nearest(what.top, COLOURS) if what.texture == 'plain' else what.texture)} shirt")
    said = generator.sample(seen, generator.choice((0, 1, 1, 2)))
    # Of two words on hair only the first is said.
    if sum("hair" in word for word in said) > 1:
        said = said[:1]
    name = f"a {noun}" + (f" with {' and '.join(said)}" if said else "")
    if actor.hat is not None:
        name += f", wearing {_article(nearest(actor.hat.colour, COLOURS))} {actor.hat.kind},"
    return name


def _thing(what: Thing, generator: random.Random) -> str:
    texture = what.look.texture
    colour = nearest(what.look.colour, COLOURS)
    words = [colour] if generator.random() < 0.4 else []
    words += [texture] if texture != "plain" and generator.random() < 0.4 else []
    words.append(what.shape)
    return f"{_article(words[0])} {' '.join(words[1:])}".rstrip()


def _doing(actor: Actor) -> str:
    doing = MOTION_WORDS[actor.motion]
    if actor.motion in DIRECTED:
        doing += " to the right" if actor.direction > 0 else " to the left"
    return doing


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def words_of_prompts() -> list[str]:
    """Every word that a prompt can hold, without punctuation, sorted."""
    texts = [
        "A An In On a an video of is next to and with wearing shirt hair glasses beard",
        "the man woman person right left",
        *HAIR_WORDS.values(), *PLACE_WORDS.values(), *LIGHT_WORDS.values(), *MOTION_WORDS.values(),
        *COLOURS, *HAIR_COLOURS, *SHAPES, *TEXTURES, *HAT_KINDS,
    ]  # fmt: skip
    return sorted({word for text in texts for word in text.split()})
