"""`refbench vote` and `refbench votes`: what they print, and one line for each thing that is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from kit.cli import complaint, invoke, printed, printed_json
from kit.records import record
from kit.stored_runs import IDS, run_records, store
from kit.voters import TRACK, ballot_of, simulated, vote_line, write_votes
from refbench.bench import environment
from refbench.bench.cli import main as cli
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.record import RunKey
from refbench.reports.votes import fitted_weights, resampling
from refbench.reports.votes.ballot import Ballot, draw_ballot, read_ballot, write_ballot
from refbench.reports.votes.vote_file import read_votes

STRENGTHS = {"good": 1.0, "middling": 0.1, "bad": -1.1}
VOTERS = ("ann", "bob", "cid", "dee")


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two commands are there also where the installed metadata is older than they are; few resamples."""
    place = "refbench.reports.votes.commands"
    points = [EntryPoint(name, f"{place}:{name}", cli.COMMANDS_GROUP) for name in ("vote", "votes")]
    monkeypatch.setattr(cli, "entry_points", lambda group: points)
    # Intervals are tested elsewhere.
    monkeypatch.setattr(resampling, "RESAMPLES", 60)
    monkeypatch.setattr(fitted_weights, "RESAMPLES", 60)


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    """Scores in the order of the strengths on 24 samples; good and bad are far apart."""
    for method, quality in (("good", 0.7), ("middling", 0.5), ("bad", 0.3)):
        ids = tuple(f"singlehuman_{number}" for number in range(1, 25))
        store(tmp_path / "scores", run_records(method, quality, ids=ids))
    return tmp_path / "scores"


@pytest.fixture
def ballot() -> Ballot:
    places = [(f"singlehuman_{number}", 0) for number in range(1, 25)]
    found = {RunKey(method, TRACK): places for method in STRENGTHS}
    return draw_ballot(TRACK, found, lambda key, place: "", seed=1, pairs=72, checks=6)


@pytest.fixture
def file(ballot: Ballot, tmp_path: Path) -> Path:
    return write_votes(tmp_path / "votes.jsonl", ballot, simulated(ballot, STRENGTHS, VOTERS, ties=0.1))


@pytest.fixture
def runs(make_clip: Callable[..., Path], tmp_path: Path) -> Path:
    """Videos of two of `IDS` by two methods."""
    for method in ("good", "bad"):
        for sample in IDS[:2]:
            make_clip(f"runs/{method}/{TRACK}/seed-0/{sample}.mp4", frames=3, width=32, height=32)
    return tmp_path / "runs"


@pytest.fixture
def small_stores(tmp_path: Path) -> Path:
    for method in ("good", "bad"):
        store(tmp_path / "small", run_records(method, ids=IDS[:2]))
    return tmp_path / "small"


def test_votes_prints_ratings_voters_bias_and_what_is_undecided(file: Path) -> None:
    text = printed("votes", file)
    assert "288 votes of 4 voters on 72 pairs of open-domain" in text
    table = text.partition("Overall: Bradley-Terry")[2].partition("voters")[0]
    assert table.index("good") < table.index("middling") < table.index("bad")
    for words in ("Subject: Bradley-Terry", "checks failed", "left chosen %", "voters agree %", "0/6"):
        assert words in text
    # Without stores nothing is said of components.
    assert "TotalScore" not in text


def test_votes_with_stores_says_which_components_agree(file: Path, stores: Path) -> None:
    text = printed("votes", file, "--stores", stores)
    assert "agreement with the votes, overall (opens2v-1.1)" in text
    assert "weights: official, and fitted to the votes (an opinion, not TotalScore)" in text
    found = printed_json("votes", file, "--stores", stores)
    total = found["scores"]["total"]
    assert total["kendall_tau"]["overall"] == 1 and total["accuracy"]["overall"]["interval"][0] > 0.5
    assert set(found["scores"]) == {*COMPONENTS, "total"}
    assert found["weights"]["official"]["naturalscore"] == 0.24
    assert sum(found["weights"]["fitted"].values()) == pytest.approx(1)
    assert "total" not in found["weights"]["fitted"]


