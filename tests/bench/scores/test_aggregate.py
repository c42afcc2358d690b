"""Scoreboards: the official arithmetic over records, coverage, strict scores, seeds, intervals,
comparison.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.records import full_records, record
from refbench.bench.errors import UserError
from refbench.bench.scores.aggregate import Scoreboard, group_records, natural_order, scoreboard, scoreboards
from refbench.bench.scores.bootstrap import RESAMPLES, SEED, _counts, count_blocks, interval, resampled_means
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.comparison import DETECTABLE_STANDARD_ERRORS, compare_records
from refbench.bench.scores.protocol import OPENS2V_1_0 as V10
from refbench.bench.scores.protocol import OPENS2V_1_1 as V11
from refbench.bench.scores.protocol import official_result
from refbench.bench.scores.record import Record


def as_files(records: list[Record]) -> dict[str, Any]:
    """The same scores as official files."""
    files: dict[str, Any] = {}
    for one in records:
        component = next(c for c in COMPONENTS.values() if c.metric == one.metric)
        if one.value is None:
            continue
        key = component.official_key
        files.setdefault(component.official_files[0], {})[one.sample] = {key: one.value} if key else one.value
    files["motionscore.json"] = files.get("motion_amplitude.json", {})
    return files


@settings(max_examples=25)
@given(st.integers(2, 15), st.integers(0, 10_000), st.sampled_from([V11, V10]))
def test_records_and_official_files_give_one_total(samples: int, seed: int, protocol: Any) -> None:
    records = full_records(samples, seed)
    board = scoreboard(records, protocol)
    expected = official_result(as_files(records), protocol, "Open-Domain")
    if board.total is None:
        assert board.missing
    else:
        assert board.total == pytest.approx(expected["total_score"], abs=1e-12)
    for column, result in zip(protocol.columns, board.components, strict=True):
        if result.value is not None:
            assert result.value == pytest.approx(expected[column.field], abs=1e-12)


def test_the_order_of_records_changes_nothing() -> None:
    records = full_records() + full_records(seed=1, method="other")
    shuffled = list(records)
    random.Random(5).shuffle(shuffled)
    by_method = {board.method: board for board in scoreboards(shuffled, V11.name)}
    for board in scoreboards(records, V11.name):
        assert by_method[board.method] == board


def test_coverage_counts_and_reasons() -> None:
    records = [
        record("nexusscore", "singleobj_1", 0.02),
        record("nexusscore", "singleobj_2", 0.0),
        record("nexusscore", "singleobj_3", reason="failed: no"),
        record("nexusscore", "singleobj_4", reason="missing_video"),
        record("nexusscore", "singleobj_5", reason="not_applicable: faces"),
        record("gmescore", "singleobj_1", 0.5),
    ]
    board = scoreboard(records, V11)
    nexus = next(result for result in board.components if result.component == "nexusscore")
    assert (nexus.expected, nexus.scored, nexus.dropped, nexus.counted) == (4, 2, 1, 1)
    assert nexus.reasons == {"failed": 1, "missing_video": 1}
    assert nexus.value == pytest.approx(0.4)
    assert nexus.strict == pytest.approx(0.1)
    gme = next(result for result in board.components if result.component == "gmescore")
    assert (gme.expected, gme.reasons) == (5, {"not_scored": 4})
    assert board.total is None
    assert "FaceSim" in board.missing
    assert board.notes == ("covers 5 of the 180 samples of open-domain",)


def test_strict_equals_official_where_nothing_is_missing() -> None:
    records = [one for one in full_records() if one.reason is None or "not_applicable" in one.reason]
    board = scoreboard(records, V11)
    assert board.strict_total == pytest.approx(board.total)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.lists(st.integers(0, 83), min_size=1, max_size=30, unique=True))
def test_a_failure_never_raises_the_strict_total(seed: int, lost: list[int]) -> None:
    records = full_records(12, seed)
    before = scoreboard(records, V11)
    for position in lost:
        if records[position].value is not None:
            records[position] = records[position].model_copy(update={"value": None, "reason": "failed: x"})
    after = scoreboard(records, V11)
    assert before.strict_total is not None
    if after.strict_total is not None:
        assert after.strict_total <= before.strict_total + 1e-12


def test_seeds_average_within_the_sample_first() -> None:
    records = [
        record("gmescore", "a_1", 0.2, seed=0),
        record("gmescore", "a_1", 0.4, seed=1),
        record("gmescore", "a_1", 9.0, seed=2),
        record("gmescore", "a_2", 0.5, seed=0),
        record("nexusscore", "a_1", 0.0, seed=0),
        record("nexusscore", "a_1", 0.03, seed=1),
    ]
    board = scoreboard(records, V11)
    values = {result.component: result for result in board.components}
    # Clipped per video (9.0 → 1), averaged within a_1, then over samples.
    assert values["gmescore"].value == pytest.approx(((0.2 + 0.4 + 1.0) / 3 + 0.5) / 2)
    assert values["nexusscore"].value == pytest.approx(0.6)
    assert (values["gmescore"].expected, values["gmescore"].scored) == (6, 4)
    # Strict: of three seeds one was dropped and one not scored.
    assert values["nexusscore"].strict == pytest.approx((0.03 / 3 + 0) / 2 / 0.05)


def test_human_domain_has_no_nexus_and_suites_have_open_weights() -> None:
    human = scoreboard([record("gmescore", "singleface_1", 0.5, track="human-domain")], V11)
    assert "nexusscore" not in {result.component for result in human.components}
    suite = scoreboard([record("gmescore", "x", 0.5, track="suite-mine-12345678")], V11)
    assert {result.component: result.weight for result in suite.components} == dict(V11.open_weights)


def test_variants_seeds_and_supplementary_metrics_stay_apart() -> None:
    records = [
        record("gmescore", "a_1", 0.5),
        record("gmescore", "a_1", 0.1, variant="scored-shuffled"),
        record("clip-t", "a_1", 0.3),
        record("clip-t", "a_2", 0.5),
    ]
    boards = scoreboards(records, V11.name)
    assert [board.label for board in boards] == ["m", "m (scored-shuffled)"]
    assert boards[0].supplementary["clip-t"] == (pytest.approx(0.4), 2)


def test_categories_are_means_of_their_own() -> None:
    board = scoreboard(full_records(), V11)
    assert list(board.categories) == ["singleobj"]
    values = {result.component: result.value for result in board.components}
    assert board.categories["singleobj"] == pytest.approx(values)


def test_values_on_fewer_runs_of_the_judge_are_said() -> None:
    records = full_records(4)
    judged = [one for one in records if one.metric == "naturalscore" and one.value is not None]
    present = {judged[0].key: "2 of 3", judged[1].key: "3 of 3"}
    records = [
        one.model_copy(update={"details": {"runs_present": present[one.key]}}) if one.key in present else one
        for one in records
    ]
    notes = scoreboard(records, V11).notes
    assert "naturalscore: 1 on 2 of 3 runs; the same command asks for the rest" in notes
    assert not any("3 of 3" in text for text in notes)


def test_tables_of_as_many_samples_are_resampled_as_each_alone() -> None:
    generator = np.random.default_rng(1)
    tables = [np.where(generator.random((9, 3)) < 0.3, np.nan, generator.random((9, 3))) for _ in range(3)]
    together = resampled_means(tables, 50)
    for table, means in zip(tables, together, strict=True):
        assert np.array_equal(means, resampled_means([table], 50)[0], equal_nan=True)


def test_natural_order() -> None:
    ids = ["faceobj_10", "faceobj_2", "a", "faceobj_1"]
    assert sorted(ids, key=natural_order) == ["a", "faceobj_1", "faceobj_2", "faceobj_10"]


def test_resampled_means_are_means_of_drawn_samples() -> None:
    values = np.array([[1.0, np.nan], [2.0, 5.0], [4.0, 7.0]])
    counts = np.concatenate(list(count_blocks(3)))
    (means,) = resampled_means([values])
    assert counts.shape == (RESAMPLES, 3)
    assert (counts.sum(axis=1) == 3).all()
    for row in range(50):
        drawn = [index for index in range(3) for _ in range(int(counts[row, index]))]
        assert means[row, 0] == pytest.approx(np.mean(values[drawn, 0]))
        second = values[drawn, 1]
        if np.isfinite(second).any():
            assert means[row, 1] == pytest.approx(np.nanmean(second))
        else:
            assert np.isnan(means[row, 1])


def test_intervals_have_the_width_theory_gives() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, (180, 1))
    low, high = interval(resampled_means([values])[0][:, 0]) or (0, 0)
    expected = 1.96 * values.std() / np.sqrt(180)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.05)
    assert low < values.mean() < high


def test_large_sample_sets_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refbench.bench.scores.bootstrap.BLOCK_ENTRIES", 1000)
    blocks = [block.copy() for block in count_blocks(90, 100)]
    assert len(blocks) == 10
    assert sum(map(len, blocks)) == 100
    assert len({block.tobytes() for block in blocks}) == 10


@pytest.mark.parametrize(("samples", "resamples"), [(1, 7), (3, 50), (7, 41), (180, 33)])
@pytest.mark.parametrize("block_entries", [500, 20_000_000])
def test_draws_do_not_depend_on_how_many_are_counted_at_once(
    monkeypatch: pytest.MonkeyPatch, samples: int, resamples: int, block_entries: int
) -> None:
    monkeypatch.setattr("refbench.bench.scores.bootstrap.BLOCK_ENTRIES", block_entries)
    monkeypatch.setattr("refbench.bench.scores.bootstrap.COUNTED_ENTRIES", 40)
    _counts.cache_clear()
    expected = []
    rows = min(resamples, block_entries // samples)
    for block, start in enumerate(range(0, resamples, rows)):
        # One call for the whole block, as the figures that are published were drawn.
        size = (min(rows, resamples - start), samples)
        drawn = np.random.default_rng([SEED, samples, block]).integers(0, samples, size=size)
        expected += [np.bincount(row, minlength=samples) for row in drawn]
    counted = np.concatenate([block.copy() for block in count_blocks(samples, resamples)])
    assert counted.dtype == np.float64
    assert np.array_equal(counted, expected)


def test_counts_of_expected_videos_over_seeds() -> None:
    """Expected: every sample in every seed of the run, but samples to which the component does not apply."""
    records = [
        record("facesim", "a_1", 0.5, seed=0),
        record("facesim", "a_1", reason="failed: no face", seed=1),
        record("facesim", "a_2", reason="not_applicable: nobody", seed=0),
        record("facesim", "a_3", 0.7, seed=2),
        # Not of the component: it only makes a sample known.
        record("clip-t", "a_4", 0.3, seed=0),
    ]
    results = {result.component: result for result in scoreboard(records, V11).components}
    facesim, gmescore = results["facesim"], results["gmescore"]
    # Samples 1, 3 and 4 in three seeds; of these 9 two have a value, one a reason.
    assert (facesim.expected, facesim.scored) == (9, 2)
    assert facesim.reasons == {"failed": 1, "not_scored": 6}
    assert (gmescore.expected, gmescore.scored, gmescore.reasons) == (12, 0, {"not_scored": 12})


def test_no_interval_where_resamples_are_incomplete() -> None:
    board = scoreboard(full_records(3), V11)
    nexus = next(result for result in board.components if result.component == "facesim")
    assert nexus.interval is None or nexus.expected == 2
    assert interval(np.full(10, np.nan)) is None


def boards_interval(board: Scoreboard) -> tuple[float, float]:
    assert board.total_interval is not None
    return board.total_interval


def test_the_totals_interval_recomputes_the_whole_total() -> None:
    """A constant score has no spread; the total's interval then is that of the one component that varies."""
    records = []
    for number in range(40):
        for component in COMPONENTS.values():
            value = component.best
            if component.name == "gmescore":
                value = number / 40
            records.append(record(component.metric, f"a_{number}", value))
    board = scoreboard(records, V11)
    gme = next(result for result in board.components if result.component == "gmescore")
    assert gme.interval is not None
    low, high = boards_interval(board)
    assert high - low == pytest.approx(0.12 * (gme.interval[1] - gme.interval[0]), rel=1e-6)


