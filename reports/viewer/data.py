"""The site's numbers: columns of one JSON text, and a small file of raw details for each sample.

Values are those of the records, to the last bit. Everything that somebody else wrote (names, prompts, labels,
reasons) is data: the site's scripts show it as text and never as HTML. Rows are one for each video (method ×
sample × seed); `-1` stands for "no text" in columns of numbers of texts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from refbench.bench import __version__
from refbench.bench.console import licence_notes
from refbench.bench.errors import UserError, one_line
from refbench.bench.sample import Reference, Sample
from refbench.bench.scores.aggregate import ComponentResult, sample_scores
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.comparison import Difference
from refbench.bench.scores.record import RunKey
from refbench.reports.cards import card_fields
from refbench.reports.page import metric_table
from refbench.reports.published import PublishedRow, leaderboard_rows
from refbench.reports.rank_groups import Pair, compare_all, rank_groups
from refbench.reports.viewer.names import Names
from refbench.reports.viewer.shown import ShownMethod, ShownTrack, ShownVideo

FORMAT = 1
LONGEST_REASON = 500
# Of one record; what is longer is a metric's log and no detail to read.
LONGEST_DETAILS = 65_536
# Of shares and differences that only the site's pictures are made of; values of records are never rounded.
DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Link:
    """A video as the site opens it, or `missing`: why it cannot. `poster` is a picture of it, or empty."""

    video: str = ""
    poster: str = ""
    missing: str = ""
    fps: float | None = None


class Media(Protocol):
    """Where the site's videos and pictures lie."""

    def video(self, file: Path) -> Link:
        """A method's video."""

    def picture(self, reference: Reference) -> str:
        """A reference image as the site opens it, empty where it is missing."""


