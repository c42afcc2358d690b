"""Scores in the formats of others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.cli import complaint, invoke, printed
from kit.mini_records import contest_records
from kit.records import full_records
from refbench.bench.scores.aggregate import scoreboard
from refbench.bench.scores.exports import marks
from refbench.bench.scores.protocol import OPENS2V_1_1
from refbench.bench.scores.record import Provenance, Record
from refbench.bench.scores.store import StoreWriter, store_path
from refbench.bench.yaml_files import parse_yaml


def stored(records: list[Record], out: Path) -> Path:
    for run in {record.run for record in records}:
        with StoreWriter(store_path(out, run.method, run.track)) as writer:
            writer.append([record for record in records if record.run == run])
    return out


def marked(records: list[Record], metric: str, **changes: Any) -> list[Record]:
    return [record.model_copy(update=changes) if record.metric == metric else record for record in records]


def entries(file: Path) -> dict[str, dict[str, Any]]:
    return {entry["dataset"]["task_id"]: entry for entry in parse_yaml(file.read_text(), str(file))}


def test_eval_results_hold_the_scoreboards_figures_as_the_hubs_own_types_read_them(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    if not hasattr(hub, "parse_eval_result_entries"):
        pytest.skip("this huggingface_hub knows no .eval_results")
    import yaml

    records = full_records()
    printed("export", stored(records, tmp_path / "r"), "--format", "hf-eval", "-o", tmp_path / "out")
    file = tmp_path / "out/m/.eval_results/opens2v-eval-open-domain.yaml"
    # As others read it: with the standard loader and the hub's own parser.
    found = hub.parse_eval_result_entries(yaml.safe_load(file.read_text()))
    board = scoreboard(records, OPENS2V_1_1)
    assert {entry.dataset_id for entry in found} == {"BestWishYsh/OpenS2V-Eval"}
    values = {entry.task_id: entry.value for entry in found}
    assert board.total is not None
    assert values.pop("open-domain") == pytest.approx(100 * board.total, abs=1e-6)
    for result in board.components:
        assert result.value is not None
        assert values.pop(f"open-domain/{result.component}") == pytest.approx(100 * result.value, abs=1e-6)
    assert not values
    by_task = {entry.task_id: entry.notes for entry in found}
    assert "strict TotalScore" in by_task["open-domain"] and "95 % interval" in by_task["open-domain"]
    assert "covers 12 of the 180 samples" in by_task["open-domain/facesim"]
    assert "8 of 8 videos counted" in by_task["open-domain/facesim"]
    assert not [text for text in by_task.values() if "weights" in text or "judge" in text]


@pytest.mark.parametrize(
    ("metric", "changes", "words"),
    [
        ("gmescore", {"provenance": Provenance(metric_version="1", weights={"a": "tiny:00"})}, "tiny"),
        ("gmescore", {"provenance": Provenance(metric_version="1", weights={"a": "mini:00"})}, "mini"),
        ("naturalscore", {"details": {"unofficial": "local judge x", "judge": "x"}}, "local judge"),
    ],
)
def test_a_figure_says_in_its_file_what_it_was_made_with(
    metric: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    records = marked(full_records(), metric, **changes)
    store = stored(records, tmp_path / "r")
    done = invoke("export", store, "--format", "hf-eval", "-o", tmp_path / "out")
    assert "no entry for TotalScore: unofficial" in done.stderr
    found = entries(tmp_path / "out/m/.eval_results/opens2v-eval-open-domain.yaml")
    assert "open-domain" not in found
    said = {task for task, entry in found.items() if words in entry["notes"]}
    assert said == {f"open-domain/{metric}"}
    pytest.importorskip("pyarrow")
    import pandas as pd

    printed("export", store, "--format", "parquet", "-o", tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out/records.parquet")
    has = table["marks"].str.contains(words)
    assert set(table[has].metric) == {metric} and has.sum() == len(
        table[table.metric == metric].value.dropna()
    )


def test_weights_that_a_protocol_accepts_are_named_all_the_same() -> None:
    found = marks(contest_records("m", 0.5, "mini-weights"))
    assert found == ("generated with mini weights", "local judge", "mini weights of the drawn world")
    assert marks(full_records()) == ()


def test_what_is_no_entry_gets_no_eval_results(tmp_path: Path) -> None:
    control = full_records(variant="shuffled-0")
    store = stored([*control, *contest_records("drawn", 0.5)], tmp_path / "r")
    done = invoke("export", store, "--format", "hf-eval", "-o", tmp_path / "out")
    assert "the variant shuffled-0, which is no entry" in done.stderr
    assert "mini is no track of BestWishYsh/OpenS2V-Eval" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_parquet_table_holds_every_record(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    records = [*full_records(), *full_records(method="n", seed=1)]
    records[0] = records[0].model_copy(update={"details": {"runs": {"1": "4"}, "what": [1, None]}})
    printed("export", stored(records, tmp_path / "r"), "--format", "parquet", "-o", tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out/records.parquet")
    keys = list(zip(table.method, table["sample"], table.metric, strict=True))
    assert sorted(keys) == sorted((one.method, one.sample, one.metric) for one in records)
    by_key = dict(zip(keys, table.index, strict=True))
    for record in records:
        row = table.loc[by_key[record.method, record.sample, record.metric]]
        assert json.loads(row.details) == record.details
        assert row.value == record.value if record.value is not None else pd.isna(row.value)
        assert row.reason == record.reason if record.reason is not None else pd.isna(row.reason)


def test_formats_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stored(full_records(2), tmp_path / "r")
    words = ("export", store, "-o", tmp_path / "out", "--format")
    assert "unknown format 'parket'; did you mean parquet?" in complaint(*words, "parket")
    assert "--protocol is for hf-eval" in complaint(*words, "official", "--protocol=opens2v-1.0")
    assert "unknown protocol" in complaint(*words, "hf-eval", "--protocol=opens2v-9")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'refalign-bench[parquet]'" in complaint(*words, "parquet")
    assert not (tmp_path / "out").exists()


def eee_files(out: Path) -> list[Path]:
    return sorted(out.rglob("*.json"))


def test_every_eval_ever_holds_the_figures_with_their_intervals(tmp_path: Path) -> None:
    records = full_records()
    results = stored(records, tmp_path / "r")
    printed("export", results, "--format", "every-eval-ever", "-o", tmp_path / "out", "--model", "me/mine")
    (file,) = eee_files(tmp_path / "out")
    assert file.parent == tmp_path / "out/data/opens2v-eval/me/mine"
    content = json.loads(file.read_text())
    assert content["model_info"]["id"] == "me/mine" and content["schema_version"] == "0.3.0"
    board = scoreboard(records, OPENS2V_1_1)
    by_id = {one["evaluation_result_id"]: one for one in content["evaluation_results"]}
    assert set(by_id) == {
        f"open-domain/{name}" for name in ("total", *(result.component for result in board.components))
    }
    total = by_id["open-domain/total"]
    assert board.total is not None and board.total_interval is not None
    assert total["score_details"]["score"] == pytest.approx(100 * board.total, abs=1e-6)
    interval = total["score_details"]["uncertainty"]["confidence_interval"]
    assert (interval["lower"], interval["upper"]) == pytest.approx(
        tuple(100 * bound for bound in board.total_interval), abs=1e-6
    )
    assert "covers 12 of the 180 samples" in total["score_details"]["details"]["notes"]
    assert total["source_data"]["samples_number"] == 12
    # The same scores give the same file.
    printed("export", results, "--format", "every-eval-ever", "-o", tmp_path / "out", "--model", "me/mine")
    assert eee_files(tmp_path / "out") == [file]


def test_what_is_no_entry_of_every_eval_ever_is_said(tmp_path: Path) -> None:
    tiny = [record.model_copy(update={"variant": "tiny-weights"}) for record in full_records()]
    results = stored([*contest_records("noise", 0.1), *tiny], tmp_path / "r")
    said = invoke("export", results, "--format", "every-eval-ever", "-o", tmp_path / "out").stderr
    assert "is no track of" in said and "variant tiny-weights" in said
    assert eee_files(tmp_path / "out") == []


def test_a_figure_of_every_eval_ever_names_its_marks(tmp_path: Path) -> None:
    records = marked(
        full_records(), "gmescore", provenance=Provenance(metric_version="1", weights={"net": "tiny:0"})
    )
    printed("export", stored(records, tmp_path / "r"), "--format", "every-eval-ever", "-o", tmp_path / "out")
    (file,) = eee_files(tmp_path / "out")
    assert file.parent.parent.name == "unknown"
    notes = {
        one["evaluation_result_id"]: one["score_details"]["details"]["notes"]
        for one in json.loads(file.read_text())["evaluation_results"]
    }
    assert "tiny random weights" in notes["open-domain/gmescore"]
    assert "tiny random weights" not in notes["open-domain/aesthetics"]


def test_bad_options_of_every_eval_ever_are_one_line(tmp_path: Path) -> None:
    results = stored(full_records(), tmp_path / "r")
    form = ("--format", "every-eval-ever", "-o", tmp_path / "out")
    assert "OWNER/NAME" in complaint("export", results, *form, "--model", "mine")
    assert "--model is for" in complaint("export", results, "-o", tmp_path / "out", "--model", "me/mine")
    other = [record.model_copy(update={"method": "other"}) for record in full_records()]
    both = stored([*full_records(), *other], tmp_path / "two")
    assert "records are of m, other" in complaint("export", both, *form, "--model", "me/mine")


def test_the_validator_of_every_eval_ever_takes_the_file(tmp_path: Path) -> None:
    pytest.importorskip("every_eval_ever", reason="every-eval-ever needs Python 3.12")
    printed("export", stored(full_records(), tmp_path / "r"), "--format", "every-eval-ever", "-o", tmp_path)
    (file,) = eee_files(tmp_path)
    command = [sys.executable, "-m", "every_eval_ever", "validate", str(file.relative_to(tmp_path))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