def test_a_component_that_disagrees_says_so(file: Path, stores: Path) -> None:
    turned = {"good": 0.2, "middling": 0.5, "bad": 0.9}
    for method, value in turned.items():
        ids = [f"singlehuman_{number}" for number in range(1, 25)]
        store(stores, [record("gmescore", one, value, method=method) for one in ids])
    found = printed_json("votes", file, "--stores", stores)["scores"]
    assert found["gmescore"]["accuracy"]["overall"]["interval"][1] < 0.5
    assert found["gmescore"]["kendall_tau"]["overall"] == -1
    assert found["facesim"]["kendall_tau"]["overall"] == 1


def test_what_has_no_score_is_left_out_of_the_agreement_and_counted(file: Path, stores: Path) -> None:
    store(stores, [record("aesthetics", "singlehuman_1", method="good")])
    found = printed_json("votes", file, "--stores", stores)["scores"]
    full, less = (found[name]["accuracy"]["overall"]["n"] for name in ("gmescore", "aesthetics"))
    assert full - 8 <= less < full and found["total"]["accuracy"]["overall"]["n"] == less


def test_json_holds_everything_unrounded(file: Path, ballot: Ballot) -> None:
    found = printed_json("votes", file)
    assert found["ballot"] == ballot.digest and found["methods"] == ["bad", "good", "middling"]
    overall = found["criteria"]["overall"]
    assert [one["method"] for one in overall["ratings"]] == ["good", "middling", "bad"]
    assert overall["ratings"][0]["interval"][0] > overall["ratings"][2]["interval"][1]
    assert overall["position_bias"]["interval"][0] < 0.5 < overall["position_bias"]["interval"][1]
    assert {"same", "n", "alpha"} <= set(overall["voter_agreement"])
    pairs = {(one["first"], one["second"]): one for one in overall["pairs"]}
    assert pairs["good", "bad"]["decided"] is True and pairs["good", "bad"]["needed"] is None
    assert pairs["good", "bad"]["votes"] == 96
    assert [one["voter"] for one in found["voters"]] == list(VOTERS)


def test_an_undecided_pair_says_how_many_votes_it_needs(tmp_path: Path) -> None:
    ballot = ballot_of(("a", "b"), samples=20)
    file = write_votes(tmp_path / "v.jsonl", ballot, simulated(ballot, {"a": 0.3, "b": 0}, ["ann"], seed=3))
    (pair,) = printed_json("votes", file)["criteria"]["overall"]["pairs"]
    assert pair["decided"] is False and pair["needed"] > pair["votes"] == 20
    text = printed("votes", file)
    assert "not decided: votes that would settle it (power 80 %, two-sided 5 %)" in text
    assert str(pair["needed"]) in text and "one voter: intervals hold for this voter's taste alone" in text


def test_careless_voters_are_named_and_left_out(tmp_path: Path) -> None:
    ballot = ballot_of(STRENGTHS, checks=12)
    lines = simulated(ballot, STRENGTHS, VOTERS, careless=["bob"])
    file = write_votes(tmp_path / "v.jsonl", ballot, lines)
    text = printed("votes", file)
    assert "left out, too many failed attention checks: bob" in text and "of 3 voters" in text
    kept = printed("votes", file, "--keep-inattentive")
    assert "of 4 voters" in kept and "counted, with failed attention checks: bob" in kept


def test_position_bias_is_named(tmp_path: Path) -> None:
    ballot = ballot_of(STRENGTHS)
    lines = simulated(ballot, STRENGTHS, VOTERS, left_bias=1.5)
    text = printed("votes", write_votes(tmp_path / "v.jsonl", ballot, lines))
    assert "Overall: voters prefer the left side" in text
    fair = printed("votes", write_votes(tmp_path / "w.jsonl", ballot, simulated(ballot, STRENGTHS, VOTERS)))
    assert "voters prefer" not in fair


def test_skips_and_undone_votes_do_not_count(tmp_path: Path) -> None:
    ballot = ballot_of(("a", "b"), samples=4, checks=0)
    lines = [
        vote_line(ballot, 1),
        vote_line(ballot, 2),
        vote_line(ballot, 3, kind="undo", place=1, undoes=2),
        vote_line(ballot, 4, kind="skip", place=2),
    ]
    found = printed_json("votes", write_votes(tmp_path / "v.jsonl", ballot, lines))
    assert found["votes"] == 1
    assert {name: found["voters"][0][name] for name in ("votes", "skips", "undone")} == {
        "votes": 1, "skips": 1, "undone": 1,
    }  # fmt: skip


