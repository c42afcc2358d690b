"""The weight catalogue: what the metrics load, where it is published, and whether it is on disk.

Search order: `--weights DIR` (or REFBENCH_WEIGHTS), a folder per repository named `<owner>/<name>` or
`<name>`; then the hub cache. Nothing is downloaded here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

WEIGHTS_VARIABLE = "REFBENCH_WEIGHTS"


@dataclass(frozen=True, kw_only=True)
class WeightEntry:
    """A repository of weights on the hub: `used_by` are metrics; what is not known for certain is not
    said.
    """

    name: str
    repository: str
    used_by: tuple[str, ...]
    holds: str


CATALOGUE = {
    entry.name: entry
    for entry in (
        WeightEntry(
            name="opens2v-weight",
            repository="BestWishYsh/OpenS2V-Weight",
            used_by=("aesthetics", "facesim", "nexusscore"),
            holds="aesthetic head, CurricularFace, InsightFace pack, YOLO-World image-prompt detector",
        ),
        WeightEntry(
            name="clip-vit-large-patch14",
            repository="openai/clip-vit-large-patch14",
            used_by=("aesthetics",),
            holds="CLIP ViT-L/14",
        ),
        WeightEntry(
            name="clip-vit-base-patch32",
            repository="openai/clip-vit-base-patch32",
            used_by=("nexusscore",),
            holds="CLIP ViT-B/32 of the detector's image prompts",
        ),
        WeightEntry(
            name="gme-qwen2-vl-7b",
            repository="Alibaba-NLP/gme-Qwen2-VL-7B-Instruct",
            used_by=("gmescore", "nexusscore"),
            holds="GME-Qwen2-VL-7B",
        ),
        WeightEntry(
            name="one-align",
            repository="q-future/one-align",
            used_by=("motion-smoothness",),
            holds="OneAlign (mPLUG-Owl2)",
        ),
    )
}


def weights_folder(given: Path | None) -> Path | None:
    """The folder of `--weights`, else of REFBENCH_WEIGHTS, else None."""
    chosen = given or os.environ.get(WEIGHTS_VARIABLE)
    return Path(chosen).expanduser() if chosen else None


def locate(entry: WeightEntry, folder: Path | None) -> Path | None:
    """Where an entry's files are, or None: in `folder`, else the newest snapshot in the hub cache."""
    if folder is not None:
        for name in (entry.repository, entry.repository.partition("/")[2]):
            if (folder / name).is_dir():
                return folder / name
    from huggingface_hub.constants import HF_HUB_CACHE

    snapshots = Path(HF_HUB_CACHE) / f"models--{entry.repository.replace('/', '--')}" / "snapshots"
    found = [place for place in snapshots.glob("*") if place.is_dir()] if snapshots.is_dir() else []
    return max(found, key=lambda place: place.stat().st_mtime) if found else None


def how_to_get(entry: WeightEntry) -> str:
    """The command that downloads an entry."""
    return f"hf download {entry.repository} --local-dir WEIGHTS/{entry.repository}"
