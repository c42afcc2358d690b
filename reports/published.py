"""Figures that others published: papers' tables and the OpenS2V-Eval leaderboards, with their sources.

The CSV files in `published/` are facts typed in as they were printed (percent, two decimals); nothing in them
was measured here. `published/sources.csv` says where each file comes from.
"""

from __future__ import annotations

import csv
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refbench.bench.dataset import OFFICIAL_TRACKS
from refbench.bench.errors import UserError
from refbench.bench.registry import unknown_name
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.protocol import get_protocol

PUBLISHED_FOLDER = "published"
SOURCES_FILE = "sources.csv"
TABLE1_FILE = "refalign_table1.csv"
# Components printed with two decimals move the recomputed total by at most 0.01 points; twice that is no
# rounding any more.
LARGEST_ROUNDING_POINTS = 0.02


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a file of published figures comes from.

    `url` is empty where no address was noted, `read_on` (the day it was read) where that is not known.
    """

    file: str
    title: str
    track: str
    protocol: str
    citation: str
    url: str
    read_on: str

    @property
    def reference(self) -> str:
        """Title, citation, and address and day where they are known, in one line."""
        day = f"read on {self.read_on}" if self.read_on else ""
        return f"{self.title}: {', '.join(filter(None, (self.citation, self.url, day)))}"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One method's published figures in percent, as printed.

    `components` maps the names of the protocol's components to percent; `openness` is `open` or `closed` as
    the source has it; `evaluated_by` is empty where the source does not say who ran the evaluation.
    """

    method: str
    openness: str
    evaluated_by: str
    total: float
    components: Mapping[str, float]
    source: Source


def published_sources() -> tuple[Source, ...]:
    """All sources, in the order of `sources.csv`."""
    return tuple(Source(**row) for row in _read_csv(SOURCES_FILE))


def published_rows(source: Source) -> tuple[PublishedRow, ...]:
    """The rows of one source, in its own order."""
    return tuple(
        PublishedRow(
            method=row["method"],
            openness=row["openness"],
            evaluated_by=row["evaluated_by"],
            total=float(row["total"]),
            components={name: float(row[name]) for name in COMPONENTS if row[name]},
            source=source,
        )
        for row in _read_csv(source.file)
    )


def leaderboard_rows(track: str, protocol: str, words: str | None = None) -> list[PublishedRow]:
    """The published rows of a track under a protocol, the highest total first.

    With `words` only the sources whose title holds them (in any case). A method stands once for each source
    that has it. Raises UserError for an unknown track or protocol, and when no source is left.
    """
    get_protocol(protocol)
    if track not in OFFICIAL_TRACKS:
        raise UserError(unknown_name("track", track, OFFICIAL_TRACKS))
    sources = [
        source for source in published_sources() if source.track == track and source.protocol == protocol
    ]
    if not sources:
        raise UserError(f"there are no published figures for {track} under {protocol}")
    chosen = [source for source in sources if words is None or words.lower() in source.title.lower()]
    if not chosen:
        titles = ", ".join(source.title for source in sources)
        raise UserError(f"no source for {track} under {protocol} is called {words!r}; there are: {titles}")
    rows = [row for source in chosen for row in published_rows(source)]
    return sorted(rows, key=lambda row: (-row.total, row.method, row.source.file))


def recomputed_total(row: PublishedRow) -> float:
    """TotalScore in percent from the published components, by the weights of the source's protocol."""
    return get_protocol(row.source.protocol).total(row.components, row.source.track)


def total_difference(row: PublishedRow) -> float:
    """Published minus recomputed TotalScore, in points."""
    return row.total - recomputed_total(row)


def disagrees(row: PublishedRow) -> bool:
    """Whether the published TotalScore does not follow from the published components, beyond rounding."""
    return abs(total_difference(row)) > LARGEST_ROUNDING_POINTS


def published_json(row: PublishedRow) -> dict[str, Any]:
    """A row in JSON-serialisable form, in percent and points, the recomputed total unrounded."""
    return {
        "method": row.method,
        "openness": row.openness,
        "evaluated_by": row.evaluated_by or None,
        "total": row.total,
        "recomputed_total": recomputed_total(row),
        "difference_points": total_difference(row),
        "disagrees": disagrees(row),
        "components": dict(row.components),
        "source": row.source.title,
        "citation": row.source.citation,
        "url": row.source.url or None,
    }


def ablation_figures(file: str) -> dict[str, tuple[str, dict[str, float]]]:
    """Rows of a table of which a part of the figures is known: row → summary, and figures in percent by name
    (`total` and components).
    """
    return {
        line["row"]: (
            line["summary"],
            {name: float(line[name]) for name in ("total", *COMPONENTS) if line.get(name)},
        )
        for line in _read_csv(file)
    }


def _read_csv(file: str) -> list[dict[str, str]]:
    # Through this module's own loader: an installed package need not lie in a folder.
    content = pkgutil.get_data(__name__, f"{PUBLISHED_FOLDER}/{file}")
    assert content is not None, "every loader of Python source can read data"
    return list(csv.DictReader(content.decode().splitlines()))
