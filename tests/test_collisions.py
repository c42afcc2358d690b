"""A project that has folders of our folders' names does not disturb us, nor we it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OURS = ("bench", "metrics", "baselines", "refalign", "reports", "tests")
COMMANDS = (
    ("--help",),
    ("metrics",),
    ("methods",),
    ("methods", "show", "pan-reference"),
    ("tracks",),
    ("weights", "list"),
    ("leaderboard", "--track", "human-domain"),
    ("plan", "--help"),
    ("train", "--help"),
)
PLUGIN = """
import metrics.theirs
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer
from refbench.bench.registry import metrics as registry


class Always(Scorer):
    def score(self, sample, video):
        return Score(value=metrics.theirs.VALUE)


@registry.register
class Mine(Metric):
    declaration = MetricDeclaration(name="mine", version="1", summary="of a foreign project", source="test")

    def load(self, environment):
        return Always()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with packages of our names; one imports something of its own, the others end the program."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "bench.py").write_text("raise SystemExit('the bench of somebody else was imported')\n")
    for name in OURS[1:]:
        (folder / name).mkdir()
        ends = f"raise SystemExit('the {name} of somebody else was imported')\n"
        (folder / name / "__init__.py").write_text("" if name == "metrics" else ends)
    (folder / "metrics/theirs.py").write_text("VALUE = 0.25\n")
    (folder / "plugin.py").write_text(PLUGIN)
    return folder


def refbench(folder: Path, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """`refbench`, started as a program is, in `folder`, with `path` before PYTHONPATH."""
    inherited = os.environ.get("PYTHONPATH")
    places = os.pathsep.join(filter(None, (path, inherited)))
    environment = {**os.environ, "PYTHONPATH": places, "COLUMNS": "200"}
    command = [sys.executable, "-m", "refbench", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words))
def test_every_command_does_there_what_it_does_elsewhere(
    project: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    elsewhere = refbench(tmp_path, *words)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert elsewhere.stdout
    there = refbench(project, *words, path=".")
    assert (there.returncode, there.stdout, there.stderr) == (0, elsewhere.stdout, elsewhere.stderr)


def test_a_plugin_may_use_the_folders_of_its_project(project: Path, videos: Path, dataset: Path) -> None:
    done = refbench(
        project,
        *("evaluate", str(videos), "--name", "m", "--dataset", str(dataset), "--plugin", "plugin.py"),
        *("--metrics", "mine", "--json"),
        path=".",
    )
    assert done.returncode == 0, done.stderr
    assert '"value": 0.25' in (project / "results/m/open-domain.jsonl").read_text().replace(":0.25", ": 0.25")
