"""The whole report of a set of score records: one HTML page, tables and plots. A pure function of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from refbench.bench.dataset import OFFICIAL_TRACKS
from refbench.bench.errors import UserError, one_line
from refbench.bench.runs.folder import RunInfo, write_text
from refbench.bench.scores.aggregate import Scoreboard, scoreboards
from refbench.bench.scores.protocol import Protocol
from refbench.bench.scores.record import Record, RunKey
from refbench.bench.scores.store import checked_name
from refbench.reports.page import render_page, track_section
from refbench.reports.plots import Plot, track_plots
from refbench.reports.stored_runs import in_key_order
from refbench.reports.table_formats import category_csv, component_csv, to_latex, to_markdown
from refbench.reports.tables import category_tables, component_tables

PAGE_FILE = "report.html"
TABLE_FOLDER = "tables"
PLOT_FOLDER = "plots"


def write_report(
    records: Iterable[Record], out: Path, protocol: Protocol, run_infos: Mapping[RunKey, RunInfo]
) -> list[Path]:
    """Write `report.html`, `tables/<track>.*` and `plots/<track>.*` below `out`; returns the files.

    The same records and run descriptions give the same bytes, in whatever order they come. Raises UserError
    when there is no record, a track's name cannot be a file name, or `out` cannot be written.
    """
    return write_files(out, report_contents(records, protocol, run_infos))


def report_contents(
    records: Iterable[Record], protocol: Protocol, run_infos: Mapping[RunKey, RunInfo]
) -> dict[str, str | bytes]:
    """Path below the report's folder → content, the page first; raises as `write_report` does."""
    ordered = in_key_order(records)
    if not ordered:
        raise UserError("there is no score record to report")
    files: dict[str, str | bytes] = {}
    sections = []
    for track, boards in boards_by_track(scoreboards(ordered, protocol)).items():
        stem = checked_name(track, "the track name")
        plots = track_plots(boards)
        files |= _table_files(stem, boards) | _plot_files(stem, plots)
        of_track = [record for record in ordered if record.track == track]
        sections.append(track_section(of_track, boards, plots))
    return {PAGE_FILE: render_page(ordered, sections, protocol, run_infos), **files}


def write_files(out: Path, contents: Mapping[str, str | bytes]) -> list[Path]:
    """Write texts and bytes below `out` (path → content); a folder that cannot be written is a UserError."""
    try:
        for name, content in contents.items():
            file = out / name
            if isinstance(content, str):
                write_text(file, content)
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    except OSError as error:
        raise UserError(f"nothing can be written below {out}: {one_line(error.strerror or error)}") from None
    return [out / name for name in contents]


def boards_by_track(boards: Iterable[Scoreboard]) -> dict[str, list[Scoreboard]]:
    """Scoreboards by track: the official tracks in their order, then suites by name."""
    found: dict[str, list[Scoreboard]] = {}
    for board in boards:
        found.setdefault(board.track, []).append(board)
    order = [track for track in OFFICIAL_TRACKS if track in found]
    return {track: found[track] for track in [*order, *sorted(set(found) - set(order))]}


def _table_files(stem: str, boards: list[Scoreboard]) -> dict[str, str | bytes]:
    components, categories = component_tables(boards), category_tables(boards)
    return {
        f"{TABLE_FOLDER}/{stem}.components.md": to_markdown(f"Components, {stem}", components),
        f"{TABLE_FOLDER}/{stem}.components.csv": component_csv(boards),
        f"{TABLE_FOLDER}/{stem}.components.tex": to_latex(components),
        f"{TABLE_FOLDER}/{stem}.categories.md": to_markdown(f"Categories, {stem}", categories),
        f"{TABLE_FOLDER}/{stem}.categories.csv": category_csv(boards),
        f"{TABLE_FOLDER}/{stem}.categories.tex": to_latex(categories),
    }


def _plot_files(stem: str, plots: Iterable[Plot]) -> dict[str, str | bytes]:
    return {
        f"{PLOT_FOLDER}/{stem}.{plot.name}.{suffix}": content
        for plot in plots
        for suffix, content in (("png", plot.png), ("pdf", plot.pdf))
    }
