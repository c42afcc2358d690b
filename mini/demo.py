"""A small benchmark with drawn pictures, in OpenS2V-Eval's format, to try everything without a download.

The folder has the layout, the file names, the fields and the path conventions of the hub data set
BestWishYsh/OpenS2V-Eval (`Open-Domain_Eval.json`, `Images/singleface/crop_man/1.png`, …), so every rule that
reads an id or a path applies to it as to the original. Samples, prompts and pictures are this project's own.
The pictures are cartoons: scores on them show that the pipeline works and say nothing about a method.

Everything is drawn at three times its size and reduced, from seeded palettes: the same seed gives
the same bytes with the same versions of OpenCV and Pillow.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2

from refbench.bench.dataset import OFFICIAL_TRACKS
from refbench.bench.files import write_bytes
from refbench.bench.sample import category_of
from refbench.mini.benchmark import official_row
from refbench.mini.world.pen import Draw, Pen, blank, on_white
from refbench.mini.world.people import draw_figure, draw_portrait
from refbench.mini.world.places import beach, living_room, park
from refbench.mini.world.things import Shape, bag, bike, cup, dog, flower, hat, in_random_look, teapot

SUPERSAMPLING = 3
JPEG_QUALITY = 92


@dataclass(frozen=True, kw_only=True)
class DemoReference:
    """A picture of the demo: official-style path, class label, size in pixels, and who draws it.

    `transparent` pictures keep their alpha channel (PNG only).
    """

    path: str
    label: str
    draw: Draw
    width: int = 512
    height: int = 512
    transparent: bool = False


@dataclass(frozen=True, kw_only=True)
class DemoSample:
    """A sample of the demo; `human_domain` is the picture that the human-domain list shows instead."""

    id: str
    prompt: str
    references: tuple[DemoReference, ...]
    human_domain: DemoReference | None = None


def write_demo_dataset(folder: Path, seed: int = 0) -> None:
    """Write the demo data set below `folder`: three sample lists and their images.

    `seed` picks colours, hair and clothes. Existing files are replaced one by one, each in one step, so a
    reader never sees half a file; other files are left alone. Raises OSError when the folder cannot be
    written.
    """
    samples = demo_samples()
    single_domain = OFFICIAL_TRACKS["single-domain"].category_counts
    references_of: dict[str, dict[DemoSample, tuple[DemoReference, ...]]] = {
        "open-domain": {sample: sample.references for sample in samples},
        "human-domain": {sample: (sample.human_domain,) for sample in samples if sample.human_domain},
        "single-domain": {
            sample: sample.references for sample in samples if category_of(sample.id) in single_domain
        },
    }
    pictures = {
        picture.path: picture
        for rows in references_of.values()
        for references in rows.values()
        for picture in references
    }
    # The lists come last: once they are there, so are their images.
    for picture in pictures.values():
        write_bytes(folder / picture.path, _encoded(picture, seed))
    for track, rows in references_of.items():
        content = {
            sample.id: official_row(sample.prompt, [(picture.path, picture.label) for picture in references])
            for sample, references in rows.items()
        }
        text = json.dumps(content, indent=4) + "\n"
        write_bytes(folder / OFFICIAL_TRACKS[track].files[0], text.encode())


def _encoded(picture: DemoReference, seed: int) -> bytes:
    from PIL import Image

    canvas_HWC = blank(picture.width * SUPERSAMPLING, picture.height * SUPERSAMPLING)
    picture.draw(Pen(canvas_HWC, scale=SUPERSAMPLING), random.Random(f"{seed}/{_theme(picture.path)}"))
    canvas_HWC = cv2.resize(canvas_HWC, (picture.width, picture.height), interpolation=cv2.INTER_AREA)
    buffer = BytesIO()
    if picture.transparent:
        premultiplied = Image.frombuffer("RGBa", canvas_HWC.shape[1::-1], canvas_HWC.tobytes())
        premultiplied.convert("RGBA").save(buffer, "PNG")
    elif picture.path.endswith(".jpg"):
        Image.fromarray(on_white(canvas_HWC)).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        Image.fromarray(on_white(canvas_HWC)).save(buffer, "PNG")
    return buffer.getvalue()


def _theme(path: str) -> str:
    """What the palette is keyed by: a face crop must show the person of the full picture."""
    return path.replace("crop_", "") if "/singlehuman/" in path else path


def man(path: str) -> DemoReference:
    """A man; his head and shoulders when the path says `crop_`."""
    return _person(path, woman=False)


def woman(path: str) -> DemoReference:
    """A woman; her head and shoulders when the path says `crop_`."""
    return _person(path, woman=True)


def _person(path: str, *, woman: bool) -> DemoReference:
    label = "Woman" if woman else "Man"
    if "crop_" in path:
        return DemoReference(path=f"Images/{path}", label=label, draw=draw_portrait(woman=woman))
    return DemoReference(
        path=f"Images/{path}", label=label, draw=draw_figure(woman=woman), width=384, height=640
    )


def thing(path: str, label: str, shape: Shape, *, transparent: bool = False) -> DemoReference:
    """An object or animal."""
    return DemoReference(
        path=f"Images/{path}", label=label, draw=in_random_look(shape), transparent=transparent
    )


def scene(path: str, label: str, draw: Draw) -> DemoReference:
    """A place."""
    return DemoReference(path=f"Images/{path}", label=label, draw=draw, width=640, height=448)


def demo_samples() -> tuple[DemoSample, ...]:
    """The demo's twelve samples: all eight categories, in the official order."""
    return (
        DemoSample(
            id="singleobj_1",
            prompt="A steaming mug stands on a wooden kitchen table. The camera moves slowly closer while "
            "the steam curls in the morning light, then a hand turns the mug by its handle.",
            references=(thing("singleobject/cup/1.jpg", "Cup", cup),),
        ),
        DemoSample(
            id="singleobj_2",
            prompt="A bicycle rolls down a quiet street between gardens. The wheels turn steadily and the "
            "camera keeps pace beside it.",
            references=(thing("singleobject/bike/1.png", "Bike", bike, transparent=True),),
        ),
        DemoSample(
            id="singlehuman_1",
            prompt="A man walks along a river at dusk with his hands in his pockets, stops, and looks at the "
            "water.",
            references=(man("singlehuman/man/1.png"),),
            human_domain=man("singlehuman/crop_man/1.png"),
        ),
        DemoSample(
            id="singlehuman_2",
            prompt="A woman dances alone in a bright studio. She turns twice, laughs and bows to the camera.",
            references=(woman("singlehuman/woman/1.png"),),
            human_domain=woman("singlehuman/crop_woman/1.png"),
        ),
        DemoSample(
            id="humanobj_1",
            prompt="A man in a park puts on a straw hat, adjusts its brim and strolls down the path.",
            references=(
                man("humanobj/human/man/1.png"),
                thing("humanobj/thing/hat/1.png", "Hat", hat, transparent=True),
                scene("humanobj/environment/park/1.jpg", "Park", park),
            ),
        ),
        *_face_samples(),
        DemoSample(
            id="multiobject_1",
            prompt="A teapot tilts and fills a cup with tea beside a pot of flowers; petals tremble in the "
            "steam.",
            references=(
                thing("multiobject/teapot/1.png", "Teapot", teapot),
                thing("multiobject/cup/1.jpg", "Cup", cup),
                thing("multiobject/flower/1.png", "Flower", flower, transparent=True),
            ),
        ),
    )


