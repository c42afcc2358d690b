"""Is method A better than method B? A paired bootstrap over the samples that both have.

Each resample draws the same samples for both methods and recomputes both means (and TotalScores) by the
protocol's rule, so the observed difference is the difference of the official figures on the common samples.
Beside it stands the smallest gap that this many samples could have shown: (z(0.975) + z(0.80)) standard
errors of the difference, for a two-sided test at 5 % with power 80 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from refbench.bench.console import count_text
from refbench.bench.dataset import domain_of
from refbench.bench.errors import UserError
from refbench.bench.scores.aggregate import (
    SampleScores,
    natural_order,
    resampled_together,
    sample_scores,
    unofficial_reasons,
)
from refbench.bench.scores.bootstrap import CONFIDENCE, Interval, interval, resampled_means
from refbench.bench.scores.identity import Figure
from refbench.bench.scores.protocol import Protocol
from refbench.bench.scores.record import FAILED, MISSING_VIDEO, MISSING_WEIGHTS, Record

POWER = 0.80
DETECTABLE_STANDARD_ERRORS = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) + NormalDist().inv_cdf(POWER)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One component (or TotalScore) of A minus B, on the scale 0..1.

    `n` samples entered (a value in A or in B); `detectable` is the smallest gap that n could have shown. None
    where there is nothing to compare.
    """

    name: str
    label: str
    a: float | None
    b: float | None
    difference: float | None
    interval: Interval | None
    detectable: float | None
    n: int

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def p_value(self) -> float | None:
        """Two-sided, of the difference in bootstrap standard errors under the normal distribution: unlike a
        share of the resamples it has no smallest value, which matters where many are corrected. None where
        there is no interval.
        """
        if self.difference is None or self.detectable is None:
            return None
        standard_error = self.detectable / DETECTABLE_STANDARD_ERRORS
        if standard_error == 0:
            return 1.0 if self.difference == 0 else 0.0
        return math.erfc(abs(self.difference) / standard_error / math.sqrt(2))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All differences between two methods on one track, and what was left out to make them comparable."""

    a: str
    b: str
    track: str
    protocol: str
    samples: int
    total: Difference
    components: tuple[Difference, ...]
    notes: tuple[str, ...]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for as many comparisons as there are (Holm 1979); None stays None and counts nothing.

    The k-th smallest of m is multiplied by m - k + 1, and none may be below a smaller one's.
    """
    known = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for index, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - index)))
        adjusted[place] = highest
    return adjusted


def compare_records(
    records_a: list[Record], records_b: list[Record], protocol: Protocol, labels: tuple[str, str]
) -> Comparison:
    """Compare the records of two (method, track, variant) groups of one track.

    Samples without a video in one of the two are left out of both, and so is, per component, a sample whose
    score failed in one; what the protocol itself drops (a NexusScore of 0) stays the method's own. Raises
    UserError when the tracks differ or no sample is common.
    """
    track = records_a[0].track
    if records_b[0].track != track:
        raise UserError(
            f"{labels[0]} was scored on {track}, {labels[1]} on {records_b[0].track}: not comparable"
        )
    domain = domain_of(track)
    columns = protocol.weighted_columns(domain)
    common = _samples_with_video(records_a) & _samples_with_video(records_b)
    if not common:
        raise UserError(f"{labels[0]} and {labels[1]} have no scored sample in common on {track}")
    left_out = {record.sample for record in (*records_a, *records_b)} - common
    notes = []
    if left_out:
        notes.append(f"{count_text(len(left_out), 'sample')} left out: no video in one of the two")
    unusable = _unusable(records_a) | _unusable(records_b)
    scores_a, scores_b = (
        sample_scores(_restricted(records, common, unusable), columns) for records in (records_a, records_b)
    )
    for column in columns:
        component = column.component
        failed = sum(1 for sample, name in unusable if name == component.metric and sample in common)
        if failed:
            samples = count_text(failed, "sample")
            notes.append(f"{component.label}: {samples} left out, not scored in one of the two")
    unofficial = {
        reason
        for records in (records_a, records_b)
        for reason in unofficial_reasons(records, protocol, domain)
    }
    notes += [f"not a TotalScore: {text}" for text in sorted(unofficial)]
    draws_a, draws_b = resampled_together([scores_a, scores_b])
    values_a, values_b = scores_a.values(), scores_b.values()
    components = tuple(
        _difference(
            column.component.name,
            column.component.label,
            values_a[column.component.name],
            values_b[column.component.name],
            draws_a[:, index] - draws_b[:, index],
            _entered(scores_a, scores_b, index),
        )
        for index, column in enumerate(columns)
    )
    total = _difference(
        "total",
        "unofficial total" if unofficial else "TotalScore",
        _total(values_a, protocol, domain),
        _total(values_b, protocol, domain),
        scores_a.resampled_total(draws_a, protocol, domain)
        - scores_b.resampled_total(draws_b, protocol, domain),
        len(scores_a.samples),
    )
    return Comparison(
        a=labels[0],
        b=labels[1],
        track=track,
        protocol=protocol.name,
        samples=len(common),
        total=total,
        components=components,
        notes=tuple(notes),
    )


