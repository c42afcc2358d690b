"""From records to a scoreboard: component means, TotalScore, coverage, the strict TotalScore, and intervals.

The official figure is the protocol's own arithmetic over the records that have a value. Beside it stand two
figures of ours: the coverage (values that entered the mean / videos expected) and the strict score, in which
every missing, failed or dropped value of an expected video counts as the worst of its range. Several seeds:
clip and drop per video, then average within the sample, then over samples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refbench.bench.dataset import declared_tracks, domain_of
from refbench.bench.scores.bootstrap import Interval, interval, resampled_means
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.protocol import Column, Protocol, protocol_of
from refbench.bench.scores.record import (
    NOT_APPLICABLE,
    Record,
    RunKey,
    generated_with,
    key_values,
)
from refbench.bench.weights.kind import WeightsKind, kind_of_digest

WEIGHTS_TEXT: Mapping[WeightsKind, str] = {
    "tiny": "tiny random weights",
    "mini": "mini weights of the drawn world",
    "real": "released weights",
}


@dataclass(frozen=True, kw_only=True)
class SampleScores:
    """Per-sample scores of one (method, track, variant) under a protocol, ready for means and resampling.

    `official_SC` is (samples, columns): the clipped raw score averaged over seeds, NaN where nothing enters
    the mean. `strict_SC` has the worst of the range for what is missing, NaN where the component does not
    apply; `dropped_SC` is true where a score was left out by the protocol. Columns follow `columns`; samples
    follow `samples`, in natural order of their ids.
    """

    columns: tuple[Column, ...]
    samples: tuple[str, ...]
    categories: tuple[str, ...]
    official_SC: np.ndarray
    strict_SC: np.ndarray
    dropped_SC: np.ndarray

    def values(self, rows: np.ndarray | slice = slice(None)) -> dict[str, float | None]:
        """Component → normalised official mean over the chosen rows; None where no sample has a value."""
        return {
            column.component.name: _mean(
                column, self.official_SC[rows, index], all_dropped=bool(self.dropped_SC[rows, index].any())
            )
            for index, column in enumerate(self.columns)
        }

    def strict_values(self) -> dict[str, float | None]:
        """Component → normalised mean with the worst in place of what is missing."""
        return {
            column.component.name: _mean(column, self.strict_SC[:, index])
            for index, column in enumerate(self.columns)
        }

    def resampled(self) -> np.ndarray:
        """Bootstrap draws of the normalised component means, (resamples, columns)."""
        return resampled_together([self])[0]

    def resampled_total(self, draws: np.ndarray, protocol: Protocol, domain: str) -> np.ndarray:
        """TotalScore of each draw, (resamples,); NaN where a component has no sample in it."""
        weights = protocol.weights(domain)
        totals: np.ndarray = draws @ np.array([weights[column.component.name] for column in self.columns])
        return totals


def resampled_together(several: Sequence[SampleScores]) -> list[np.ndarray]:
    """`SampleScores.resampled` of each; where all have as many samples, these are drawn once for all."""
    if len({len(scores.samples) for scores in several}) > 1:
        return [scores.resampled() for scores in several]
    holding_dropped = [index for index, scores in enumerate(several) if scores.dropped_SC.any()]
    means = resampled_means(
        [scores.official_SC for scores in several]
        + [np.where(several[index].dropped_SC, 1.0, np.nan) for index in holding_dropped]
    )
    for index, dropped in zip(holding_dropped, means[len(several) :], strict=True):
        # Officially the mean of dropped scores alone is 0, not missing.
        means[index] = np.where(np.isnan(means[index]) & np.isfinite(dropped), 0.0, means[index])
    draws = []
    for scores, own in zip(several, means, strict=False):
        worst = np.array([column.worst for column in scores.columns])
        best = np.array([column.best for column in scores.columns])
        draws.append((own - worst) / (best - worst))
    return draws


def _mean(column: Column, clipped: np.ndarray, *, all_dropped: bool = False) -> float | None:
    """The normalised mean; None for no score at all, but the official 0 where all scores were dropped."""
    present = clipped[np.isfinite(clipped)].tolist()
    return column.mean(present) if present or all_dropped else None


@dataclass(frozen=True, kw_only=True)
class ComponentResult:
    """One component of one method: the official value on the scale 0..1 and everything said beside it.

    `value` and `strict` are None where not a single video was scored.

    Counts are videos (sample × seed): `expected` (where the component applies), `scored` (have a value),
    `dropped` (have one that the protocol leaves out); scored - dropped entered the mean. `reasons` counts why
    the others have none.
    """

    component: str
    label: str
    weight: float
    value: float | None
    strict: float | None
    interval: Interval | None
    expected: int
    scored: int
    dropped: int
    reasons: Mapping[str, int]

    @property
    def counted(self) -> int:
        """Videos whose value entered the mean."""
        return self.scored - self.dropped


@dataclass(frozen=True, kw_only=True)
class Scoreboard:
    """All figures of one (method, track, variant) under one protocol, on the scale 0..1.

    `total` is None when a component is missing altogether (`missing` names them): that would be no
    TotalScore. `supplementary` holds the plain means of metrics outside the protocol: metric → (mean,
    videos).
    """

    method: str
    track: str
    variant: str
    protocol: str
    domain: str
    samples: int
    seeds: tuple[int, ...]
    components: tuple[ComponentResult, ...]
    total: float | None
    total_interval: Interval | None
    strict_total: float | None
    categories: Mapping[str, Mapping[str, float | None]]
    supplementary: Mapping[str, tuple[float, int]]
    notes: tuple[str, ...]
    unofficial: tuple[str, ...] = ()
    unofficial_total: float | None = None

    @property
    def no_total_because(self) -> str:
        """Why there is no TotalScore, or an empty text."""
        if self.missing:
            return f"nothing was scored for {', '.join(self.missing)}"
        if self.total is None and self.unofficial:
            value = (
                "" if self.unofficial_total is None else f" (the sum would be {self.unofficial_total:.4f})"
            )
            return f"unofficial: {'; '.join(self.unofficial)}{value}"
        return ""

    @property
    def missing(self) -> tuple[str, ...]:
        """Labels of the components without a single value."""
        return tuple(result.label for result in self.components if result.value is None)

    @property
    def failed(self) -> int:
        """Videos × metrics that have no value though one was expected."""
        return sum(result.expected - result.scored for result in self.components)

    @property
    def label(self) -> str:
        """The method's name, with the variant in brackets where it is not the plain run."""
        return RunKey(self.method, self.track, self.variant).label


