"""What there is to show of each track: its samples, its methods, and the video of each sample and seed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.dataset import Track, domain_of
from refbench.bench.errors import SampleError, one_line
from refbench.bench.provenance import digest_of
from refbench.bench.runs.folder import RunInfo
from refbench.bench.sample import Sample
from refbench.bench.scores.aggregate import Scoreboard
from refbench.bench.scores.protocol import Protocol
from refbench.bench.scores.record import Record, RunKey
from refbench.bench.video import Video
from refbench.reports.report import Report, TrackReport
from refbench.reports.shown_videos import (
    KnownTrack,
    find_videos,
    has_changed,
    run_key,
    run_remarks,
    scored_samples,
)

NOT_ASKED = "videos are not shown: no --runs was given"


@dataclass(frozen=True, kw_only=True)
class ShownVideo:
    """One method's video of a sample: its file, or why there is none.

    `changed` says that it is not the file that was scored; `records` are its records by metric.
    """

    sample: str
    seed: int
    file: Path | None
    missing: str
    changed: bool
    records: Mapping[str, Record]


@dataclass(frozen=True, kw_only=True)
class ShownMethod:
    """A method of a track, with what must be said of its videos and its records."""

    run: RunKey
    board: Scoreboard
    info: RunInfo | None
    remarks: tuple[str, ...]
    records: tuple[Record, ...]
    videos: tuple[ShownVideo, ...]

    @property
    def fps(self) -> float | None:
        """Frames per second by the method's card, else of its first video that can be opened, or None."""
        if self.info is not None and self.info.card is not None and self.info.card.fps:
            return self.info.card.fps
        for video in self.videos:
            if video.file is not None:
                with suppress(SampleError):
                    return Video(video.file).glance.fps or None
        return None


@dataclass(frozen=True, kw_only=True)
class ShownTrack:
    """A track: methods in the order of the ranking, samples in natural order.

    `why_unknown` says why there are no prompts and references, where there are none.
    """

    name: str
    protocol: Protocol
    samples: tuple[Sample, ...]
    methods: tuple[ShownMethod, ...]
    why_unknown: str

    @property
    def domain(self) -> str:
        """The official track whose weights apply."""
        return domain_of(self.name)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that has a record."""
        return tuple(sorted({record.metric for method in self.methods for record in method.records}))


def shown_tracks(
    made: Report, runs: Path | None, known: Mapping[str, KnownTrack], *, anonymous: bool = False
) -> list[ShownTrack]:
    """The tracks of a report with the videos of a folder of runs; `known` is what `known_tracks` says.

    For an anonymous site names decide no order: methods of equal rank stand by a digest of their scores.
    """
    return [_shown_track(one, made.run_infos, runs, known[one.track], anonymous) for one in made.tracks]


def _shown_track(
    one: TrackReport,
    infos: Mapping[RunKey, RunInfo],
    runs: Path | None,
    known: KnownTrack,
    anonymous: bool,
) -> ShownTrack:
    track, why_unknown = known
    samples = scored_samples(one.records, track)
    boards = list(one.boards)
    if anonymous:
        boards.sort(key=lambda board: _scores_digest(run_key(board), one.records))
    boards.sort(key=_place)
    return ShownTrack(
        name=one.track,
        protocol=one.protocol,
        samples=tuple(samples),
        methods=tuple(
            _shown_method(board, one.records, infos.get(run_key(board)), infos, runs, samples, known)
            for board in boards
        ),
        why_unknown=one_line(why_unknown),
    )


def _place(board: Scoreboard) -> tuple[bool, bool, float]:
    """Official totals first, then unofficial ones, then methods without any; within each the highest first.

    A stable sort keeps the report's order of the rest.
    """
    total = board.total if board.total is not None else board.unofficial_total
    return (total is None, board.total is None, -(total or 0.0))


def _scores_digest(run: RunKey, records: tuple[Record, ...]) -> str:
    return digest_of(
        [
            (record.sample, record.seed, record.metric, record.value, record.reason_kind)
            for record in records
            if record.run == run
        ]
    )


def _shown_method(
    board: Scoreboard,
    all_records: tuple[Record, ...],
    info: RunInfo | None,
    infos: Mapping[RunKey, RunInfo],
    runs: Path | None,
    samples: list[Sample],
    known: KnownTrack,
) -> ShownMethod:
    run = run_key(board)
    records = tuple(record for record in all_records if record.run == run)
    by_video: dict[tuple[str, int], dict[str, Record]] = {}
    for record in records:
        by_video.setdefault((record.sample, record.seed), {})[record.metric] = record
    scored = Track(name=board.track, samples=tuple(samples), domain=domain_of(board.track))
    found = NOT_ASKED if runs is None else find_videos(run, infos, runs, scored)
    files = {} if isinstance(found, str) else found.videos
    errors = {} if isinstance(found, str) else found.errors
    nothing = found if isinstance(found, str) else "there is no such video in the run's folder"
    videos = []
    for sample in samples:
        for seed in board.seeds:
            key = (sample.id, seed)
            if key not in by_video and key not in files:
                continue
            file = files.get(key)
            own = by_video.get(key, {})
            videos.append(
                ShownVideo(
                    sample=sample.id,
                    seed=seed,
                    file=file,
                    missing="" if file is not None else one_line(errors.get(key) or nothing),
                    changed=file is not None and has_changed(file, own.values()),
                    records=own,
                )
            )
    remarks = () if runs is None else run_remarks(found, info, known[0])
    return ShownMethod(
        run=run, board=board, info=info, remarks=remarks, records=records, videos=tuple(videos)
    )
