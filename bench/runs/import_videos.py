"""Finished videos of somebody else's as a run: copied byte for byte, with a card that says what was measured.

Size, length and rate come from the files, never from what is said about them. What cannot be read is left
out with its reason, as a sample that failed; the same command goes on after an interruption or when more
videos have come.
"""

from __future__ import annotations

import filecmp
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refbench.bench.dataset import Track
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import replacing, write_text
from refbench.bench.method import MethodCard
from refbench.bench.provenance import package_versions, python_version, source_commit
from refbench.bench.runs.folder import (
    ERROR_SUFFIX,
    RUN_FILE,
    RunInfo,
    VideoFolder,
    dataset_digest,
    read_run,
    run_folder,
    scan_videos,
    write_run,
)
from refbench.bench.video import Probe, Video, VideoError

# Decoded from end to end, of each seed's videos; of the others only the first frame.
PROBED_PER_SEED = 5
NAMED = 5
# In the card's options: this marks a run as imported.
IMPORTED_FROM = "imported_from"

VideoKey = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the videos are: the most frequent size in pixels, frame count and rate (frames per second).

    `remarks` say where they differ among themselves; `damaged` are reasons by (sample id, seed).
    """

    width: int
    height: int
    num_frames: int
    fps: float
    remarks: tuple[str, ...]
    damaged: dict[VideoKey, str]


@dataclass(frozen=True, kw_only=True)
class ImportedRun:
    """What came of an import: the run's folder and card, counts, what was left out, how names were read."""

    folder: Path
    card: MethodCard
    copied: int
    kept: int
    damaged: dict[VideoKey, str]
    unknown: tuple[str, ...]
    remarks: tuple[str, ...]
    without_video: int


def import_run(
    source: Path,
    track: Track,
    method: str,
    out: Path,
    card_of: Callable[[Measured], MethodCard],
    *,
    pattern: str | None = None,
) -> ImportedRun:
    """Copy the videos of `source` into a run folder below `out`; names and `pattern` are those of
    `scan_videos`.

    Raises UserError when no file is named after a sample, none can be read, the source is a run already, or
    the run folder holds something else.
    """
    found = _found(source, track, pattern)
    measured = measure(found)
    card = card_of(measured)
    card = card.model_copy(update={"options": {**card.options, IMPORTED_FROM: one_line(source.name, 100)}})
    folder = run_folder(out, method, track.name)
    info = RunInfo(
        method=method,
        track=track.name,
        card=card,
        dataset=dataset_digest(track),
        versions={"python": python_version(), **package_versions(("av",))},
        commit=source_commit(),
    )
    whole = {key: path for key, path in found.videos.items() if key not in measured.damaged}
    kept = _check_folder(folder, info, whole)
    write_run(folder / RUN_FILE, info)
    for key, path in whole.items():
        if key not in kept:
            _copy(path, _video_file(folder, key))
        _error_file(folder, key).unlink(missing_ok=True)
    for key, reason in measured.damaged.items():
        write_text(_error_file(folder, key), f"the imported file is damaged: {reason}\n")
    with_video = {sample_id for sample_id, _ in whole}
    return ImportedRun(
        folder=folder,
        card=card,
        copied=len(whole) - len(kept),
        kept=len(kept),
        damaged=measured.damaged,
        unknown=found.unknown,
        remarks=found.remarks,
        without_video=sum(sample.id not in with_video for sample in track.samples),
    )


def _found(source: Path, track: Track, pattern: str | None) -> VideoFolder:
    found = scan_videos(source, track, pattern)
    if found.info is not None:
        raise UserError(
            f"{source} has a {RUN_FILE}: it is a run already; refbench evaluate takes it as it is"
        )
    if not found.videos:
        raise UserError(f"{source} holds reasons of failed generations (*{ERROR_SUFFIX}) and no video")
    return found


def measure(found: VideoFolder) -> Measured:
    """Look at every video: a few of each seed from end to end, the others' first frame.

    Raises UserError when none can be read.
    """
    thorough = set()
    for seed in found.seeds:
        keys = sorted(key for key in found.videos if key[1] == seed)
        step = max(len(keys) // PROBED_PER_SEED, 1)
        thorough |= set(keys[::step][:PROBED_PER_SEED])
    probes: list[Probe] = []
    damaged: dict[VideoKey, str] = {}
    for key, path in sorted(found.videos.items()):
        try:
            probes.append(Video(path).probe if key in thorough else Video(path).glance)
        except VideoError as error:
            damaged[key] = one_line(error)
    if not probes:
        key, reason = next(iter(damaged.items()))
        raise UserError(f"none of {len(damaged)} videos can be read; {key[0]}: {reason}")
    sizes = Counter((probe.width, probe.height) for probe in probes)
    counts = Counter(probe.frames for probe in probes)
    rates = Counter(round(probe.fps, 3) for probe in probes)
    remarks = [
        *_mixed("sizes", {f"{width}×{height}": count for (width, height), count in sizes.items()}),
        *_mixed("frame counts", {str(frames): count for frames, count in counts.items()}),
        *_mixed("frame rates", {f"{rate:g}": count for rate, count in rates.items()}),
    ]
    false = sum(probe.frames != probe.declared_frames for probe in probes)
    if false:
        remarks.append(
            f"{false} of the videos that were decoded hold another number of frames than they declare"
        )
    (width, height), frames, fps = (_most(counter) for counter in (sizes, counts, rates))
    return Measured(
        width=width, height=height, num_frames=frames, fps=fps, remarks=tuple(remarks), damaged=damaged
    )


def _most(counter: Counter[Any]) -> Any:
    """The most frequent value; of several the smallest, so that the order of files does not matter."""
    return min(counter, key=lambda value: (-counter[value], value))


def _mixed(what: str, counts: dict[str, int]) -> list[str]:
    if len(counts) == 1:
        return []
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{value} ({count} videos)" for value, count in ordered[:NAMED])
    return [f"{what} are mixed: {named}{', …' if len(ordered) > NAMED else ''}"]


def _check_folder(folder: Path, info: RunInfo, videos: dict[VideoKey, Path]) -> set[VideoKey]:
    """Which videos are in the run folder already; UserError if it holds anything else than this import."""
    if (folder / RUN_FILE).is_file():
        there = read_run(folder / RUN_FILE)
        if there.card is None or IMPORTED_FROM not in there.card.options or there.dataset != info.dataset:
            raise UserError(f"{folder} holds another run; choose another --method or --out")
    kept = {key for key in videos if _video_file(folder, key).is_file()}
    changed = [
        key for key in sorted(kept) if not filecmp.cmp(videos[key], _video_file(folder, key), shallow=False)
    ]
    if changed:
        raise UserError(
            f"{_video_file(folder, changed[0])} is there with other content "
            f"({len(changed)} of {len(videos)} videos); "
            "choose another --method or --out, or remove that folder"
        )
    return kept


def _video_file(folder: Path, key: VideoKey) -> Path:
    return folder / f"seed-{key[1]}" / f"{key[0]}.mp4"


def _error_file(folder: Path, key: VideoKey) -> Path:
    return _video_file(folder, key).with_name(f"{key[0]}{ERROR_SUFFIX}")


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as partial:
        shutil.copyfile(source, partial)
