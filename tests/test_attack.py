"""A few of each attack of `tests/attack.py`, and what it once found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import attack
from attacks import child, verdict
from attacks.verdict import Tally, Verdict
from kit.cli import complaint
from refbench.bench.errors import UserError
from refbench.bench.scores.store import StoreWriter, read_records, store_files


def test_a_few_of_each_kind(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="tiny weights need the extra 'metrics'")
    counts = {"kill_count": 2, "mutant_count": 22, "special_count": 12, "judge_count": 5}
    tally = Tally(list(attack.outcomes(tmp_path, seed=0, **counts)))
    assert not tally.wrong, "\n".join(tally.lines())
    kinds = {one.kind for one in tally.outcomes}
    assert tally.count("unharmed", Verdict.RIGHT) == 11
    assert {"kill: evaluate", "kill: generate", "mutant: mp4", "mutant: weights", "judge"} <= kinds
    # All sorts of ends occur, or the attack would be too weak or too strong to show anything.
    assert {one.verdict for one in tally.outcomes} == set(Verdict) - {Verdict.WRONG}
    assert tally.lines()[-1].startswith("in all")


def _crash() -> None:
    raise ValueError("boom")


def _swell() -> None:
    assert b"x" * (1300 * 2**20)


def _hang() -> None:
    import time

    time.sleep(60)


def _obeyed() -> None:
    os.write(1, b"\x1b[2J")


@pytest.mark.parametrize(
    ("misbehaviour", "why"),
    [
        (_crash, "a traceback: ValueError: boom"),
        (_swell, "took 1."),
        (_hang, "no end within 1 s"),
        (_obeyed, "wrote '\\x1b' to the terminal"),
    ],
)
def test_the_attack_would_see_it(
    misbehaviour: Callable[[], None], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refbench.bench.cli.main.main", misbehaviour)
    found, said = verdict.judged(child.run(["anything"], tmp_path, limit_s=1.2))
    assert (found, said[: len(why)]) == (Verdict.WRONG, why)


@pytest.mark.parametrize("kind", ["named pipe", "device", "sparse file"])
def test_a_store_is_a_regular_file_of_bounded_size(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m/t.jsonl"
    path.parent.mkdir()
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as stream:
            stream.truncate(200 * 10**9)
    words = "larger than 2 GiB" if kind == "sparse file" else "not a file"
    with pytest.raises(UserError, match=words):
        read_records(path)
    with pytest.raises(UserError, match=words):
        StoreWriter(path).__enter__()
    assert store_files(tmp_path) == [path]
    assert words in complaint("export", tmp_path, "--out", tmp_path / "out")


@pytest.mark.parametrize("content", [b"\x00\x00\x00\x18ftypmp42 a video", b"RIFF, a picture", b"id,score"])
def test_another_file_in_a_store_s_place_is_not_cut_off(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="line 1 is no score record"):
        StoreWriter(path).__enter__()
    assert path.read_bytes() == content


@pytest.mark.parametrize("torn", [b"", b"{", b'{"schema_ver', b"\0" * 40, b'{"schema\0\0\0'])
def test_a_torn_line_is_still_cut_off(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(torn)
    with StoreWriter(path) as writer:
        assert writer.records == {}
    assert path.read_bytes() == b""


@pytest.mark.parametrize("name", ["naturalscore_1.json", "facesim.json"])
def test_official_files_that_cannot_be_read_are_not_passed_over(name: str, tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    os.mkfifo(tmp_path / "scores" / name)
    words = ("import-scores", tmp_path / "scores", "--name", "n", "--track", "open-domain")
    assert f"{name} is a named pipe, not a file" in complaint(*words)


def test_a_run_that_cannot_be_read_is_not_replaced(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs/noise/open-domain/run.json"
    run.parent.mkdir(parents=True)
    os.mkfifo(run)
    words = ("generate", "noise", "--dataset", dataset, "--out", tmp_path / "runs", "--limit", 1)
    assert "run.json is a named pipe, not a file" in complaint(*words)
    assert run.is_fifo()
