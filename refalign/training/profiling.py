"""Traces of a few updates for Chrome's viewer (chrome://tracing, ui.perfetto.dev), by torch.profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FOLDER = "profile"
# The first updates of a process compile, allocate and choose kernels; the last of them is traced for nothing,
# since a profiler's first start takes long.
UPDATES_BEFORE = 2


class UpdateProfiler:
    """Traces `steps` updates of a process (0: none), from its third one on, each into a file of its own.

    `<out>/profile/step-00000003.json.gz` holds the update alone, without checkpoints and validation; `tell`
    hears where the files are, and of updates that the run did not make any more.
    """

    def __init__(self, steps: int, out: Path, tell: Callable[[str], None]) -> None:
        self._steps = steps
        self._folder = out / FOLDER
        self._tell = tell
        self._made = 0

    @contextmanager
    def update(self, step: int) -> Iterator[None]:
        """The update that makes `step` is done inside of the block."""
        self._made += 1
        if not self._steps or not UPDATES_BEFORE <= self._made <= UPDATES_BEFORE + self._steps:
            yield
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as trace:
            yield
        if self._made > UPDATES_BEFORE:
            file = self._folder / f"step-{step:08d}.json.gz"
            self._folder.mkdir(exist_ok=True)
            trace.export_chrome_trace(str(file))
            self._tell(f"profile of step {step}: {file}")

    def end(self) -> None:
        """Say what is missing of the traces."""
        missing = min(self._steps, UPDATES_BEFORE + self._steps - self._made)
        if self._steps and missing > 0:
            self._tell(
                f"log.profile={self._steps}: the run ended before {missing} of the updates to be traced, "
                "which begin with the third one of a process"
            )
