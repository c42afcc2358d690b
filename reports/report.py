"""The whole report of a set of score records: scoreboards, computed once, and all that is made of them.

The terminal prints `Report.boards`; tables, plots and the page are `Report.contents()`. The same records and
run descriptions give the same bytes, in whatever order they come.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refbench.bench.dataset import OFFICIAL_TRACKS, domain_of
from refbench.bench.errors import UserError
from refbench.bench.runs.folder import RunInfo
from refbench.bench.scores.aggregate import Scoreboard, scoreboards
from refbench.bench.scores.compact_records import collecting_nothing
from refbench.bench.scores.protocol import Protocol, get_protocol, protocol_of
from refbench.bench.scores.record import Record, RunKey
from refbench.bench.scores.store import Store, checked_name
from refbench.reports.contact_sheets import contact_sheets
from refbench.reports.files import write_files
from refbench.reports.gallery import GallerySection, gallery_section, render_gallery
from refbench.reports.noise_floors import FoundFloor, floor_table, floors_of, wrong_conditions
from refbench.reports.page import render_page, track_section
from refbench.reports.plot_figure import Plot
from refbench.reports.plots import track_plots
from refbench.reports.shown_videos import existing_runs, known_tracks
from refbench.reports.stored_runs import StoredRuns, in_key_order, read_stored_runs
from refbench.reports.table_formats import category_csv, component_csv, to_latex, to_markdown
from refbench.reports.tables import Table, category_tables, component_tables, ranked

PAGE_FILE = "report.html"
VIDEOS_FILE = "videos.html"
TABLE_FOLDER = "tables"
PLOT_FOLDER = "plots"


@dataclass(frozen=True, kw_only=True)
class TrackReport:
    """One track of a report: its protocol and records, and its scoreboards, the highest TotalScore first.

    `noise` has a table for each noise floor of this track and protocol.
    """

    track: str
    protocol: Protocol
    records: tuple[Record, ...]
    boards: tuple[Scoreboard, ...]
    noise: tuple[Table, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report says, each track under one protocol.

    `boards` has one scoreboard for each run, in the order of the records; `tracks` holds the same scoreboards
    by track, the official tracks first. `run_infos` are the run descriptions that lay beside the records.
    `left_out` are files of the stores that could not be read, with the reason. `gallery` holds what the page
    of videos shows of each track, and of what the report's contact sheets are made; empty: there are none.
    """

    records: tuple[Record, ...]
    run_infos: Mapping[RunKey, RunInfo]
    boards: tuple[Scoreboard, ...]
    tracks: tuple[TrackReport, ...]
    left_out: tuple[str, ...] = ()
    gallery: tuple[GallerySection, ...] = ()

    def contents(self, folder: str | os.PathLike[str] = "report") -> dict[str, str | bytes]:
        """Path below the report's folder → content: `report.html` first, then tables and plots per track, and
        last `videos.html` where there is a gallery, whose links start from `folder`.
        """
        files: dict[str, str | bytes] = {}
        sections = []
        for one in self.tracks:
            components, categories = component_tables(one.boards), category_tables(one.boards)
            plots = track_plots(one.boards)
            files |= _table_files(one, components, categories) | _plot_files(one.track, plots)
            sheets = [
                sheet
                for section in self.gallery
                if section.track == one.track
                for sheet in contact_sheets(section, one.protocol.weighted_columns(domain_of(one.track)))
            ]
            sections.append(
                track_section(one.records, one.boards, components, categories, plots, sheets, one.noise)
            )
        if self.gallery:
            files[VIDEOS_FILE] = render_gallery(self.gallery, folder=folder, report=PAGE_FILE)
        protocols = {one.track: one.protocol for one in self.tracks}
        page = render_page(
            self.records,
            sections,
            protocols,
            self.run_infos,
            self.left_out,
            videos_page=VIDEOS_FILE if self.gallery else None,
        )
        return {PAGE_FILE: page, **files}

    def write(self, out: str | os.PathLike[str]) -> list[Path]:
        """Write `report.html`, `tables/<track>.*`, `plots/<track>.*` and, where there is a gallery,
        `videos.html` below `out`; returns the files.

        Raises UserError when `out` cannot be written.
        """
        return write_files(out, self.contents(out))


