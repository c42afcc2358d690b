"""Where work runs: the device, its memory, CPU threads, the folder of weights, installed packages."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from refbench.bench.errors import UserError, one_line

MOST_THREADS_PER_JOB = 8


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a metric or method is loaded into: `device` as torch names it, CPU threads it may use, and the
    folder of weights (None: where weights are looked for always). `shared` is a folder that exists while the
    run does, for what its worker processes must count together (None: there is one process).
    """

    device: str = "cpu"
    threads: int = 1
    weights: Path | None = None
    shared: Path | None = None


def resolve_device(name: str, *, needs_torch: bool) -> str:
    """`auto` as `cuda` where torch sees a GPU, else `cpu`; a device that is not there is a UserError.

    torch is imported only where something that needs it is going to run.
    """
    if name == "cpu" or not needs_torch or find_spec("torch") is None:
        if name not in ("auto", "cpu"):
            raise UserError(f"--device {name} needs torch and a metric that uses it")
        return "cpu"
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except Exception as error:  # noqa: BLE001 - torch has a kind of error per back-end
        raise UserError(f"--device {name} cannot be used: {one_line(error, 120)}") from None
    return name


def available_gib(device: str) -> float:
    """Free memory of a GPU, or the machine's memory for the CPU, in GiB."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(device)[0]) / 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def quiet_onnx() -> None:
    """Keep ONNX Runtime from reporting to its makers; to be called before it is imported, in every process.

    From 1.29 on its official packages look up a telemetry host and write a device id below the home folder.
    Its documented switch is read once, when it is imported. Set here, it holds for child processes as well.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_job() -> int:
    """Processor threads that one job uses: `OMP_NUM_THREADS` where it is set, else 8, or the cores if fewer.

    The number does not follow that of workers, because sums that threads share round in the order in which
    they are shared out: scores must be the same however many workers a run has. Beyond a few threads a job
    gains little, so a machine with more cores is filled by workers.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else min(MOST_THREADS_PER_JOB, usable_cores())


def missing_packages(modules: Iterable[str], extra: str = "metrics") -> str | None:
    """Which of the modules are not installed and which extra brings them, or None; nothing is imported."""
    absent = [module for module in modules if find_spec(module) is None]
    if not absent:
        return None
    named = " and ".join(filter(None, [", ".join(absent[:-1]), absent[-1]]))
    return f"needs {named}; pip install 'refalign-bench[{extra}]'"