@dataclass
class Texts:
    """A table of texts, each once."""

    places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        """The number of a text; -1 for an empty one."""
        return self.places.setdefault(text, len(self.places)) if text else -1


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of values: a component of TotalScore (with its weight), or a metric beside it.

    `absolute`: the protocol counts a negative value as a positive one.
    """

    metric: str
    label: str
    short: str
    meaning: str
    worst: float | None
    best: float | None
    weight: float | None
    name: str
    absolute: bool = False


@dataclass(frozen=True, kw_only=True)
class SiteData:
    """`main` is what every view needs; `details` maps `<track>-<sample>` to the raw details of a sample."""

    main: dict[str, Any]
    details: dict[str, Any]


def site_data(
    tracks: Iterable[ShownTrack], names: Names, media: Media, left_out: Iterable[str] = ()
) -> SiteData:
    """Everything that the site shows. With anonymous names, cards, published rows, the words of reasons and
    texts in details are left out, since they can tell who made the videos.
    """
    texts = Texts()
    tracks = list(tracks)
    details: dict[str, Any] = {}
    shown = []
    for number, track in enumerate(tracks):
        columns = track_columns(track)
        shown.append(_track(track, columns, names, media, texts))
        details |= _details(number, track, columns, names)
    left_out = list(left_out)
    if names.anonymous and left_out:
        left_out = [f"{len(left_out)} files of the stores could not be read"]
    boards = [method.board for track in tracks for method in track.methods]
    main = {
        "format": FORMAT,
        "version": __version__,
        "anonymous": names.anonymous,
        "left_out": left_out,
        "licence_notes": licence_notes(boards),
        "tracks": shown,
        "texts": list(texts.places),
    }
    return SiteData(main=main, details=details)


def script_text(function: str, *values: object) -> str:
    """A script that calls a function with values, each as the JSON text of a JSON text.

    A page opened from disk may load scripts and no other data. Only a text is safe to write into one: a key
    named `__proto__` in an object would set something else.
    """
    arguments = ", ".join(json.dumps(json.dumps(_finite(value), separators=(",", ":"))) for value in values)
    return f"{function}({arguments});\n"


def track_columns(track: ShownTrack) -> list[Column]:
    """The weighed components, then other components that have records, then further metrics by name."""
    weights = track.protocol.weights(track.domain)
    weighed = [
        Column(
            metric=column.component.metric,
            name=column.component.name,
            label=column.component.label,
            short=column.component.short,
            meaning=column.component.meaning,
            worst=column.worst,
            best=column.best,
            weight=weights[column.component.name],
            # The rule is a function: what it makes of a negative score is asked of itself.
            absolute=column.clip(-0.5) == 0.5,
        )
        for column in track.protocol.weighted_columns(track.domain)
    ]
    there = set(track.metrics) - {column.metric for column in weighed}
    others = [
        Column(
            metric=component.metric,
            name=component.name,
            label=component.label,
            short=component.short,
            meaning=f"{component.meaning}; not in this track's TotalScore",
            worst=component.worst,
            best=component.best,
            weight=None,
        )
        for component in COMPONENTS.values()
        if component.metric in there
    ]
    beside = sorted(there - {column.metric for column in others})
    return [
        *weighed,
        *others,
        *(
            Column(
                metric=metric, name=metric, label=metric, short=metric, meaning="a metric beside TotalScore",
                worst=None, best=None, weight=None,
            )
            for metric in beside
        ),
    ]  # fmt: skip


def _track(
    track: ShownTrack, columns: list[Column], names: Names, media: Media, texts: Texts
) -> dict[str, Any]:
    runs = [method.run for method in track.methods]
    records = {method.run: list(method.records) for method in track.methods}
    pairs = compare_all(runs, records, track.protocol)
    groups = rank_groups(len(runs), pairs)
    rows, fps = _rows(track, columns, names, media, texts)
    return {
        "name": track.name,
        "protocol": track.protocol.name,
        # It may hold a path, and a path its owner's name.
        "why_unknown": "there is no data set" if names.anonymous and track.why_unknown else track.why_unknown,
        "columns": [vars(column) for column in columns],
        "samples": _samples(track.samples, media),
        "methods": [
            _method(method, names, group, fps.get(method.run))
            for method, group in zip(track.methods, groups, strict=True)
        ],
        "rows": rows,
        "shares": [_shares(method, track) for method in track.methods],
        "pairs": [_pair(pair, runs, names) for pair in pairs],
        "scoring": _scoring(track, names),
        "published": [] if names.anonymous else _published(track),
    }


def _samples(samples: Iterable[Sample], media: Media) -> dict[str, list[Any]]:
    samples = list(samples)
    return {
        "ids": [sample.id for sample in samples],
        "categories": [sample.category for sample in samples],
        "prompts": [sample.prompt for sample in samples],
        "references": [
            [
                {"label": reference.label or reference.kind, "link": media.picture(reference)}
                for reference in sample.references
            ]
            for sample in samples
        ],
    }


def _method(method: ShownMethod, names: Names, group: tuple[int, int], fps: float | None) -> dict[str, Any]:
    board = method.board
    notes = [text for note in board.notes if (text := names.text(note))]
    remarks = [names.text(remark, "there are no videos") for remark in method.remarks]
    has_card = method.info is not None and not names.anonymous
    return {
        "label": names.label(method.run),
        "seeds": list(board.seeds),
        "samples": board.samples,
        "total": board.total,
        "interval": board.total_interval,
        "strict": board.strict_total,
        "unofficial_total": board.unofficial_total,
        "why_no_total": names.text(board.no_total_because, "unofficial"),
        "notes": notes,
        "remarks": remarks,
        "components": {result.component: _component(result) for result in board.components},
        "categories": {name: dict(values) for name, values in board.categories.items()},
        "group": group,
        "fps": fps if fps is not None else method.fps,
        "card": card_fields(method.info) if has_card and method.info is not None else {},
    }


def _component(result: ComponentResult) -> dict[str, Any]:
    return {
        "value": result.value,
        "strict": result.strict,
        "interval": result.interval,
        "counted": result.counted,
        "expected": result.expected,
        "reasons": {**result.reasons, **({"dropped (zero)": result.dropped} if result.dropped else {})},
    }


def _rows(
    track: ShownTrack, columns: list[Column], names: Names, media: Media, texts: Texts
) -> tuple[dict[str, list[Any]], dict[RunKey, float]]:
    """One row for each video, by sample, then by rank, then by seed; and each run's frames per second."""
    places = {sample.id: place for place, sample in enumerate(track.samples)}
    found = sorted(
        (
            (places[video.sample], rank, video.seed, video)
            for rank, method in enumerate(track.methods)
            for video in method.videos
        ),
        key=lambda row: row[:3],
    )
    table: dict[str, list[Any]] = {
        name: []
        for name in ("sample", "method", "seed", "video", "poster", "missing", "changed", "values", "reasons")
    }
    rates: dict[RunKey, float] = {}
    for sample, rank, seed, video in found:
        link = media.video(video.file) if video.file is not None else Link(missing=video.missing)
        if link.fps is not None:
            rates.setdefault(track.methods[rank].run, link.fps)
        missing = "there is no video" if names.anonymous and link.missing else link.missing
        table["sample"].append(sample)
        table["method"].append(rank)
        table["seed"].append(seed)
        table["video"].append(link.video)
        table["poster"].append(link.poster)
        table["missing"].append(texts.place(missing))
        table["changed"].append(int(video.changed))
        table["values"].append(
            [record.value if (record := video.records.get(column.metric)) else None for column in columns]
        )
        table["reasons"].append([texts.place(_reason(video, column, names)) for column in columns])
    return table, rates


