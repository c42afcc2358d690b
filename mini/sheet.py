"""A contact sheet of a contest: references and prompt of each sample, and three frames of each method."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from refbench.bench.sample import Sample
from refbench.reports.contact_sheets import FRAMES, first_middle_last, fitted

TILE_PX, GAP_PX, TITLE_PX = 96, 6, 18
REFERENCES_SHOWN = 3
PROMPT_WIDTH_PX, PROMPT_LINE = 190, 34
FONT_PX = 11
INK, PAPER = (34, 34, 34), (255, 255, 255)


def contact_sheet(samples: Sequence[Sample], videos: dict[str, dict[str, Path]]) -> Image.Image:
    """The sheet: a row for each sample, a column for each method; `videos` are method → sample id → file.

    A missing video leaves its place empty.
    """
    font = ImageFont.load_default(FONT_PX)
    block_px = FRAMES * TILE_PX + (FRAMES - 1) * 2 + 2 * GAP_PX
    left_px = REFERENCES_SHOWN * (TILE_PX + 2) + PROMPT_WIDTH_PX + 2 * GAP_PX
    row_px = TILE_PX + GAP_PX
    sheet = Image.new("RGB", (left_px + block_px * len(videos), TITLE_PX + row_px * len(samples)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP_PX, 2), "references, prompt", fill=INK, font=font)
    for column, method in enumerate(videos):
        pen.text((left_px + column * block_px, 2), method, fill=INK, font=font)
    for row, sample in enumerate(samples):
        top = TITLE_PX + row * row_px
        for number, reference in enumerate(sample.references[:REFERENCES_SHOWN]):
            sheet.paste(fitted(reference.open_plain_rgb(), TILE_PX), (GAP_PX + number * (TILE_PX + 2), top))
        prompt = "\n".join(textwrap.wrap(sample.prompt, PROMPT_LINE)[:8])
        pen.multiline_text(
            (GAP_PX + REFERENCES_SHOWN * (TILE_PX + 2), top), prompt, fill=INK, font=font, spacing=1
        )
        for column, files in enumerate(videos.values()):
            if sample.id in files:
                for number, frame in enumerate(first_middle_last(files[sample.id], TILE_PX)):
                    sheet.paste(frame, (left_px + column * block_px + number * (TILE_PX + 2), top))
    return sheet
