"""A sample: one prompt with the reference images of its subjects."""

from __future__ import annotations

import hashlib
import json
import random
import re
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from refbench.bench.errors import SampleError, UserError, one_line
from refbench.bench.files import regular_size

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["person", "object", "scene"]
Input = Literal["video", "prompt", "references"]

# What Pillow may take a reference for: nothing that starts another program (EPS) or holds more than pixels.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
LARGEST_PICTURE_BYTES = 512 * 2**20
# As RGBA 0.27 GB, of which three are held while one is laid on white.
LARGEST_PICTURE_PIXELS = 8192 * 8192
# Pillow's names of grey with more than 8 bits.
DEEP_GREY_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")

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

        Grey of more than 8 bits is cut at 255 instead of scaled, as there: such a picture becomes white (or
        black, of numbers from 0 to 1); `remark` says so. Raises SampleError when the file is missing, is no
        image of `PICTURE_FORMATS`, or is too large.
        """
        return self._as_rgb(self._open())

    def open_on_white(self) -> Image.Image:
        """The image as generators and the trainer take it: EXIF rotation applied, transparency composited on
        white, grey of more than 8 bits scaled, RGB.

        Raises SampleError as `open_plain_rgb`, and for deep grey whose range cannot be told.
        """
        from PIL import Image, ImageOps

        image = self._open()
        try:
            image = ImageOps.exif_transpose(image)
        except (OSError, ValueError, SyntaxError, struct.error) as error:
            raise self._unreadable(error) from None
        if image.mode in DEEP_GREY_MODES:
            image = self._in_eight_bits(image)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(canvas, image)
        return self._as_rgb(image)

    @property
    def remark(self) -> str | None:
        """What is unusual about how metrics read the picture, in a sentence, or None; the header is read."""
        try:
            with self._opened() as image:
                mode = image.mode
        except SampleError:
            return None
        if mode not in DEEP_GREY_MODES:
            return None
        return "grey of more than 8 bits: cut at 255 as the official scripts do, not scaled as for generators"

    @contextmanager
    def _opened(self) -> Iterator[Image.Image]:
        """The picture, of which only the header was read. Raises SampleError."""
        from PIL import Image, UnidentifiedImageError

        # Before the first look into it: a named pipe would wait for ever, and a device has no end.
        try:
            regular_size(self.file, LARGEST_PICTURE_BYTES)
        except UserError as error:
            fault = str(error).removeprefix(f"{self.file} ").replace("does not exist", "is missing")
            raise SampleError(f"reference image {self.path} {fault}") from None
        too_large = SampleError(
            f"reference image {self.path} has more than {LARGEST_PICTURE_PIXELS // 1_000_000} million "
            "pixels; make it smaller"
        )
        try:
            with warnings.catch_warnings():
                # Our own bound is lower than the one that Pillow warns of.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                if _webp_pixels(self.file) > LARGEST_PICTURE_PIXELS:
                    raise too_large
                with Image.open(self.file, formats=PICTURE_FORMATS) as image:
                    if image.width * image.height > LARGEST_PICTURE_PIXELS:
                        raise too_large
                    yield image
        except Image.DecompressionBombError:
            raise too_large from None
        except UnidentifiedImageError:
            raise SampleError(
                f"reference image {self.path} cannot be read: it is damaged, or none of "
                f"{', '.join(PICTURE_FORMATS)}"
            ) from None
        except (OSError, ValueError, SyntaxError, MemoryError, struct.error) as error:
            raise self._unreadable(error) from None

    def _open(self) -> Image.Image:
        with self._opened() as image:
            image.load()
            return image

    def _as_rgb(self, image: Image.Image) -> Image.Image:
        try:
            return image.convert("RGB")
        except ValueError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: BaseException) -> SampleError:
        reason = one_line(error) or type(error).__name__
        return SampleError(f"reference image {self.path} cannot be read: {reason}")

    def _in_eight_bits(self, image: Image.Image) -> Image.Image:
        """Deep grey scaled to 8 bits: from its 16 bits, or from the range in which its numbers lie."""
        import numpy as np
        from PIL import Image

        values = np.asarray(image)
        white = _white_of(image.mode, float(values.min()), float(values.max()))
        if white is None:
            raise SampleError(
                f"reference image {self.path} is grey with values from {values.min():g} to {values.max():g}, "
                "of which black and white cannot be told; save it with 8 or 16 bits"
            )
        grey = Image.fromarray(np.rint(values * np.float32(255 / white)).astype(np.uint8))
        clear = image.info.get("transparency")
        if not isinstance(clear, int):
            return grey
        alpha = np.where(values == clear, 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey, Image.fromarray(alpha)))

    def content_digest(self) -> str:
        """SHA-256 of the file's bytes, or `missing` where there is no file that may be opened."""
        try:
            regular_size(self.file, LARGEST_PICTURE_BYTES)
            with self.file.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (UserError, OSError):
            return "missing"


def _webp_pixels(file: Path) -> int:
    """The pixels that a WebP header declares, 0 for other files: Pillow takes memory for them to open it."""
    with file.open("rb") as opened:
        header = opened.read(30)
    if header[:4] != b"RIFF" or header[8:12] != b"WEBP" or len(header) < 30:
        return 0
    kind = header[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(header[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(header[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(header[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return width * height


def _white_of(mode: str, lowest: float, highest: float) -> float | None:
    """The value that is white in a grey picture of this Pillow mode; None where its values do not tell."""
    if mode not in ("I", "F"):
        return 65535
    # What holds 32 bits or fractions was stored so for its room: 0 to 1, 8 or 16 bits of it are in use.
    ranges = (255, 65535) if mode == "I" else (1, 255, 65535)
    if not lowest >= 0:
        return None
    return next((float(white) for white in ranges if highest <= white), None)


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

    def reference_remarks(self) -> list[str]:
        """What is unusual about how metrics read the references, in sentences."""
        return [
            f"reference {reference.path}: {remark}"
            for reference in self.references
            if (remark := reference.remark) is not None
        ]

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
