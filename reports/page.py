"""The report as one self-contained HTML page: no file beside it and no request is needed to read it.

Every string is escaped by the template engine; names and reasons come from data files. A content policy in
the page forbids the browser to load anything from elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from refbench.bench.console import count_text, reasons_text
from refbench.bench.errors import one_line
from refbench.bench.runs.folder import RunInfo
from refbench.bench.scores.aggregate import Scoreboard
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.protocol import Protocol
from refbench.bench.scores.record import NOT_APPLICABLE, Record, RunKey
from refbench.reports.cards import card_fields
from refbench.reports.page_environment import LONGEST_REASON, data_uri, page_environment
from refbench.reports.plot_figure import Plot
from refbench.reports.table_formats import heading_lines
from refbench.reports.tables import NONE, Cell, Table

if TYPE_CHECKING:
    from refbench.reports.contact_sheets import Sheet

TEMPLATE = "report.html.j2"
REASONS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class TrackSection:
    """What the page shows of one track; `details` and `categories` are folded away at first."""

    track: str
    summary: str
    scores: Table
    details: Sequence[Table]
    categories: Sequence[Table]
    unscored: Table | None
    not_applicable: Sequence[str]
    plots: Sequence[Plot]
    sheets: Sequence[Sheet] = ()
    noise: Sequence[Table] = ()


@dataclass(frozen=True, kw_only=True)
class CardSection:
    """The method card of one run as field → text."""

    label: str
    track: str
    summary: str
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ProtocolSection:
    """A protocol that the page uses, with its weights for the tracks that have it."""

    name: str
    summary: str
    weights: Table


def render_page(
    records: Sequence[Record],
    sections: Sequence[TrackSection],
    protocols: Mapping[str, Protocol],
    run_infos: Mapping[RunKey, RunInfo],
    left_out: Sequence[str] = (),
    videos_page: str | None = None,
) -> str:
    """The page's HTML; `protocols` are those of the tracks, `left_out` says which files of the stores could
    not be read, `videos_page` where the page of videos is, if there is one.
    """
    environment = page_environment()
    environment.filters["data_uri"] = data_uri
    environment.filters["heading_lines"] = heading_lines
    runs = dict.fromkeys(record.run for record in records)
    return environment.get_template(TEMPLATE).render(
        protocols=[
            ProtocolSection(
                name=protocol.name,
                summary=protocol.summary,
                weights=weight_table(
                    protocol, {track for track, one in protocols.items() if one is protocol}
                ),
            )
            for protocol in {protocol.name: protocol for protocol in protocols.values()}.values()
        ],
        left_out=left_out,
        videos_page=videos_page,
        sections=sections,
        cards=card_sections(runs, run_infos),
        cardless=[f"{run.label} on {run.track}" for run in runs if run not in run_infos],
        metrics=metric_table(records),
        packages=package_versions(records),
    )


def track_section(
    records: Sequence[Record],
    boards: Sequence[Scoreboard],
    components: Sequence[Table],
    categories: Sequence[Table],
    plots: Sequence[Plot],
    sheets: Sequence[Sheet] = (),
    noise: Sequence[Table] = (),
) -> TrackSection:
    """The section of one track: its records, scoreboards, tables (see `tables`), plots, contact sheets and
    noise floors.
    """
    scores, *details = components
    seeds = sorted({seed for board in boards for seed in board.seeds})
    samples = sorted({board.samples for board in boards})
    return TrackSection(
        track=boards[0].track,
        summary=f"{count_text(len(boards), 'row')} · {' or '.join(map(str, samples))} samples each · "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}",
        scores=scores,
        details=details,
        categories=categories,
        unscored=unscored_table(records, boards),
        not_applicable=not_applicable_lines(records),
        plots=plots,
        sheets=sheets,
        noise=noise,
    )


def unscored_table(records: Sequence[Record], boards: Sequence[Scoreboard]) -> Table | None:
    """What was expected and did not enter a mean, with the most frequent reasons; None if nothing is."""
    reasons: dict[tuple[str, str, str], Counter[str]] = {}
    first_sample: dict[tuple[str, str, str, str], str] = {}
    for record in records:
        if record.reason is not None and record.reason_kind != NOT_APPLICABLE:
            text = one_line(record.reason.partition(":")[2], LONGEST_REASON)
            if text:
                key = (record.method, record.variant, record.metric)
                reasons.setdefault(key, Counter())[text] += 1
                first_sample.setdefault((*key, text), record.sample)
    rows = []
    for board in boards:
        for result in board.components:
            if result.counted == result.expected:
                continue
            key = (board.method, board.variant, COMPONENTS[result.component].metric)
            frequent = sorted(reasons.get(key, Counter()).items(), key=lambda item: (-item[1], item[0]))
            in_words = "; ".join(
                f"{text} ({count} ×, as in {first_sample[*key, text]})"
                for text, count in frequent[:REASONS_SHOWN]
            )
            rows.append(
                (
                    Cell(text=board.label),
                    Cell(text=result.label),
                    Cell(text=str(result.expected - result.counted), number=result.expected - result.counted),
                    Cell(text=str(result.expected), number=result.expected),
                    Cell(text=reasons_text(result)),
                    Cell(text=in_words or NONE),
                )
            )
    if not rows:
        return None
    return Table(
        title="Expected but not counted",
        headings=("Method", "Component", "Not counted", "Expected", "Why", "In the metric's words"),
        rows=tuple(rows),
        notes=(
            "not_scored: no record, the metric was not run.",
            "dropped (zero): scored, but the protocol leaves it out.",
        ),
    )


def not_applicable_lines(records: Iterable[Record]) -> list[str]:
    """One line per reason why a component does not apply to a sample; those leave the expected count."""
    samples: dict[tuple[str, str], set[str]] = {}
    for record in records:
        if record.reason_kind == NOT_APPLICABLE:
            text = one_line(str(record.reason).partition(":")[2], LONGEST_REASON)
            samples.setdefault((record.metric, text), set()).add(record.sample)
    return [
        f"{metric} does not apply to {count_text(len(ids), 'sample')}{': ' + text if text else ''}"
        for (metric, text), ids in sorted(samples.items())
    ]


def card_sections(runs: Iterable[RunKey], run_infos: Mapping[RunKey, RunInfo]) -> list[CardSection]:
    """The method cards of the runs that have one."""
    return [
        CardSection(
            label=run.label,
            track=run.track,
            summary=info.card.summary if info.card is not None else "run.json has no method card",
            fields=card_fields(info),
        )
        for run in runs
        if (info := run_infos.get(run)) is not None
    ]


def metric_table(records: Iterable[Record]) -> Table:
    """How each metric was computed: all versions, devices, dtypes and weights seen in its records."""
    seen: dict[str, dict[str, set[str]]] = {}
    # The records of a store share their provenances' weights: few of many differ in what is told here.
    unlike: dict[tuple[object, ...], Record] = {}
    for record in records:
        if record.value is not None:
            made_from = record.provenance
            told = (
                record.metric,
                made_from.metric_version,
                made_from.device,
                made_from.dtype,
                made_from.batch_size,
                made_from.source,
                id(made_from.weights),
            )
            unlike.setdefault(told, record)
    for record in unlike.values():
        made_from = record.provenance
        columns = seen.setdefault(
            record.metric, {name: set() for name in ("version", "on", "weights", "source")}
        )
        columns["version"].add(made_from.metric_version)
        computed = [made_from.device, made_from.dtype]
        computed.append(f"batch {made_from.batch_size}" if made_from.batch_size is not None else None)
        columns["on"].add(" ".join(part for part in computed if part))
        columns["weights"].update(f"{name} {digest[:12]}" for name, digest in made_from.weights.items())
        columns["source"].add(made_from.source or "")
    rows = [
        (Cell(text=metric), *(Cell(text=_listed(texts)) for texts in columns.values()))
        for metric, columns in sorted(seen.items())
    ]
    notes = [
        f"{metric}: the records mix several {what}, compare with care."
        for metric, columns in sorted(seen.items())
        for what, are_mixed in (
            ("versions", len(columns["version"]) > 1),
            ("weights", _of_one_name(columns["weights"])),
        )
        if are_mixed
    ]
    return Table(
        title="Metrics",
        headings=("Metric", "Version", "Computed on", "Weights (digest)", "Imported from"),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _of_one_name(weights: Iterable[str]) -> bool:
    """Whether several digests have the same file's name; each text is a name and a digest."""
    names = [text.rpartition(" ")[0] for text in weights]
    return len(set(names)) < len(names)


