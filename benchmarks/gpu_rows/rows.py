"""Rows of a measurement on a GPU: each is measured alone, within a budget of seconds, and printed at once.

A row that fails or runs out of memory has a reason instead of figures, and the next one is measured.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from refbench.bench.errors import one_line

Fact = float | str
# A row whose runs take longer than this in all is measured with fewer runs.
LONGEST_ROW_SECONDS = 12.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a row found: median seconds of `runs`, operations of one run (1 multiply-add = 2), peak of the
    GPU memory that torch handed out, what `refbench plan` counts for the same, and further facts by name.
    """

    seconds: float | None = None
    runs: int = 0
    tflop: float | None = None
    peak_gib: float | None = None
    planned_gib: float | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """`measure` is called with the bench; `gpu_only`: it says nothing on a processor."""

    name: str
    what: str
    measure: Callable[[Any], Measured]
    gpu_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A row's figures, or the reason why there are none; `took_s` is all that it took, building included."""

    name: str
    what: str
    took_s: float
    measured: Measured | None = None
    reason: str | None = None


class Clock:
    """Times, operations and memory of work on one device."""

    def __init__(self, device: torch.device, runs: int) -> None:
        self.device = device
        self.runs = runs

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return bool(self.device.type == "cuda")

    def synchronise(self) -> None:
        """Wait until the device has done everything."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """One call from an idle device to an idle device."""
        self.synchronise()
        started = time.perf_counter()
        work()
        self.synchronise()
        return time.perf_counter() - started

    def reset_peak(self) -> None:
        """Forget the peak of memory so far."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float | None:
        """Peak of what torch handed out since the last reset; None on a processor."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.on_gpu else None

    def measure(
        self,
        work: Callable[[], object],
        *,
        tflop: float | None = None,
        counted: bool = True,
        planned_gib: float | None = None,
        facts: Mapping[str, Fact] | None = None,
    ) -> Measured:
        """Median of several runs after one that is not timed; that one counts the operations unless `tflop`
        gives them.
        """
        if tflop is None and counted:
            with FlopCounterMode(display=False) as counter:
                work()
            tflop = counter.get_total_flops() / 1e12
        else:
            work()
        self.reset_peak()
        times: list[float] = []
        while len(times) < self.runs and (not times or sum(times) + times[-1] < LONGEST_ROW_SECONDS):
            times.append(self.seconds(work))
        return Measured(
            seconds=statistics.median(times),
            runs=len(times),
            tflop=tflop,
            peak_gib=self.peak_gib(),
            planned_gib=planned_gib,
            facts=facts or {},
        )


def run_rows(
    rows: Sequence[Row], bench: Any, budget_s: float, each: Callable[[list[Outcome]], None]
) -> list[Outcome]:
    """Measure rows in order until the budget is spent; `each` is called with all outcomes after each row."""
    outcomes: list[Outcome] = []
    started = time.perf_counter()
    for row in rows:
        spent = time.perf_counter() - started
        skipped = None
        if row.gpu_only and not bench.clock.on_gpu:
            skipped = "not run: needs a GPU"
        elif spent > budget_s:
            skipped = "not run: no time was left"
        outcome = (
            _run(row, bench)
            if skipped is None
            else Outcome(name=row.name, what=row.what, took_s=0, reason=skipped)
        )
        outcomes.append(outcome)
        each(outcomes)
    return outcomes


def _run(row: Row, bench: Any) -> Outcome:
    """One row; whatever it held is given back."""
    started = time.perf_counter()
    measured, reason = None, None
    try:
        measured = row.measure(bench)
    except torch.OutOfMemoryError as error:
        reason = f"out of memory: {one_line(error, 120)}"
    except Exception as error:  # noqa: BLE001 - one row's failure is not the others'
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
    took_s = time.perf_counter() - started
    # A failure's traceback holds the networks; it is gone by now.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Outcome(name=row.name, what=row.what, took_s=took_s, measured=measured, reason=reason)


def written(value: Fact) -> str:
    """A fact as text: four digits of a number."""
    return value if isinstance(value, str) else f"{value:.4g}"


def table(outcomes: Sequence[Outcome], peak_tflops: float | None) -> str:
    """Markdown; the share of the peak is left out where the GPU's is not known."""
    lines = [
        "| row | what | median s (runs) | TFLOP/s | of peak | peak GiB | plan GiB | further |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        cells = [one.name, one.what, *_figures(one.measured, peak_tflops)]
        if one.measured is None:
            cells[-1] = one.reason or ""
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _figures(measured: Measured | None, peak_tflops: float | None) -> list[str]:
    if measured is None:
        return [""] * 6
    speed = measured.tflop / measured.seconds if measured.tflop and measured.seconds else None
    return [
        "" if measured.seconds is None else f"{measured.seconds:.4g} ({measured.runs})",
        "" if speed is None else f"{speed:.3g}",
        "" if speed is None or peak_tflops is None else f"{100 * speed / peak_tflops:.1f} %",
        "" if measured.peak_gib is None else f"{measured.peak_gib:.2f}",
        "" if measured.planned_gib is None else f"{measured.planned_gib:.2f}",
        "; ".join(f"{name} {written(value)}" for name, value in measured.facts.items()),
    ]


def write_results(
    out: Path, machine: Mapping[str, Any], outcomes: Sequence[Outcome], peak_tflops: float | None
) -> None:
    """`gpu.json` and `gpu.md` in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    content = {"machine": dict(machine), "rows": [asdict(one) for one in outcomes]}
    (out / "gpu.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    head = "\n".join(f"* {name}: {value}" for name, value in machine.items())
    (out / "gpu.md").write_text(f"{head}\n\n{table(outcomes, peak_tflops)}")