def scoreboards(records: Iterable[Record], protocol: str | None = None) -> list[Scoreboard]:
    """One scoreboard for each (method, track, variant) in the records, in order of first appearance.

    `protocol` names the protocol of all; without it each track has its own. Raises UserError for an unknown
    one.
    """
    return [
        scoreboard(group, protocol_of(key.track, protocol)) for key, group in group_records(records).items()
    ]


def group_records(records: Iterable[Record]) -> dict[RunKey, list[Record]]:
    """The latest records by run, in order of first appearance."""
    return by_run({key_values(record): record for record in records}.values())


def by_run(records: Iterable[Record]) -> dict[RunKey, list[Record]]:
    """Records, of each key one, by run, in order of first appearance."""
    groups: dict[RunKey, list[Record]] = {}
    for record in records:
        groups.setdefault(record.run, []).append(record)
    return groups


def scoreboard(records: list[Record], protocol: Protocol) -> Scoreboard:
    """The scoreboard of the records of one (method, track, variant), whatever their order."""
    records = sorted(records, key=key_values)
    first = records[0]
    domain = domain_of(first.track)
    columns = protocol.weighted_columns(domain)
    scores = sample_scores(records, columns)
    values, strict = scores.values(), scores.strict_values()
    draws = scores.resampled() if len(scores.samples) > 1 else np.full((1, len(columns)), np.nan)
    weights = protocol.weights(domain)
    seeds = {record.seed for record in records}
    by_metric: dict[str, list[Record]] = {}
    for record in records:
        by_metric.setdefault(record.metric, []).append(record)
    components = tuple(
        _component_result(
            column,
            by_metric.get(column.component.metric, []),
            set(scores.samples),
            len(seeds),
            weights[column.component.name],
            values,
            strict,
            interval(draws[:, index]),
        )
        for index, column in enumerate(columns)
    )
    complete = {name: value for name, value in values.items() if value is not None}
    whole = len(complete) == len(columns)
    unofficial = unofficial_reasons(records, protocol, domain)
    total = protocol.total(complete, domain) if whole else None
    official = whole and not unofficial
    # Where every component has a value, every strict mean has one too.
    strict_complete = {name: value for name, value in strict.items() if value is not None}
    return Scoreboard(
        method=first.method,
        track=first.track,
        variant=first.variant,
        protocol=protocol.name,
        domain=domain,
        samples=len(scores.samples),
        seeds=tuple(sorted(seeds)),
        components=components,
        total=total if official else None,
        total_interval=interval(scores.resampled_total(draws, protocol, domain)) if official else None,
        strict_total=protocol.total(strict_complete, domain) if official else None,
        categories=_by_category(scores),
        supplementary=_supplementary(records),
        # Where a total is missing for another reason, this must still be said.
        notes=(
            *_notes(first.track, len(scores.samples)),
            *_incomplete_runs(records),
            *(() if whole else unofficial),
        ),
        unofficial=unofficial,
        unofficial_total=total if unofficial else None,
    )