def test_methods_that_no_vote_connects_are_not_compared(tmp_path: Path) -> None:
    found = {
        RunKey(method, TRACK): [(f"s_{place}", 0)]
        for place, methods in enumerate((("a", "b"), ("c", "d")))
        for method in methods
    }
    ballot = draw_ballot(TRACK, found, lambda key, place: "", seed=0, pairs=9, checks=0)
    strengths = dict.fromkeys("abcd", 0.0)
    file = write_votes(tmp_path / "v.jsonl", ballot, simulated(ballot, strengths, VOTERS))
    assert "no vote connects these groups, whose ratings cannot be compared: a, b | c, d" in printed(
        "votes", file
    )
    pairs = printed_json("votes", file)["criteria"]["overall"]["pairs"]
    assert {frozenset((one["first"], one["second"])) for one in pairs} == {frozenset("ab"), frozenset("cd")}


def test_answers_of_several_people_are_read_with_the_ballot_of_the_export(
    ballot: Ballot, tmp_path: Path
) -> None:
    write_ballot(tmp_path / "page.ballot.json", ballot)
    files = []
    for number, voter in enumerate(VOTERS):
        lines = simulated(ballot, STRENGTHS, [voter], seed=number, session=lambda _, n=number: f"{n:016x}")
        files.append(write_votes(tmp_path / f"answers-{number}.jsonl", ballot, lines))
        files[-1].with_suffix(".ballot.json").unlink()
    found = printed_json("votes", *files, "--ballot", tmp_path / "page.ballot.json")
    assert found["votes"] == 72 * 4
    said = complaint("votes", *files)
    assert "answers-0.ballot.json is not there: say with --ballot FILE" in said


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda file: file.unlink(), "votes.jsonl does not exist"),
        (lambda file: file.write_text(""), "votes.jsonl is empty"),
        (lambda file: file.write_text("[]\n"), "line 1 is no header of a vote file"),
        (lambda file: file.write_text(file.read_text() + "{}\n"), "is no vote: kind: Field required"),
        (
            lambda file: file.with_suffix(".ballot.json").write_text("{}"),
            "is no ballot: track: Field required",
        ),
        (
            lambda file: file.write_text(file.read_text().partition("\n")[0] + "\n"),
            "no vote on two methods counts in",
        ),
    ],
)
def test_a_wrong_file_is_one_line(file: Path, prepare: Callable[[Path], Any], reason: str) -> None:
    prepare(file)
    assert reason in complaint("votes", file)


def test_votes_on_another_ballot_are_one_line(file: Path, ballot: Ballot, tmp_path: Path) -> None:
    other = ballot_of(STRENGTHS, seed=7)
    foreign = write_votes(tmp_path / "other.jsonl", other, [vote_line(other, 1)])
    said = complaint("votes", file, foreign)
    assert "other.jsonl holds votes on other pairs" in said and ballot.digest[:12] in said


def test_two_voters_with_one_name_are_one_line(file: Path, ballot: Ballot, tmp_path: Path) -> None:
    lines = simulated(ballot, STRENGTHS, ["ann"], session=lambda _: "e" * 16)
    other = write_votes(tmp_path / "other.jsonl", ballot, lines)
    assert "two voters have the name ann, one in" in complaint("votes", file, other)


def test_stores_of_other_runs_are_one_line(file: Path, tmp_path: Path) -> None:
    store(tmp_path / "else", run_records("stranger"))
    said = complaint("votes", file, "--stores", tmp_path / "else")
    assert "the stores hold no records of what was voted on (bad, good, middling on open-domain)" in said


def test_a_method_without_records_is_said(file: Path, stores: Path) -> None:
    shutil.rmtree(stores / "middling")
    assert "no records of middling" in printed("votes", file, "--stores", stores)


def test_a_missing_package_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == "choix" else name)
    assert complaint("votes", file) == "reading votes needs choix; pip install 'refalign-bench[votes]'"


@pytest.mark.parametrize("command", ["vote", "votes"])
def test_help_teaches_every_option(command: str) -> None:
    text = printed(command, "--help")
    assert f"Example: refbench {command}" in text and "STORE" in text and "Default" in text


