"""The page of videos: for each sample its prompt, its references, and every method's video with its scores.

`gallery_section` finds the files of one track, `render_gallery` writes the page. Videos and pictures stay
where they are: the page links them by paths relative to itself, and opens a video only when it comes near
the screen. Every string is escaped by the template engine, and a content policy forbids all other sources.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.console import interval_text, licence_notes, percent
from refbench.bench.dataset import Track, domain_of
from refbench.bench.errors import one_line
from refbench.bench.runs.folder import RunInfo, VideoFolder
from refbench.bench.sample import Reference, Sample
from refbench.bench.scores.aggregate import Scoreboard
from refbench.bench.scores.columns import COMPONENTS, Component
from refbench.bench.scores.record import Record, RunKey
from refbench.reports.page_environment import LONGEST_REASON, page_environment
from refbench.reports.shown_videos import (
    find_videos,
    has_changed,
    relative_link,
    run_key,
    run_remarks,
    scored_samples,
)
from refbench.reports.tables import NONE, track_categories

TEMPLATE = "gallery.html.j2"
# Wider videos get wider cells; drawn and tiny ones are at most of this width.
SMALL_VIDEO_PX = 256


@dataclass(frozen=True, kw_only=True)
class RawScore:
    """The raw score of one component for one video; `reason` says why there is none."""

    component: Component
    value: float | None
    reason: str = ""

    @property
    def text(self) -> str:
        """The score with four decimals, `–` for none."""
        return NONE if self.value is None else f"{self.value:.4f}"


@dataclass(frozen=True, kw_only=True)
class VideoCell:
    """One method's video of a sample, or `missing`: why there is none.

    `size_px` is (width, height) as the method's card says it, or None; `changed` says that the file is not
    the one that was scored.
    """

    label: str
    seed: int
    file: Path | None
    missing: str
    changed: bool
    size_px: tuple[int, int] | None
    scores: tuple[RawScore, ...]


@dataclass(frozen=True, kw_only=True)
class SampleBlock:
    """A sample with its cells in the order of the ranking; `known` says whether a data set has it.

    `lowest` holds for each component the lowest raw score that any of the cells has.
    """

    id: str
    category: str
    prompt: str
    references: tuple[Reference, ...]
    known: bool
    cells: tuple[VideoCell, ...]
    lowest: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RankedRun:
    """A method of the list, with what must be said of its videos."""

    board: Scoreboard
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GallerySection:
    """What the page shows of one track. Without `samples` no method has videos: the runs' remarks say why."""

    track: str
    protocol: str
    runs: tuple[RankedRun, ...]
    samples: tuple[SampleBlock, ...]
    categories: tuple[str, ...]
    components: tuple[Component, ...]
    unknown_samples: str
    small: bool
    several_seeds: bool


def gallery_section(
    records: Sequence[Record],
    boards: Sequence[Scoreboard],
    run_infos: Mapping[RunKey, RunInfo],
    runs: Path,
    known: tuple[Track | None, str],
) -> GallerySection:
    """The section of one track: its records, its scoreboards in the order of the ranking, the folder of runs,
    and what `known_tracks` says of the track.
    """
    track, why_unknown = known
    samples = scored_samples(records, track)
    # Of exactly these samples videos are looked for, whatever the data set holds besides.
    scored = Track(name=boards[0].track, samples=tuple(samples), domain=domain_of(boards[0].track))
    found = {run_key(board): find_videos(run_key(board), run_infos, runs, scored) for board in boards}
    known_ids = {sample.id for sample in track.samples} if track is not None else set()
    by_video: dict[tuple[RunKey, str, int], dict[str, Record]] = {}
    for record in records:
        by_video.setdefault((record.run, record.sample, record.seed), {})[record.metric] = record
    components = tuple(COMPONENTS[result.component] for result in boards[0].components)
    blocks = []
    if any(isinstance(one, VideoFolder) for one in found.values()):
        for sample in samples:
            cells = tuple(
                _cell(board, sample.id, seed, found[run], run_infos.get(run), components,
                      by_video.get((run, sample.id, seed), {}))
                for board in boards
                for run in [run_key(board)]
                for seed in board.seeds
            )  # fmt: skip
            blocks.append(_block(sample, cells, known=sample.id in known_ids))
    infos = [info for board in boards if (info := run_infos.get(run_key(board))) is not None]
    widths = [info.card.width for info in infos if info.card is not None and info.card.width is not None]
    return GallerySection(
        track=scored.name,
        protocol=boards[0].protocol,
        runs=tuple(
            RankedRun(
                board=board, remarks=run_remarks(found[run_key(board)], run_infos.get(run_key(board)), track)
            )
            for board in boards
        ),
        samples=tuple(blocks),
        categories=tuple(track_categories(boards)),
        components=components,
        unknown_samples=one_line(why_unknown),
        small=bool(widths) and max(widths) <= SMALL_VIDEO_PX,
        several_seeds=len({seed for board in boards for seed in board.seeds}) > 1,
    )


def render_gallery(sections: Sequence[GallerySection], *, folder: str | os.PathLike[str], report: str) -> str:
    """The page's HTML as it stands in `folder`; `report` is the link to the report."""
    environment = page_environment()
    environment.filters["percent"] = percent
    environment.filters["interval"] = interval_text
    environment.filters["link"] = lambda file: relative_link(file, folder)
    return environment.get_template(TEMPLATE).render(
        report=report,
        sections=sections,
        categories=list(dict.fromkeys(name for section in sections for name in section.categories)),
        components=list({one.name: one for section in sections for one in section.components}.values()),
        licence_notes=licence_notes([run.board for section in sections for run in section.runs]),
    )


def _cell(
    board: Scoreboard,
    sample_id: str,
    seed: int,
    found: VideoFolder | str,
    info: RunInfo | None,
    components: Iterable[Component],
    records: Mapping[str, Record],
) -> VideoCell:
    file, missing = None, "there are no videos of this method"
    if isinstance(found, VideoFolder):
        file = found.videos.get((sample_id, seed))
        missing = found.errors.get((sample_id, seed)) or "there is no such video in the run's folder"
    card = info.card if info is not None else None
    return VideoCell(
        label=board.label,
        seed=seed,
        file=file,
        missing="" if file is not None else one_line(missing),
        changed=file is not None and has_changed(file, records.values()),
        size_px=(card.width, card.height) if card is not None and card.width and card.height else None,
        scores=tuple(_raw_score(component, records.get(component.metric)) for component in components),
    )


def _raw_score(component: Component, record: Record | None) -> RawScore:
    if record is None:
        return RawScore(component=component, value=None, reason="not scored: there is no record")
    reason = one_line(record.reason or "", LONGEST_REASON)
    return RawScore(component=component, value=record.value, reason=reason)


def _block(sample: Sample, cells: tuple[VideoCell, ...], *, known: bool) -> SampleBlock:
    lowest: dict[str, float] = {}
    for cell in cells:
        for score in cell.scores:
            if score.value is not None:
                name = score.component.name
                lowest[name] = min(score.value, lowest.get(name, score.value))
    return SampleBlock(
        id=sample.id,
        category=sample.category,
        prompt=sample.prompt,
        references=sample.references,
        known=known,
        cells=cells,
        lowest=lowest,
    )
