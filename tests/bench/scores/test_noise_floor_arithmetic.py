"""Noise floors from records: what a floor is, what it is not, and what gives none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.records import full_records, record
from refbench.bench.errors import UserError
from refbench.bench.scores.noise_floor import (
    TOTAL,
    Cause,
    FloorCell,
    NoiseFloor,
    ScoredBy,
    directed_cells,
    exchangeable_cells,
    judge_repetitions,
    read_noise_floor,
    student_t,
)
from refbench.bench.scores.protocol import OPENS2V_1_1
from refbench.bench.scores.record import Provenance, Record

MEASURED = 24


def faces(values: np.ndarray, **fields: Any) -> list[Record]:
    return [record("facesim", f"singleface_{n}", float(value), **fields) for n, value in enumerate(values)]


def face_cell(without: np.ndarray, altered: np.ndarray) -> FloorCell:
    return directed_cells(faces(without), faces(altered), OPENS2V_1_1)["facesim"]


def test_what_changes_nothing_has_a_floor_of_exactly_0() -> None:
    records = full_records()
    for cells in (
        directed_cells(records, records, OPENS2V_1_1),
        exchangeable_cells([records, records], OPENS2V_1_1),
    ):
        assert cells.keys() > {TOTAL, "facesim", "nexusscore"}
        for cell in cells.values():
            assert cell.reason is None
            assert [cell.floor(n) for n in (1, 12, 10_000)] == [0, 0, 0]


@settings(max_examples=20)
@given(shift=st.floats(-0.4, 0.4))
def test_an_equal_shift_of_all_is_the_floor_of_every_n(shift: float) -> None:
    before = np.linspace(0.4, 0.6, MEASURED)
    cell = face_cell(before, before + shift)
    assert cell.shift == pytest.approx(shift, abs=1e-12)
    for n in (1, 24, 10_000):
        assert cell.floor(n) == pytest.approx(abs(shift), abs=1e-9)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 300))
def test_the_floor_of_a_larger_mean_is_lower_and_never_below_the_shift(seed: int, n: int) -> None:
    chance = np.random.default_rng(seed)
    before = chance.uniform(0.3, 0.7, MEASURED)
    cell = face_cell(before, before + chance.normal(0.02, 0.05, MEASURED))
    floor, of_more = cell.floor(n), cell.floor(n + 1)
    assert cell.shift is not None and floor is not None and of_more is not None
    assert floor > of_more > abs(cell.shift)
    assert (
        cell.one_video is not None and cell.one_video.largest >= cell.one_video.p95 >= cell.one_video.median
    )


def share_below(floor_and_gap: Callable[[np.random.Generator], tuple[float, float]]) -> float:
    """How often the gap that the cause makes is below the floor that was measured before."""
    chance = np.random.default_rng(20260325)
    pairs = [floor_and_gap(chance) for _ in range(100)]
    return float(np.mean([gap < floor for floor, gap in pairs]))


def test_a_new_mean_is_moved_by_less_than_the_floor_as_often_as_promised() -> None:
    """One tail of a prediction interval where there is a shift, both where there is none: 95 to 97.5 %."""
    n = 60

    def directed(chance: np.random.Generator) -> tuple[float, float]:
        before = np.full(MEASURED, 0.5)
        cell = face_cell(before, before + chance.normal(0.05, 0.04, MEASURED))
        return float(cell.floor(n) or 0), abs(chance.normal(0.05, 0.04, n).mean())

    def exchangeable(chance: np.random.Generator) -> tuple[float, float]:
        seeds = [faces(0.5 + chance.normal(0, 0.04, MEASURED), seed=seed) for seed in range(2)]
        cell = exchangeable_cells(seeds, OPENS2V_1_1)["facesim"]
        gap = chance.normal(0, 0.04, n).mean() - chance.normal(0, 0.04, n).mean()
        return float(cell.floor(n) or 0), abs(gap)

    assert 0.95 <= share_below(directed) <= 0.995
    assert 0.92 <= share_below(exchangeable) <= 0.98


def test_means_of_several_seeds_vary_less() -> None:
    chance = np.random.default_rng(0)
    seeds = [faces(chance.uniform(0.3, 0.7, MEASURED), seed=seed) for seed in range(3)]
    cell = exchangeable_cells(seeds, OPENS2V_1_1)["facesim"]
    assert cell.shift is None and cell.interval is None
    assert cell.floor(24, repetitions=4) == pytest.approx((cell.floor(24) or 0) / 2)


def test_what_was_not_scored_has_a_reason_and_no_figure() -> None:
    records = [one for one in full_records() if one.metric not in ("facesim", "naturalscore")]
    cells = directed_cells(records, records, OPENS2V_1_1)
    assert cells["facesim"].reason == "nothing was scored"
    assert cells[TOTAL].reason == "no TotalScore without FaceSim, NaturalScore"
    assert cells["facesim"].floor(24) is None
    few = [one for one in full_records() if one.sample in ("singleobj_1", "singleobj_2")]
    assert directed_cells(few, few, OPENS2V_1_1)["gmescore"].reason == "2 samples are too few"
    failed = [record("facesim", one.sample) for one in few if one.metric == "facesim"]
    cells = directed_cells(failed, failed, OPENS2V_1_1)
    assert {cell.reason for cell in cells.values()} == {"no sample has a score with and without it"}


def judged(sample: int, answers: list[int], **details: Any) -> Record:
    runs = {str(number): str(answer) for number, answer in enumerate(answers, 1)}
    return record(
        "naturalscore",
        f"singleobj_{sample}",
        sum(answers) / len(answers),
        details={"judge": "gpt", "runs": runs, **details},
    )


def test_the_judge_is_measured_from_its_single_answers() -> None:
    chance = np.random.default_rng(1)
    answers = chance.integers(2, 6, (MEASURED, 3))
    repetitions, why = judge_repetitions([judged(n, row.tolist()) for n, row in enumerate(answers)])
    assert (len(repetitions), why) == (3, None)
    cell = exchangeable_cells(repetitions, OPENS2V_1_1, averaged=3)["naturalscore"]
    # A score is the mean of three answers on a scale four wide; a gap has two such scores.
    spread = np.sqrt(2 * answers.var(axis=1, ddof=1).mean() / 3 / MEASURED) / 4
    assert cell.standard_error == pytest.approx(spread, rel=0.05)


def test_a_judge_that_answers_once_or_greedily_says_nothing_of_its_noise() -> None:
    assert judge_repetitions([judged(1, [3])])[1] == "the records hold one answer of the judge for each video"
    local = judge_repetitions([judged(1, [3, 3, 3], unofficial="local judge X")])[1]
    assert local is not None and "greedily" in local
    assert judge_repetitions(full_records(2)[:2])[1] == "no judge's answers in the records"


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(4, 2.77645), (10, 2.22814), (23, 2.06866), (120, 1.97993)]
)
def test_quantiles_of_student(freedom: int, quantile: float) -> None:
    assert student_t(freedom) == pytest.approx(quantile, rel=3e-3)


def floor_of(cells: dict[str, FloorCell]) -> NoiseFloor:
    return NoiseFloor(
        protocol="opens2v-1.1",
        track="open-domain",
        method="m",
        variant="plain",
        samples=["a_1"],
        metrics={"facesim": ScoredBy(version="1")},
        causes=[Cause(name="reencode:23", family="reencode", label="re-encoding at CRF 23", cells=cells)],
        python="CPython",
        system="Linux",
    )


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    floor = floor_of(directed_cells(full_records(seed=1), full_records(seed=2), OPENS2V_1_1))
    floor.write(tmp_path / "f.json")
    assert read_noise_floor(tmp_path / "f.json") == floor


@pytest.mark.parametrize(
    "change",
    [
        {"causes": [{"name": "x"}]},
        {"schema_version": 2},
        {"kind": "else"},
        {"protocol": None},
        {"extra": 1},
        {"causes": "x" * 1000},
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    content = floor_of({}).model_dump(mode="json") | change
    (tmp_path / "f.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no noise floor") as error:
        read_noise_floor(tmp_path / "f.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "cell",
    [{"n": 24}, {"n": 2, "standard_error": 0.1}, {"n": 24, "standard_error": -1.0}, {"reason": "x", "n": -1}],
)
def test_a_cell_that_cannot_be_is_refused(cell: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        FloorCell.model_validate(cell)


def test_floors_belong_to_scores_of_equal_making() -> None:
    floor = floor_of({})
    alike = faces(np.array([0.5]))
    assert floor.unlike("facesim", alike, OPENS2V_1_1) is None
    for change, said in (
        ({"metric_version": "2"}, "facesim version 1 against 2"),
        ({"settings": "abc"}, "facesim settings none against abc"),
        ({"dtype": "float16"}, "facesim dtype none against float16"),
        ({"weights": {"w": "d"}}, "facesim other weights"),
    ):
        other = faces(np.array([0.5]), provenance=Provenance(**({"metric_version": "1"} | change)))
        assert floor.unlike("facesim", other, OPENS2V_1_1) == said
        assert floor.unlike(TOTAL, other, OPENS2V_1_1) == said
        assert floor.unlike("gmescore", other, OPENS2V_1_1) is None
