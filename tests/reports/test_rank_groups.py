"""Rank groups: which gaps of a ranking the samples can tell, corrected for many comparisons."""

from __future__ import annotations

import random

import pytest

from kit.records import full_records, record
from refbench.bench.scores.comparison import compare_records, holm
from refbench.bench.scores.protocol import get_protocol
from refbench.bench.scores.record import Record
from refbench.reports.rank_groups import Pair, compare_all, rank_groups

PROTOCOL = get_protocol("opens2v-1.1")


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.9]) == pytest.approx([1.0, None, 1.0])
    assert holm([]) == []


def better(records: list[Record], method: str, gain: float) -> list[Record]:
    """The same videos as by another method, GmeScore higher by about `gain`."""
    draw = random.Random(method)
    return [
        one.model_copy(
            update={
                "method": method,
                "value": one.value + gain + draw.gauss(0, 0.01)
                if one.metric == "gmescore" and one.value is not None
                else one.value,
            }
        )
        for one in records
    ]


def test_methods_that_the_samples_cannot_tell_share_their_ranks() -> None:
    base = [one for one in full_records(30) if one.value is not None]
    low = [
        one.model_copy(update={"value": one.value * 0.5})
        if one.metric == "gmescore" and one.value is not None
        else one
        for one in base
    ]
    methods = [better(low, "best", 0.3), better(low, "near", 0.0005), better(low, "last", 0.0)]
    runs = [records[0].run for records in methods]
    pairs = compare_all(runs, dict(zip(runs, methods, strict=True)), PROTOCOL)
    assert [(pair.a, pair.b) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    assert pairs[0].told_apart and pairs[1].told_apart and not pairs[2].told_apart
    assert rank_groups(3, pairs) == [(1, 1), (2, 3), (2, 3)]


def test_p_values_go_with_the_difference_in_standard_errors() -> None:
    base = [one for one in full_records(20) if one.value is not None]
    same = compare_records(base, base, PROTOCOL, ("a", "b"))
    assert same.total.p_value == 1.0
    other = [one for one in full_records(20, seed=5) if one.value is not None]
    total = compare_records(base, other, PROTOCOL, ("a", "b")).total
    assert total.p_value is not None and total.difference is not None and total.detectable is not None
    # 1.96 + 0.84 standard errors are the smallest detectable gap.
    errors = abs(total.difference) / (total.detectable / 2.8016)
    assert (total.p_value < 0.05) == (errors > 1.96)


def test_runs_without_a_common_sample_are_not_compared() -> None:
    one, other = record("gmescore", "singleobj_1", 0.5, method="a"), record("gmescore", "singleobj_2", 0.5)
    (pair,) = compare_all([one.run, other.run], {one.run: [one], other.run: [other]}, PROTOCOL)
    assert pair.comparison is None and "no scored sample in common" in pair.why
    assert rank_groups(2, [pair]) == [(1, 2), (1, 2)]
    assert not Pair(a=0, b=1, comparison=None).told_apart