def package_versions(records: Iterable[Record]) -> dict[str, str]:
    """Package → every version seen in the records."""
    seen: dict[str, set[str]] = {}
    # One for many records of a store.
    objects = {id(packages): packages for packages in (record.provenance.packages for record in records)}
    for packages in objects.values():
        for package, version in packages.items():
            seen.setdefault(package, set()).add(version)
    return {package: _listed(versions) for package, versions in sorted(seen.items())}


def weight_table(protocol: Protocol, tracks: Iterable[str]) -> Table:
    """The protocol's weights for the given tracks: human-domain has its own, all others share theirs."""
    shown = sorted(tracks)
    domains = {", ".join(track for track in shown if track != "human-domain"): "open-domain"}
    if "human-domain" in shown:
        domains["human-domain"] = "human-domain"
    domains.pop("", None)
    rows = []
    for column in protocol.columns:
        component = column.component
        weights = [protocol.weights(domain).get(component.name) for domain in domains.values()]
        cells = [Cell(text=NONE if weight is None else f"{weight:.2f}", number=weight) for weight in weights]
        rows.append((Cell(text=component.label), *cells, Cell(text=component.meaning)))
    return Table(
        title="Weights", headings=("Component", *(f"Weight, {name}" for name in domains), "What it measures"),
        rows=tuple(rows),
    )  # fmt: skip


def _listed(texts: Iterable[str], limit: int = 6) -> str:
    given = sorted(text for text in texts if text)
    more = f" and {len(given) - limit} more" if len(given) > limit else ""
    return ", ".join(one_line(text, 120) for text in islice(given, limit)) + more or NONE