def groups(*records: list[Record]) -> list[list[Record]]:
    return [group for some in records for group in group_records(some).values()]


def test_comparing_a_method_with_itself_shows_nothing() -> None:
    one, two = groups(full_records(), full_records(method="twin"))
    outcome = compare_records(one, two, V11, ("m", "twin"))
    assert outcome.total.difference == 0
    assert outcome.total.interval == (0, 0)
    assert not outcome.total.distinguishable
    assert all(difference.difference == 0 for difference in outcome.components)


def test_pairing_sees_a_constant_gap_that_separate_intervals_hide() -> None:
    base = full_records(60)
    better = [
        one.model_copy(update={"method": "b", "value": one.value + 0.02})
        if one.metric == "gmescore" and one.value is not None and one.value < 0.98
        else one.model_copy(update={"method": "b"})
        for one in base
    ]
    outcome = compare_records(*groups(better, base), V11, ("b", "m"))
    gme = next(one for one in outcome.components if one.name == "gmescore")
    assert gme.distinguishable
    assert gme.difference == pytest.approx(0.02, abs=2e-3)
    assert gme.interval is not None
    assert gme.interval[0] > 0.01
    assert gme.detectable is not None
    assert 0 < gme.detectable < 0.02
    low, high = next(r for r in scoreboard(base, V11).components if r.component == "gmescore").interval or (
        0,
        0,
    )
    assert high - low > 0.1


