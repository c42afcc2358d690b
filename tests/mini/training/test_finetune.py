"""Fine-tuning by the project's own commands: how they are started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="training needs the extra 'refalign'")

from refbench.bench.errors import UserError
from refbench.mini.training.build import Build
from refbench.mini.training.finetune import make_features, refbench


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    calls: list[tuple[list[str], dict[str, str]]] = []

    def run(command: list[str], *, env: dict[str, str], **rest: Any) -> SimpleNamespace:
        calls.append((command, env))
        return SimpleNamespace(returncode=0 if "fail" not in command else 3)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_features_are_made_on_processors_by_as_many_processes_as_a_gpu_build_has_workers(
    started: list[tuple[list[str], dict[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    make_features(Build(root=tmp_path, workers=3), tmp_path / "clips")
    make_features(Build(root=tmp_path, workers=3, device="cuda"), tmp_path / "clips")
    (one, plain), (many, changed) = started
    assert one[:4] == [sys.executable, "-m", "refbench", "prepare"] and "CUDA_VISIBLE_DEVICES" not in plain
    assert many[1:6] == ["-m", "torch.distributed.run", "--nproc_per_node", "3", "-m"]
    assert many[6:] == one[2:]
    assert changed["CUDA_VISIBLE_DEVICES"] == "" and changed["OMP_NUM_THREADS"] == "1"


def test_a_command_that_fails_is_named(started: list[tuple[list[str], dict[str, str]]]) -> None:
    with pytest.raises(UserError, match="refbench train fail ended with 3"):
        refbench("train", "fail")
