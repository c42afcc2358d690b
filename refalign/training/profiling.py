"""A trace of a few updates for Chrome's viewer (chrome://tracing, ui.perfetto.dev), by torch.profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

FOLDER = "profile"
# The first updates of a process compile, allocate and choose kernels.
UPDATES_BEFORE = 2


@contextmanager
def profiled(steps: int, out: Path, tell: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    """Trace `steps` updates of this process after its second one; 0: none.

    Yields a function to be called after each update with its number. The trace is
    `<out>/profile/steps-<first>-<last>.json.gz`; `tell` hears where it is, or that the run was too short for
    it.
    """
    if not steps:
        yield lambda step: None
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    numbers: list[int] = []
    written: list[Path] = []

    def write(trace: Any) -> None:
        file = out / FOLDER / f"steps-{numbers[-steps]:08d}-{numbers[-1]:08d}.json.gz"
        file.parent.mkdir(exist_ok=True)
        trace.export_chrome_trace(str(file))
        written.append(file)
        tell(f"profile of {steps} updates: {file}")

    with torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(wait=UPDATES_BEFORE - 1, warmup=1, active=steps, repeat=1),
        on_trace_ready=write,
        profile_memory=True,
    ) as trace:

        def after(step: int) -> None:
            if not written:
                numbers.append(step)
                trace.step()

        yield after
        if not written:
            # What was traced so far would be taken for the whole.
            trace.on_trace_ready = None
            tell(
                f"no profile: log.profile={steps} takes {UPDATES_BEFORE + steps} updates of one process, "
                f"{len(numbers)} were made"
            )
