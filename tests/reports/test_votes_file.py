"""The ballot and the vote file: what is drawn, what is written, and what a crash or another file does."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from kit.voters import SESSION, ballot_of, simulated, vote_line, write_votes
from refbench.bench.errors import UserError
from refbench.bench.scores.record import RunKey
from refbench.reports.votes.ballot import Ballot, draw_ballot, read_ballot, write_ballot
from refbench.reports.votes.vote_file import (
    VoteLine,
    VoteWriter,
    check_ballot,
    checked_voter,
    joined,
    read_votes,
    standing,
)

BALLOT = ballot_of(("a", "b", "c"), samples=4)


def test_a_seed_gives_the_same_ballot_and_another_seed_another() -> None:
    assert ballot_of(("a", "b"), seed=1) == ballot_of(("b", "a"), seed=1)
    assert ballot_of(("a", "b"), seed=1).digest != ballot_of(("a", "b"), seed=2).digest


def test_methods_and_samples_are_used_evenly() -> None:
    ballot = ballot_of(("a", "b", "c", "d"), samples=10, pairs=30, checks=0)
    methods = {video.id: video.method for video in ballot.videos}
    twos = Counter(frozenset((methods[pair.first], methods[pair.second])) for pair in ballot.pairs)
    assert set(twos.values()) == {5} and len(twos) == 6
    used = Counter(pair.sample for pair in ballot.pairs)
    assert max(used.values()) - min(used.values()) <= 1 and len(used) == 10


def test_only_common_samples_and_seeds_are_paired() -> None:
    found = {
        RunKey("a", "t"): [("s_1", 0), ("s_2", 0), ("s_3", 1)],
        RunKey("b", "t"): [("s_2", 0), ("s_3", 0)],
    }
    ballot = draw_ballot("t", found, lambda key, place: "", seed=0, pairs=9, checks=0)
    assert [pair.sample for pair in ballot.pairs] == ["s_2"]
    with pytest.raises(UserError, match="no two methods have a video of the same sample"):
        draw_ballot("t", {RunKey("a", "t"): [("s_1", 0)]}, lambda key, place: "", seed=0, pairs=9, checks=0)


def test_every_pair_is_shown_once_by_an_arrangement_and_either_way_equally_often() -> None:
    ways: Counter[tuple[str, str]] = Counter()
    for index in range(len(BALLOT.arrangements)):
        sides = BALLOT.sides(index)
        assert set(sides) == {pair.id for pair in BALLOT.pairs}
        ways.update(sides.values())
    assert all(ways[left, right] == ways[right, left] > 0 for left, right in ways)
    orders = [list(BALLOT.sides(index)) for index in range(len(BALLOT.arrangements))]
    assert all(one != other for one, other in pairwise(orders))


def test_a_check_shows_a_method_beside_itself_noise_and_black() -> None:
    videos = {video.id: video for video in BALLOT.videos}
    checks = {pair.kind: pair for pair in BALLOT.pairs if pair.kind != "methods"}
    assert set(checks) == {"same", "noise", "black"}
    for kind, pair in checks.items():
        both = sorted((videos[pair.first], videos[pair.second]), key=lambda one: one.content != "method")
        assert pair.first != pair.second
        assert both[0].content == "method"
        assert both[1].content == ("method" if kind == "same" else kind)
        assert (both[0].method, both[0].sample) == (both[1].method, both[1].sample)


def test_a_ballot_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    write_ballot(file, BALLOT)
    assert read_ballot(file) == BALLOT
    content = json.loads(file.read_text())
    content["arrangements"][0][0] = content["arrangements"][0][1]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"is no ballot: .*every pair once"):
        read_ballot(file)


def test_lines_come_back_in_order_and_the_writer_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    first, second = vote_line(BALLOT, 1), vote_line(BALLOT, 2, "tie")
    write_votes(file, BALLOT, [first])
    with VoteWriter(file, BALLOT) as writer:
        assert writer.lines == [first]
        writer.append(second)
    found = read_votes(file)
    assert found.lines == (first, second)
    assert found.header is not None and found.header.ballot == BALLOT.digest


@pytest.mark.parametrize("kept", [1, 40, 200])
def test_a_torn_last_line_is_left_out_and_cut_off_by_the_next_writer(tmp_path: Path, kept: int) -> None:
    file = write_votes(tmp_path / "votes.jsonl", BALLOT, [vote_line(BALLOT, 1), vote_line(BALLOT, 2)])
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    assert len(read_votes(file).lines) == 1
    with VoteWriter(file, BALLOT) as writer:
        writer.append(vote_line(BALLOT, 2, "right"))
    assert [line.number for line in read_votes(file).lines] == [1, 2]


def test_a_torn_header_is_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    file.write_bytes(b'{"kind":"hea')
    with VoteWriter(file, BALLOT):
        pass
    assert read_votes(file).header is not None


def test_a_file_without_a_vote_is_bound_to_no_ballot(tmp_path: Path) -> None:
    file = write_votes(tmp_path / "votes.jsonl", ballot_of(("a", "b"), seed=5), [])
    with VoteWriter(file, BALLOT) as writer:
        writer.append(vote_line(BALLOT, 1))
    check_ballot(read_votes(file), BALLOT)


def test_what_a_full_disk_refused_does_not_come_out_with_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "votes.jsonl"
    write_votes(file, BALLOT, [])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with VoteWriter(file, BALLOT) as writer:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                writer.append(vote_line(BALLOT, 1, "left"))
        assert writer.lines == []
        writer.append(vote_line(BALLOT, 1, "right"))
    (line,) = read_votes(file).lines
    assert line.answers is not None and line.answers["overall"] == "right"


def test_there_is_one_writer(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    with (
        VoteWriter(file, BALLOT),
        pytest.raises(UserError, match="is being written by another `refbench vote`"),
        VoteWriter(file, BALLOT),
    ):
        pass


def test_votes_of_another_ballot_are_refused(tmp_path: Path) -> None:
    file = write_votes(tmp_path / "votes.jsonl", BALLOT, [vote_line(BALLOT, 1)])
    other = ballot_of(("a", "b", "c"), samples=4, seed=9)
    with pytest.raises(UserError, match=rf"other pairs \(ballot {BALLOT.digest[:12]}\)") as caught:
        check_ballot(read_votes(file), other)
    assert other.digest[:12] in str(caught.value)
    with pytest.raises(UserError, match="other pairs"), VoteWriter(file, other):
        pass
    elsewhere = BALLOT.model_copy(update={"track": "human-domain"})
    with pytest.raises(UserError, match="on other pairs of open-domain"):
        check_ballot(read_votes(file), elsewhere)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": {"overall": "left"}}, "a vote answers subject, text"),
        ({"answers": None}, "a vote has answers"),
        ({"undoes": 1}, "an undo names the line"),
        ({"voter": "a  b"}, "name is not written as it was taken"),
        ({"voter": "\u202eann"}, "printable"),
        ({"seconds": float("inf")}, "finite|JSON"),
        ({"more": 1}, "Extra inputs"),
        ({"pair": "../../etc/passwd"}, "should match pattern"),
    ],
)
def test_a_line_that_is_no_vote_is_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    file = write_votes(tmp_path / "votes.jsonl", BALLOT, [])
    line = json.dumps({**vote_line(BALLOT, 1).model_dump(exclude_none=True), **change})
    with file.open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(UserError, match=rf"votes.jsonl, line 2 is no vote: .*({reason})"):
        read_votes(file)


def test_a_pair_that_was_not_shown_that_way_is_refused(tmp_path: Path) -> None:
    honest = vote_line(BALLOT, 1)
    turned = honest.model_copy(update={"left": honest.right, "right": honest.left})
    file = write_votes(tmp_path / "votes.jsonl", BALLOT, [turned])
    with pytest.raises(UserError, match="line 2 shows a pair that its ballot does not show that way"):
        check_ballot(read_votes(file), BALLOT)


def test_an_undo_takes_a_line_back_and_the_last_vote_stands() -> None:
    lines = [
        vote_line(BALLOT, 1, "left"),
        vote_line(BALLOT, 2, kind="undo", place=0, undoes=1),
        vote_line(BALLOT, 3, "right", place=0),
        vote_line(BALLOT, 4, kind="skip", place=1),
        vote_line(BALLOT, 5, "left", place=2),
        vote_line(BALLOT, 6, kind="undo", place=2, undoes=5),
        vote_line(BALLOT, 5, "left", voter="bob", place=2),
    ]
    stands = [(line.voter, line.number, line.kind) for line in standing(lines).values()]
    assert stands == [("ann", 3, "vote"), ("ann", 4, "skip"), ("bob", 5, "vote")]


def test_a_file_that_was_saved_twice_counts_once_and_two_people_of_one_name_are_refused(
    tmp_path: Path,
) -> None:
    lines = simulated(BALLOT, {"a": 0, "b": 0, "c": 0}, ["ann"])
    early = read_votes(write_votes(tmp_path / "1.jsonl", BALLOT, lines[:3]))
    late = read_votes(write_votes(tmp_path / "2.jsonl", BALLOT, lines))
    assert joined([early, late]) == joined([late, early]) == lines
    other = [line.model_copy(update={"session": "f" * 16}) for line in lines]
    stranger = read_votes(write_votes(tmp_path / "3.jsonl", BALLOT, other))
    with pytest.raises(
        UserError, match=r"two voters have the name ann, one in .*1.jsonl and one in .*3.jsonl"
    ):
        joined([early, stranger])


def test_names_of_voters() -> None:
    assert checked_voter("  Ann \t Lee ") == "Ann Lee"
    assert checked_voter("<b>") == "<b>"
    for name in ("", "  ", "x" * 61, "a\x00b", "\u202eann"):
        with pytest.raises(UserError, match="1 to 60 printable"):
            checked_voter(name)


def test_a_line_is_small_and_holds_no_method() -> None:
    ballot = ballot_of(("very-secret-method", "other-secret-method"))
    text = vote_line(ballot, 1).model_dump_json(exclude_none=True)
    assert "secret" not in text and len(text) < 400
    assert VoteLine.model_validate_json(text).session == SESSION
    assert isinstance(ballot, Ballot)
