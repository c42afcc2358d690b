"""Tables within a terminal's width, and what every command lets the user see."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kit.cli import Run, invoke, printed
from kit.stored_runs import run_info, run_records, store
from refbench.bench import console
from refbench.bench.cli import main as cli
from refbench.bench.runner.progress import Progress
from refbench.bench.scores.columns import COMPONENTS

NUMBER = re.compile(r"\d+\.\d\d\b")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Sets the width that tables must fit into; only a terminal has one."""
    return lambda width: monkeypatch.setattr(
        console, "screen_width", lambda: None if console.VIEW.get().wide else width
    )


def numbers(text: str) -> set[str]:
    return set(NUMBER.findall(text))


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    store(tmp_path / "s", run_records("vace-14b", 0.5), run_info())
    store(tmp_path / "s", run_records("a-method", 0.4, variant="shuffled"), run_info())
    return tmp_path / "s"


COMMANDS = [
    ("leaderboard",),
    ("leaderboard", "--track", "human-domain", "--protocol", "opens2v-1.0"),
    ("reproduce", "table1"),
    ("weights", "list"),
    ("metrics", "show", "naturalscore"),
    ("methods", "show", "refalign-1.3b"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("width", [80, 200])
def test_no_name_or_number_is_broken(
    words: tuple[str, ...], width: int, narrow: Callable[[int | None], None]
) -> None:
    whole = printed(*words, "--wide")
    narrow(width)
    text = printed(*words)
    assert max(map(len, text.splitlines())) <= width
    kept = numbers(whole) if "not shown in" not in text else set()
    assert kept <= numbers(text)
    known = set(re.findall(r"[A-Za-z0-9][\w./+-]+", whole.replace("─", " ")))
    broken = [
        word
        for word in re.findall(r"[A-Za-z0-9][\w./+-]+", text.partition("not shown in")[0])
        if word not in known | SHORT
    ]
    assert not broken


SHORT = {component.short for component in COMPONENTS.values()} | {"Total", "total", "pub", "Strict"}


def test_one_row_for_each_method_and_dropped_columns_are_named(
    scores: Path, tmp_path: Path, narrow: Callable[[int | None], None]
) -> None:
    narrow(80)
    words = ("report", scores, "-o", tmp_path / "out")
    text = printed(*words)
    heading = next(line for line in text.splitlines() if line.startswith("Method"))
    assert heading.split() == ["Method", "Total", "Strict", *(c.short for c in COMPONENTS.values())]
    assert "not shown in 80 columns: 95 % interval (--wide shows all)" in text
    assert sum(line.startswith("vace-14b  ") for line in text.splitlines()) == 1
    assert max(map(len, (line for line in text.splitlines() if str(tmp_path) not in line))) <= 80
    wide = printed(*words, "--wide")
    assert "MotionAmplitude" in wide and "95 % interval" in wide and "not shown" not in wide
    assert "coverage" in wide


def test_a_column_of_text_wraps_between_words(
    narrow: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(40)
    console.print_table("t", ["name", "meaning"], [["a-name", "some words " * 9]], texts=["meaning"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 40
    assert set(out.split()) - {"t", "name", "meaning", "a-name"} <= {"some", "words"} | set(
        re.findall("─+", out)
    )


@pytest.mark.parametrize("words", [("-h",), ("evaluate", "-h"), ("weights", "pull", "-h"), ("report", "-h")])
def test_every_command_answers_to_h_and_has_the_views(words: tuple[str, ...]) -> None:
    text = printed(*words)
    assert "Usage:" in text
    for option in ("--wide", "-q, --quiet", "-v, --verbose", "-h, --help"):
        assert option in text


def test_a_completion_script_is_printed() -> None:
    done = CliRunner().invoke(
        cli.app, [], prog_name="refbench", env={"_REFBENCH_COMPLETE": "source_bash"}, catch_exceptions=False
    )
    assert "_REFBENCH_COMPLETE" in done.stdout
    assert "--install-completion" in printed("--help")


def test_quiet_leaves_out_progress_and_verbose_names_everything(
    refbench: Run, videos: Path, dataset: Path
) -> None:
    for number in range(9):
        (videos / f"extra-{number}.mp4").write_bytes(b"x")
    words = ("evaluate", videos, "--name", "x", "--dataset", dataset, "--metrics", "motion-amplitude")
    quiet = refbench(*words, "--quiet").stderr
    assert "scoring" not in quiet and "records:" not in quiet
    assert "extra-0.mp4" in quiet and "and 4 more" in quiet
    assert "extra-8.mp4" in refbench("--verbose", *words).stderr
    said = refbench(*words, "-v", "--out", "other").stderr
    # Each step is named with its metric.
    assert "scoring motion-amplitude singleobj_1: 1/6" in said
    assert "scoring: 6/6" in said


def test_progress_names_what_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = console.VIEW.set(console.View(verbose=True))
    try:
        with Progress("scoring", 3) as progress:
            progress.now("facesim a_1")
            progress.step("facesim a_1")
            progress.step("gmescore a_1")
    finally:
        console.VIEW.reset(token)
    said = capsys.readouterr().err
    assert "scoring facesim a_1: 1/3" in said


@pytest.mark.parametrize("command", ["leaderboard", "metrics", "methods", "tracks"])
def test_a_real_terminal_of_eighty_columns(refbench: Run, command: str) -> None:
    pty = pytest.importorskip("pty")
    import fcntl
    import os
    import struct
    import termios

    process, terminal = pty.fork()
    if process == 0:
        os.environ.pop("COLUMNS", None)
        os.chdir(refbench.folder)
        os.execv(sys.executable, refbench.command(command))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    said = b""
    try:
        while chunk := os.read(terminal, 65536):
            said += chunk
    except OSError:
        # How Linux says that the other side is gone.
        pass
    assert os.waitpid(process, 0)[1] == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()
    assert max(map(len, lines)) <= 80
    if command == "leaderboard":
        assert any(line.split() == ["method", "total", *SHORT_IN_ORDER] for line in lines)


SHORT_IN_ORDER = [component.short for component in COMPONENTS.values()]


def test_the_view_is_each_commands_own() -> None:
    assert invoke("leaderboard", "--wide").exit_code == 0
    invoke("tracks")
    assert console.VIEW.get() == console.View()
