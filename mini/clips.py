"""Training clips of the drawn world in OpenS2V-5M's layout, for the real data code and trainer.

    annotations/<part>.json        captions, boxes, masks, scores, the annotated frame
    videos/<part>/<clip>.mp4
    cross_frames_pairs/cross_frames_pairs_<part>.json

Two clips make a cluster: the same subjects in another scene, light and motion, so that each has a cross-frame
pair beside its regular one. The score of a subject is how much of it is seen, so that one which is hidden is
no reference, as in the original. Clips are numbered; the same number and seed give the same clip.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from refbench.bench.environment import missing_packages
from refbench.bench.errors import UserError
from refbench.bench.files import replacing, write_text
from refbench.bench.video import write_video
from refbench.mini.world import FPS, NUM_FRAMES, SIZE_PX
from refbench.mini.world.prompts import prompt_of
from refbench.mini.world.render import ActorLabels, Rendering, render
from refbench.mini.world.scene import compose, random_framing, random_subjects

CLIPS_PER_CLUSTER = 2
CLUSTERS_PER_PART = 250
# How often references come from the other clip: regular pairs to cross pairs are 6 to 4, as in the paper. The
# trainer's override is `data.references.cross_pair=0.4`.
CROSS_PAIR_SHARE = 0.4
# Nearly lossless: what is lost here no autoencoder can learn.
CRF = 10
# A subject that is seen worse, or of which fewer pixels are seen, is not annotated.
LEAST_SEEN, LEAST_PIXELS = 0.35, 40


@dataclass(frozen=True, kw_only=True)
class TrainingClip:
    """A clip of a cluster: its id, its prompt and what the renderer knows."""

    id: str
    prompt: str
    rendering: Rendering


def cluster(number: int, seed: int) -> list[TrainingClip]:
    """The clips of a cluster: the same subjects twice."""
    generator = random.Random(f"clips/{seed}/{number}")
    subjects = random_subjects("training", generator)
    clips = []
    for part in range(CLIPS_PER_CLUSTER):
        order = generator.sample(subjects, len(subjects))
        scene = compose(order, "training", generator, framing=random_framing(order, generator))
        name = f"mini{number:06}_segment{part}_part1"
        clips.append(
            TrainingClip(
                id=f"{name}_step1-0-{NUM_FRAMES}_step2-0-{NUM_FRAMES}",
                prompt=prompt_of(scene, generator),
                rendering=render(scene),
            )
        )
    return clips


def write_training_clips(
    folder: Path,
    clips: int,
    seed: int = 0,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 0,
) -> None:
    """Write `clips` clips (rounded up to whole clusters) below `folder`, with `on_clip(done, total)` between;
    `workers` processes write a part each, 0: this one all.

    Parts that an earlier call with the same numbers finished are kept. Raises UserError for a folder with
    other clips, and where pycocotools is missing.
    """
    absent = missing_packages(("pycocotools",), "refalign")
    if absent is not None:
        raise UserError(f"the masks of training clips: {absent}")
    clusters = -(-clips // CLIPS_PER_CLUSTER)
    _claim(folder, clusters, seed)
    parts = [
        range(first, min(first + CLUSTERS_PER_PART, clusters))
        for first in range(0, clusters, CLUSTERS_PER_PART)
    ]
    write = partial(_write_part, folder, seed=seed)
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(workers)) if workers else None
        for numbers, _ in zip(parts, pool.map(write, parts) if pool else map(write, parts), strict=True):
            on_clip(numbers.stop * CLIPS_PER_CLUSTER, clusters * CLIPS_PER_CLUSTER)


def _claim(folder: Path, clusters: int, seed: int) -> None:
    """Note what the folder is to hold, or hold the request against what it was made for."""
    asked = {"clusters": clusters, "seed": seed}
    file = folder / "mini.json"
    if file.is_file():
        made_for = json.loads(file.read_text(encoding="utf-8"))
        if made_for != asked:
            raise UserError(f"{folder} holds clips of other numbers ({made_for}): choose another folder")
        return
    if (folder / "annotations").exists():
        raise UserError(f"{folder} holds other clips: choose another folder")
    write_text(file, json.dumps(asked))


def _write_part(folder: Path, numbers: range, seed: int) -> None:
    part = f"part{numbers.start // CLUSTERS_PER_PART:04}"
    # The annotations come last: once they are there, so are the videos.
    if (folder / "annotations" / f"{part}.json").is_file():
        return
    annotations: dict[str, Any] = {}
    pairs: dict[str, list[dict[str, str]]] = {}
    for number in numbers:
        subjects_of = {}
        for clip in cluster(number, seed):
            name = clip.id.partition("_step")[0] + ".mp4"
            with replacing(folder / "videos" / part / name) as unfinished:
                write_video(unfinished, clip.rendering.video_FHWC, FPS, crf=CRF)
            annotated = _annotated(clip, name)
            if annotated is not None:
                annotations[clip.id], subjects_of[clip.id] = annotated
        pairs[f"mini{number:06}"] = list(_pairs(part, subjects_of))
    write_text(folder / "cross_frames_pairs" / f"cross_frames_pairs_{part}.json", json.dumps(pairs))
    write_text(folder / "annotations" / f"{part}.json", json.dumps(annotations))


def _annotated(clip: TrainingClip, video: str) -> tuple[dict[str, Any], dict[str, str]] | None:
    """The entry of a clip, and the number of each subject in it by the subject's id; None if none is seen."""
    labels = clip.rendering.labels
    seen_AF = np.stack([_seen(one) for one in labels])
    # The frame that shows the worst seen subject best.
    frame = int(seen_AF.min(axis=0).argmax())
    shown = [
        (one, float(seen_F[frame]))
        for one, seen_F in zip(labels, seen_AF, strict=True)
        if seen_F[frame] >= LEAST_SEEN and one.mask_FHW[frame].sum() >= LEAST_PIXELS
    ]
    if not shown:
        return None
    numbers = {one.actor.subject.id: str(index) for index, (one, _) in enumerate(shown, start=1)}
    words = {str(index): one.actor.subject.label.lower() for index, (one, _) in enumerate(shown, start=1)}
    entry = {
        "metadata": {
            "path": video,
            "fps": float(FPS),
            "num_frames": NUM_FRAMES,
            "resolution": {"height": SIZE_PX, "width": SIZE_PX},
            "cut": [0, NUM_FRAMES],
            "crop": [0, SIZE_PX, 0, SIZE_PX],
            "face_cut": [0, NUM_FRAMES],
            "face_cap_qwen": clip.prompt,
        },
        "word_tags": {"subject": list(words.values())},
        "annotation": {
            "ann_frame_data": {
                "ann_frame_idx": frame,
                "annotations": [
                    {
                        "class_name": one.actor.subject.label.lower(),
                        "bbox": one.box_FK[frame].tolist(),
                        "gme_score": round(seen, 3),
                        "aes_score": round(2 + 4 * seen, 3),
                    }
                    for one, seen in shown
                ],
                "box_format": "xyxy",
            },
            "mask_map": {number: {"class_name": word} for number, word in words.items()},
            "mask_annotation": {
                str(frame): {
                    str(index): _run_lengths(one.mask_FHW[frame])
                    for index, (one, _) in enumerate(shown, start=1)
                }
            },
        },
    }
    return entry, numbers


def _seen(labels: ActorLabels) -> np.ndarray:
    """How much of a subject is seen in each frame, (frames,), 0 to 1; little of whoever shows the back."""
    area_F = labels.mask_FHW.sum(axis=(1, 2)) / max(labels.whole_px, 1)
    from_front = np.isnan(labels.head_FK).all() | ~np.isnan(labels.face_FK).any(axis=1)
    seen_F: np.ndarray = np.minimum(area_F, 1.0) * np.where(from_front, 1.0, 0.3)
    return seen_F


def _run_lengths(mask_HW: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode(), "score": [1.0]}


def _pairs(part: str, subjects_of: dict[str, dict[str, str]]) -> Iterator[dict[str, str]]:
    """Which subjects of a cluster's clips are the same."""
    ids = list(subjects_of)
    for position, first in enumerate(ids):
        for second in ids[position + 1 :]:
            for subject in sorted(subjects_of[first].keys() & subjects_of[second].keys()):
                yield {
                    "cur_id": f"{part}/{first}",
                    "aft_id": f"{part}/{second}",
                    "cur_class_id": subjects_of[first][subject],
                    "aft_class_id": subjects_of[second][subject],
                }
