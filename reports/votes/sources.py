"""Where the videos of a vote lie: the runs that score stores name, and the folder of runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.console import count_text
from refbench.bench.dataset import Track, load_suite
from refbench.bench.errors import SampleError, UserError, one_line
from refbench.bench.files import shortlist
from refbench.bench.runs.folder import run_folder, scan_videos
from refbench.bench.scores.aggregate import natural_order
from refbench.bench.scores.record import RunKey
from refbench.bench.video import Video
from refbench.reports.shown_videos import known_tracks
from refbench.reports.stored_runs import StoredRuns, read_stored_runs
from refbench.reports.votes.ballot import Ballot, BallotVideo, Place, draw_ballot, run_keys


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The videos of one track that can be shown, by run, and the samples with prompts and references.

    `remarks` say, a line each, what is left out and why.
    """

    track: Track
    videos: Mapping[RunKey, Mapping[Place, Path]]
    remarks: tuple[str, ...]

    def digest(self, key: RunKey, place: Place) -> str:
        """SHA-256 of a video's file. Raises UserError when it cannot be read."""
        try:
            return Video(self.videos[key][place]).digest
        except SampleError as error:
            raise UserError(f"{self.videos[key][place]}: {error}") from None

    def draw(self, *, seed: int, pairs: int, checks: int) -> Ballot:
        """A new ballot of these videos (see `draw_ballot`)."""
        return draw_ballot(self.track.name, self.videos, self.digest, seed=seed, pairs=pairs, checks=checks)

    def file(self, video: BallotVideo) -> Path:
        """The file of a ballot's video. Raises UserError where it is missing or another than it was."""
        key, place = RunKey(video.method, self.track.name, video.variant), (video.sample, video.seed)
        named = f"{video.sample} (seed {video.seed}) by {key.label}"
        file = self.videos.get(key, {}).get(place)
        if file is None:
            raise UserError(f"the video of {named} is missing, and the ballot shows it")
        if self.digest(key, place) != video.digest:
            raise UserError(f"{file} is not the video that the ballot was drawn with: choose another --out")
        return file


def find_sources(
    stores: list[Path],
    runs: Path,
    *,
    track: str | None = None,
    dataset: str | Path | None = None,
    suite: Path | None = None,
) -> Sources:
    """The videos of the runs that `stores` hold records of, below `runs`.

    Records of several tracks need `track`. Raises UserError where folders are missing, no run has both
    records and videos, or prompts and references are not known.
    """
    if not runs.is_dir():
        raise UserError(f"the folder of runs {runs} does not exist")
    stored = read_stored_runs(stores)
    name = _chosen_track(stored, track, suite)
    samples, why = known_tracks([name], dataset, suite)[name]
    if samples is None:
        raise UserError(f"voters judge by prompt and references, which are not known: {why}")
    remarks = [f"left out: {text}" for text in stored.left_out]
    videos: dict[RunKey, Mapping[Place, Path]] = {}
    looked_at = set()
    for key, records in stored.groups().items():
        if key.track != name:
            continue
        info = stored.run_infos.get(key)
        # Records can have another name or variant than the videos: the description beside them knows theirs.
        made_as = RunKey(info.method, info.track, info.variant) if info is not None else key
        folder = run_folder(runs, *made_as)
        looked_at.add(folder)
        try:
            found = scan_videos(folder, samples)
        except (UserError, OSError) as error:
            remarks.append(f"{key.label} has records and no videos: {error}")
            continue
        videos[key], unreadable = _usable(found.videos)
        remarks += _gaps(key, {record.sample for record in records}, videos[key], unreadable)
    without_records = [
        folder.parent.name
        for folder in sorted(runs.glob(f"*/{name}"))
        if folder.is_dir() and folder not in looked_at
    ]
    if without_records:
        remarks.append(f"videos without records, not shown: {shortlist(without_records)}")
    remarks = [one_line(text) for text in remarks]
    if not any(videos.values()):
        raise UserError(f"no run has both records and videos of {name}: {'; '.join(remarks)}")
    return Sources(track=samples, videos=videos, remarks=tuple(remarks))


def _gaps(
    key: RunKey, scored: Collection[str], videos: Mapping[Place, Path], unreadable: Sequence[str]
) -> Iterator[str]:
    """What a run lacks: videos that cannot be read, and scored samples without a video."""
    if unreadable:
        what = count_text(len(unreadable), "video")
        yield f"{key.label}: {what} cannot be shown: {shortlist(unreadable, 2)}"
    missing = sorted(set(scored) - {sample for sample, _ in videos}, key=natural_order)
    if missing:
        what = count_text(len(missing), "scored sample")
        yield f"{key.label}: {what} without a video: {shortlist(missing, 3)}"


def _chosen_track(stored: StoredRuns, track: str | None, suite: Path | None) -> str:
    tracks = sorted({key.track for key in stored.groups()})
    if suite is not None:
        name = load_suite(suite).name
        if name not in tracks:
            raise UserError(f"no score is of {suite} as it is now ({name})")
        return name
    if track is not None:
        if track not in tracks:
            raise UserError(
                f"the stores hold no records of {one_line(track, 60)}, but of {shortlist(tracks)}"
            )
        return track
    if len(tracks) > 1:
        raise UserError(f"the stores hold records of {shortlist(tracks)}: choose one with --track")
    return tracks[0]


def _usable(videos: Mapping[Place, Path]) -> tuple[dict[Place, Path], list[str]]:
    """The videos whose first frame can be decoded, and what is wrong with the others."""
    usable, unreadable = {}, []
    for place, file in videos.items():
        try:
            Video(file).glance  # noqa: B018 - raises for a file that cannot be shown
        except SampleError as error:
            unreadable.append(f"{file.name}: {one_line(error, 80)}")
        else:
            usable[place] = file
    return usable, unreadable


def check_complete(ballot: Ballot, sources: Sources) -> None:
    """Raise UserError where a stored ballot's videos are not the ones that are there now."""
    if ballot.track != sources.track.name:
        raise UserError(f"the ballot is of {ballot.track}, the records are of {sources.track.name}")
    unknown = [key.label for key in run_keys(ballot) if key not in sources.videos]
    if unknown:
        raise UserError(f"the ballot shows {shortlist(unknown)}, of which there are no records with videos")
    for video in ballot.videos:
        sources.file(video)
