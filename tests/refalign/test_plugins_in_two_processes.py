"""A plugin's loss and input in two processes, sharded: losses as in one process, which goes on from there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
for package in ("diffusers", "accelerate", "pycocotools"):
    pytest.importorskip(package, reason="RefAlign needs the extra 'refalign'")

from kit.cli import invoke  # noqa: E402
from kit.training import SHORT_RUN, TWO_STEPS, logged_steps, own_registries  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
# Two interpreters start and import torch and diffusers, which takes minutes on a busy machine.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("fresh_accelerate")]


def test_a_loss_and_an_input_of_plugins_under_fsdp2(weights: Path, clips: Path, tmp_path: Path) -> None:
    words = ["train", "tiny", "--data", str(clips), "--weights", str(weights)]
    for name in ("repa", "vae_and_teacher"):
        words += ["--plugin", str(EXAMPLES / f"{name}.py")]
    words += [*SHORT_RUN, *TWO_STEPS, "run.strategy=fsdp2", "checkpoints.sharded=true", "log.every=1"]
    words += ["losses.repa.enabled=true", "losses.repa.block=1", "losses.repa.hidden=32"]
    words += ["reference_inputs.teacher_features.enabled=true"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, "-m", "refbench", *words, "--out", str(tmp_path / "two")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[:3000]
    assert "2 processes (fsdp2)" in done.stderr and "  repa_distance " in done.stderr
    with own_registries():
        invoke(*words, "--out", tmp_path / "one")
    for column in ("loss", "flow", "ra", "repa", "repa_distance"):
        one, two = ([row[column] for row in logged_steps(tmp_path / name)] for name in ("one", "two"))
        np.testing.assert_allclose(two, one, rtol=1e-5, err_msg=column)
    # Each process wrote its shards, which one process goes on from, and another run begins with.
    sharded = tmp_path / "two" / "checkpoints" / "step-00000002"
    assert (sharded / "sharded" / "index.json").is_file()
    for name in ("one", "two"):
        with own_registries():
            invoke(*words, "--out", tmp_path / name, "--resume", "--max-steps", 3)
    one, two = (logged_steps(tmp_path / name)[-1] for name in ("one", "two"))
    assert two["step"] == 3 and two["repa"] == pytest.approx(one["repa"], rel=1e-4)
    told = "was trained with an extra input (teacher_features), which is not made here"
    converted = ("convert", sharded, tmp_path / "converted", "--to", "original")
    assert told in invoke(*converted, expect=2).stderr
    with own_registries():
        invoke(*words, "--out", tmp_path / "next", f"model.transformer={sharded}", "run.max_steps=1")
    (first,) = logged_steps(tmp_path / "next")
    assert first["repa_distance"] < logged_steps(tmp_path / "two")[0]["repa_distance"]
