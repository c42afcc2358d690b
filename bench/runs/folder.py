"""A run: a method's videos for a track, `runs/<method>/<track>/seed-<n>/<sample id>.mp4` beside one
`run.json`.

A run that differs from the plain one (shuffled references, say) lies in `<track>.<variant>`. A flat folder of
`<sample id>.mp4` without `run.json` is taken as seed 0. Other people's folders: see `video_names`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from refbench.bench.dataset import Track
from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.files import is_there, read_json, shortlist, write_json
from refbench.bench.method import MethodCard
from refbench.bench.provenance import digest_of
from refbench.bench.runs.video_names import (
    LOOKED_AT_DEPTH,
    SEEDED_FORMS,
    NamePattern,
    is_hidden,
    is_video,
    named_with_near,
    video_id,
    videos_below,
    why_unusable,
)
from refbench.bench.scores.record import PLAIN, Name
from refbench.bench.scores.store import checked_name

RUN_FILE = "run.json"
ERROR_SUFFIX = ".error.txt"
# Characters that are read of such a file: anybody can have put it there.
LONGEST_REASON = 2000
SEED_FOLDER = re.compile(r"seed-(\d{1,18})")
# Other people's spellings of the same, below a folder of videos.
SEED_FOLDER_LIKE = re.compile(r"seed[-_ ]?([0-9]{1,18})", re.IGNORECASE)


class RunInfo(BaseModel):
    """What `run.json` says: who made the videos, for what, and with which software.

    `dataset` is the digest of the track's samples, `references` whether each sample had its own or another's,
    `threads` the processor threads of one worker.
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
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class VideoFolder:
    """The videos found in a folder: (sample id, seed) → file.

    `errors` are the reasons that `generate` left for samples it could not make. `unknown` are names of videos
    that are not used: they fit no sample, or lie where nothing is read. `remarks` say how names were read.
    """

    info: RunInfo | None
    videos: dict[tuple[str, int], Path]
    errors: dict[tuple[str, int], str]
    unknown: tuple[str, ...]
    seeds: tuple[int, ...]
    remarks: tuple[str, ...] = ()


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
    if not is_there(path):
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


def scan_videos(folder: Path, track: Track, pattern: str | None = None) -> VideoFolder:
    """Find the videos of `track` in a run folder, one of its seed folders, or a flat folder.

    `pattern` is a form of names below the folder (`{id}_seed{seed}.mp4`, `*/{id}.mp4`); without it a name is
    the sample's id, or has one of the usual forms with a seed if all names of a flat folder have it. Raises
    UserError when the folder is missing or holds no video of the track, when two files would be the same
    video, when forms are mixed, and when `run.json` names another track.
    """
    if not folder.is_dir():
        raise UserError(f"the video folder {folder} does not exist")
    one_seed = SEED_FOLDER.fullmatch(folder.name)
    folders = (folder, folder.parent) if one_seed else (folder,)
    run_file = next((one / RUN_FILE for one in folders if is_there(one / RUN_FILE)), None)
    info = read_run(run_file) if run_file else None
    if info is not None and info.track != track.name:
        raise UserError(
            f"{run_file} says that these videos are for {info.track}, not {track.name}; "
            f"use --track {info.track}"
        )
    scan = _Scan(folder, track)
    if pattern is not None:
        scan.by_pattern(NamePattern.of(pattern, scan.ids))
    elif seed_folders := _seed_folders(folder):
        scan.seed_folders(seed_folders)
    else:
        scan.flat(int(one_seed[1]) if one_seed else None)
    if not scan.videos and not scan.errors:
        raise UserError(scan.nothing_found(pattern))
    return VideoFolder(
        info=info,
        videos=scan.videos,
        errors=scan.errors,
        unknown=tuple(scan.unknown),
        seeds=tuple(sorted(scan.seeds)),
        remarks=tuple(scan.remarks),
    )


def _seed_folders(folder: Path) -> dict[int, Path]:
    """Seed → its folder; UserError where two folders (`seed-1`, `seed_01`) have one seed."""
    found: dict[int, Path] = {}
    for entry in sorted(folder.iterdir()):
        match = SEED_FOLDER_LIKE.fullmatch(entry.name)
        if match is None or not entry.is_dir():
            continue
        other = found.setdefault(int(match[1]), entry)
        if other is not entry:
            raise UserError(f"{folder}: {other.name} and {entry.name} are both seed {int(match[1])}")
    return found


