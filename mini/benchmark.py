"""The 48 samples of the track `mini`: their scenes, prompts and reference pictures.

The folder has OpenS2V-Eval's format: `Mini_Eval.json` and `Images/singleface/crop_man/1.png`, …, so that
every rule that reads an id or a path applies. Subjects and looks of places are of the split that no training
sees, and no subject is in two samples.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from refbench.bench.files import write_bytes
from refbench.bench.sample import category_of
from refbench.mini.track import MINI
from refbench.mini.world.identity import Place, Subject, code_of, person, random_place, thing
from refbench.mini.world.prompts import prompt_of
from refbench.mini.world.render import place_reference, reference_picture
from refbench.mini.world.scene import Framing, Scene, compose

# Enough to meet every thing of the benchmark's split.
THINGS_DRAWN = 600
# What a reference shows: a whole person, a face, a thing, or a place.
Role = Literal["human", "face", "thing", "place"]

# The references of a category's samples, in turn.
CASTS: Mapping[str, tuple[tuple[Role, ...], ...]] = {
    "singleobj": (("thing",),),
    "singlehuman": (("human",),),
    "humanobj": (("human", "thing"), ("human", "thing", "place")),
    "faceobj": (("face", "thing"), ("face", "thing", "place")),
    "multiface": (("face", "face"), ("face", "face"), ("face", "face", "place")),
    "multihuman": (("human", "human"),),
    "singleface": (("face",),),
    "multiobject": (("thing", "thing"), ("thing", "thing", "thing")),
}
FRAMING: Mapping[str, Framing] = {"singleface": "close", "faceobj": "medium", "multiface": "medium"}
# Where references lie below `Images`, as in OpenS2V-Eval: with {} for man or woman, thing, or place.
FOLDERS: Mapping[str, Mapping[Role, str]] = {
    "singleobj": {"thing": "singleobject/{}"},
    "singlehuman": {"human": "singlehuman/{}"},
    "humanobj": {
        "human": "humanobj/human/{}",
        "thing": "humanobj/thing/{}",
        "place": "humanobj/environment/{}",
    },
    "faceobj": {
        "face": "humanobj/human/crop_{}",
        "thing": "humanobj/thing/{}",
        "place": "humanobj/environment/{}",
    },
    "multiface": {"face": "multiface/crop_{}", "place": "multiface/scene/{}"},
    "multihuman": {"human": "multihuman/{}"},
    "singleface": {"face": "singleface/crop_{}"},
    "multiobject": {"thing": "multiobject/{}"},
}


@dataclass(frozen=True, kw_only=True)
class MiniReference:
    """A reference picture: official-style path, class label, and what it shows."""

    path: str
    label: str
    role: Role
    shows: Subject | Place

    def picture(self) -> np.ndarray:
        """RGB uint8 (height, width, 3): the subject on white, or the place without anybody."""
        if isinstance(self.shows, Place):
            return place_reference(self.shows)
        return reference_picture(self.shows, face=self.role == "face")


@dataclass(frozen=True, kw_only=True)
class MiniSample:
    """A sample with the scene that its prompt describes: the renderer's own answer."""

    id: str
    prompt: str
    scene: Scene
    references: tuple[MiniReference, ...]


@lru_cache(maxsize=1)
def mini_samples() -> Mapping[str, MiniSample]:
    """The samples by id, in the official order of categories."""
    samples: dict[str, MiniSample] = {}
    drawn, files = _Drawn(), Counter[str]()
    words = {category: Counter[str]() for category in MINI.category_counts}
    for sample_id in MINI.sample_ids:
        category = category_of(sample_id)
        casts = CASTS[category]
        roles = casts[(int(sample_id.rpartition("_")[2]) - 1) % len(casts)]
        generator = random.Random(f"mini/{sample_id}")
        shown = _shown(roles, drawn, words[category], generator)
        place = next((one for one in shown if isinstance(one, Place)), None)
        subjects = [one for one in shown if isinstance(one, Subject)]
        framing = FRAMING.get(category, "full")
        scene = compose(subjects, "benchmark", generator, framing=framing, place=place)
        references = []
        for role, one in zip(roles, shown, strict=True):
            label = one.name.title().replace(" ", "") if isinstance(one, Place) else one.label
            folder = "Images/" + FOLDERS[category][role].format(label.lower())
            files[folder] += 1
            references.append(
                MiniReference(path=f"{folder}/{files[folder]}.png", label=label, role=role, shows=one)
            )
        samples[sample_id] = MiniSample(
            id=sample_id,
            prompt=prompt_of(scene, generator),
            scene=scene,
            references=tuple(references),
        )
    return samples


class _Drawn:
    """Subjects that are given out once: of things such as the category and the sample have fewest of."""

    def __init__(self) -> None:
        self._people = 0
        things = [thing("benchmark", number) for number in range(THINGS_DRAWN)]
        self._things = list({code_of(one.what): one for one in things}.values())

    def person(self) -> Subject:
        """The next person."""
        self._people += 1
        return person("benchmark", self._people - 1)

    def thing(self, of_sample: Container[str], of_category: Counter[str]) -> Subject:
        """A thing whose word the sample does not have yet."""
        chosen = min(self._things, key=lambda one: (one.label in of_sample, of_category[one.label]))
        self._things.remove(chosen)
        of_category[chosen.label] += 1
        return chosen


def _shown(
    roles: Sequence[Role], drawn: _Drawn, of_category: Counter[str], generator: random.Random
) -> list[Subject | Place]:
    """What the references of one sample show."""
    shown: list[Subject | Place] = []
    for role in roles:
        if role == "place":
            shown.append(random_place("benchmark", generator))
        elif role == "thing":
            words = {one.label for one in shown if isinstance(one, Subject)}
            shown.append(drawn.thing(words, of_category))
        else:
            shown.append(drawn.person())
    return shown


def write_mini_dataset(folder: Path) -> None:
    """Write the track's list and pictures below `folder`; equal bytes each time on one machine.

    Existing files are replaced one by one, each in one step; other files are left alone. Raises OSError when
    the folder cannot be written.
    """
    rows = {}
    # One of each category after the other, so that the first of the list are a small benchmark themselves.
    for sample in sorted(mini_samples().values(), key=lambda sample: int(sample.id.rpartition("_")[2])):
        for reference in sample.references:
            write_bytes(folder / reference.path, _png(reference.picture()))
        rows[sample.id] = official_row(
            sample.prompt, [(reference.path, reference.label) for reference in sample.references]
        )
    # The list comes last: once it is there, so are its images.
    write_bytes(folder / MINI.files[0], (json.dumps(rows, indent=4) + "\n").encode())


def official_row(prompt: str, references: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A sample's entry of an official list; `references` are paths with class labels."""
    return {
        "img_paths": [path for path, _ in references],
        "prompt": prompt,
        # The official lists store this flag as text.
        "synthesis_flag": "Wrong",
        "class_label": [label for _, label in references],
    }


def _png(picture_HWC: np.ndarray) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(picture_HWC).save(buffer, "PNG")
    return buffer.getvalue()
