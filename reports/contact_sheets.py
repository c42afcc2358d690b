"""Contact sheets: of each component the best and the worst video, as three frames beside the references.

Pictures are small JPEGs within the page, so that it stays one file. `fitted` and `first_middle_last` serve
other sheets too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from refbench.bench.errors import SampleError, one_line
from refbench.bench.sample import Reference
from refbench.bench.scores.protocol import Column
from refbench.bench.video import Video, uniform_frames
from refbench.reports.gallery import GallerySection, SampleBlock, VideoCell
from refbench.reports.page_environment import data_uri

FRAMES = 3
TILE_PX = 112
REFERENCES_SHOWN = 3
JPEG_QUALITY = 82
WHITE = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class SheetPicture:
    """A picture as a data address, and its text for those who do not see it."""

    uri: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A video of a sheet: `place` is "best", "worst" or "all equal:", `fault` why there are no frames."""

    place: str
    label: str
    sample: str
    seed: int
    prompt: str
    value: float
    references: tuple[SheetPicture, ...]
    frames: tuple[SheetPicture, ...]
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The best and the worst video of one component; one row where all videos have the same value."""

    component: str
    meaning: str
    rows: tuple[SheetRow, ...]


def contact_sheets(section: GallerySection, columns: Sequence[Column]) -> list[Sheet]:
    """A sheet for each component of which a video at hand has a value, by what the protocol counts of it;
    what it leaves out is neither best nor worst.
    """
    sheets = []
    for column in columns:
        scored = [
            (counted, block, cell, score.value)
            for block in section.samples
            for cell in block.cells
            for score in cell.scores
            if cell.file is not None and score.value is not None and score.component == column.component
            if (counted := column.clip(score.value)) is not None
        ]
        if not scored:
            continue
        best, worst = (pick(scored, key=lambda one: one[0]) for pick in (max, min))
        chosen = [("all equal:", best)] if best[0] == worst[0] else [("best", best), ("worst", worst)]
        sheets.append(
            Sheet(
                component=column.component.label,
                meaning=column.component.meaning,
                rows=tuple(_row(place, block, cell, value) for place, (_, block, cell, value) in chosen),
            )
        )
    return sheets


def _row(place: str, block: SampleBlock, cell: VideoCell, value: float) -> SheetRow:
    assert cell.file is not None
    frames: tuple[SheetPicture, ...] = ()
    fault = ""
    try:
        frames = tuple(
            SheetPicture(uri=jpeg_uri(frame), alt=f"{name} frame of {block.id} by {cell.label}")
            for name, frame in zip(("first", "middle", "last"), first_middle_last(cell.file), strict=True)
        )
    except SampleError as error:
        fault = one_line(error)
    return SheetRow(
        place=place,
        label=cell.label,
        sample=block.id,
        seed=cell.seed,
        prompt=block.prompt,
        value=value,
        references=tuple(_references(block.references[:REFERENCES_SHOWN])),
        frames=frames,
        fault=fault,
    )


def _references(references: Sequence[Reference]) -> Iterator[SheetPicture]:
    for reference in references:
        try:
            picture = reference.open_plain_rgb()
        except SampleError:
            continue
        yield SheetPicture(
            uri=jpeg_uri(fitted(picture, TILE_PX)), alt=f"reference: {reference.label or reference.kind}"
        )


def first_middle_last(file: Path, side_px: int = TILE_PX) -> Iterator[Image.Image]:
    """The first, the middle and the last frame of a video, each within a square. Raises SampleError for a
    file that cannot be decoded.
    """
    for frame_HWC in Video(file).frames(uniform_frames(FRAMES)):
        yield fitted(Image.fromarray(frame_HWC), side_px, square=False)


def fitted(picture: Image.Image, side_px: int, *, square: bool = True) -> Image.Image:
    """A picture as large as fits into a square, in its middle on white; not `square`: without the white."""
    scale = side_px / max(picture.size)
    width, height = (max(round(side * scale), 1) for side in picture.size)
    resized = picture.resize((width, height), Image.Resampling.LANCZOS)
    if not square:
        return resized
    tile = Image.new("RGB", (side_px, side_px), WHITE)
    tile.paste(resized, ((side_px - width) // 2, (side_px - height) // 2))
    return tile


def jpeg_uri(picture: Image.Image) -> str:
    """A picture as a data address."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return data_uri(buffer.getvalue(), "jpeg")
