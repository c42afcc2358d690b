"""`compare` on what no component sees: subject-confusion of both runs, and identity-gain over a control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.cli import complaint, printed, printed_json
from kit.records import record
from kit.stored_runs import run_records, store
from refbench.bench.scores.columns import NOTHING_FOUND
from refbench.bench.scores.comparison import figure_differences
from refbench.bench.scores.identity import FACE_CEILING, FIGURES, GAIN_FIGURES
from refbench.bench.scores.record import Provenance, Record
from refbench.reports.compared import compare


def confused(sample: str, value: float, presence: float, margin: float, **fields: Any) -> Record:
    details = {"presence": presence, "margin": margin}
    return record("subject-confusion", sample, value, details=details, **fields)


def absent(sample: str, **fields: Any) -> Record:
    return record(
        "subject-confusion", sample, reason=f"failed: {NOTHING_FOUND['subject-confusion']}", **fields
    )


def gains(method: list[Record], control: list[Record]) -> dict[str, Any]:
    return {one.name: one for one in figure_differences(method, control, GAIN_FIGURES)}


def faces(values: list[float], **fields: Any) -> list[Record]:
    return [record("facesim", f"singleface_{n}", value, **fields) for n, value in enumerate(values, 1)]


def test_where_nothing_appears_presence_is_0_and_confusion_unknown() -> None:
    a = [confused("multiface_1", 0.25, 1.0, 0.5), confused("multiface_2", 0.5, 1.0, 0.1)]
    b = [confused("multiface_1", 0.75, 0.5, -0.2), absent("multiface_2")]
    found = {one.name: one for one in figure_differences(a, b, FIGURES)}
    assert (found["subject-confusion"].n, found["presence"].n, found["margin"].n) == (1, 2, 1)
    assert found["subject-confusion"].difference == pytest.approx(-0.5)
    assert found["presence"].difference == pytest.approx(0.75)
    # One sample has no interval.
    assert found["margin"].interval is None and found["presence"].interval is not None


def test_a_run_has_nothing_over_itself() -> None:
    records = faces([0.2, 0.5, 0.9])
    (gain,) = gains(records, records).values()
    assert gain.difference == 0 and gain.interval == (0, 0)


def test_likeness_over_the_ceiling_is_no_gain() -> None:
    at_ceiling, above = faces([FACE_CEILING] * 3), faces([0.99, 0.9, 0.8])
    control = faces([0.1, 0.2, 0.3])
    assert gains(above, control)["facesim"] == gains(at_ceiling, control)["facesim"]
    assert gains(above, control)["facesim"].difference == pytest.approx(FACE_CEILING - 0.2)


def test_the_ceiling_holds_for_each_video_and_seeds_are_averaged() -> None:
    method = [*faces([1.0]), *faces([0.38], seed=1)]
    assert gains(method, faces([0.08]))["facesim"].difference == pytest.approx(0.5)


@given(values=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_a_gain_is_the_mean_of_its_pairs_and_turns_with_them(values: list[tuple[float, float]]) -> None:
    method, control = (faces([pair[side] for pair in values]) for side in (0, 1))
    forth, back = gains(method, control)["facesim"], gains(control, method)["facesim"]
    capped = np.minimum(np.array(values), FACE_CEILING)
    assert forth.difference == pytest.approx((capped[:, 0] - capped[:, 1]).mean(), abs=1e-12)
    assert forth.difference == -back.difference and -FACE_CEILING <= forth.difference <= FACE_CEILING
    each = capped[:, 0] - capped[:, 1]
    low, high = forth.interval
    assert each.min() - 1e-12 <= low <= high <= each.max() + 1e-12


def test_samples_without_a_kept_subject_in_one_are_left_out() -> None:
    def likeness(kept: list[int]) -> list[Record]:
        return [
            record(
                "nexusscore", f"singleobj_{n}", 0.01, details={"kept": count, "mean_similarity": count / 10}
            )
            for n, count in enumerate(kept, start=1)
        ]

    gain = gains(likeness([5, 6, 0, 4]), likeness([3, 3, 4, 0]))["subjects"]
    assert gain.n == 2 and gain.difference == pytest.approx(0.25)


def mixed(method: str, shift: float) -> list[Record]:
    ids = [f"multihuman_{n}" for n in range(1, 13)]
    return [
        *run_records(method, 0.5 + shift, ids=tuple(ids)),
        *faces([0.2 + shift + 0.01 * n for n in range(12)], method=method),
        *(
            confused(one, 0.3 - shift, 0.7 + shift, shift + 0.001 * n, method=method)
            for n, one in enumerate(ids)
        ),
    ]


def test_compare_prints_them_below_the_components(tmp_path: Path) -> None:
    a, b, control = (
        store(tmp_path / name, mixed(name, shift)) for name, shift in (("a", 0.2), ("b", 0.1), ("c", 0.0))
    )
    text = printed("compare", a, b, "--text-only", control)
    assert "subject-confusion (lower is better): B is higher by 10.00 points" in text
    assert "presence of the references: A is higher by 10.00 points" in text
    assert "identity-gain of a over c, FaceSim, capped at 0.78: +20.00 points, 95 % interval" in text
    assert "identity-gain of b over c, FaceSim, capped at 0.78: +10.00 points, 95 % interval" in text
    answer = printed_json("compare", a, b, "--text-only", control)
    assert [one["name"] for one in answer["supplementary"]] == ["subject-confusion", "presence", "margin"]
    assert [gain["run"] for gain in answer["identity_gains"]] == ["a", "b"]
    copies = [
        store(
            tmp_path / f"{name}-copies",
            [
                *mixed(name, 0.1),
                *(record("copy-paste", f"multihuman_{n}", share, method=name) for n in (1, 2)),
            ],
        )
        for name, share in (("a", 0.9), ("b", 0.1))
    ]
    assert "copies of the references (copy-paste): A is higher by 80.00 points" in printed("compare", *copies)
    # What is outside of the protocol moves nothing in it.
    plain = printed_json("compare", *(store(tmp_path / f"plain {name}", [
        one for one in mixed(name, shift) if one.metric != "subject-confusion"
    ]) for name, shift in (("a", 0.2), ("b", 0.1))))  # fmt: skip
    assert plain["differences"] == answer["differences"] and plain["supplementary"] == []
    assert plain["identity_gains"] == []


def test_a_control_that_is_one_of_the_two_has_no_gain_of_its_own(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a", mixed("a", 0.2)), store(tmp_path / "b", mixed("b", 0.1))
    assert [gain.run for gain in compare(a, b, text_only=b).gains] == ["a"]


def test_a_control_that_was_scored_otherwise_is_named(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a", mixed("a", 0.2)), store(tmp_path / "b", mixed("b", 0.1))
    other = Provenance(metric_version="0")
    control = store(tmp_path / "c", faces([0.1, 0.2], method="c", provenance=other))
    assert "not scored alike: facesim version" in printed("compare", a, b, "--text-only", control)


def test_a_control_without_the_track_or_the_scores_is_said(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a", mixed("a", 0.2)), store(tmp_path / "b", mixed("b", 0.1))
    elsewhere = store(tmp_path / "c", run_records("c", ids=("singlehuman_1",), track="human-domain"))
    assert "holds no run" in complaint("compare", a, b, "--text-only", elsewhere)
    unscored = store(tmp_path / "d", run_records("d", ids=("multiobject_1",), without=("facesim",)))
    assert "identity-gain of a over d: none, no sample" in printed("compare", a, b, "--text-only", unscored)
