"""A run: a method's videos for a track, `runs/<method>/<track>/seed-<n>/<sample id>.mp4` beside one
`run.json`.

A run that differs from the plain one (shuffled references, say) lies in `<track>.<variant>`. A flat folder of
`<sample id>.mp4` without `run.json` is taken as seed 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from refbench.bench.dataset import Track
from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.files import read_json, write_json
from refbench.bench.method import MethodCard
from refbench.bench.provenance import digest_of
from refbench.bench.scores.record import PLAIN, Name
from refbench.bench.scores.store import checked_name

RUN_FILE = "run.json"
ERROR_SUFFIX = ".error.txt"
SEED_FOLDER = re.compile(r"seed-(\d{1,18})")


class RunInfo(BaseModel):
    """What `run.json` says: who made the videos, for what, and with which software.

    `dataset` is the digest of the track's samples, `references` whether each sample had its own or another's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    method: Name
    track: Name
    variant: Name = PLAIN
    card: MethodCard | None = None
    references: Literal["own", "shuffled"] = "own"
    reference_seed: int | None = None
    dataset: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None


@dataclass(frozen=True, kw_only=True)
class VideoFolder:
    """The videos found in a folder: (sample id, seed) → file; `errors` are the reasons that `generate` left
    for samples it could not make, `unknown` file names that fit no sample.
    """

    info: RunInfo | None
    videos: dict[tuple[str, int], Path]
    errors: dict[tuple[str, int], str]
    unknown: tuple[str, ...]
    seeds: tuple[int, ...]


def run_folder(root: Path, method: str, track: str, variant: str = PLAIN) -> Path:
    """Where a run's videos are kept below `root`."""
    return root / checked_name(method, "the method name") / variant_name(track, variant)


def variant_name(track: str, variant: str) -> str:
    """`open-domain` for the plain run, `open-domain.<variant>` for another."""
    return track if variant == PLAIN else f"{track}.{variant}"


def read_run(path: Path) -> RunInfo:
    """The content of a `run.json`; anything wrong with it is a UserError."""
    try:
        return RunInfo.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path} is no run description: {first_fault(error)}") from None


def write_run(path: Path, info: RunInfo) -> None:
    """Write a `run.json` whole or not at all."""
    write_json(path, info.model_dump(mode="json"))


def dataset_digest(track: Track) -> str:
    """Digest of all samples of a track: prompts and which references they name."""
    return digest_of([sample.digest(("prompt", "references")) for sample in track.samples])


def begin_run(folder: Path, info: RunInfo, *, same_weights: bool = False) -> None:
    """Write `run.json`, or see that the one there describes the same run: one folder never mixes two
    settings.

    With `same_weights` the digests of the weights are not compared: nothing will be made. Raises UserError
    that names what differs.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        write_run(path, info)
        return
    there = read_run(path)
    if same_weights and there.card is not None and info.card is not None:
        card = info.card.model_copy(update={"weights": there.card.weights})
        info = info.model_copy(update={"card": card})
    different = run_differences(there, info)
    if different:
        raise UserError(
            f"{folder} was generated with another {', '.join(different)}; "
            "choose another --name or --out, or remove that folder"
        )


def run_differences(a: RunInfo, b: RunInfo) -> list[str]:
    """What makes two run descriptions two runs; of the card, which of its fields."""
    different = []
    for name in ("method", "track", "variant", "card", "references", "reference_seed", "dataset"):
        mine, other = getattr(a, name), getattr(b, name)
        if mine == other:
            continue
        if isinstance(mine, MethodCard) and isinstance(other, MethodCard):
            fields = [
                field for field in MethodCard.model_fields if getattr(mine, field) != getattr(other, field)
            ]
            different.append(f"card ({', '.join(fields)})")
        else:
            different.append(name)
    return different


def stored_run_file(store_file: Path, variant: str = PLAIN) -> Path:
    """Where the `run.json` of scored videos is kept beside their records, for reports."""
    return store_file.with_name(f"{variant_name(store_file.stem, variant)}.{RUN_FILE}")


def scan_videos(folder: Path, track: Track) -> VideoFolder:
    """Find the videos of `track` in a run folder, one of its seed folders, or a flat folder.

    Raises UserError when the folder is missing, holds no mp4, or its `run.json` names another track.
    """
    if not folder.is_dir():
        raise UserError(f"the video folder {folder} does not exist")
    one_seed = SEED_FOLDER.fullmatch(folder.name)
    folders = (folder, folder.parent) if one_seed else (folder,)
    run_file = next((one / RUN_FILE for one in folders if (one / RUN_FILE).is_file()), None)
    info = read_run(run_file) if run_file else None
    if info is not None and info.track != track.name:
        raise UserError(
            f"{run_file} says that these videos are for {info.track}, not {track.name}; "
            f"use --track {info.track}"
        )
    seed_folders = {
        int(match[1]): entry
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and (match := SEED_FOLDER.fullmatch(entry.name))
    }
    if not seed_folders:
        seed_folders = {int(one_seed[1]) if one_seed else 0: folder}
    known = {sample.id for sample in track.samples}
    videos: dict[tuple[str, int], Path] = {}
    unknown: list[str] = []
    for seed, seed_folder in seed_folders.items():
        for file in sorted(seed_folder.glob("*.mp4")):
            if file.name.startswith("."):
                continue
            if file.stem in known:
                videos[file.stem, seed] = file
            else:
                unknown.append(file.name)
    errors = {
        (file.name.removesuffix(ERROR_SUFFIX), seed): one_line(file.read_text("utf-8", "replace")[:2000])
        for seed, seed_folder in seed_folders.items()
        for file in sorted(seed_folder.glob(f"*{ERROR_SUFFIX}"))
    }
    if not videos and not unknown and not errors:
        raise UserError(f"{folder} holds no mp4 (expected <sample id>.mp4, or seed-<n>/<sample id>.mp4)")
    return VideoFolder(
        info=info,
        videos=videos,
        errors=errors,
        unknown=tuple(unknown),
        seeds=tuple(sorted(seed_folders)),
    )