def _face_samples() -> tuple[DemoSample, ...]:
    man_face, woman_face = man("singleface/crop_man/1.png"), woman("singleface/crop_woman/1.png")
    return (
        DemoSample(
            id="faceobj_1",
            prompt="A woman plays with her dog on the beach. The dog runs into the shallow water and comes "
            "back.",
            references=(
                woman("humanobj/human/crop_woman/1.jpg"),
                thing("humanobj/thing/animal/dog/1.png", "Dog", dog),
                scene("humanobj/environment/seaside/1.jpg", "Seaside", beach),
            ),
        ),
        DemoSample(
            id="faceobj_2",
            prompt="A man opens a leather bag on a train, takes out a letter and smiles while he reads it.",
            references=(
                man("humanobj/human/crop_man/1.jpg"),
                thing("humanobj/thing/bag/1.png", "Bag", bag, transparent=True),
            ),
        ),
        DemoSample(
            id="multiface_1",
            prompt="A woman and a man sit on a sofa in a living room and talk. She tells a story with both "
            "hands, he nods and laughs.",
            references=(
                woman("multiface/crop_woman/1.png"),
                man("multiface/crop_man/1.jpg"),
                scene("multiface/scene/1.jpg", "Livingroom", living_room),
            ),
        ),
        DemoSample(
            id="multihuman_1",
            prompt="A man and a woman meet on a bridge, shake hands and walk on together.",
            references=(man("multihuman/man/1.png"), woman("multihuman/woman/1.png")),
        ),
        DemoSample(
            id="singleface_1",
            prompt="A man sits by the window of a café. He looks up from his newspaper and waves to somebody "
            "outside.",
            references=(man_face,),
            human_domain=man_face,
        ),
        DemoSample(
            id="singleface_2",
            prompt="A woman stands on a hill in the wind, pushes the hair from her face and looks into the "
            "distance.",
            references=(woman_face,),
            human_domain=woman_face,
        ),
    )