def sample_scores(records: Iterable[Record], columns: tuple[Column, ...]) -> SampleScores:
    """Clip and drop per video, average over seeds within the sample; see SampleScores."""
    columns_by_metric = {column.component.metric: index for index, column in enumerate(columns)}
    categories: dict[str, str] = {}
    seeds: set[int] = set()
    counted: dict[str, list[list[float]]] = {}
    dropped: set[tuple[str, int]] = set()
    not_applicable: set[tuple[str, int]] = set()
    for record in records:
        sample, value = record.sample, record.value
        categories[sample] = record.category
        seeds.add(record.seed)
        index = columns_by_metric.get(record.metric)
        if index is None:
            continue
        if value is None:
            if record.reason_kind == NOT_APPLICABLE:
                not_applicable.add((sample, index))
            continue
        clipped = columns[index].clip(value)
        if clipped is None:
            dropped.add((sample, index))
            continue
        if sample not in counted:
            counted[sample] = [[] for _ in columns]
        counted[sample][index].append(clipped)

    samples = sorted(categories, key=natural_order)
    shape = (len(samples), len(columns))
    nothing: list[list[float]] = [[] for _ in columns]
    rows = [counted.get(sample, nothing) for sample in samples]
    official_SC = np.array(
        [[sum(one) / len(one) if one else np.nan for one in row] for row in rows], dtype=np.float64
    ).reshape(shape)
    strict_SC = np.array(
        [
            [
                sum(one + [column.worst] * (len(seeds) - len(one))) / len(seeds)
                for column, one in zip(columns, row, strict=True)
            ]
            for row in rows
        ],
        dtype=np.float64,
    ).reshape(shape)
    dropped_SC = np.zeros(shape, dtype=bool)
    row_of = {sample: row for row, sample in enumerate(samples)}
    for sample, index in not_applicable:
        strict_SC[row_of[sample], index] = np.nan
    for sample, index in dropped:
        dropped_SC[row_of[sample], index] = True
    return SampleScores(
        columns=columns,
        samples=tuple(samples),
        categories=tuple(categories[sample] for sample in samples),
        official_SC=official_SC,
        strict_SC=strict_SC,
        dropped_SC=dropped_SC,
    )