class _Scan:
    """What is found in a folder, as it is found; see VideoFolder for the fields."""

    def __init__(self, folder: Path, track: Track) -> None:
        self.folder = folder
        self.track = track
        self.ids = {sample.id for sample in track.samples}
        self.videos: dict[tuple[str, int], Path] = {}
        self.errors: dict[tuple[str, int], str] = {}
        self.unknown: list[str] = []
        self.seeds: set[int] = set()
        self.remarks: list[str] = []

    def by_pattern(self, pattern: NamePattern) -> None:
        """All videos below the folder whose path has the pattern's form."""
        depth = pattern.text.count("/") + 1
        self._read(videos_below(self.folder, max(depth, LOOKED_AT_DEPTH)), pattern)

    def _read(self, files: Iterable[Path], pattern: NamePattern) -> None:
        for file in files:
            meant = pattern.read(file.relative_to(self.folder).as_posix())
            if meant is None:
                self._unused(file)
            else:
                self._take(file, *meant)
        self.seeds |= {seed for _, seed in self.videos}

    def seed_folders(self, folders: Mapping[int, Path]) -> None:
        """The videos of each seed's folder; the folder above must hold none of the track's."""
        beside = [file for file in self._listed(self.folder) if self._meaning(file)]
        if beside:
            raise UserError(
                f"{self.folder} holds videos ({shortlist(file.name for file in beside)}) beside "
                f"{shortlist(one.name for one in folders.values())}: move them into a seed folder of their "
                "own (seed-0), or say with --pattern which to read"
            )
        for seed, folder in folders.items():
            self._plain(folder, seed)
        self._below(tuple(folders.values()))

    def flat(self, seed: int | None) -> None:
        """A folder without seed folders: `<id>.mp4`, or one form with seeds where `seed` is not given."""
        files = self._listed(self.folder)
        forms = {_form(file, self.ids) for file in files} - {None}
        if seed is not None or not forms:
            self._plain(self.folder, seed or 0)
        else:
            plain = any(video_id(file) in self.ids for file in files)
            if plain or len(forms) > 1:
                kinds = [*(["{id}.mp4"] if plain else []), *sorted(f"{form}.mp4" for form in forms)]
                raise UserError(
                    f"{self.folder} holds names of several forms, {', '.join(kinds)}: "
                    f"say with --pattern which to read (--pattern '{kinds[0]}')"
                )
            (form,) = forms
            pattern = NamePattern.of(str(form), self.ids)
            self._read(files, pattern)
            self._unreadable(self.folder)
            found = ", ".join(map(str, sorted(self.seeds)))
            self.remarks.append(f"file names read as {form}.mp4: seed {found}")
        self._below(())

    def nothing_found(self, pattern: str | None) -> str:
        """Why there is nothing to score, with what there is instead."""
        below = sorted({file.parent for file in videos_below(self.folder) if file.parent != self.folder})
        hint = ""
        if below:
            hint = f"; there are videos in {shortlist(map(str, below))}: give that folder"
            hint += "" if pattern else ", or to evaluate --pattern '*/{id}.mp4'"
        example = f"such as {self.track.samples[0].id}.mp4"
        if not self.unknown or (below and not self._listed(self.folder)):
            return (
                f"{self.folder} holds no mp4 or other video "
                f"(expected <sample id>.mp4, {example}, or seed-<n>/<sample id>.mp4){hint}"
            )
        named = shortlist(named_with_near(self.unknown, self.ids))
        if pattern is not None:
            return f"no video in {self.folder} fits --pattern {pattern!r}; there are: {named}"
        return (
            f"no video in {self.folder} is named after a sample of {self.track.name} ({example}); "
            f"there are: {named}{hint}"
        )

    def _listed(self, folder: Path) -> list[Path]:
        return [file for file in sorted(folder.iterdir()) if is_video(file)]

    def _meaning(self, file: Path) -> bool:
        return video_id(file) in self.ids or _form(file, self.ids) is not None

    def _plain(self, folder: Path, seed: int) -> None:
        self.seeds.add(seed)
        for entry in sorted(folder.iterdir()):
            if is_hidden(entry):
                continue
            if entry.name.endswith(ERROR_SUFFIX) and entry.is_file():
                with entry.open(encoding="utf-8", errors="replace") as file:
                    reason = one_line(file.read(LONGEST_REASON))
                self.errors[entry.name.removesuffix(ERROR_SUFFIX), seed] = reason
            elif not is_video(entry):
                continue
            elif video_id(entry) in self.ids:
                self._take(entry, video_id(entry), seed)
            else:
                self._unused(entry)
        self._unreadable(folder)

    def _unreadable(self, folder: Path) -> None:
        """Name what is named as a sample's video and cannot be read as one."""
        for entry in sorted(folder.iterdir()):
            why = None if is_video(entry) else why_unusable(entry, self.ids)
            if why is not None:
                self._unused(entry, why)

    def _take(self, file: Path, sample_id: str, seed: int) -> None:
        other = self.videos.setdefault((sample_id, seed), file)
        if other is not file:
            raise UserError(
                f"{self.folder} holds two videos of {sample_id}, seed {seed}: "
                f"{other.relative_to(self.folder)} and {file.relative_to(self.folder)}; keep one of them"
            )

    def _unused(self, file: Path, why: str = "") -> None:
        name = file.relative_to(self.folder)
        # In a folder of one seed its name says nothing that the message does not.
        shown = file.name if len(name.parts) == 2 and SEED_FOLDER_LIKE.fullmatch(name.parts[0]) else str(name)
        self.unknown.append(f"{shown} ({why})" if why else shown)

    def _below(self, seed_folders: tuple[Path, ...]) -> None:
        """Name the videos of folders that are not looked into."""
        read = {self.folder, *seed_folders}
        self.unknown += [
            str(file.relative_to(self.folder))
            for file in videos_below(self.folder)
            if file.parent not in read
        ]
        # Files beside seed folders that no sample is named after.
        if seed_folders:
            self.unknown += [file.name for file in self._listed(self.folder)]


def _form(file: Path, ids: Collection[str]) -> str | None:
    """Which of the usual forms with a seed a name has; None for a plain or another one."""
    name = video_id(file)
    if name in ids:
        return None
    number = re.search(r"[0-9]{1,18}$", name)
    start = name[: number.start()] if number is not None else ""
    for form in SEEDED_FORMS:
        between = form.removeprefix("{id}").removesuffix("{seed}")
        if start.endswith(between) and start.removesuffix(between) in ids:
            return form
    return None
