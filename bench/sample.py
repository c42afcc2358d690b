"""A sample: one prompt with the reference images of its subjects."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from refbench.bench.errors import SampleError, one_line

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["person", "object", "scene"]
Input = Literal["video", "prompt", "references"]

# OpenS2V-Eval keeps its person references in folders of these names; FaceSim looks for them
# (case-sensitive, both slashes), see eval/get_facesim.py of OpenS2V-Nexus v1.1.
PERSON_FOLDERS = ("/man/", "/woman/", "/crop_woman/", "/crop_man/")
SCENE_FOLDERS = ("/environment/", "/scene/")
# Words of a class label that name a person, for references of which only the label is known.
PERSON_WORDS = frozenset(
    ("man", "woman", "boy", "girl", "person", "human", "people", "child", "face", "lady", "guy", "baby")
)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference image: where it is, what it shows.

    `path` is as the data file writes it (relative to `root`), `label` the class label (`Woman`), and `kind`
    who it shows; for official samples `kind` follows from the folder.
    """

    path: str
    root: Path
    label: str
    kind: Kind

    @property
    def file(self) -> Path:
        """The image on disk."""
        return self.root / self.path

    def open_plain_rgb(self) -> Image.Image:
        """The image as the official metrics open it: `convert("RGB")`, alpha dropped, EXIF ignored.

        Raises SampleError when the file is missing or is no image.
        """
        return self._open().convert("RGB")

    def open_on_white(self) -> Image.Image:
        """The image as generators take it: EXIF rotation applied, transparency composited on white, RGB.

        Raises SampleError when the file is missing or is no image.
        """
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(self._open())
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(canvas, image)
        return image.convert("RGB")

    def _open(self) -> Image.Image:
        from PIL import Image

        try:
            with Image.open(self.file) as image:
                image.load()
                return image
        except FileNotFoundError:
            raise SampleError(f"reference image {self.path} is missing") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise SampleError(f"reference image {self.path} cannot be read: {one_line(error)}") from None

    def content_digest(self) -> str:
        """SHA-256 of the file's bytes, or `missing`."""
        try:
            return hashlib.sha256(self.file.read_bytes()).hexdigest()
        except OSError:
            return "missing"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One item of a benchmark.

    `category` is the id without its number (`faceobj_14` → `faceobj`) unless a suite names another.
    """

    id: str
    category: str
    prompt: str
    references: tuple[Reference, ...]

    def digest(self, uses: Iterable[Input]) -> str:
        """SHA-256 over those parts of the sample that a metric with the inputs `uses` can see."""
        inputs = set(uses)
        parts: dict[str, object] = {"id": self.id}
        if "prompt" in inputs:
            parts["prompt"] = self.prompt
        if "references" in inputs:
            parts["references"] = [
                [reference.path, reference.label, reference.kind] for reference in self.references
            ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def references_digest(self) -> str:
        """SHA-256 over the bytes of all reference images, in order."""
        digests = "\n".join(reference.content_digest() for reference in self.references)
        return hashlib.sha256(digests.encode()).hexdigest()


def category_of(sample_id: str) -> str:
    """The category in an official id: `faceobj_14` → `faceobj`; an id without a number is its own
    category.
    """
    stem, _, number = sample_id.rpartition("_")
    return stem if stem and number.isdigit() else sample_id


def kind_of(path: str) -> Kind:
    """What an official reference shows, from the folder it lies in."""
    if any(folder in path for folder in PERSON_FOLDERS):
        return "person"
    return "scene" if any(folder in path for folder in SCENE_FOLDERS) else "object"


def kind_of_label(label: str) -> Kind:
    """What a reference shows, where only its class label is known: a person if a word of it says so."""
    words = re.findall(r"[a-z]+", label.lower())
    return "person" if PERSON_WORDS.intersection(words) else "object"


def shuffle_references(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Each sample with another sample's references: a seeded derangement.

    Samples exchange references within their category, so that what a metric needs (a face, an object) is
    still there; a category of one sample joins the other lone ones. Of a hundred seeded draws the one in
    which the fewest samples keep one of their own images is taken. Raises SampleError when a lone sample
    remains.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.category, []).append(sample)
    lone = [group[0] for group in groups.values() if len(group) == 1]
    pools = [group for group in groups.values() if len(group) > 1]
    if len(lone) == 1 and pools:
        pools[0] = [*pools[0], lone[0]]
    elif len(lone) == 1:
        raise SampleError("references cannot be shuffled in a set of one sample")
    elif lone:
        pools.append(lone)

    donor_of: dict[str, Sample] = {}
    for pool in pools:
        donor_of.update(_derange(pool, seed))
    return [replace(sample, references=donor_of[sample.id].references) for sample in samples]


def _derange(pool: list[Sample], seed: int) -> dict[str, Sample]:
    """A derangement by Sattolo's algorithm (one cycle, so nobody keeps their own), the best of a hundred."""

    def shares_an_image(sample: Sample, donor: Sample) -> bool:
        own = {reference.path for reference in sample.references}
        return any(reference.path in own for reference in donor.references)

    generator = random.Random(f"{seed}/{pool[0].category}")
    best: dict[str, Sample] = {}
    fewest = len(pool) + 1
    for _ in range(100):
        donors = list(pool)
        for last in range(len(donors) - 1, 0, -1):
            other = generator.randrange(last)
            donors[last], donors[other] = donors[other], donors[last]
        shared = sum(map(shares_an_image, pool, donors))
        if shared < fewest:
            best, fewest = {sample.id: donor for sample, donor in zip(pool, donors, strict=True)}, shared
        if fewest == 0:
            break
    return best
