"""Stores and run folders that an older version wrote are read, and what they hold is still current.

`files/version_0.1` was written by commit c7b5fba, before the packages moved below `refbench`: a drawn data
set of three samples, the videos of `static-reference` and `refalign-tiny`, and their scores by all ten
metrics with tiny weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kit.cli import Run
from refbench.bench.scores.store import read_records
from refbench.bench.weights.catalogue import catalogue
from refbench.bench.weights.tiny import marked_folder

OLDER = Path(__file__).parent / "files/version_0.1"
RUNS = {"static-reference": "open-domain", "refalign-tiny": "open-domain.tiny-weights"}
# Metrics whose version has risen since: what they see of some files has changed.
RISEN = {"naturalscore"}


@pytest.fixture
def older(refbench: Run) -> Run:
    """A working folder that holds the older files."""
    for part in ("dataset", "runs", "results"):
        shutil.copytree(OLDER / part, refbench.folder / part)
    return refbench


@pytest.mark.parametrize("method", RUNS)
def test_every_value_is_still_current(older: Run, method: str) -> None:
    """Nothing is scored again, though of the weights only the marks of tiny ones are at hand."""
    for row in catalogue().values():
        marked_folder(older.folder / "tiny", row.entry.repository)
    held = list(read_records(older.folder / f"results/{method}/open-domain.jsonl"))
    words = (
        *("evaluate", f"runs/{method}/{RUNS[method]}", "--dataset", "dataset", "--metrics", "all"),
        *("--set", "naturalscore.backend=local", "--weights", "tiny", "--out", "results"),
        *("--dry-run", "--json"),
    )
    plan = json.loads(older(*words).stdout)["metrics"]
    # A metric that came later has no value here.
    plan = {name: counts for name, counts in plan.items() if name in {one.metric for one in held}}
    assert sum(counts["to_score"] for counts in plan.values()) == 0
    for metric, counts in plan.items():
        values = [record for record in held if record.metric == metric and record.value is not None]
        assert counts["cached"] == (0 if metric in RISEN else len(values)), metric
    assert sum(counts["cached"] for counts in plan.values()) == 27 - 3 * len(RISEN)


def test_finished_videos_are_not_made_again(older: Run) -> None:
    small = ("--set", "width=96", "--set", "height=64", "--set", "num_frames=9")
    done = older("generate", "static-reference", *small, "--dataset", "dataset", "--out", "runs")
    assert "0 made, 3 there already, 0 failed" in done.stderr


def test_finished_videos_of_a_network_are_not_made_again(older: Run) -> None:
    for part in ("torch", "diffusers", "transformers"):
        pytest.importorskip(part, reason="the generators need the extra 'baselines'")
    older("weights", "make-tiny", "tiny")
    words = ("generate", "refalign-tiny", "--set", "overflow=first", "--dataset", "dataset", "--out", "runs")
    done = older(*words, "--weights", "tiny")
    assert "0 made, 3 there already, 0 failed" in done.stderr


def test_an_older_store_is_reported(older: Run) -> None:
    older("report", "results", "-o", "report")
    page = (older.folder / "report/report.html").read_text(encoding="utf-8")
    assert "static-reference" in page and "refalign-tiny" in page
