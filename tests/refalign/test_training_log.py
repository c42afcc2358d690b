"""The log of a training run: validation videos go to the trackers that show videos."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("accelerate", reason="training needs the extra 'refalign'")

from refbench.refalign.training.log import TrainingLog
from refbench.refalign.training.recipes import build_config


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
@pytest.mark.parametrize("is_main", [True, False])
def test_validation_videos_are_shown(
    name: str, is_main: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType(name)
    module.Video = lambda path, format: (Path(path).name, format)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    logged: list[tuple[dict[str, Any], int]] = []
    tracker = SimpleNamespace(name=name, log=lambda values, step: logged.append((values, step)))
    accelerator = SimpleNamespace(trackers=[tracker], init_trackers=lambda *given, **named: None)
    parallel: Any = SimpleNamespace(accelerator=accelerator, is_main=is_main)
    for sample in ("singleobj_2", "singleobj_1"):
        (tmp_path / f"{sample}.mp4").write_bytes(b"")
    TrainingLog(build_config("tiny"), tmp_path, parallel, after_step=0).videos(tmp_path, 30)
    shown = {f"validation/singleobj_{number}": (f"singleobj_{number}.mp4", "mp4") for number in (1, 2)}
    assert logged == ([(shown, 30)] if is_main and name != "tensorboard" else [])
