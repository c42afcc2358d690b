"""The commands report, leaderboard, compare and reproduce as a user types them."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kit.cli import complaint, invoke, printed, printed_json
from kit.records import record
from kit.stored_runs import boards_of, run_info, run_records, store
from refbench.bench.registry import methods
from refbench.bench.scores.comparison import Difference
from refbench.bench.scores.record import Record, plain_name
from refbench.reports.compared import verdict
from refbench.reports.published import published_rows
from refbench.reports.table1 import reproduced_rows, reproduction_table, row_name, table1_source


def noisy(method: str, shift: float, samples: int, seed: int) -> list[Record]:
    """GmeScore of objects: mean 0.5 + shift, spread 0.1."""
    generator = np.random.default_rng(seed)
    values = 0.5 + shift + 0.1 * generator.standard_normal(samples)
    return [
        record("gmescore", f"singleobj_{number}", float(value), method=method)
        for number, value in enumerate(values, start=1)
    ]


@pytest.mark.parametrize("command", ["report", "leaderboard", "compare", "reproduce", "audit"])
def test_help_teaches_by_an_example(command: str) -> None:
    assert f"Example: refbench {command}" in printed(command, "--help")


def test_importing_the_commands_is_cheap(tmp_path: Path) -> None:
    code = (
        "import sys, refbench.reports.commands; "
        "heavy = ('numpy', 'pandas', 'matplotlib', 'jinja2', 'pydantic'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"


def test_report_writes_and_prints_the_same_figures(tmp_path: Path) -> None:
    store(tmp_path / "scores", run_records("m", ids=("singlehuman_1",)), run_info())
    out = tmp_path / "out"
    text = printed("report", tmp_path / "scores", "-o", out)
    assert "TotalScore 48.00" in text
    assert str(out / "report.html") in text
    answer = printed_json("report", tmp_path / "scores", "-o", out)
    assert answer["scoreboards"][0]["total_score"] == pytest.approx(0.48)
    assert all(Path(file).is_file() for file in answer["files"])
    rows = list(csv.DictReader((out / "tables" / "open-domain.components.csv").open()))
    assert float(rows[0]["score"]) == answer["scoreboards"][0]["total_score"]


def test_report_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    assert "does not exist" in complaint("report", tmp_path / "nowhere")
    assert "did you mean opens2v-1.1" in complaint("report", tmp_path, "--protocol", "opens2v-1.2")


def test_leaderboard_names_sources_and_marks_the_row_that_disagrees() -> None:
    text = printed("leaderboard", "--track", "human-domain", "--protocol", "opens2v-1.0")
    assert "EchoVideo !" in text
    assert text.count(" !") == 1
    assert "! EchoVideo, leaderboard v1.0: +0.088 points" in text
    assert "19 rows, 1 of them" in text
    assert "https://" in text


def test_leaderboard_is_sorted_and_shows_a_method_once_for_each_source() -> None:
    rows = printed_json("leaderboard")["rows"]
    totals = [row["total"] for row in rows]
    assert totals == sorted(totals, reverse=True) and len(rows) == 30
    assert [row["method"] for row in rows[:2]] == ["Phantom-14B (rephrased)", "RefAlign-14B"]
    assert [row["source"] for row in rows if row["method"] == "VACE-14B"] == [
        "leaderboard v1.1",
        "RefAlign Table 1",
    ]
    only = printed_json("leaderboard", "--source", "table 1")["rows"]
    assert {row["source"] for row in only} == {"RefAlign Table 1"} and len(only) == 16


def test_leaderboard_refuses_what_it_does_not_know() -> None:
    assert "did you mean human-domain" in complaint("leaderboard", "--track", "human")
    assert "leaderboard v1.0" in complaint("leaderboard", "--protocol", "opens2v-1.0", "--source", "table 1")


def test_a_run_compared_with_its_copy_differs_by_nothing(tmp_path: Path) -> None:
    a = store(tmp_path / "a", run_records(seeds=(0, 1)), run_info())
    b = store(tmp_path / "b", run_records(seeds=(0, 1)), run_info())
    answer = printed_json("compare", a, b)
    assert answer["a"] != answer["b"]
    for difference in answer["differences"]:
        assert difference["difference"] == 0 and difference["interval"] == [0, 0]
        assert "equal" in difference["verdict"]
    assert answer["card_differences"] == []
    assert "method cards: no difference" in printed("compare", a, b)


def test_compare_says_which_is_higher_when_the_samples_can_tell(tmp_path: Path) -> None:
    a, b = noisy("a", 0.0, 60, 1), noisy("b", 0.2, 60, 2)
    text = printed("compare", store(tmp_path, a).parent, store(tmp_path, b).parent)
    assert "GmeScore: B is higher by" in text and "60 samples tell them apart." in text
    assert "FaceSim: not compared, A and B have no score." in text
    assert "TotalScore: not compared" in text
    assert "no run.json beside the records of a and b" in text


def test_compare_says_what_gap_would_have_shown_when_they_cannot(tmp_path: Path) -> None:
    a, b = noisy("a", 0.0, 60, 1), noisy("b", 0.004, 60, 3)
    text = printed("compare", store(tmp_path, a), store(tmp_path, b))
    assert "includes 0: 60 samples cannot tell them apart; a gap of at least" in text
    gme = next(one for one in printed_json("compare", store(tmp_path, a), store(tmp_path, b))["differences"]
               if one["name"] == "gmescore")  # fmt: skip
    assert not gme["distinguishable"] and gme["n"] == 60
    # (z(0.975) + z(0.80)) standard errors of the paired difference, which has a closed form for a plain mean.
    gaps = np.array([x.value for x in a], float) - np.array([x.value for x in b], float)
    expected = (1.959964 + 0.841621) * gaps.std() / math.sqrt(60)
    assert gme["detectable"] == pytest.approx(expected, rel=0.03)
    assert gme["difference"] == pytest.approx(gaps.mean(), abs=1e-12)


def difference(
    gap: float | None, low: float | None = None, high: float | None = None, n: int = 180
) -> Difference:
    spread = None if low is None or high is None else (low, high)
    return Difference(
        name="total",
        label="TotalScore",
        a=None if gap is None else 0.5 + gap,
        b=0.5,
        difference=gap,
        interval=spread,
        detectable=None if spread is None else 0.029,
        n=n,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            difference(0.012, -0.004, 0.028),
            "TotalScore: A is higher by 1.20 points; the 95 % interval of A - B [-0.40, 2.80] includes 0: "
            "180 samples cannot tell them apart; a gap of at least 2.90 points would have shown.",
        ),
        (
            difference(-0.03, -0.05, -0.01),
            "TotalScore: B is higher by 3.00 points; the 95 % interval of A - B [-5.00, -1.00] excludes 0: "
            "180 samples tell them apart.",
        ),
        (
            difference(0.1, n=1),
            "TotalScore: A is higher by 10.00 points; so few samples (n = 1) give no interval.",
        ),
        (difference(None), "TotalScore: not compared, A has no score."),
    ],
)
def test_verdicts(given: Difference, expected: str) -> None:
    assert verdict(given) == expected


def test_differences_of_the_cards_and_of_the_scoring_are_said(tmp_path: Path) -> None:
    a = store(tmp_path, run_records("a"), run_info(steps=50, guidance={"text": 5.0}, fps=16))
    other = [
        one.model_copy(update={"provenance": one.provenance.model_copy(update={"metric_version": "2"})})
        for one in run_records("b")
    ]
    b = store(tmp_path, other, run_info(steps=40, guidance={"text": 5.0, "image": 3.0}, fps=16))
    text = printed("compare", a, b)
    assert "steps: A 50 | B 40" in text
    assert "guidance.image: A – | B 3.0" in text
    assert "fps" not in text
    assert "facesim version: A 1 | B 2" in text
    answer = printed_json("compare", a, b)
    assert {"field": "steps", "a": "50", "b": "40"} in answer["card_differences"]


NATIVE = {"num_frames": 81, "fps": 16.0, "width": 832, "height": 480, "negative_prompt": "blurry"}


@pytest.mark.parametrize(
    ("other", "fields", "sentence"),
    [
        ({"steps": 3}, [], ""),
        ({"generated_frames": 81}, [], ""),
        (
            {"prompt_set": "mine.json sha256:0123456789ab"},
            ["prompt_set"],
            "prompt set benchmark against mine.json sha256:0123456789ab.",
        ),
        ({"negative_prompt": None}, ["negative_prompt"], "negative prompt “blurry” against none."),
        (
            {"num_frames": 69, "generated_frames": 81, "fps": 15.0},
            ["num_frames", "fps"],
            "81 frames at 16 fps against 69 frames at 15 fps: "
            "MotionAmplitude and MotionSmoothness depend on it.",
        ),
        (
            {"generated_frames": 85},
            ["generated_frames"],
            "81 frames at 16 fps against 81 of 85 frames at 16 fps: "
            "MotionAmplitude and MotionSmoothness depend on it.",
        ),
        (
            {"width": 1280, "height": 720},
            ["width", "height"],
            "832×480 pixels against 1280×720 pixels: MotionAmplitude and MotionSmoothness depend on it.",
        ),
        (
            {"prompt_set": "p sha256:0", "fps": None, "width": 848},
            ["prompt_set", "fps", "width"],
            "prompt set benchmark against p sha256:0; 81 frames at 16 fps, 832×480 pixels "
            "against 81 frames at ? fps, 848×480 pixels: MotionAmplitude and MotionSmoothness depend on it.",
        ),
    ],
)
def test_what_was_not_generated_alike_is_said_aloud(
    tmp_path: Path, other: dict[str, object], fields: list[str], sentence: str
) -> None:
    a = store(tmp_path, run_records("a"), run_info(**NATIVE))
    b = store(tmp_path, run_records("b"), run_info(**(NATIVE | other)))
    expected = f"A and B were not generated alike: {sentence}" if sentence else ""
    lines = printed("compare", a, b).splitlines()
    told_fields = printed_json("compare", a, b)["generation_differences"]
    assert told_fields["sentence"] == expected
    if sentence:
        # Before the list of fields, in one line.
        assert lines.index(expected) < lines.index("method cards differ:")
    else:
        assert not [line for line in lines if "generated alike" in line]
    assert [one["field"] for one in (*told_fields["prompts"], *told_fields["frames"])] == fields


def test_without_cards_nothing_is_said_of_generation(tmp_path: Path) -> None:
    a, b = store(tmp_path, run_records("a")), store(tmp_path, run_records("b"), run_info(**NATIVE))
    assert printed_json("compare", a, b)["generation_differences"] is None


def test_variants_never_stand_beside_published_rows(tmp_path: Path) -> None:
    for variant in ("generated-shuffled", "tiny-weights", "scored-shuffled+tiny-weights"):
        store(tmp_path / "s", run_records("vace-14b", 0.5, variant=variant))
    result = invoke("reproduce", "table1", tmp_path / "s")
    assert result.stdout.count("reported only") == 16
    told_why = "vace-14b (generated-shuffled) is left out: it is the variant generated-shuffled"
    assert told_why in result.stderr
    assert result.stderr.count("is left out: generated with tiny weights") == 2
    store(tmp_path / "s", run_records("vace-14b", 0.5))
    (entry,) = [row for row in printed_json("reproduce", "table1", tmp_path / "s")["rows"] if row["measured"]]
    assert [one["scoreboard"]["variant"] for one in entry["measured"]] == ["plain"]


def test_a_comparison_with_tiny_weights_has_no_totalscore(tmp_path: Path) -> None:
    a, b = store(tmp_path, run_records("a")), store(tmp_path, run_records("b", variant="tiny-weights"))
    text = printed("compare", a, b)
    assert "note: not a TotalScore: generated with tiny weights" in text


def test_compare_asks_which_run_is_meant(tmp_path: Path) -> None:
    store(tmp_path, run_records("a"))
    both = store(tmp_path, run_records("a", 0.2, variant="shuffled"))
    text = complaint("compare", both, both)
    assert "holds several runs" in text and "a --track open-domain --variant shuffled" in text
    assert "holds no run" in complaint("compare", both, both, "--variant", "other")
    answer = printed_json("compare", f"{both}@plain", f"{both}@shuffled")
    assert (answer["a"], answer["b"]) == ("a", "a (shuffled)")
    assert answer["differences"][0]["difference"] == pytest.approx(0.3)
    assert printed_json("compare", both, both, "--variant", "plain", "--track", "open-domain")["samples"] == 6


def test_runs_of_two_tracks_are_not_compared(tmp_path: Path) -> None:
    a = store(tmp_path, run_records("a"))
    b = store(tmp_path, run_records("b", ids=("singlehuman_1",), track="human-domain"))
    assert "not comparable" in complaint("compare", a, b)


def test_table_1_without_runs_is_reported_only() -> None:
    text = printed("reproduce", "table1")
    assert text.count("reported only") == 16
    answer = printed_json("reproduce", "table1")
    assert [row["reported_only"] for row in answer["rows"]] == [True] * 16


def test_measured_runs_stand_beside_table_1(tmp_path: Path) -> None:
    store(tmp_path / "s", run_records("vace_14b", 0.5))
    store(tmp_path / "s", run_records("my-own", 0.5))
    store(tmp_path / "s", run_records("phantom-14b", ids=("singlehuman_1",), track="human-domain"))
    result = invoke("reproduce", "table1", tmp_path / "s", "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout.count("reported only") == 15
    assert "my-own is left out: it is not in Table 1" in result.stderr
    assert "incomplete, vace_14b: covers 6 of the 180 samples of open-domain." in result.stdout
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"table1.md", "table1.csv", "table1.tex"}
    rows = list(csv.DictReader((tmp_path / "out" / "table1.csv").open()))
    assert len(rows) == 16 * 8
    total = next(row for row in rows if row["run"] == "vace_14b" and row["component"] == "total")
    assert float(total["difference_points"]) == pytest.approx(float(total["measured_percent"]) - 57.55)
    answer = printed_json("reproduce", "table1", tmp_path / "s")
    (entry,) = [row for row in answer["rows"] if row["measured"]]
    assert entry["published_percent"]["method"] == "VACE-14B"
    assert entry["measured"][0]["difference_points"]["naturalscore"] == pytest.approx(
        100 * entry["measured"][0]["scoreboard"]["components"]["naturalscore"]["score"] - 67.04
    )


def test_a_measured_run_without_a_component_has_no_difference_there() -> None:
    boards = boards_of(run_records("BindWeave", without=("facesim",)))
    table = reproduction_table(reproduced_rows(boards))
    place = next(number for number, row in enumerate(table.rows) if row[1].text == "measured")
    measured, gap = (dict(zip(table.headings, row, strict=True)) for row in table.rows[place : place + 2])
    assert [measured["TotalScore"].text, measured["FaceSim"].text] == ["–", "–"]
    assert [gap["TotalScore"].text, gap["FaceSim"].text] == ["–", "–"]
    assert gap["Aesthetics"].text == "+4.45"


def test_names_match_without_case_and_punctuation_only() -> None:
    assert plain_name("VACE-1.3B") == plain_name("vace_1.3b") != plain_name("VACE-P1.3B")
    methods = [plain_name(row.method) for row in published_rows(table1_source())]
    assert len(set(methods)) == 16


def test_reproduce_names_its_tables() -> None:
    assert "did you mean table2 or table1" in complaint("reproduce", "table3")


def test_every_generator_of_table_1_finds_its_row() -> None:
    """A registered method's runs stand beside the row of the same model, whatever the table calls it."""
    rows = {plain_name(row.method) for row in published_rows(table1_source())}
    ours = {
        "refalign-1.3b", "refalign-14b", "phantom-1.3b", "phantom-14b", "vace-1.3b", "vace-p1.3b", "vace-14b",
        "magref-480p", "skyreels-a2-p14b", "kaleido-14b", "bindweave-14b",
    }  # fmt: skip
    assert ours <= set(methods.names())
    found = {row_name(name) for name in ours}
    assert len(found) == len(ours)
    assert found <= rows
