"""A few of each attack of `tests/attack.py`, and what it once found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks import child, verdict
from attacks.verdict import Outcome, Tally, Verdict
from kit.cli import complaint
from refbench.bench.errors import UserError
from refbench.bench.scores.store import StoreWriter, read_records, store_files

SCRIPT = Path(__file__).with_name("attack.py")


def test_a_few_of_each_kind() -> None:
    """In a process of its own: it forks, and libraries may have started threads in this one."""
    pytest.importorskip("transformers", reason="tiny weights need the extra 'metrics'")
    counts = ("--kills", "2", "--mutants", "22", "--specials", "12", "--judges", "5", "--tables", "7")
    done = subprocess.run(
        [sys.executable, SCRIPT, *counts], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    rows = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert rows[0] == ["kind", "tried", *(one.value for one in Verdict)]
    tried = {row[0]: [int(cell) for cell in row[1:]] for row in rows[1:]}
    assert tried["unharmed"] == [13, 13, 0, 0, 0]
    assert {
        "kill: evaluate",
        "kill: generate",
        "mutant: mp4",
        "mutant: weights",
        "judge",
        "table",
    } <= tried.keys()
    # All sorts of ends occur, or the attack would be too weak or too strong to show anything.
    total, right, failures, refused, wrong = tried["in all"]
    assert (total, wrong) == (13 + 2 + 22 + 12 + 5 + 7, 0)
    assert min(right - 13, failures, refused) > 0


def test_wrong_cases_are_named() -> None:
    tally = Tally([Outcome(kind="mutant: png", case="a.png, --seed 7", verdict=Verdict.WRONG, why="a hang")])
    assert tally.lines()[-1] == "WRONG mutant: png: a.png, --seed 7: a hang"
    assert tally.lines()[1].split() == ["mutant:", "png", "1", "0", "0", "0", "1"]


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
    # Only what does not end at all may meet the limit, however busy the machine is.
    limit_s = 1.2 if misbehaviour is _hang else 60
    found, said = verdict.judged(child.run(["anything"], tmp_path, limit_s=limit_s))
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
    words = "larger than 16 GiB" if kind == "sparse file" else "not a file"
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
