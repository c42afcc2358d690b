"""The whole report of a set of score records: scoreboards, computed once, and all that is made of them.

The terminal prints `Report.boards`; tables, plots and the page are `Report.contents()`. The same records and
run descriptions give the same bytes, in whatever order they come.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.dataset import OFFICIAL_TRACKS
from refbench.bench.errors import UserError
from refbench.bench.runs.folder import RunInfo
from refbench.bench.scores.aggregate import Scoreboard, scoreboards
from refbench.bench.scores.protocol import Protocol, get_protocol, protocol_of
from refbench.bench.scores.record import Record, RunKey
from refbench.bench.scores.store import Store, checked_name
from refbench.reports.files import write_files
from refbench.reports.page import render_page, track_section
from refbench.reports.plot_figure import Plot
from refbench.reports.plots import track_plots
from refbench.reports.stored_runs import StoredRuns, in_key_order, read_stored_runs
from refbench.reports.table_formats import category_csv, component_csv, to_latex, to_markdown
from refbench.reports.tables import Table, category_tables, component_tables, ranked

PAGE_FILE = "report.html"
TABLE_FOLDER = "tables"
PLOT_FOLDER = "plots"


@dataclass(frozen=True, kw_only=True)
class TrackReport:
    """One track of a report: its protocol and records, and its scoreboards, the highest TotalScore first."""

    track: str
    protocol: Protocol
    records: tuple[Record, ...]
    boards: tuple[Scoreboard, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report says, each track under one protocol.

    `boards` has one scoreboard for each run, in the order of the records; `tracks` holds the same scoreboards
    by track, the official tracks first. `run_infos` are the run descriptions that lay beside the records.
    `left_out` are files of the stores that could not be read, with the reason.
    """

    records: tuple[Record, ...]
    run_infos: Mapping[RunKey, RunInfo]
    boards: tuple[Scoreboard, ...]
    tracks: tuple[TrackReport, ...]
    left_out: tuple[str, ...] = ()

    def contents(self) -> dict[str, str | bytes]:
        """Path below the report's folder → content: `report.html` first, then tables and plots per track."""
        files: dict[str, str | bytes] = {}
        sections = []
        for one in self.tracks:
            components, categories = component_tables(one.boards), category_tables(one.boards)
            plots = track_plots(one.boards)
            files |= _table_files(one, components, categories) | _plot_files(one.track, plots)
            sections.append(track_section(one.records, one.boards, components, categories, plots))
        protocols = {one.track: one.protocol for one in self.tracks}
        page = render_page(self.records, sections, protocols, self.run_infos, self.left_out)
        return {PAGE_FILE: page, **files}

    def write(self, out: str | os.PathLike[str]) -> list[Path]:
        """Write `report.html`, `tables/<track>.*` and `plots/<track>.*` below `out`; returns the files.

        Raises UserError when `out` cannot be written.
        """
        return write_files(out, self.contents())


def report(
    stores: Store | Iterable[Store],
    *,
    protocol: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Report:
    """The report of score stores (folders or `.jsonl` files), written below `out` where that is given.

    Without `protocol` each track has its own. Raises UserError when a store does not exist or holds no
    record, for an unknown protocol, and when `out` cannot be written.

    >>> made = report("results", out="report")
    >>> [board.label for board in made.boards]
    ['refalign-tiny (tiny-weights)', 'static-reference']
    >>> Path("report/report.html").is_file()
    True
    """
    if protocol is not None:
        # Before records are read, which takes longer.
        get_protocol(protocol)
    made = build_report(read_stored_runs(stores), protocol)
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


def _in_official_order(tracks: set[str]) -> list[str]:
    """The official tracks in their order, then suites by name."""
    official = [track for track in OFFICIAL_TRACKS if track in tracks]
    return [*official, *sorted(tracks - set(official))]


def _table_files(
    track: TrackReport, components: Sequence[Table], categories: Sequence[Table]
) -> dict[str, str | bytes]:
    stem = f"{TABLE_FOLDER}/{track.track}"
    return {
        f"{stem}.components.md": to_markdown(f"Components, {track.track}", components),
        f"{stem}.components.csv": component_csv(track.boards),
        f"{stem}.components.tex": to_latex(components),
        f"{stem}.categories.md": to_markdown(f"Categories, {track.track}", categories),
        f"{stem}.categories.csv": category_csv(track.boards),
        f"{stem}.categories.tex": to_latex(categories),
    }


def _plot_files(track: str, plots: Iterable[Plot]) -> dict[str, str | bytes]:
    return {
        f"{PLOT_FOLDER}/{track}.{plot.name}.{suffix}": content
        for plot in plots
        for suffix, content in (("png", plot.png), ("pdf", plot.pdf))
    }