def natural_order(text: str) -> list[tuple[int, int | str]]:
    """A sort key that puts `faceobj_2` before `faceobj_10`."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def _component_result(
    column: Column,
    own: list[Record],
    samples: set[str],
    seeds: int,
    weight: float,
    values: Mapping[str, float | None],
    strict: Mapping[str, float | None],
    spread: Interval | None,
) -> ComponentResult:
    """The result of a component from its own records of a run with these samples and so many seeds."""
    component = column.component
    inapplicable = {record.sample for record in own if record.reason_kind == NOT_APPLICABLE}
    expected = len(samples - inapplicable) * seeds
    scored = [record for record in own if record.value is not None]
    reasons = Counter(
        record.reason_kind for record in own if record.reason_kind not in (None, NOT_APPLICABLE)
    )
    recorded = {(record.sample, record.seed) for record in own if record.sample not in inapplicable}
    unrecorded = expected - len(recorded)
    return ComponentResult(
        component=component.name,
        label=component.label,
        weight=weight,
        value=values[component.name],
        strict=strict[component.name] if values[component.name] is not None else None,
        interval=spread,
        expected=expected,
        scored=len(scored),
        dropped=sum(record.value is not None and column.clip(record.value) is None for record in scored),
        reasons={str(kind): count for kind, count in sorted(reasons.items(), key=str)}
        | ({"not_scored": unrecorded} if unrecorded else {}),
    )


def _by_category(scores: SampleScores) -> dict[str, dict[str, float | None]]:
    categories = np.array(scores.categories)
    return {category: scores.values(categories == category) for category in dict.fromkeys(scores.categories)}


def _supplementary(records: list[Record]) -> dict[str, tuple[float, int]]:
    official = {component.metric for component in COMPONENTS.values()}
    by_sample: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if record.metric not in official and record.value is not None:
            by_sample.setdefault(record.metric, {}).setdefault(record.sample, []).append(record.value)
    result = {}
    for metric, samples in sorted(by_sample.items()):
        means = [sum(values) / len(values) for values in samples.values()]
        result[metric] = (sum(means) / len(means), sum(map(len, samples.values())))
    return result


def unofficial_reasons(records: Iterable[Record], protocol: Protocol, domain: str) -> tuple[str, ...]:
    """Why the records have no TotalScore under a protocol, however complete they are; sorted.

    Scores of weights or of a judge that the protocol does not accept, videos that such weights generated, and
    what a metric itself calls unofficial.
    """
    records = list(records)
    weighed = {column.component.metric for column in protocol.weighted_columns(domain)}
    reasons: set[str] = set()
    refused: dict[WeightsKind, set[str]] = {}
    # Of the records of a store few digests differ; each is looked at once.
    kinds: dict[str, WeightsKind] = {}
    for record in records:
        if record.metric not in weighed or record.value is None:
            continue
        for digest in record.provenance.weights.values():
            kind = kinds.get(digest) or kinds.setdefault(digest, kind_of_digest(digest))
            if kind not in protocol.accepted_weights:
                refused.setdefault(kind, set()).add(record.metric)
        judge = record.judge_kind
        if judge is not None and judge not in protocol.accepted_judges:
            reasons.add(record.unofficial or f"{judge} judge")
        elif judge != "local" and record.unofficial:
            reasons.add(record.unofficial)
    reasons |= {f"{WEIGHTS_TEXT[kind]} in {', '.join(sorted(names))}" for kind, names in refused.items()}
    generators = {generated_with(variant) for variant in {record.variant for record in records}} - {None}
    reasons |= {f"generated with {kind} weights" for kind in generators - protocol.accepted_weights}
    return tuple(sorted(reasons))


def _notes(track: str, samples: int) -> tuple[str, ...]:
    declared = declared_tracks().get(track)
    if declared is None or samples == len(declared.sample_ids):
        return ()
    return (f"covers {samples} of the {len(declared.sample_ids)} samples of {track}",)


def _incomplete_runs(records: Iterable[Record]) -> tuple[str, ...]:
    """For each metric that asks several times (a judge) how many values rest on fewer runs than were asked
    for: their details say so under `runs_present` ("2 of 3").
    """
    counts: dict[str, Counter[str]] = {}
    for record in records:
        present = record.details.get("runs_present")
        if record.value is None or not isinstance(present, str):
            continue
        answered, _, asked = present.partition(" of ")
        if answered != asked:
            counts.setdefault(record.metric, Counter())[present] += 1
    return tuple(
        f"{metric}: {', '.join(f'{count} on {present} runs' for present, count in sorted(by_runs.items()))}; "
        "the same command asks for the rest"
        for metric, by_runs in sorted(counts.items())
    )
