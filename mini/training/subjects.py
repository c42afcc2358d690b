"""Two views of many subjects: what the teacher, the face network and the embedder learn identity from."""

from __future__ import annotations

import random

import cv2
import numpy as np

from refbench.mini.world import NUM_FRAMES, SIZE_PX
from refbench.mini.world.identity import Split, Subject, Thing
from refbench.mini.world.render import ActorLabels, Rendering, reference_picture, render
from refbench.mini.world.scene import compose, random_framing, random_subjects

# A cut-out of fewer pixels shows nothing of who it is.
LEAST_PIXELS = 60


def cut_out(rendering: Rendering, labels: ActorLabels, frame: int, *, on_white: bool) -> np.ndarray | None:
    """A subject as it is in a frame, fitted into 64×64 on white, RGB uint8; None where too little is seen."""
    mask_HW = labels.mask_FHW[frame]
    if mask_HW.sum() < LEAST_PIXELS:
        return None
    picture_HWC = rendering.video_FHWC[frame]
    if on_white:
        picture_HWC = np.where(mask_HW[..., None], picture_HWC, np.uint8(255))
    left, top, right, bottom = labels.box_FK[frame].astype(int)
    return fitted(picture_HWC[top:bottom, left:right])


def fitted(picture_HWC: np.ndarray, side_px: int = SIZE_PX) -> np.ndarray:
    """The picture enlarged or shrunk into a white square, RGB uint8 (side, side, 3)."""
    height, width = picture_HWC.shape[:2]
    scale = side_px / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    square = np.full((side_px, side_px, 3), 255, np.uint8)
    left, top = (side_px - size[0]) // 2, (side_px - size[1]) // 2
    square[top : top + size[1], left : left + size[0]] = cv2.resize(
        picture_HWC, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    return square


def two_views(split: Split, count: int, generator: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Views (count,64,64,3) of `count` different subjects, and another view of each: references, and cut-outs
    from scenes.
    """
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    seen: set[str] = set()
    while len(first) < count:
        subjects = [one for one in random_subjects(split, generator) if one.id not in seen]
        if not subjects:
            continue
        views = _seen_in_scene(subjects, split, generator)
        others = _seen_in_scene(subjects, split, generator)
        for subject, view, other in zip(subjects, views, others, strict=True):
            again = other if generator.random() < 0.5 else _reference(subject, generator)
            if view is not None and again is not None and len(first) < count:
                first.append(view)
                second.append(again)
                seen.add(subject.id)
    return np.stack(first), np.stack(second)


def _reference(subject: Subject, generator: random.Random) -> np.ndarray:
    face = not isinstance(subject.what, Thing) and generator.random() < 0.5
    return fitted(reference_picture(subject, face=face))


def _seen_in_scene(
    subjects: list[Subject], split: Split, generator: random.Random
) -> list[np.ndarray | None]:
    scene = compose(subjects, split, generator, framing=random_framing(subjects, generator))
    rendering = render(scene, [generator.randrange(NUM_FRAMES)])
    return [cut_out(rendering, labels, 0, on_white=generator.random() < 0.7) for labels in rendering.labels]
