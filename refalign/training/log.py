"""The log of a training run: console lines, `log.jsonl` with every step, curves (TensorBoard, W&B, …)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from refbench.bench.console import note
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import write_text
from refbench.refalign.data.sample import Skipped
from refbench.refalign.flow_matching import LEVELS
from refbench.refalign.losses import AlignmentLoss, place_of
from refbench.refalign.training.animation import add_animation
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.validation_scores import ValidationFigure

FILE = "log.jsonl"
VIDEO_TRACKERS = ("wandb", "trackio")
REPORTED_SKIPS = 20
# The key of a line with scores; `step` stands in those of updates.
VALIDATION_STEP = "validation_step"
# Equal parts of the timesteps 0..1000 whose errors are logged apart.
BANDS = 4
RA_COLUMNS = ("ra", "ra_positive", "ra_negative")


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One update: means over its samples, and over those with a teacher's references for the alignment terms
    (None where there was none); the gradient's norm over all parameters before clipping.

    `squared_error_by_timestep`: the mean squared error in each band of timesteps (`BANDS`), None where no
    sample lay. `tflop`: operations of all processes (`refalign.training.flops`), `share_of_peak` what that is
    of the GPUs' peak in the time of the update, None where a peak is not known. `peak_gib`: the most memory
    that was allocated on the main process's GPU, None on a CPU. `data_wait_s`: how long of the `seconds` the
    main process waited for examples, as far as their source counts it. `others`: by column, what other losses
    add, and their terms over the samples that they apply to.
    """

    step: int
    loss: float
    flow: float
    ra: float
    squared_error: float
    ra_positive: float | None
    ra_negative: float | None
    gradient_norm: float
    learning_rate: float
    samples: int
    tokens: int
    seconds: float
    skipped: int
    squared_error_by_timestep: dict[str, float | None]
    tflop: float
    share_of_peak: float | None
    peak_gib: float | None
    data_wait_s: float
    others: Mapping[str, float | None] = field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        """The columns of the log."""
        own = {name: value for name, value in vars(self).items() if name != "others"}
        return own | dict(self.others)


def check_columns(losses: Iterable[AlignmentLoss]) -> None:
    """Raises UserError for a loss with a column that the log or another loss has."""
    taken = {one.name for one in fields(StepReport)}
    for loss in losses:
        for column in loss.columns:
            if column in taken:
                raise UserError(
                    f"the loss {loss.declaration.name!r} ({place_of(type(loss))}) would have the column "
                    f"{column!r}, which the log has already; rename it"
                )
        taken |= set(loss.columns)


def error_by_timestep(timesteps: Sequence[float], errors: Sequence[float]) -> dict[str, float | None]:
    """The mean error in each band of timesteps on 0..1000, None for one without a sample."""
    by_band: list[list[float]] = [[] for _ in range(BANDS)]
    for timestep, error in zip(timesteps, errors, strict=True):
        by_band[min(int(timestep * BANDS / LEVELS), BANDS - 1)].append(error)
    width = LEVELS // BANDS
    return {
        f"{number * width}-{(number + 1) * width}": math.fsum(found) / len(found) if found else None
        for number, found in enumerate(by_band)
    }