def test_hostile_names_are_printed_harmlessly(tmp_path: Path) -> None:
    ballot = ballot_of(("a", "b"))
    lines = simulated(ballot, {"a": 0, "b": 0}, ["[red]<b>ann</b>"])
    text = printed("votes", write_votes(tmp_path / "v.jsonl", ballot, lines))
    assert "[red]<b>ann</b>" in text


def test_export_writes_a_page_and_a_ballot_beside_it(
    small_stores: Path, runs: Path, dataset: Path, tmp_path: Path
) -> None:
    words = (
        "vote",
        small_stores,
        "--runs",
        runs,
        "--dataset",
        dataset,
        "--export",
        tmp_path / "page",
        "--seed",
        4,
    )
    result = invoke(*words)
    assert "keep it: it says whose videos they are" in result.stdout
    ballot = read_ballot(tmp_path / "page.ballot.json")
    assert ballot.seed == 4 and sum(pair.kind == "methods" for pair in ballot.pairs) == 2
    assert (tmp_path / "page/index.html").is_file()
    assert "already there" in complaint(*words)


def test_without_a_seed_each_ballot_is_another(
    small_stores: Path, runs: Path, dataset: Path, tmp_path: Path
) -> None:
    seeds = set()
    for name in ("one", "two"):
        invoke("vote", small_stores, "--runs", runs, "--dataset", dataset, "--export", tmp_path / name)
        seeds.add(read_ballot(tmp_path / f"{name}.ballot.json").seed)
    assert len(seeds) == 2


def test_what_is_missing_is_said_line_by_line(
    small_stores: Path, runs: Path, dataset: Path, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    store(small_stores, run_records("unmade", ids=IDS[:2]))
    make_clip(f"runs/unscored/{TRACK}/seed-0/{IDS[0]}.mp4", frames=2, width=32, height=32)
    (runs / f"bad/{TRACK}/seed-0/{IDS[0]}.mp4").unlink()
    make_clip(f"runs/third/{TRACK}/seed-0/{IDS[1]}.mp4", frames=2, width=32, height=32)
    (runs / f"third/{TRACK}/seed-0/{IDS[0]}.mp4").write_bytes(b"not a video")
    store(small_stores, run_records("third", ids=IDS[:2]))
    said = invoke(
        "vote", small_stores, "--runs", runs, "--dataset", dataset, "--export", tmp_path / "page"
    ).stderr.splitlines()  # fmt: skip
    for reason in (
        f"bad: 1 scored sample without a video: {IDS[0]}",
        "unmade has records and no videos: the video folder",
        "third: 1 video cannot be shown: singleobj_1.mp4: the video cannot be decoded",
        "videos without records, not shown: unscored",
    ):
        assert sum(reason in line for line in said) == 1, (reason, said)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--runs", "nowhere"), "the folder of runs nowhere does not exist"),
        (("--track", "human-domain"), "the stores hold no records of human-domain, but of open-domain"),
        (("--dataset", ""), "voters judge by prompt and references, which are not known"),
    ],
)
def test_wrong_words_are_one_line(
    words: tuple[str, str], reason: str, small_stores: Path, runs: Path, dataset: Path
) -> None:
    options = {"--runs": runs, "--dataset": dataset} | dict([words])
    given = [word for option, value in options.items() if value for word in (option, value)]
    assert reason in complaint("vote", small_stores, *given)


def test_runs_without_any_record_and_records_without_any_run_are_one_line(
    small_stores: Path, runs: Path, dataset: Path, tmp_path: Path
) -> None:
    store(tmp_path / "else", run_records("stranger", ids=IDS[:2]))
    said = complaint("vote", tmp_path / "else", "--runs", runs, "--dataset", dataset)
    assert "no run has both records and videos of open-domain: stranger has records and no videos" in said
    assert "videos without records, not shown: bad, good" in said
    shutil.rmtree(runs / "bad")
    said = complaint(
        "vote", small_stores, "--runs", runs, "--dataset", dataset, "--out", tmp_path / "v.jsonl"
    )
    assert "no two methods have a video of the same sample of open-domain" in said
    assert not (tmp_path / "v.jsonl").exists()


def test_a_vote_file_is_json_lines_with_the_ballots_digest(file: Path, ballot: Ballot) -> None:
    first = json.loads(file.read_text().splitlines()[0])
    assert first == {"kind": "header", "schema_version": 1, "ballot": ballot.digest, "track": TRACK}
    assert len(read_votes(file).lines) == 78 * 4
