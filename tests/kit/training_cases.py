"""Trainings with equal losses: processes × strategy × average × validation × accumulation × LoRA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from kit.training import TWO_STEPS

SAMPLES = 8
STRATEGIES = ("ddp", "fsdp2", "hsdp")
SCRIPT = Path(__file__).with_name("many_processes.py")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training: everything but `lora` leaves its losses as they are. `accumulates`: one sample a call."""

    processes: int
    strategy: str = "ddp"
    average: bool = False
    validates: bool = False
    accumulates: bool = True
    lora: bool = False
    sharded: bool = False

    @property
    def name(self) -> str:
        """The run's folder."""
        flags = ("average", "validates", "accumulates", "lora", "sharded")
        return "-".join(
            [str(self.processes), self.strategy, *(flag for flag in flags if getattr(self, flag))]
        )

    @property
    def settings(self) -> list[str]:
        """Overrides of the small recipe."""
        call = 1 if self.accumulates else SAMPLES // self.processes
        found = [*TWO_STEPS, f"run.samples_per_step={SAMPLES}", f"run.samples_per_call={call}"]
        found += [f"run.strategy={self.strategy}", f"ema.enabled={self.average}"]
        if self.strategy == "hsdp":
            found.append(f"run.shard_size={max(self.processes // 2, 1)}")
        if self.validates:
            found.append("validation.every=1")
        if self.lora:
            found += ["lora.enabled=true", "lora.rank=4"]
        return [*found, f"checkpoints.sharded={self.sharded}"]


# Every pair of values of two factors is in one of these (`test_many_processes.py` counts them).
CHOSEN = (
    Case(processes=1, average=True, sharded=True),
    Case(processes=1, validates=True, accumulates=False, lora=True),
    Case(processes=2, average=True, accumulates=False, lora=True, sharded=True),
    Case(processes=2, strategy="fsdp2", validates=True, sharded=True),
    Case(processes=2, strategy="hsdp", lora=True),
    Case(processes=4, validates=True),
    Case(processes=4, strategy="fsdp2", average=True, accumulates=False, lora=True),
    Case(processes=4, strategy="hsdp", average=True, validates=True, accumulates=False, sharded=True),
)


def all_cases() -> list[Case]:
    """The whole product."""
    switches = list(product((False, True), repeat=4))
    return [
        Case(
            processes=processes,
            strategy=strategy,
            average=average,
            validates=validates,
            accumulates=accumulates,
            lora=lora,
            sharded=strategy != "ddp",
        )
        for processes in (1, 2, 4)
        for strategy in (STRATEGIES if processes > 1 else ("ddp",))
        for average, validates, accumulates, lora in switches
    ]


def entry(case: Case, *settings: str, name: str | None = None, resume: bool = False) -> dict[str, object]:
    """A line of the launched script."""
    return {
        "name": name or case.name,
        "settings": [*case.settings, *settings],
        "resume": resume,
        "validates": case.validates,
    }


def launch(folder: Path, processes: int, cases: Iterable[dict[str, object]]) -> None:
    """Run cases in newly launched processes. Raises RuntimeError with what they said where one fails."""
    (folder / f"cases-{processes}.json").write_text(json.dumps(list(cases)))
    command: Sequence[str] = (sys.executable, str(SCRIPT), str(folder))
    if processes > 1:
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
        command = (sys.executable, *launcher, *command[1:])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
