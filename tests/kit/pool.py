"""Workers that do what their job says (answer, hang, die), for the executors' tests."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.devices import VISIBLE_GPUS, Place
from refbench.bench.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Task:
    """`what` is `answer`, `slow`, `wait` (for `mark`), `visible`, `hang`, `die`, `die once` (it leaves
    `mark`), `refuse` or `break`.
    """

    id: str
    what: str = "answer"
    limit_s: float | None = None
    mark: Path = Path()


@dataclass(frozen=True, kw_only=True)
class Talker:
    """Answers with the task's id and the place's device."""

    place: Place

    def prepare(self, job: Task) -> None:
        if job.what == "refuse":
            raise UserError(f"{job.id} is refused")
        if job.what == "break":
            raise ValueError("no such network")
        if job.what == "hang":
            # Before the clock of its time limit runs.
            job.mark.write_text(f"{os.getpid()}\n")

    def work(self, job: Task, on_step: Callable[[int, int], None]) -> str:
        on_step(1, 2)
        while job.what == "wait" and not job.mark.exists():
            time.sleep(0.02)
        if job.what == "slow":
            time.sleep(0.1)
        if job.what == "hang":
            threading.Event().wait()
        if job.what == "die" or (job.what == "die once" and not job.mark.exists()):
            if job.what == "die once":
                job.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if job.what == "visible":
            return f"{os.environ.get(VISIBLE_GPUS)} as {self.place.inside}"
        return f"{job.id} on {self.place.device}"

    def close(self) -> None:
        return


def make_talker(place: Place) -> Talker:
    """The factory, which a process finds by its name."""
    return Talker(place=place)