def _reason(video: ShownVideo, column: Column, names: Names) -> str:
    """Why a column has no value for a video; empty where it has one."""
    record = video.records.get(column.metric)
    if record is None:
        return "not scored: there is no record"
    if record.reason is None:
        return ""
    return str(record.reason_kind) if names.anonymous else one_line(record.reason, LONGEST_REASON)


def _shares(method: ShownMethod, track: ShownTrack) -> list[list[float | None]]:
    """Per weighed column and sample the score (0..1) that enters the mean; None where none does."""
    columns = track.protocol.weighted_columns(track.domain)
    scores = sample_scores(method.records, columns)
    row_of = {sample: row for row, sample in enumerate(scores.samples)}
    return [
        [
            round(column.normalised(value), DIGITS)
            if (row := row_of.get(sample.id)) is not None
            and math.isfinite(value := float(scores.official_SC[row, index]))
            else None
            for sample in track.samples
        ]
        for index, column in enumerate(columns)
    ]


def _pair(pair: Pair, runs: list[RunKey], names: Names) -> dict[str, Any]:
    made = pair.comparison
    if made is None:
        return {"a": pair.a, "b": pair.b, "why": "they have no scored sample in common"}
    return {
        "a": pair.a,
        "b": pair.b,
        "samples": made.samples,
        "notes": [text for note in made.notes if (text := names.text(note))],
        "total": _difference(made.total),
        "adjusted": pair.adjusted,
        "told_apart": pair.told_apart,
        "components": {difference.name: _difference(difference) for difference in made.components},
    }


def _difference(one: Difference) -> list[Any]:
    """[A, B, A - B, low, high, smallest detectable gap, samples] on the scale 0..1."""
    low, high = one.interval if one.interval is not None else (None, None)
    numbers = (one.a, one.b, one.difference, low, high, one.detectable)
    return [*(None if number is None else round(number, DIGITS + 2) for number in numbers), one.n]


def _scoring(track: ShownTrack, names: Names) -> dict[str, Any]:
    """How each metric was computed, as the report's table says it; anonymous without the sources' names."""
    table = metric_table(record for method in track.methods for record in method.records)
    kept = len(table.headings) - (1 if names.anonymous else 0)
    return {
        "headings": table.headings[:kept],
        "rows": [[names.text(cell.text) for cell in row[:kept]] for row in table.rows],
        "notes": table.notes,
    }


def _published(track: ShownTrack) -> list[dict[str, Any]]:
    try:
        rows = leaderboard_rows(track.name, track.protocol.name)
    except UserError:
        return []
    # The same figures in several sources are one row that names them all.
    alike: dict[tuple[object, ...], list[PublishedRow]] = {}
    for row in rows:
        alike.setdefault((row.method, row.total, *sorted(row.components.items())), []).append(row)
    return [
        {
            "method": same[0].method,
            "total": same[0].total / 100,
            "components": {name: value / 100 for name, value in same[0].components.items()},
            "sources": "; ".join(row.source.title for row in same),
            "url": same[0].source.url,
        }
        for same in alike.values()
    ]


def _details(
    number: int, track: ShownTrack, columns: list[Column], names: Names
) -> dict[str, list[dict[str, Any]]]:
    places = {sample.id: place for place, sample in enumerate(track.samples)}
    found: dict[str, list[dict[str, Any]]] = {f"{number}-{place}": [] for place in range(len(track.samples))}
    for rank, method in enumerate(track.methods):
        for video in method.videos:
            for column_number, column in enumerate(columns):
                record = video.records.get(column.metric)
                if record is None or not record.details:
                    continue
                details = _bounded(numbers_only(record.details, names) if names.anonymous else record.details)
                if details:
                    found[f"{number}-{places[video.sample]}"].append(
                        {"method": rank, "seed": video.seed, "column": column_number, "details": details}
                    )
    return found


def numbers_only(value: Any, names: Names) -> Any:
    """Details without their texts, and without what stands under a key that holds a hidden name."""
    if isinstance(value, Mapping):
        kept = {
            key: inner for key, item in value.items()
            if not names.holds_name(str(key)) and (inner := numbers_only(item, names)) is not None
        }  # fmt: skip
        return kept or None
    if isinstance(value, list | tuple):
        return [inner for item in value if (inner := numbers_only(item, names)) is not None] or None
    return value if isinstance(value, bool | int | float) else None


def _bounded(details: Any) -> Any:
    size = len(json.dumps(details, default=str)) if details else 0
    return {"left out": f"{size:,} characters of details"} if size > LONGEST_DETAILS else details


def _finite(value: Any) -> Any:
    """Data as JSON can say it: numbers that are not finite, and what is no data, become texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return str(value)
