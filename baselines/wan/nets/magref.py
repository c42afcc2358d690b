"""How MAGREF encodes references: all of them on one white canvas, which is the first frame of a clip, and a
mask of the regions they cover.

Source: `magref/subject2video.py` of MAGREF-Video/MAGREF@e3c71b2; goldens `baselines/magref.npz`. There the
layout is drawn from Python's global generator, which nothing seeds, and the mask is made for 81 frames; here
the layout has a seed of its own and the mask has the clip's length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import interpolate

from refbench.baselines.wan.codec import ImageCodec
from refbench.baselines.wan.conditioning import SPATIAL_COMPRESSION, Conditioner, Geometry
from refbench.baselines.wan.nets.image_branch import MASK_CHANNELS, Box, ImageCondition, clip_normalised
from refbench.baselines.wan.references import WHITE, fit_and_pad, fitted_size, to_tensor

if TYPE_CHECKING:
    from PIL import Image

# Columns and rows, fewest cells first; the smallest grid with room for all references is taken.
GRIDS = ((1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (4, 2))


@dataclass(frozen=True, kw_only=True)
class CanvasLayout:
    """Which reference (by index) stands in which cell [x0, y0, x1, y1) in pixels, paired by position; cells
    without a reference come last and stay white.
    """

    order: tuple[int, ...]
    cells: tuple[Box, ...]

    @classmethod
    def drawn(cls, references: int, width: int, height: int, stream: random.Random) -> CanvasLayout:
        """The layout of a number of references: their order is shuffled first, then the cells.

        Raises ValueError for more references than the largest grid has cells.
        """
        grid = next((grid for grid in GRIDS if grid[0] * grid[1] >= references), None)
        if grid is None:
            raise ValueError(f"{references} references do not fit the largest grid, {GRIDS[-1]}")
        order, cells = list(range(references)), _cells(*grid, width, height)
        stream.shuffle(order)
        stream.shuffle(cells)
        return cls(order=tuple(order), cells=tuple(cells))

    def description(self) -> str:
        """The layout for a person: references counted from 1, cells row by row."""
        held = dict(zip(self.cells, self.order, strict=False))
        rows: dict[int, list[str]] = {}
        for cell in sorted(self.cells, key=lambda box: (box[1], box[0])):
            rows.setdefault(cell[1], []).append(str(held[cell] + 1) if cell in held else "none")
        return "references on the canvas: " + " / ".join(" | ".join(row) for row in rows.values())


def _cells(columns: int, rows: int, width: int, height: int) -> list[Box]:
    """Boxes row by row; the last column and row take what integer division leaves."""
    lefts = [column * (width // columns) for column in range(columns)] + [width]
    tops = [row * (height // rows) for row in range(rows)] + [height]
    return [
        (lefts[column], tops[row], lefts[column + 1], tops[row + 1])
        for row in range(rows)
        for column in range(columns)
    ]


def pasted_box(image: Image.Image, cell: Box) -> Box:
    """Where an image lies that is fitted into a cell and centred there."""
    left, top, right, bottom = cell
    width, height = fitted_size(image.width, image.height, right - left, bottom - top)
    x, y = left + (right - left - width) // 2, top + (bottom - top - height) // 2
    return (x, y, x + width, y + height)


def collage(
    images: Sequence[Image.Image], layout: CanvasLayout, width: int, height: int
) -> tuple[Image.Image, np.ndarray]:
    """The white canvas with the RGB images on it, and a bool array (height, width) of where they are.

    White pixels within an image count as image, padding does not.
    """
    from PIL import Image

    canvas = Image.new("RGB", (width, height), WHITE)
    covered_HW = np.zeros((height, width), bool)
    for index, cell in zip(layout.order, layout.cells, strict=False):
        image = images[index]
        canvas.paste(fit_and_pad(image, cell[2] - cell[0], cell[3] - cell[1]), cell[:2])
        left, top, right, bottom = pasted_box(image, cell)
        covered_HW[top:bottom, left:right] = True
    return canvas, covered_HW


def latent_region(covered_HW: np.ndarray) -> torch.Tensor:
    """The regions (height,width) at latent size (h,w), float32 of 0 and 1: a cell is 1 when any of its 8×8
    pixels is covered.
    """
    rows, columns = (side // SPATIAL_COMPRESSION for side in covered_HW.shape)
    blocks = covered_HW.reshape(rows, SPATIAL_COMPRESSION, columns, SPATIAL_COMPRESSION)
    return torch.from_numpy(blocks.any(axis=(1, 3))).float()


def canvas_for_clip(canvas_CHW: torch.Tensor, size: int) -> torch.Tensor:
    """A canvas (3,height,width) in [-1, 1] as (1,3,size,size) for CLIP, about 0 to 1: squashed, bicubic
    without antialiasing, so that values may leave the range.
    """
    squashed = interpolate(canvas_CHW[None], size=(size, size), mode="bicubic", align_corners=False)
    return squashed * 0.5 + 0.5


@dataclass(frozen=True, kw_only=True)
class CollageReferences(Conditioner[ImageCodec]):
    """All references in one picture; `layout_seed` is what the layout is drawn from."""

    layout_seed: int | str

    def layout(self, references: int, width: int, height: int) -> CanvasLayout:
        """The layout of a number of references on a canvas of this size in pixels."""
        return CanvasLayout.drawn(references, width, height, random.Random(self.layout_seed))

    def encode(
        self,
        codec: ImageCodec,
        references: Sequence[Image.Image],
        geometry: Geometry,
        generator: torch.Generator,
    ) -> ImageCondition:
        """The canvas before mid-grey frames, encoded together; the regions in latent frame 0 of the mask;
        CLIP's tokens of the whole canvas.
        """
        width, height = geometry.width, geometry.height
        layout = self.layout(len(references), width, height)
        canvas, covered_HW = collage(references, layout, width, height)
        canvas_CHW = to_tensor(canvas)
        clip_BCFHW = torch.zeros(1, 3, geometry.num_frames, height, width)
        clip_BCFHW[0, :, 0] = canvas_CHW
        latents_B16FHW = codec.encode(clip_BCFHW)
        mask_B4FHW = latents_B16FHW.new_zeros(1, MASK_CHANNELS, *latents_B16FHW.shape[2:])
        mask_B4FHW[:, :, 0] = latent_region(covered_HW).to(mask_B4FHW)
        pixels_N3HW = canvas_for_clip(canvas_CHW, codec.image_side_px)
        return ImageCondition(
            mask_B4FHW=mask_B4FHW,
            latents_B16FHW=latents_B16FHW,
            image_tokens_BTD=codec.image_tokens(clip_normalised(pixels_N3HW)),
        )
