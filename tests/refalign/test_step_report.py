"""What an update's log says of the machine: bands of timesteps, operations, the wait for data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")

from kit.training import ARCHITECTURE, DrawnSource, run, small
from refbench.refalign.training.flops import forward_flops
from refbench.refalign.training.log import StepReport, TrainingLog, error_by_timestep
from refbench.refalign.training.profiling import UpdateProfiler
from refbench.refalign.training.recipes import build_config


class SlowSource(DrawnSource):
    """A source that counts 0.25 s for each update."""

    def take_waited(self) -> float:
        return 0.25


@pytest.fixture
def updates(tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    run(small("log.tensorboard=true", "run.samples_per_call=2"), tmp_path, source=SlowSource())
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    yield [row for row in rows if "step" in row]


def test_a_row_of_the_log(updates: list[dict[str, Any]], tmp_path: Path) -> None:
    first = updates[0]
    assert first["data_wait_s"] == 0.25
    # On a CPU no peak is known, and nothing is said in its place.
    assert first["share_of_peak"] is None and first["peak_gib"] is None
    # Of samples 0 and 1 each has one reference or is padded to one.
    each = forward_flops(ARCHITECTURE, video_tokens=12, reference_tokens=6, text_rows=512)
    assert first["tflop"] == pytest.approx(2 * each.of_training() / 1e12)
    bands = first["squared_error_by_timestep"]
    assert list(bands) == ["0-250", "250-500", "500-750", "750-1000"]
    known = [value for value in bands.values() if value is not None]
    assert 1 <= len(known) <= 2 and min(known) <= first["squared_error"] <= max(known)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (event,) = (tmp_path / "curves").rglob("events*")
    curves = EventAccumulator(str(event))
    curves.Reload()
    names = curves.Tags()["scalars"]
    assert "data_wait_share" in names and not {"share_of_peak", "peak_gib"} & set(names)
    drawn = [name for name in names if name.startswith("squared_error_by_timestep/")]
    wanted = {band for row in updates for band, value in row["squared_error_by_timestep"].items() if value}
    assert {name.partition("/")[2] for name in drawn} == wanted


def test_errors_by_timestep() -> None:
    found = error_by_timestep([0.0, 249.9, 250.0, 999.0, 1000.0], [1.0, 2.0, 3.0, 4.0, 6.0])
    assert found == {"0-250": 1.5, "250-500": 3.0, "500-750": None, "750-1000": 5.0}


def test_the_console_line_says_what_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accelerator = SimpleNamespace(trackers=[], init_trackers=lambda *a, **b: None, log=lambda *a, **b: None)
    parallel: Any = SimpleNamespace(accelerator=accelerator, is_main=True)
    log = TrainingLog(build_config("tiny", ["log.every=2"]), tmp_path, parallel, after_step=0)
    numbers = dict.fromkeys(("loss", "flow", "ra", "squared_error", "gradient_norm", "tflop"), 1.0)
    report = StepReport(
        step=1, ra_positive=None, ra_negative=None, learning_rate=1.0, samples=4, tokens=100, seconds=2.0,
        skipped=0, squared_error_by_timestep={}, share_of_peak=0.3, peak_gib=60.0, data_wait_s=0.1, **numbers,
    )  # fmt: skip
    log.step(report)
    log.step(replace(report, step=2, share_of_peak=0.5, peak_gib=61.25))
    said = capsys.readouterr().err
    assert "2.00 samples/s  50 tokens/s  40.0 % MFU  61.2 GiB  5 % data wait  " in said
    log.step(replace(report, step=3, share_of_peak=None, peak_gib=None))
    log.step(replace(report, step=4, share_of_peak=None, peak_gib=None))
    said = capsys.readouterr().err
    assert "MFU" not in said and "GiB" not in said and "5 % data wait" in said


def test_traces_of_some_updates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The third and fourth update, each for itself; what a shorter run does not reach is said."""
    run(small("log.profile=2"), tmp_path)
    files = sorted((tmp_path / "profile").iterdir())
    assert [file.name for file in files] == ["step-00000003.json.gz", "step-00000004.json.gz"]
    for file in files:
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        names = [event.get("name", "") for event in events]
        assert any("attention" in name for name in names)
        assert sum(name.startswith("Optimizer.step") for name in names) == 1
    assert f"profile of step 3: {files[0]}" in capsys.readouterr().err


def test_updates_that_are_not_traced(tmp_path: Path) -> None:
    told: list[str] = []
    for steps, made in ((0, 4), (3, 4), (2, 1), (1, 3)):
        profiler = UpdateProfiler(steps, tmp_path, told.append)
        for step in range(1, made + 1):
            with profiler.update(step):
                pass
        profiler.end()
    ends = [line.partition(": ")[2][:26] for line in told if line.startswith("log.profile=")]
    assert ends == ["the run ended before 1 of ", "the run ended before 2 of "]
