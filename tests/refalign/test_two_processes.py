"""Training in two launched processes: equal to one, by DDP and by FSDP2, and under the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("pycocotools", reason="RefAlign needs the extra 'refalign'")

from kit.training import SHORT_RUN, TWO_STEPS, files_of, logged_steps, run, small  # noqa: E402
from refbench.baselines.wan.checkpoint import read_checkpoint  # noqa: E402
from refbench.bench.cli.main import main  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.refalign.training.parallel import lost_process  # noqa: E402

# Three interpreters start and import torch and diffusers, which takes minutes on a busy machine.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("fresh_accelerate")]

STEPS = 3
LAST = "checkpoints/step-00000002"


@dataclass(frozen=True, kw_only=True)
class Launched:
    """The folder of the trainings, what the processes said, and the words of their `refbench train`."""

    folder: Path
    said: str
    command: list[str]


@pytest.fixture(scope="module")
def launched(weights: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """Two processes that accelerate launched once for all tests here."""
    folder = tmp_path_factory.mktemp("two")
    command = ["train", "tiny", "--data", str(clips), "--weights", str(weights)]
    command += ["--out", str(folder / "command"), *SHORT_RUN, "run.strategy=fsdp2", "ema.enabled=true"]
    command += validation_settings(folder, clips)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    script = str(Path(__file__).parents[1] / "kit" / "two_processes.py")
    done = subprocess.run(
        [*launcher, script, str(folder), *command, "--max-steps", str(STEPS)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Launched(folder=folder, said=done.stderr, command=command)


def validation_settings(folder: Path, clips: Path) -> list[str]:
    """Settings of a validation at each step, with a suite that is written into the folder."""
    shutil.copy(clips.parent / "0-0.png", folder)
    names = ("mine_1", "mine_2", "mine_3")
    rows = [
        {"id": name, "prompt": f"a square, {name}", "references": ["0-0.png"], "labels": ["square"]}
        for name in names
    ]
    suite = folder / "suite.jsonl"
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = {"every": 1, "dataset": suite, "samples": ",".join(names), "steps": 2}
    return [f"validation.{name}={value}" for name, value in chosen.items()]


@pytest.fixture
def refbench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`refbench` in this process; returns its exit code."""

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["refbench", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return call


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in logged_steps(out)]


def test_two_processes_equal_one(launched: Launched, tmp_path: Path) -> None:
    """DDP and FSDP2 over gloo, straight and resumed, against one process that accumulates."""
    run(small(*TWO_STEPS, "ema.enabled=true"), tmp_path / "one")
    expected = losses(tmp_path / "one")
    assert len(expected) == 2
    for name in ("ddp", "ddp-halves", "fsdp2", "fsdp2-halves"):
        np.testing.assert_allclose(losses(launched.folder / name), expected, rtol=1e-5, err_msg=name)
        for part in ("transformer", "ema/transformer"):
            alone, together = (
                read_checkpoint(out / LAST / part).tensors
                for out in (tmp_path / "one", launched.folder / name)
            )
            assert alone.keys() == together.keys()
            for key, value in alone.items():
                torch.testing.assert_close(
                    together[key], value, rtol=1e-4, atol=2e-5, msg=f"{name} {part} {key}"
                )
    np.testing.assert_allclose(losses(launched.folder / "half"), expected, rtol=0.05)
    run(small(*TWO_STEPS, "lora.enabled=true", "lora.rank=4"), tmp_path / "adapter")
    np.testing.assert_allclose(losses(launched.folder / "adapter"), losses(tmp_path / "adapter"), rtol=1e-5)
    for name in ("ddp", "fsdp2"):
        assert files_of(launched.folder / name / LAST) == files_of(launched.folder / f"{name}-halves" / LAST)


def test_the_command_in_two_processes_and_resumed_in_one(
    launched: Launched, tmp_path: Path, refbench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = launched.folder / "command"
    state = json.loads((out / "checkpoints" / f"step-{STEPS:08d}" / "state.json").read_text())
    assert state["processes"] == 2
    assert launched.said.count(f"step {STEPS}/{STEPS}") == 1
    assert launched.said.count(f"step {STEPS} is reached") == 1
    assert refbench(*launched.command, "--resume") == 0
    # Without validation, whose averaged weights must not stay gathered for the next update.
    alone = [*launched.command, "validation.every=0", "--out", str(tmp_path / "alone")]
    assert refbench(*alone) == 0
    expected = losses(tmp_path / "alone")
    assert len(expected) == STEPS + 1
    np.testing.assert_allclose(losses(out), expected, rtol=1e-5)
    made = {path.relative_to(out / "validation").as_posix() for path in out.rglob("*.mp4")}
    assert made == {f"step-{n:08d}/mine_{k}.mp4" for n in range(1, STEPS + 2) for k in (1, 2, 3)}
    capsys.readouterr()
    assert refbench(*launched.command) == 2
    said = capsys.readouterr().err
    assert said.startswith("refbench: ") and said.count("\n") == 1


def test_the_main_process_decides_what_is_resumed(launched: Launched) -> None:
    """Where the other one does not see the checkpoint both end with the same line, and none starts anew."""
    for strategy in ("ddp", "fsdp2"):
        first, second = ((launched.folder / f"unseen-{strategy}-{rank}.txt").read_text() for rank in range(2))
        assert first == second and "\n" not in first
        assert re.search(r"step-00000002 is not to be seen by process 1 on \S+; --out has to be", first)
    assert not list((launched.folder / "elsewhere").rglob("step-*"))
    for rank in range(2):
        assert float((launched.folder / f"timeout-{rank}.txt").read_text()) == 1234


def test_a_validation_that_fails_in_one_process_ends_none(launched: Launched) -> None:
    """Of two pictures the second process sees one; nothing waits, and the losses are those without it."""
    for strategy in ("ddp", "fsdp2"):
        out = launched.folder / f"{strategy}-watched"
        np.testing.assert_allclose(losses(out), losses(launched.folder / strategy), rtol=1e-6)
        events = [json.loads(line).get("event", "") for line in (out / "log.jsonl").read_text().splitlines()]
        for step in (1, 2):
            told = [text for text in events if text.startswith(f"validation at step {step} failed: ")]
            assert len(told) == 2 and "seen-by-0: reference image seen-by-0.png is missing" in "".join(told)


def test_processes_with_other_data_are_refused() -> None:
    """Each says what it sees; where that differs all raise the same line."""
    from refbench.refalign.training.run import check_same_everywhere

    class Others:
        def gather_objects(self, values: list[Any]) -> list[Any]:
            return [*values, (("others", 4), None)]

    with pytest.raises(UserError, match=r"^process 1 does not see the training data that process 0 sees; "):
        check_same_everywhere(Others(), None, None)  # type: ignore[arg-type]


def test_a_lost_process_is_one_line() -> None:
    late = "[../third_party/gloo/gloo/transport/tcp/buffer.cc:90] Timed out waiting 1234000ms for recv"
    found = lost_process(RuntimeError(late), 1234)
    assert found is not None and "within 1234 s" in found and "run.timeout_s" in found
    gone = lost_process(RuntimeError("... Connection closed by peer [127.0.0.1]:4321"), 1234)
    assert gone is not None and "has ended" in gone
    assert lost_process(RuntimeError("shape mismatch"), 1234) is None
