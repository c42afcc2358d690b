"""Progress of long work: a bar with rate and remaining time on a terminal, plain lines elsewhere; on
stderr.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from refbench.bench.console import VIEW, console
from refbench.bench.errors import visible

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts `total` steps; `step()` after each, `say()` for a line that must not disturb the bar.

    A step that takes long may show its own: `begin()`, then `part(done, total)` as it goes on.
    """

    def __init__(self, description: str, total: int) -> None:
        self._description = description
        self._total = total
        self._done = 0
        self._screen = console(stderr=True)
        self._view = VIEW.get()
        self._now = ""
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._started = self._last_line = time.monotonic()
        self._part_name = ""
        self._part_started = self._started
        self._part_task: TaskID | None = None
        self._part_first: int | None = None

    def __enter__(self) -> Self:
        if self._screen.is_terminal and not self._view.quiet:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[rate]}"),
                progress.TimeRemainingColumn(),
                console=self._screen,
            )
            self._task = self._bar.add_task(self._description, total=self._total, rate="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def now(self, description: str) -> None:
        """Work on `description` begins: what the bar and the lines name until the next one."""
        self._now = description
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=visible(description))

    def step(self, description: str | None = None) -> None:
        """One more step is done; `description` names what is at hand."""
        self._end_part()
        self._done += 1
        now = time.monotonic()
        rate = self._done / max(now - self._started, 1e-9)
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                advance=1,
                rate=_rate_text(rate),
                description=visible(description or self._description),
            )
        elif (
            now - self._last_line >= SECONDS_BETWEEN_LINES or self._done == self._total or self._view.verbose
        ):
            self._last_line = now
            remaining = _duration_text((self._total - self._done) / rate)
            at = self._now or description or ""
            what = f"{self._description} {at}" if at and self._done < self._total else self._description
            self._show(f"{what}: {self._done}/{self._total}, {_rate_text(rate)}, {remaining} remaining")

    def begin(self, name: str) -> None:
        """A step begins that may report its parts under this name."""
        self._end_part()
        self._part_name = name
        self._part_started = time.monotonic()
        self._part_first = None

    def part(self, done: int, total: int) -> None:
        """`done` of `total` parts of the current step are done: a second bar, elsewhere a line now and
        then.
        """
        now = time.monotonic()
        if done <= 0:
            # What came before the first part (encoding a prompt, say) must not slow the rate.
            self._part_started = now
            return
        if self._part_first is None:
            # Work that goes on where it was stopped begins at a later part.
            self._part_first = done - 1
        each = (now - self._part_started) / max(done - self._part_first, 1)
        if self._bar is not None:
            if self._part_task is None:
                self._part_task = self._bar.add_task(visible(self._part_name), total=total, rate="")
            self._bar.update(
                self._part_task, completed=done, total=total, rate=_rate_text(1 / max(each, 1e-9))
            )
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            remaining = _duration_text(max(total - done, 0) * each)
            rate = _rate_text(1 / max(each, 1e-9))
            self._show(f"{self._part_name}: step {done}/{total}, {rate}, {remaining} remaining")

    def _end_part(self) -> None:
        if self._bar is not None and self._part_task is not None:
            self._bar.remove_task(self._part_task)
        self._part_task = None

    def _show(self, text: str) -> None:
        """A line on how far the work is, which `--quiet` leaves out."""
        if not self._view.quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._screen.print(visible(text), markup=False, soft_wrap=True)


def _rate_text(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def _duration_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
