"""A plugin whose metric brings weights of its own: every command knows them, from the list to a record."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from kit.cli import Run
from refbench.bench.scores.store import read_records

PLUGIN = '''
"""plugin-warmth: how red the frames are, weighed by a file of three numbers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refbench.bench.errors import UserError
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer
from refbench.bench.registry import metrics
from refbench.bench.video import ALL_FRAMES
from refbench.bench.weights.entry import WeightEntry
from refbench.bench.weights.store import file_digests, require_file
from refbench.bench.weights.tiny import marked_folder, random_parameter

NET = WeightEntry(
    name="plugin-net",
    repository="somebody/plugin-net",
    holds="three numbers",
    memory_gib=0.1,
    required=("net.npy",),
    licence="MIT",
)


@dataclass(frozen=True, kw_only=True)
class WarmthOptions:
    gain: float = 1.0
    """Factor on the score; above 0."""


@metrics.register
class Warmth(Metric):
    declaration = MetricDeclaration(
        name="plugin-warmth",
        version="1",
        summary="how red the frames are",
        source="this test",
        weights=(NET,),
        packages=("numpy",),
    )
    Options = WarmthOptions

    def find_weights(self, environment):
        return require_file(NET, ["net.npy"], environment.weights)

    def load(self, environment):
        file = self.find_weights(environment)
        return WarmthScorer(
            weights_3=self.options.gain * np.load(file),
            digests=file_digests(file.parent, {"plugin-net/net.npy": file}),
        )


@dataclass(frozen=True, kw_only=True)
class WarmthScorer(Scorer):
    weights_3: np.ndarray
    digests: dict

    def score(self, sample, video):
        means = [frame.mean(axis=(0, 1)) @ self.weights_3 for frame in video.frames(ALL_FRAMES)]
        return Score(value=float(np.mean(means)))

    def provenance(self):
        return {"dtype": "float64", "batch_size": 1, "weights": self.digests}


def write_tiny(folder: Path) -> None:
    np.save(marked_folder(folder, NET.repository) / "net.npy", random_parameter("net", (3,)))
'''


WITH = ("--plugin", "warmth.py")


@pytest.fixture
def folder(refbench: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder with the plugin, from where no weights are seen and none can be downloaded."""
    monkeypatch.setenv("HF_HUB_CACHE", str(refbench.folder / "no-hub"))
    (refbench.folder / "warmth.py").write_text(PLUGIN)
    return refbench.folder


def listed(refbench: Run, *words: object) -> dict[str, Any]:
    """What `weights list` says of the plugin's weights."""
    row: dict[str, Any] = json.loads(refbench("weights", "list", "--json", *WITH, *words).stdout)[
        "plugin-net"
    ]
    return row


def test_weights_that_are_not_there_are_listed_and_named(
    refbench: Run, folder: Path, videos: Path, dataset: Path
) -> None:
    row = listed(refbench)
    assert row["used_by"] == ["plugin-warmth"]
    assert (row["repository"], row["kind"], row["place"]) == ("somebody/plugin-net", "metric", None)

    shown = refbench("metrics", "show", "plugin-warmth", *WITH).stdout
    assert "somebody/plugin-net" in shown and "Factor on the score" in shown

    words = ("evaluate", videos, "--name", "m", "--dataset", dataset, "--metrics", "plugin-warmth", *WITH)
    told = refbench(*words, expect=2).stderr
    assert "plugin-warmth was asked for and cannot run" in told
    assert "refbench weights pull plugin-net --weights WEIGHTS" in told
    assert list(read_records(folder / "results/m/open-domain.jsonl")) == []

    # Without a network the pull ends in one line that names what was asked for.
    done = refbench("weights", "pull", "--metric", "plugin-warmth", "--weights", "w", *WITH, expect=2)
    assert "somebody/plugin-net could not be downloaded" in done.stderr


def test_tiny_weights_are_made_verified_used_and_marked(
    refbench: Run, folder: Path, videos: Path, dataset: Path
) -> None:
    refbench("weights", "make-tiny", "tiny", *WITH)
    file = folder / "tiny/somebody/plugin-net/net.npy"
    row = listed(refbench, "--weights", "tiny")
    assert row["tiny"] is True and row["lacks"] == []
    done = refbench("weights", "verify", "plugin-net", "--weights", "tiny", *WITH)
    assert "somebody/plugin-net: unverified" in done.stdout

    words = ("evaluate", videos, "--name", "m", "--dataset", dataset, "--metrics", "plugin-warmth", *WITH)
    refbench(*words, "--set", "plugin-warmth.gain=2", "--weights", "tiny")
    records = list(read_records(folder / "results/m/open-domain.jsonl"))
    assert len(records) == 6
    digest = f"tiny:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    for record in records:
        assert record.value is not None
        assert record.provenance.weights == {"plugin-net/net.npy": digest}
        assert record.provenance.is_tiny
    plan = json.loads(
        refbench(*words, "--set", "plugin-warmth.gain=2", "--weights", "tiny", "--dry-run", "--json").stdout
    )
    assert plan["metrics"]["plugin-warmth"]["cached"] == 6

    file.unlink()
    done = refbench("weights", "verify", "plugin-net", "--weights", "tiny", *WITH, expect=2)
    assert "lacks net.npy" in done.stderr


def test_without_the_plugin_nobody_knows_its_weights(refbench: Run, folder: Path) -> None:
    assert "plugin-net" not in json.loads(refbench("weights", "list", "--json").stdout)
    done = refbench("weights", "verify", "plugin-net", expect=2)
    assert "no weights are called 'plugin-net'" in done.stderr and "--plugin FILE" in done.stderr
