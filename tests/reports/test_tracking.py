"""Results in an experiment tracker: what a tracker is told, in its own words where it is installed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kit.cli import complaint, invoke
from kit.records import record
from kit.stored_runs import run_records, store
from refbench.bench.dataset import DATASET_VARIABLE
from refbench.bench.errors import UserError
from refbench.bench.video import write_video
from refbench.reports import tracking
from refbench.reports.report import report
from refbench.reports.tracking import log_results, table_of, values_of

IDS = ("singleface_1", "singlehuman_1", "singlehuman_2", "singleobj_1", "singleobj_2")


@pytest.fixture(autouse=True)
def no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATASET_VARIABLE, raising=False)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store(tmp_path / "results", run_records("good", 0.7, ids=IDS))
    store(tmp_path / "results", run_records("bad", 0.3, ids=IDS, variant="tiny-weights"))
    return tmp_path / "results"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for sample in IDS:
        file = tmp_path / f"runs/good/open-domain/seed-0/{sample}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, [np.zeros((32, 32, 3), np.uint8)] * 2, fps=8)
    return tmp_path / "runs"


class Recorder(ModuleType):
    """A tracker that remembers what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[tuple[str, Any]] = []

    def init(self, **values: Any) -> None:
        self.told.append(("init", values))

    def log(self, values: dict[str, Any]) -> None:
        self.told.append(("log", values))

    def finish(self) -> None:
        self.told.append(("finish", None))

    def Table(self, **values: Any) -> tuple[str, Any]:  # noqa: N802 - the trackers' name
        return "table", values

    def Video(self, path: str, **values: Any) -> tuple[str, str]:  # noqa: N802 - the trackers' name
        assert values["format"] == "mp4"
        return "video", Path(path).name


@pytest.fixture(params=["wandb", "trackio"])
def recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    module = Recorder(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object() if name == request.param else None)
    return module


def test_each_method_is_a_run_with_values_intervals_and_every_score(
    results: Path, runs: Path, recorder: Recorder
) -> None:
    made = report(results, runs=runs)
    names = log_results(made, recorder.__name__, "r2v", videos=1)
    assert names == ["good on open-domain", "bad (tiny-weights) on open-domain"]
    started = [values for kind, values in recorder.told if kind == "init"]
    assert [one["name"] for one in started] == names and {one["project"] for one in started} == {"r2v"}
    assert started[0]["config"]["protocol"] == "opens2v-1.1" and started[0]["config"]["samples"] == len(IDS)
    assert [kind for kind, _ in recorder.told].count("finish") == 2
    logged = [values for kind, values in recorder.told if kind == "log"]
    good, _, video, bad, _ = logged
    board = made.tracks[0].boards[0]
    assert good["total"] == board.total
    assert (good["gmescore/low"], good["gmescore/high"]) == board.components[4].interval
    assert good["facesim"] == pytest.approx(0.7) and good["facesim/coverage"] == 1
    assert video == {"videos/singleface_1": ("video", "singleface_1.mp4")}
    assert bad.get("total") == made.tracks[0].boards[1].total


def test_the_table_holds_a_row_for_each_video() -> None:
    columns, rows = table_of(
        [
            record("gmescore", "singleobj_2", 0.5),
            record("gmescore", "singleobj_1", None, reason="failed: no"),
            record("aesthetics", "singleobj_2", 4.0),
        ]
    )
    assert columns == ["sample", "seed", "category", "aesthetics", "gmescore"]
    assert rows == [["singleobj_1", 0, "singleobj", None, None], ["singleobj_2", 0, "singleobj", 4.0, 0.5]]


def test_what_is_missing_is_left_out_and_not_zero(results: Path) -> None:
    store(results.parent / "other", [record("facesim", "singlehuman_1", 0.5, method="one")])
    (board,) = report(results.parent / "other").boards
    values = values_of(board)
    unofficial = values_of(replace(report(results).boards[0], total=None, unofficial_total=0.4))
    assert "total" not in unofficial and unofficial["unofficial_total"] == 0.4
    assert "gmescore" not in values and "total" not in values and values["facesim"] == 0.5


def test_bad_input_is_one_line(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "wandb" in complaint("log", results, "--to", "wandbb", "--project", "p")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    assert "pip install trackio" in complaint("log", results, "--to", "trackio", "--project", "p")


def test_videos_need_their_folder_and_a_refusal_is_a_line(results: Path, recorder: Recorder) -> None:
    said = complaint("log", results, "--to", recorder.__name__, "--project", "p", "--videos", 2)
    assert "--runs" in said

    def refuse(**values: Any) -> None:
        raise RuntimeError("no such\nentity")

    recorder.init = refuse  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"refused good on open-domain: .*no such"):
        log_results(report(results), recorder.__name__, "p")


def test_wandb_itself_takes_it_offline(
    results: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs the extra 'tracking'")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    invoke("log", results, "--to", "wandb", "--project", "r2v", "--runs", runs, "--videos", 1)
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)
    tables = [json.loads(file.read_text()) for file in (tmp_path / "wandb").rglob("*.table.json")]
    assert len(tables) == 2 and all(len(table["data"]) == len(IDS) for table in tables)
    assert list((tmp_path / "wandb").rglob("*.mp4"))
