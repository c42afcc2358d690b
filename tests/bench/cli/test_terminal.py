"""Terminals of every kind: plain characters, one line for what goes wrong, no name that steers them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.cli import Run
from kit.clips import SMALL_IDS
from refbench.bench.cli import main as cli
from refbench.bench.cli import start
from refbench.bench.console import print_json, print_table, print_text
from refbench.bench.errors import visible

# An escape sequence that clears the screen, a C1 control, and a mark that turns the direction of writing.
HOSTILE = "a\x1b[2Jb\x9bc\u202ed\u200fe\x7f"
HARMLESS = r"a\x1b[2Jb\x9bc\u202ed\u200fe\x7f"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_terminal_without_unicode_gets_plain_characters(
    refbench: Run, videos: Path, dataset: Path, encoding: str
) -> None:
    """Dashes, arrows and signs of multiplication become ASCII; nothing raises."""
    environment = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0"}
    (videos / "fac€obj.mp4").write_bytes(b"")
    for words in (
        ["evaluate", videos, "--name", "x", "--dataset", dataset],
        ["evaluate", videos, "--name", "x", "--dataset", dataset, "--dry-run"],
        ["leaderboard"],
        ["methods", "show", "refalign-1.3b"],
        ["--help"],
    ):
        done = subprocess.run(
            refbench.command(*words), cwd=refbench.folder, capture_output=True, env=environment, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        done.stdout.decode(encoding)
    first = subprocess.run(
        refbench.command("evaluate", videos, "--name", "x", "--dataset", dataset, "--json"),
        cwd=refbench.folder,
        capture_output=True,
        env=environment,
        timeout=120,
    )
    assert b"fac\\u20acobj.mp4" in first.stderr
    assert json.loads(first.stdout)


def test_what_a_terminal_would_obey_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    from refbench.bench.console import note

    assert visible(HOSTILE) == HARMLESS
    assert visible("naïve 中文 مرحبا می\u200cخواهم\tx\n") == "naïve 中文 مرحبا می\u200cخواهم\tx\n"
    assert visible(os.fsdecode(b"caf\xe9")) == r"caf\udce9"
    print_text(HOSTILE)
    note(HOSTILE)
    print_table(f"[red]{HOSTILE}", ["m", f"[b]{HOSTILE}"], [[HOSTILE, "1"]])
    said = "".join(capsys.readouterr())
    assert said.count(HARMLESS) == 5
    assert "[red]" in said and "[b]" in said
    print_json({HOSTILE: HOSTILE, "é": 1})
    printed = capsys.readouterr().out
    assert all(one.isprintable() or one == "\n" for one in printed)
    assert json.loads(printed) == {HOSTILE: HOSTILE, "é": 1}
    assert "é" in printed


def test_names_of_files_and_keys_steer_no_terminal(refbench: Run, videos: Path, dataset: Path) -> None:
    shutil.copy(videos / f"{SMALL_IDS[0]}.mp4", videos / f"{HOSTILE}.mp4")
    command = ("evaluate", videos, "--name", "x", "--dataset", dataset)
    for words in (command, (*command, "--dry-run"), (*command, "--dry-run", "--json")):
        done = refbench(*words)
        for text in (done.stdout, done.stderr):
            assert all(one.isprintable() or one == "\n" for one in text)
    file = dataset / "Open-Domain_Eval.json"
    file.write_text(json.dumps({HOSTILE: {"prompt": "p"}}))
    assert "\x1b" not in refbench(*command, expect=2).stderr
    assert "\x1b" not in refbench("report", f"{HOSTILE}", expect=2).stderr


@pytest.mark.parametrize(
    "words", [(HOSTILE,), (f"--{HOSTILE}",), ("evaluate", "videos", f"--{HOSTILE}"), ("weights", HOSTILE)]
)
def test_what_was_typed_steers_no_terminal(refbench: Run, words: tuple[str, ...]) -> None:
    said = refbench(*words, expect=2).stderr
    assert HARMLESS in said
    assert all(one.isprintable() or one == "\n" for one in said)


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> tuple[Any, str]:
    monkeypatch.setattr(sys, "argv", ["refbench", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, capsys.readouterr().err


def test_a_home_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text = run_main(monkeypatch, capsys, "tracks", "--dataset", "~nosuch/data")
    assert (code, text.count("\n")) == (2, 1)
    assert "there is no such home folder" in text
    code, text = run_main(monkeypatch, capsys, "doctor", "--weights", "~nosuch/weights")
    assert (code, text.count("\n")) == (2, 1)
    assert "write the path without ~" in text


def test_an_interruption_while_the_command_line_loads_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupt:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "refbench.bench.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "refbench.bench.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupt(), *sys.meta_path])
    with pytest.raises(SystemExit) as caught:
        start.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "refbench: stopped before anything began\n"


def test_lists_may_begin_with_a_mark_and_hold_any_line_separator(
    refbench: Run, videos: Path, tmp_path: Path, dataset: Path
) -> None:
    """What editors of other systems write: a byte order mark; U+2028 and U+0085 within a prompt."""
    suite = tmp_path / "mine.jsonl"
    rows = [{"id": one, "prompt": "a\u2028b\x85c"} for one in SMALL_IDS[:2]]
    text = "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\r\n"
    suite.write_bytes(text.encode())
    refbench("evaluate", videos, "--name", "x", "--suite", suite)
    listed = dataset / "Open-Domain_Eval.json"
    listed.write_bytes(b"\xef\xbb\xbf" + listed.read_bytes())
    refbench("evaluate", videos, "--name", "x", "--dataset", dataset)