class TrainingLog:
    """The log of a run, in every process; only the main process prints and writes."""

    def __init__(self, config: TrainingConfig, out: Path, parallel: Parallel, *, after_step: int) -> None:
        self._config = config
        self._parallel = parallel
        self._path = out / FILE
        self._known: set[tuple[str, str]] = set()
        self._first_step = after_step
        self._started = time.perf_counter()
        self._window: list[StepReport] = []
        # What an earlier process drew of the steps that are made again is hidden.
        purged = {"tensorboard": {"purge_step": after_step + 1}}
        parallel.accelerator.init_trackers(config.log.project, init_kwargs=purged)
        if parallel.is_main:
            self._known = _cut(self._path, after_step)

    def say(self, text: str) -> None:
        """One line on standard error, from the main process."""
        if self._parallel.is_main:
            note(text)

    def event(self, text: str) -> None:
        """One line on standard error that is kept in `log.jsonl` too."""
        self.say(text)
        self._write({"event": text})

    def skipped(self, found: Iterable[Skipped]) -> int:
        """Name samples that could not be used, each once; returns how many there are so far."""
        for skip in found:
            name = (skip.key, skip.reason)
            if name not in self._known:
                self._known.add(name)
                if len(self._known) <= REPORTED_SKIPS:
                    self.say(f"skipped {one_line(skip.key, 120)}: {one_line(skip.reason, 160)}")
                self._write({"skipped": skip.key, "reason": skip.reason})
        return len(self._known)

    def step(self, report: StepReport) -> None:
        """Record an update."""
        values = report.columns()
        if report.others and not self._config.alignment.enabled:
            values = {name: value for name, value in values.items() if name not in RA_COLUMNS}
        self._write(values)
        names = ("loss", "flow", "ra", "squared_error", "ra_positive", "ra_negative", *report.others)
        losses = {name: values[name] for name in names if values.get(name) is not None}
        curves: dict[str, float] = {f"loss/{name}": value for name, value in losses.items()}
        curves |= {
            "samples_per_second": report.samples / report.seconds,
            "tokens_per_second": report.tokens / report.seconds,
            "learning_rate": report.learning_rate,
            "skipped": report.skipped,
            "gradient_norm": report.gradient_norm,
            "data_wait_share": report.data_wait_s / report.seconds,
        }
        for band, error in report.squared_error_by_timestep.items():
            if error is not None:
                curves[f"squared_error_by_timestep/{band}"] = error
        if report.share_of_peak is not None:
            curves["share_of_peak"] = report.share_of_peak
        if report.peak_gib is not None:
            curves["peak_gib"] = report.peak_gib
        self._parallel.accelerator.log(curves, step=report.step)
        self._window.append(report)
        last = report.step == self._config.run.max_steps
        if report.step % self._config.log.every == 0 or last:
            self.say(self._line(self._window))
            self._window = []

    def videos(self, folder: Path, step: int) -> None:
        """Give the validation videos of a step to the trackers that show videos."""
        files = {f"validation/{file.stem}": file for file in sorted(folder.glob("*.mp4"))}
        for tracker in self._parallel.accelerator.trackers if self._parallel.is_main else ():
            if tracker.name in VIDEO_TRACKERS:
                module = import_module(tracker.name)
                shown = {name: module.Video(str(file), format="mp4") for name, file in files.items()}
                tracker.log(shown, step=step)
            elif tracker.name == "tensorboard":
                for name, file in files.items():
                    add_animation(tracker.tracker, name, file, step)

    def scores(self, figures: Sequence[ValidationFigure], step: int) -> None:
        """Record the scores of the validation videos of a step."""
        if not figures:
            return
        self.say(f"validation at step {step}: {'  '.join(figure.text for figure in figures)}")
        self._write({VALIDATION_STEP: step, "scores": {one.name: vars(one) for one in figures}})
        curves = {f"validation/{one.name}": one.value for one in figures if one.value is not None}
        self._parallel.accelerator.log(curves, step=step)

    def say_skipped(self) -> None:
        """Say how many clips and references were skipped since the run began, if any."""
        if self._known:
            self.say(
                f"skipped in all: {len(self._known)} (clips, or references of a clip); "
                f"{self._path} names each with its reason"
            )

    def close(self) -> None:
        """Flush the curves."""
        for tracker in self._parallel.accelerator.trackers:
            tracker.finish()

    def _write(self, values: Mapping[str, Any]) -> None:
        if self._parallel.is_main:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, ensure_ascii=False) + "\n")

    @staticmethod
    def _machine_parts(reports: list[StepReport], seconds: float) -> list[str]:
        """Share of the GPU's peak and its memory, where they are known, and the wait for data."""
        shares = [report.share_of_peak for report in reports if report.share_of_peak is not None]
        peaks = [report.peak_gib for report in reports if report.peak_gib is not None]
        waited = math.fsum(report.data_wait_s for report in reports) / seconds
        parts = [f"{100 * math.fsum(shares) / len(shares):.1f} % MFU"] if shares else []
        parts += [f"{max(peaks):.1f} GiB"] if peaks else []
        return [*parts, f"{100 * waited:.0f} % data wait"]

    def _line(self, reports: list[StepReport]) -> str:
        seconds = math.fsum(report.seconds for report in reports)
        left = self._config.run.max_steps - reports[-1].step
        per_step = (time.perf_counter() - self._started) / (reports[-1].step - self._first_step)
        parts = [
            f"step {reports[-1].step}/{self._config.run.max_steps}",
            f"loss {_mean(report.loss for report in reports)}",
            f"flow {_mean(report.flow for report in reports)}",
            *self._aligned(reports),
            f"{sum(report.samples for report in reports) / seconds:.2f} samples/s",
            f"{sum(report.tokens for report in reports) / seconds:.0f} tokens/s",
            *self._machine_parts(reports, seconds),
            f"{timedelta(seconds=round(left * per_step))} left",
        ]
        return "  ".join(parts)

    def _aligned(self, reports: list[StepReport]) -> list[str]:
        """The parts of a line about the alignment losses, each under its own name."""
        others = list(reports[0].others)
        parts = [f"{name} {_mean(report.others[name] for report in reports)}" for name in others]
        if not self._config.alignment.enabled:
            return parts
        positive = _mean(report.ra_positive for report in reports)
        return [f"RA+ {positive}", f"RA- {_mean(report.ra_negative for report in reports)}", *parts]


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{math.fsum(known) / len(known):.4f}" if known else "–"


def _cut(path: Path, after_step: int) -> set[tuple[str, str]]:
    """Drop the lines of steps that will be made again, and one that a killed run left half written; what was
    skipped according to the others.
    """
    known: set[tuple[str, str]] = set()
    if not path.is_file():
        return known
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if values.get("step", values.get(VALIDATION_STEP, 0)) <= after_step and after_step > 0:
            kept.append(line + "\n")
            if "reason" in values:
                known.add((values["skipped"], values["reason"]))
    write_text(path, "".join(kept))
    return known