def report(
    stores: Store | Iterable[Store],
    *,
    protocol: str | None = None,
    runs: str | os.PathLike[str] | None = None,
    dataset: Path | str | None = None,
    suite: Path | str | None = None,
    noise_floor: Path | str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Report:
    """The report of score stores (folders or `.jsonl` files), written below `out` where that is given.

    Without `protocol` each track has its own. With `runs`, the folder that `generate` and `run` write, there
    is a page of videos; `dataset` (default: `REFBENCH_DATASET`) and `suite` are where that page finds prompts
    and references. `noise_floor` is a file of `refbench noise-floor` (None: those beside the stores).

    Raises UserError when a store does not exist or holds no record, for an unknown protocol, when `runs`,
    `dataset` or `suite` do not exist or fit no record, for a named noise floor that belongs to no track of
    the report, and when `out` cannot be written.

    >>> made = report("results", out="report")
    >>> [board.label for board in made.boards]
    ['refalign-tiny (tiny-weights)', 'static-reference']
    >>> Path("report/report.html").is_file()
    True
    """
    if protocol is not None:
        # Before records are read, which takes longer.
        get_protocol(protocol)
    if runs is None and (dataset is not None or suite is not None):
        raise UserError("a data set or suite is shown beside videos: say with --runs DIR where they are")
    with collecting_nothing():
        made = build_report(read_stored_runs(stores), protocol)
        given = None if noise_floor is None else Path(noise_floor)
        named = [stores] if isinstance(stores, str | os.PathLike) else list(stores)
        made = _with_noise(made, floors_of(named, given), required=given is not None)
    if runs is not None:
        made = replace(made, gallery=_gallery(made, Path(runs), dataset, suite))
    if out is not None:
        made.write(out)
    return made


def build_report(stored: StoredRuns, protocol: str | None = None) -> Report:
    """Compute the scoreboards of a report, each once.

    Raises UserError when there is no record, or a track's name cannot be a file name.
    """
    records = in_key_order(stored.records)
    if not records:
        raise UserError("there is no score record to report")
    tracks = _in_official_order({checked_name(record.track, "the track name") for record in records})
    boards = tuple(scoreboards(records, protocol))
    return Report(
        records=records,
        run_infos=stored.run_infos,
        left_out=stored.left_out,
        boards=boards,
        tracks=tuple(
            TrackReport(
                track=track,
                protocol=protocol_of(track, protocol),
                records=tuple(record for record in records if record.track == track),
                boards=tuple(ranked(board for board in boards if board.track == track)),
            )
            for track in tracks
        ),
    )


def _with_noise(made: Report, floors: Sequence[FoundFloor], *, required: bool) -> Report:
    """The report with the tables of the floors that belong to its tracks; others are left out by name."""
    tables: dict[str, list[Table]] = {}
    left_out = []
    for found in floors:
        wrong = {one.track: wrong_conditions(found, one.protocol.name, one.track) for one in made.tracks}
        for one in made.tracks:
            if wrong[one.track] is None:
                table = floor_table(found, one.boards, one.records, one.protocol)
                tables.setdefault(one.track, []).append(table)
        if all(wrong.values()):
            text = f"the noise floor {found.file}: {'; '.join(dict.fromkeys(map(str, wrong.values())))}"
            if required:
                raise UserError(text)
            left_out.append(text)
    tracks = tuple(replace(one, noise=tuple(tables.get(one.track, ()))) for one in made.tracks)
    return replace(made, tracks=tracks, left_out=(*made.left_out, *left_out))


def _gallery(
    made: Report, runs: Path, dataset: Path | str | None, suite: Path | str | None
) -> tuple[GallerySection, ...]:
    """What the page of videos shows. Raises UserError for a folder or suite that was given and is not there;
    a data set that lacks a track is said on the page.
    """
    known = known_tracks([one.track for one in made.tracks], dataset, suite)
    existing_runs(runs)
    return tuple(
        gallery_section(one.records, one.boards, made.run_infos, runs, known[one.track])
        for one in made.tracks
    )


def _in_official_order(tracks: set[str]) -> list[str]:
    """The official tracks in their order, then suites by name."""
    official = [track for track in OFFICIAL_TRACKS if track in tracks]
    return [*official, *sorted(tracks - set(official))]


def _table_files(
    track: TrackReport, components: Sequence[Table], categories: Sequence[Table]
) -> dict[str, str | bytes]:
    stem = f"{TABLE_FOLDER}/{track.track}"
    files: dict[str, str | bytes] = {
        f"{stem}.components.md": to_markdown(f"Components, {track.track}", components),
        f"{stem}.components.csv": component_csv(track.boards),
        f"{stem}.components.tex": to_latex(components),
        f"{stem}.categories.md": to_markdown(f"Categories, {track.track}", categories),
        f"{stem}.categories.csv": category_csv(track.boards),
        f"{stem}.categories.tex": to_latex(categories),
    }
    if track.noise:
        files[f"{stem}.noise-floor.md"] = to_markdown(f"Noise floor, {track.track}", track.noise)
        files[f"{stem}.noise-floor.tex"] = to_latex(track.noise)
    return files


def _plot_files(track: str, plots: Iterable[Plot]) -> dict[str, str | bytes]:
    return {
        f"{PLOT_FOLDER}/{track}.{plot.name}.{suffix}": content
        for plot in plots
        for suffix, content in (("png", plot.png), ("pdf", plot.pdf))
    }
