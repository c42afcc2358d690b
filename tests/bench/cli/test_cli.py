"""The command line: help, lists, doctor, commands of other packages."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refbench.bench.cli import main as cli
from refbench.bench.errors import UserError

COMMANDS = [
    "evaluate",
    "generate",
    "run",
    "demo",
    "import-scores",
    "import-videos",
    "export",
    "merge",
    "compact",
    "parity",
    "publish",
    "methods",
    "metrics",
    "tracks",
    "doctor",
    "audit",
    "compare",
    "leaderboard",
    "report",
    "reproduce",
]


def invoke(*arguments: str, expect: int = 0) -> str:
    done = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert done.exit_code == expect, done.output
    return str(done.stdout)


def test_help_names_every_command() -> None:
    text = invoke("--help")
    for command in COMMANDS:
        assert f"  {command} " in text
    assert "not available" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_teaches(command: str) -> None:
    text = invoke(command, "--help")
    assert "Usage:" in text
    assert len(text) > 300
    undocumented = [
        line for line in text.splitlines() if line.strip().startswith("--") and len(line.split()) < 3
    ]
    # An option without a sentence of help would stand alone on its line.
    assert not [line for line in undocumented if "[default" not in text.split(line)[1][:400]]


def test_version() -> None:
    assert invoke("--version").startswith("refbench 0.")


def test_lists() -> None:
    assert "motion-amplitude" in invoke("metrics")
    assert "facesim" in invoke("metrics")
    assert "clip-t" in invoke("metrics")
    assert (
        json.loads(invoke("metrics", "--json"))["installed"]["motion-amplitude"]["component"]
        == "motion_amplitude"
    )
    assert "pan-reference" in invoke("methods")
    assert json.loads(invoke("methods", "--json"))["noise"]
    assert "180 samples" in invoke("tracks")


def test_tracks_counts_what_a_folder_holds(dataset: Path) -> None:
    listed = json.loads(invoke("tracks", "--dataset", str(dataset), "--json"))
    assert listed["open-domain"]["samples"] == 6
    assert listed["open-domain"]["references"] == listed["open-domain"]["references_found"] == 9


def test_a_methods_card_and_options() -> None:
    shown = json.loads(invoke("methods", "show", "noise", "--set", "num_frames=9", "--json"))
    assert shown["card"]["num_frames"] == 9
    assert "width" in shown["options"]
    text = invoke("methods", "show", "command")
    assert "required: template" in text
    with pytest.raises(UserError, match="refbench methods show NAME"):
        invoke("methods", "hide", "noise")


def test_doctor_says_what_is_there_and_how_to_get_the_rest(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights/q-future/one-align").mkdir(parents=True)
    snapshot = tmp_path / "cache/models--openai--clip-vit-large-patch14/snapshots/abc"
    snapshot.mkdir(parents=True)
    found = json.loads(
        invoke("doctor", "--weights", str(tmp_path / "weights"), "--dataset", str(dataset), "--json")
    )
    assert found["software"]["python"].startswith("CPython 3.")
    assert found["video"]["H.264 encoder"] == "yes"
    assert "open-domain, human-domain, single-domain" in found["dataset"]
    assert found["weights"]["q-future/one-align"].startswith("found at")
    assert found["weights"]["openai/clip-vit-large-patch14"] == f"found at {snapshot}"
    gme = found["weights"]["Alibaba-NLP/gme-Qwen2-VL-7B-Instruct"]
    assert "missing; for gmescore, incidental-likeness, nexusscore, subject-confusion" in gme
    assert "refbench weights pull gme-qwen2-vl-7b" in gme
    assert found["free_disk_gib"] > 0
    assert "weights" in invoke("doctor")


def test_commands_of_other_packages_are_loaded_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign_commands.py").write_text(
        "import typer\n\ndef shout(word: str) -> None:\n    '''Say it.'''\n    typer.echo(word.upper())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint("shout", "foreign_commands:shout", cli.COMMANDS_GROUP),
        EntryPoint("broken", "no_such_module:command", cli.COMMANDS_GROUP),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: points)
    assert invoke("tracks")
    assert "foreign_commands" not in sys.modules
    assert invoke("shout", "hello") == "HELLO\n"
    assert "not available" in invoke("--help")
    with pytest.raises(UserError, match="no_such_module"):
        invoke("broken")


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[Any, str]:
    monkeypatch.setattr(sys, "argv", ["refbench", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, capsys.readouterr().err


def test_errors_are_one_line_and_exit_code_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REFBENCH_DATASET", raising=False)
    code, text = run_main(monkeypatch, capsys, "evaluate", str(tmp_path), "--name", "x")
    assert (code, text.count("\n")) == (2, 1)
    assert text.startswith("refbench: no data set: give --dataset DIR")
    code, text = run_main(monkeypatch, capsys, "report", str(tmp_path / "nowhere"))
    assert (code, text.count("\n")) == (2, 1)
    code, text = run_main(monkeypatch, capsys, "evaluat")
    assert code == 2
    assert "evaluate" in text


def test_a_folder_that_may_not_be_written_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    videos: Path,
    dataset: Path,
) -> None:
    (tmp_path / "results").write_text("a file where the folder should be")
    arguments = (
        "evaluate",
        str(videos),
        "--name",
        "x",
        "--dataset",
        str(dataset),
        "--out",
        str(tmp_path / "results"),
    )
    code, text = run_main(monkeypatch, capsys, *arguments)
    assert (code, text.count("\n")) == (2, 1)
    assert "cannot be written" in text
