"""The videos behind score records: where they lie, what must be said of them, and how a page links them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from refbench.bench.dataset import Track, dataset_folder, declared_tracks, load_suite, load_track
from refbench.bench.errors import SampleError, UserError, one_line
from refbench.bench.runs.folder import RunInfo, VideoFolder, dataset_digest, run_folder, scan_videos
from refbench.bench.sample import Sample
from refbench.bench.scores.aggregate import Scoreboard, natural_order
from refbench.bench.scores.record import Record, RunKey
from refbench.bench.video import Video

BENCHMARK_PROMPTS = "benchmark"


# A track's samples as far as they are known, or None and why they are not.
KnownTrack = tuple[Track | None, str]


def existing_runs(runs: Path) -> Path:
    """The folder of runs. Raises UserError where it does not exist."""
    if not runs.is_dir():
        raise UserError(f"the folder of runs {runs} does not exist")
    return runs


def known_tracks(
    tracks: Sequence[str], dataset: Path | str | None, suite: Path | str | None
) -> dict[str, KnownTrack]:
    """What is known of the samples of each track: from a suite of that name, or from a data set (see
    `load_track`).

    Raises UserError for a data set or suite that was given and is not there, and for a suite of no track; a
    data set that lacks a track is said in its place.
    """
    given = dataset_folder(dataset) if dataset is not None else None
    own = load_suite(Path(suite)) if suite is not None else None
    if own is not None and own.name not in tracks:
        raise UserError(f"no score is of {suite} as it is now ({own.name})")
    return {track: _known_samples(track, given, own) for track in tracks}


def _known_samples(track: str, dataset: Path | None, suite: Track | None) -> KnownTrack:
    if suite is not None and suite.name == track:
        return suite, ""
    if track not in declared_tracks():
        return None, f"{track} is a suite, which --suite FILE.jsonl gives"
    try:
        return load_track(track, dataset), ""
    except UserError as error:
        return None, str(error)


def relative_link(file: Path, folder: str | os.PathLike[str]) -> str:
    """A file as a percent-encoded link from a page in `folder`.

    Links in the file system are not resolved: a browser goes up by the folder's name as well.
    """
    return quote(os.fsencode(Path(os.path.relpath(file, folder)).as_posix()))


def run_key(board: Scoreboard) -> RunKey:
    """The run that a scoreboard is about."""
    return RunKey(board.method, board.track, board.variant)


def scored_samples(records: Iterable[Record], track: Track | None) -> list[Sample]:
    """The samples of the records in natural order, with what the data set knows of them."""
    known = {sample.id: sample for sample in track.samples} if track is not None else {}
    bare = {
        record.sample: Sample(id=record.sample, category=record.category, prompt="", references=())
        for record in records
    }
    return [known.get(sample_id, bare[sample_id]) for sample_id in sorted(bare, key=natural_order)]


def find_videos(
    key: RunKey, run_infos: Mapping[RunKey, RunInfo], runs: Path, scored: Track
) -> VideoFolder | str:
    """The videos that were scored as `key`, or why there are none.

    Records can have another name or variant than the videos (`--name`, references shuffled in scoring only):
    the run description beside the records knows theirs.
    """
    info = run_infos.get(key)
    made_as = RunKey(info.method, info.track, info.variant) if info is not None else key
    try:
        return scan_videos(run_folder(runs, *made_as), scored)
    except (UserError, OSError) as error:
        return one_line(error)


def run_remarks(found: VideoFolder | str, info: RunInfo | None, track: Track | None) -> tuple[str, ...]:
    """What a reader must know of a run's videos."""
    remarks = [f"no videos: {found}"] if isinstance(found, str) else []
    if info is not None and info.card is not None and info.card.prompt_set != BENCHMARK_PROMPTS:
        remarks.append(f"generated from other prompts: {info.card.prompt_set}")
    made_for = info.dataset if info is not None else None
    if made_for is not None and track is not None and made_for != dataset_digest(track):
        remarks.append("generated from another data set than the one whose prompts are shown")
    return tuple(map(one_line, remarks))


def has_changed(file: Path, records: Iterable[Record]) -> bool:
    """Whether any record was made from another file than this one."""
    scored = {record.provenance.video for record in records if record.provenance.video is not None}
    try:
        return bool(scored - {Video(file).digest}) if scored else False
    except SampleError:
        return True