def figure_differences(
    records_a: Sequence[Record], records_b: Sequence[Record], figures: Iterable[Figure]
) -> tuple[Difference, ...]:
    """The differences of figures outside of any protocol, over the samples that have a value in both.

    A figure without such a sample is left out. Values are raw.
    """
    differences = []
    for figure in figures:
        values_a, values_b = figure.per_sample(records_a), figure.per_sample(records_b)
        samples = sorted(values_a.keys() & values_b.keys(), key=natural_order)
        if not samples:
            continue
        pairs_S2 = np.array([[values_a[sample], values_b[sample]] for sample in samples])
        (draws_R2,) = resampled_means([pairs_S2])
        a, b = pairs_S2.mean(axis=0).tolist()
        draws_R = draws_R2[:, 0] - draws_R2[:, 1]
        differences.append(_difference(figure.name, figure.label, a, b, draws_R, len(samples)))
    return tuple(differences)


def _samples_with_video(records: Iterable[Record]) -> set[str]:
    return {record.sample for record in records if record.value is not None}


def _unusable(records: Iterable[Record]) -> set[tuple[str, str]]:
    """(sample, metric) that have no value in any seed for a reason of the run's, not of the protocol's."""
    scored = {(record.sample, record.metric) for record in records if record.value is not None}
    missing = {
        (record.sample, record.metric)
        for record in records
        if record.reason_kind in (FAILED, MISSING_VIDEO, MISSING_WEIGHTS)
    }
    return missing - scored


def _restricted(records: list[Record], common: set[str], unusable: set[tuple[str, str]]) -> list[Record]:
    kept = [record for record in records if record.sample in common]
    usable = [record for record in kept if (record.sample, record.metric) not in unusable]
    # A sample that lost all its records still belongs to the resampled set.
    present = {record.sample for record in usable}
    return usable + [record for record in kept if record.sample not in present and record.value is None]


def _entered(a: SampleScores, b: SampleScores, index: int) -> int:
    return int((np.isfinite(a.official_SC[:, index]) | np.isfinite(b.official_SC[:, index])).sum())


def _total(values: dict[str, float | None], protocol: Protocol, domain: str) -> float | None:
    complete = {name: value for name, value in values.items() if value is not None}
    return protocol.total(complete, domain) if len(complete) == len(values) else None


def _difference(
    name: str, label: str, a: float | None, b: float | None, draws: np.ndarray, n: int
) -> Difference:
    known = a is not None and b is not None
    spread = interval(draws) if known and n > 1 else None
    finite = draws[np.isfinite(draws)]
    return Difference(
        name=name,
        label=label,
        a=a,
        b=b,
        difference=a - b if a is not None and b is not None else None,
        interval=spread,
        detectable=float(DETECTABLE_STANDARD_ERRORS * finite.std()) if spread is not None else None,
        n=n,
    )
