"""The official aggregation: every golden case, the leaderboards, and laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.records import full_records
from refbench.bench.errors import UserError
from refbench.bench.scores.aggregate import scoreboard, unofficial_reasons
from refbench.bench.scores.protocol import OPENS2V_1_0 as V10
from refbench.bench.scores.protocol import OPENS2V_1_1 as V11
from refbench.bench.scores.protocol import (
    Protocol,
    get_protocol,
    official_result,
    protocol_names,
    register_protocol,
)
from refbench.bench.scores.record import Provenance

# The two cases that are properties of a reader that opens every file of a folder.
FOLDER_READER_CASES = ("a_file_that_holds_a_list", "files_named_like_internal_fields")
TOLERANCE = 1e-12


def unpacked(value: Any) -> Any:
    """The goldens write NaN and Infinity as strings, also inside the score files."""
    if isinstance(value, dict):
        return {key: unpacked(entry) for key, entry in value.items()}
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def test_every_golden_case_of_the_merge(golden: Callable[[str], Any]) -> None:
    cases = golden("opens2v_eval/merge_cases.json")["cases"]
    checked = raised = 0
    for case in cases:
        if case["name"] in FOLDER_READER_CASES:
            continue
        for version, by_domain in case["expected"].items():
            for domain, expected in by_domain.items():
                where = (case["name"], version, domain)
                protocol = get_protocol(f"opens2v-{version[1:]}")
                # Only the NaN cases hold NaN as numbers; a judge's "nan" is text there too.
                natural = {k: v for k, v in case["files"].items() if k.startswith("naturalscore")}
                files = unpacked(case["files"]) | natural
                checked += 1
                if "raises" in expected:
                    raised += 1
                    with pytest.raises((TypeError, ValueError)) as caught:
                        official_result(files, protocol, domain)
                    assert type(caught.value).__name__ == expected["raises"], where
                    assert str(caught.value) == expected["message"], where
                    continue
                result = official_result(files, protocol, domain)
                assert result.keys() == expected.keys(), where
                for field, value in unpacked(expected).items():
                    same = math.isnan(value) and math.isnan(result[field])
                    assert same or abs(result[field] - value) <= TOLERANCE, (*where, field)
    assert (len(cases), checked) == (35, 33 * 6)
    assert raised > 30


def test_the_demonstration_files_give_the_known_totals(golden: Callable[[str], Any]) -> None:
    case = golden("opens2v_eval/merge_cases.json")["cases"][-1]
    assert case["name"] == "demo_folder_of_the_reference"
    assert official_result(case["files"], V11, "Open-Domain")["total_score"] == 0.5959962472265614
    assert official_result(case["files"], V10, "Open-Domain")["total_score"] == pytest.approx(
        0.52177, abs=5e-6
    )


def test_weights_sum_to_one_and_equal_the_golden(golden: Callable[[str], Any]) -> None:
    published = golden("opens2v_eval/leaderboard_check.json")["weights"]
    for version, protocol in (("v1.1", V11), ("v1.0", V10)):
        for domain, title in (("open-domain", "Open-Domain"), ("human-domain", "Human-Domain")):
            weights = protocol.weights(domain)
            assert sum(weights.values()) == pytest.approx(1)
            assert sorted(weights.values()) == sorted(published[version][title].values())
        assert protocol.weights("single-domain") == protocol.weights("open-domain")


def test_an_empty_folder_scores_below_zero() -> None:
    assert official_result({}, V11, "Open-Domain")["total_score"] == pytest.approx(-0.2733, abs=5e-5)


def test_human_domain_still_reads_nexus() -> None:
    files = {"nexusscore.json": {"a": {"nexus_score": None}}}
    with pytest.raises(TypeError):
        official_result(files, V11, "Human-Domain")


def test_unknown_protocols_are_named() -> None:
    assert get_protocol("opens2v-1.1") is V11
    with pytest.raises(UserError, match=r"did you mean opens2v-1\.[01]"):
        get_protocol("opens2v-1.2")


LENIENT = register_protocol(
    replace(
        V11,
        name="lenient-test",
        accepted_weights=frozenset({"real", "tiny"}),
        accepted_judges=frozenset({"endpoint", "local"}),
    )
)
# Never registered here: an entry point brings it.
BROUGHT = replace(V11, name="brought-test")


def test_a_registered_protocol_is_found_by_its_name() -> None:
    assert get_protocol("lenient-test") is LENIENT
    assert protocol_names()[:2] == ("opens2v-1.1", "opens2v-1.0")
    assert "lenient-test" in protocol_names()
    assert register_protocol(LENIENT) is LENIENT
    with pytest.raises(UserError, match=r"two protocols are called 'opens2v-1\.1'"):
        register_protocol(replace(V11, summary="another one"))
    assert get_protocol("opens2v-1.1") is V11


def test_other_packages_bring_protocols_and_a_broken_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    points = [
        EntryPoint(name="broken", value="no_such_package.protocols", group="refbench.protocols"),
        EntryPoint(name="ours", value=f"{__name__}:BROUGHT", group="refbench.protocols"),
    ]
    monkeypatch.setattr("refbench.bench.scores.protocol.entry_points", lambda group: points)
    assert get_protocol("brought-test") is BROUGHT
    with pytest.raises(UserError, match=r"not loaded: no_such_package\.protocols: ModuleNotFoundError"):
        get_protocol("nothing-like-it")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"provenance": Provenance(metric_version="1", weights={"w": "tiny:00"})}, "tiny random weights in"),
        ({"details": {"judge": "Q", "unofficial": "local judge Q"}}, "local judge Q"),
        ({"variant": "tiny-weights"}, "generated with tiny weights"),
        ({"details": {"unofficial": "half of the frames"}}, "half of the frames"),
    ],
)
def test_a_protocol_says_which_weights_and_judges_it_accepts(changes: dict[str, Any], reason: str) -> None:
    records = [one.model_copy(update=changes) for one in full_records()]
    refused, accepted = scoreboard(records, V11), scoreboard(records, LENIENT)
    assert refused.total is None
    assert any(text.startswith(reason) for text in refused.unofficial)
    if reason == "half of the frames":
        # What is neither a matter of weights nor of the judge, no protocol accepts.
        assert accepted.unofficial == (reason,)
    else:
        assert accepted.unofficial == () and accepted.total == refused.unofficial_total


def test_a_protocol_may_refuse_real_weights_and_judges_behind_endpoints() -> None:
    strict = replace(V11, accepted_weights=frozenset({"tiny"}), accepted_judges=frozenset({"local"}))
    real = {"provenance": Provenance(metric_version="1", weights={"w": "ab"}), "details": {"judge": "gpt"}}
    records = [one.model_copy(update=real) for one in full_records() if one.metric == "naturalscore"]
    assert unofficial_reasons(records, strict, "open-domain") == (
        "endpoint judge",
        "released weights in naturalscore",
    )
    assert unofficial_reasons(records, V11, "open-domain") == ()


scores = st.dictionaries(st.sampled_from([f"v{i}" for i in range(9)]), st.floats(-2, 9), min_size=1)


@given(scores, st.sampled_from([V11, V10]), st.randoms())
def test_the_order_of_videos_does_not_matter(
    entries: dict[str, float], protocol: Protocol, random: Any
) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)
    for column in protocol.columns:
        if column.component.name == "naturalscore":
            continue
        file, key = column.files[0], column.component.official_key
        results = [
            official_result({file: {v: {key: entries[v]} for v in order}}, protocol, "Open-Domain")
            for order in (list(entries), shuffled)
        ]
        assert results[0]["total_score"] == pytest.approx(results[1]["total_score"], abs=1e-12)


@given(scores, st.floats(0.001, 1))
def test_raising_a_score_never_lowers_the_total(entries: dict[str, float], by: float) -> None:
    files = {"gmescore.json": {video: {"gme_score": score} for video, score in entries.items()}}
    raised = {"gmescore.json": {video: {"gme_score": score + by} for video, score in entries.items()}}
    low, high = (official_result(content, V11, "Open-Domain")["total_score"] for content in (files, raised))
    assert high >= low - 1e-12


def test_a_zero_nexus_score_costs_nothing_a_negative_one_does() -> None:
    def total(*values: float) -> float:
        entries = {f"v{i}": {"nexus_score": value} for i, value in enumerate(values)}
        return official_result({"nexusscore.json": entries}, V11, "Open-Domain")["nexus_score"]

    assert total(0.02) == total(0.02, 0.0, 0) == pytest.approx(0.4)
    assert total(0.0, 0.0) == 0
    assert total(0.02, -0.02) == pytest.approx(0)
    assert total(0.9) == 1
