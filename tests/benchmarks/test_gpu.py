"""The measurement on a GPU in its tiny form on a CPU: its rows run, a failing row leaves the others alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch", reason="the benchmarks need torch")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")
pytest.importorskip("open_clip", reason="the metrics need the extra 'metrics'")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# One of each kind; the others differ in their networks.
ROWS = ("denoise", "video", "train", "equal-refalign", "equal-training", "equal-motion", "gmescore")


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    """The script as a module; it imports its neighbours by their bare names."""
    import torch

    threads = torch.get_num_threads()
    # Several threads wait for each other where other tests run.
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import gpu

        yield gpu
    torch.set_num_threads(threads)


def test_rows_run_on_a_cpu(gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--device", "cpu", "--tiny", "--rows", ",".join(ROWS), "--out", str(tmp_path)])
    written = json.loads((tmp_path / "gpu.json").read_text())
    by_name = {row["name"]: row for row in written["rows"]}
    assert tuple(by_name) == ROWS
    assert {name: row["reason"] for name, row in by_name.items()} == dict.fromkeys(ROWS)
    for name in ("denoise", "video", "train", "gmescore"):
        assert by_name[name]["measured"]["seconds"] > 0
    for name in ("equal-refalign", "equal-training", "equal-motion"):
        assert by_name[name]["measured"]["facts"]["within"] == "yes"
    counted = by_name["denoise"]["measured"]
    assert counted["tflop"] > 0 and counted["facts"]["passes"] == 3
    assert all(f"| {name} |" in (tmp_path / "gpu.md").read_text() for name in ROWS)
    assert "| train |" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured_unless_it_is_asked_for(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == []
    assert "needs a GPU" in capsys.readouterr().out


def test_a_failing_row_has_a_reason_and_the_next_is_measured(gpu: ModuleType) -> None:
    import torch
    from gpu_rows.rows import Measured, Row, run_rows, table

    def fail(bench: object) -> None:
        raise torch.OutOfMemoryError("no memory\nand more")

    def work(bench: object) -> object:
        return Measured(seconds=2.0, runs=1, tflop=4.0)

    rows = [Row(name=name, what="", measure=each) for name, each in (("a", fail), ("b", work))]
    bench = gpu.make_bench(torch.device("cpu"), tiny=True, folder=Path())
    first, second = run_rows(rows, bench, 60.0, lambda outcomes: None)
    assert first.reason == "out of memory: no memory and more" and first.measured is None
    assert second.reason is None and second.measured.seconds == 2.0
    assert "| 2 (1) | 2 | 50.0 % |" in table([second], 4.0)
    (late,) = run_rows(rows[1:], bench, -1.0, lambda outcomes: None)
    assert late.reason == "not run: no time was left"
    only = Row(name="c", what="", measure=work, gpu_only=True)
    assert run_rows([only], bench, 60.0, lambda outcomes: None)[0].reason == "not run: needs a GPU"


def test_a_difference_beyond_its_limit_is_named(gpu: ModuleType) -> None:
    from gpu_rows.equality import judged

    assert judged({}, (1e-7, 1e-6), (2.0, 1.0)).facts["within"] == "NO"
    assert judged({}, (float("nan"), 1.0)).facts["within"] == "NO"
    assert judged({}, (1.0, 1.0)).facts["within"] == "yes"
