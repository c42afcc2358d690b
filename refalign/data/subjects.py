"""Subjects of an annotated frame: which are taken as references, and how each is cut out.

Rules: subjects with `aes_score` ≥ 4.5 or `gme_score` ≥ 0.6, or all where none qualifies; of more than
`max_references` those with the largest crop relative to the frame (the box around the mask); outside the mask
white; an empty mask falls back to the box. Source: RefAlign's trainer.

Masks are COCO run-length codes from a file that nobody has checked, and the decoder of pycocotools trusts
them: a code that is too short returns memory that was never written. So the runs are read here first, and
only codes that fill the frame exactly are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refbench.bench.errors import SampleError
from refbench.refalign.data.frames import Region

LEAST_AES_SCORE = 4.5
LEAST_GME_SCORE = 0.6
# Run lengths of a frame that the decoder admits (2^26 pixels) fit in six characters of five bits.
LONGEST_RUN_CHARACTERS = 6


@dataclass(frozen=True, kw_only=True)
class AnnotatedSubject:
    """One annotated subject: scores (None where missing), box as x0, y0, x1, y1 in pixels of the cropped
    frame, and the mask's run-length code with the (height, width) that it claims.
    """

    id: str
    label: str
    aes_score: float | None
    gme_score: float | None
    box: tuple[float, float, float, float]
    mask_counts: str
    mask_size: tuple[int, int]

    @property
    def qualifies(self) -> bool:
        """Whether one of its scores reaches the published threshold."""
        aes, gme = self.aes_score, self.gme_score
        return (aes is not None and aes >= LEAST_AES_SCORE) or (gme is not None and gme >= LEAST_GME_SCORE)


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """A subject with the region to cut; `masked` is false where the mask is empty and the box serves."""

    subject: AnnotatedSubject
    region: Region
    masked: bool


def run_lengths(counts: str, height: int, width: int) -> np.ndarray:
    """The runs of a compressed COCO code, int64 (runs,), background first; their sum is height·width.

    Raises SampleError for anything that is not such a code. Format: `maskApi.c` of COCO: characters 48 + five
    bits + a continuation bit, little end first, signed, from the fourth on relative to the last but one.
    """
    broken = SampleError(f"a mask is no run-length code of {width}×{height} pixels")
    if not counts.isascii() or not counts or len(counts) > LONGEST_RUN_CHARACTERS * (height * width + 1):
        raise broken
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise broken
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    characters = ends - starts + 1
    if characters.max() > LONGEST_RUN_CHARACTERS:
        raise broken
    digits = np.arange(len(codes)) - np.repeat(starts, characters)
    runs = np.add.reduceat((codes & 31) << (5 * digits), starts)
    runs -= ((codes[ends] & 16) != 0).astype(np.int64) << (5 * characters)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
        raise broken
    return runs


def cutout_of(subject: AnnotatedSubject, height: int, width: int) -> Cutout | None:
    """Where the subject is in a frame of that size, or None when neither mask nor box holds a pixel.

    Raises SampleError for a mask of another size or a code that is none.
    """
    from pycocotools import mask as coco

    if subject.mask_size != (height, width):
        raise SampleError(
            f"the mask of subject {subject.id} is for {subject.mask_size[1]}×{subject.mask_size[0]} pixels, "
            f"the frame has {width}×{height}"
        )
    run_lengths(subject.mask_counts, height, width)
    left, top, columns, rows = (int(side) for side in coco.toBbox(_coco_code(subject)))
    if columns > 0 and rows > 0:
        region = Region(left=left, top=top, right=left + columns, bottom=top + rows)
        return Cutout(subject=subject, region=region, masked=True)
    x0, y0, x1, y1 = subject.box
    region = Region(
        left=int(min(max(x0, 0), width)),
        top=int(min(max(y0, 0), height)),
        right=int(np.ceil(min(max(x1, 0), width))),
        bottom=int(np.ceil(min(max(y1, 0), height))),
    )
    empty = region.width <= 0 or region.height <= 0
    return None if empty else Cutout(subject=subject, region=region, masked=False)


def _coco_code(subject: AnnotatedSubject) -> dict[str, object]:
    return {"size": list(subject.mask_size), "counts": subject.mask_counts.encode()}


def chosen_cutouts(subjects: Sequence[AnnotatedSubject], height: int, width: int, limit: int) -> list[Cutout]:
    """Up to `limit` subjects by the published rules, in the order of the annotation.

    Of equal crops the earlier subject is taken. Raises SampleError for a bad mask among those considered, and
    where no subject has a pixel.
    """
    qualified = [subject for subject in subjects if subject.qualifies] or list(subjects)
    found = [cutout_of(subject, height, width) for subject in qualified]
    cutouts = [cutout for cutout in found if cutout is not None]
    if not cutouts:
        raise SampleError("no subject is annotated in the reference frame")
    by_area = sorted(cutouts, key=lambda cutout: -cutout.region.width * cutout.region.height)
    taken = {id(cutout) for cutout in by_area[:limit]}
    return [cutout for cutout in cutouts if id(cutout) in taken]


def cut_out(frame_HWC: np.ndarray, cutout: Cutout) -> np.ndarray:
    """The subject's region of the frame, white outside its mask; RGB uint8 (H,W,3), as the frame is."""
    from pycocotools import mask as coco

    piece_HWC = cutout.region.of(frame_HWC).copy()
    if cutout.masked:
        mask_HW = coco.decode(_coco_code(cutout.subject))
        piece_HWC[cutout.region.of(mask_HW) == 0] = 255
    return piece_HWC