def test_the_detectable_gap_is_2_8_standard_errors() -> None:
    assert pytest.approx(2.8016, abs=1e-3) == DETECTABLE_STANDARD_ERRORS
    noise = np.random.default_rng(0).normal(0, 0.1, 200)
    one = [record("gmescore", f"a_{i}", 0.5 + float(noise[i])) for i in range(200)]
    two = [record("gmescore", f"a_{i}", 0.5, method="b") for i in range(200)]
    gme = next(d for d in compare_records(one, two, V11, ("a", "b")).components if d.name == "gmescore")
    assert gme.detectable == pytest.approx(2.8016 * noise.std() / np.sqrt(200), rel=0.05)


def test_only_common_samples_are_compared_and_said() -> None:
    one = full_records(12)
    two = [r.model_copy(update={"method": "b"}) for r in full_records(12, 1) if r.sample != "singleobj_5"]
    two += [record(c.metric, "singleobj_5", reason="missing_video", method="b") for c in COMPONENTS.values()]
    outcome = compare_records(*groups(one, two), V11, ("m", "b"))
    assert outcome.samples == 11
    assert any("1 sample left out" in text for text in outcome.notes)
    lost = [
        r.model_copy(update={"value": None, "reason": "failed: judge"})
        if r.metric == "naturalscore" and r.sample == "singleobj_2"
        else r
        for r in two
    ]
    outcome = compare_records(*groups(one, lost), V11, ("m", "b"))
    natural = next(d for d in outcome.components if d.name == "naturalscore")
    assert natural.n == 10
    assert any("NaturalScore: 1" in text for text in outcome.notes)


def test_what_cannot_be_compared_is_refused() -> None:
    one = full_records(3)
    with pytest.raises(UserError, match="not comparable"):
        compare_records(one, full_records(3, track="human-domain"), V11, ("a", "b"))
    other = [r.model_copy(update={"sample": f"other_{r.sample}"}) for r in one]
    with pytest.raises(UserError, match="no scored sample in common"):
        compare_records(one, other, V11, ("a", "b"))
