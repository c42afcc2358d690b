"""The table of directions: what counts as come out, and that nothing is said of runs that are not there."""

from __future__ import annotations

from kit.mini_records import contest_records
from refbench.bench.scores.record import Record
from refbench.mini.contest import CEILING, CONTROLS, GENERATORS, OURS
from refbench.mini.directions import (
    HEADINGS,
    Outcome,
    directions,
    measured_directions,
    outcome_json,
    outcome_row,
    summary,
)
from refbench.mini.protocol import MINI_1_0

SHUFFLED = "generated-shuffled+mini-weights"


def a_good_world() -> list[Record]:
    """Runs in which every direction comes out."""
    pasted = {"facesim": 0.95, "nexusscore": 0.95, "naturalscore": 0.1, "gmescore": 0.1}
    wrong = {"facesim": 0.3, "nexusscore": 0.3}
    ours = contest_records(OURS, 0.7)
    scored_wrong = [
        one.model_copy(update={"variant": "scored-shuffled"}) for one in contest_records(OURS, 0.7, **wrong)
    ]
    runs = [
        contest_records(CEILING, 0.9),
        ours,
        scored_wrong,
        contest_records(OURS, 0.6, SHUFFLED, **wrong),
        contest_records("refalign-mini-no-ra", 0.65),
        contest_records("mini-text-only", 0.5, **wrong),
        contest_records("static-reference", 0.4, **pasted),
        contest_records("pan-reference", 0.4),
        contest_records("flash-frame", 0.3, nexusscore=0.99),
        contest_records("noise", 0.05),
        contest_records("black", 0.02),
    ]
    return [one for run in runs for one in run]


def by_line(outcomes: list[Outcome]) -> dict[tuple[str, str, str, str], bool | None]:
    return {
        (one.direction.number, one.direction.a, one.direction.b, one.direction.component): one.came_out
        for one in outcomes
    }


def test_in_a_good_world_everything_comes_out() -> None:
    outcomes = measured_directions(a_good_world(), MINI_1_0)
    assert [one.came_out for one in outcomes if one.direction.wanted != "shown"] == [True] * (
        len(directions()) - 2
    )
    assert summary(outcomes).startswith(f"{len(directions()) - 2} of {len(directions()) - 2} directions")
    assert all(len(outcome_row(one)) == len(HEADINGS) for one in outcomes)
    assert outcome_json(outcomes[0])["came_out"] is True


def test_what_does_not_come_out_is_said() -> None:
    worse = [one for one in a_good_world() if one.method != OURS or one.variant != "plain"]
    worse += contest_records(OURS, 0.35, facesim=0.2)
    found = by_line(measured_directions(worse, MINI_1_0))
    assert found["1b", OURS, "mini-text-only", "TotalScore"] is False
    assert found["2a", OURS, f"{OURS}, other references", "facesim"] is False
    assert found["2b", OURS, f"{OURS}, scored against others", "gmescore"] is False
    rows = [outcome_row(one) for one in measured_directions(worse, MINI_1_0)]
    assert "NO" in {row[-1] for row in rows}


def test_absent_runs_have_no_answer() -> None:
    outcomes = measured_directions(contest_records(OURS, 0.5), MINI_1_0)
    assert {one.came_out for one in outcomes} == {None}
    assert {tuple(outcome_row(one)[4:7]) for one in outcomes} == {("–", "–", "–")}


def test_every_row_of_the_contest_is_in_the_table() -> None:
    named = {name for one in directions() for name in (one.a, one.b)}
    assert {CEILING, *GENERATORS, *CONTROLS} <= named
