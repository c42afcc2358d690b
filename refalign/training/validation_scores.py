"""Scores of the validation videos by the harness' own metrics, during training.

The main process scores the videos of a step as `refbench evaluate` does, into a store of their own,
`<out>/validation-scores/step-00000500/<track>.jsonl`, so `refbench report <out>/validation-scores` is a table
over the steps. A figure is the component's mean on 0..1 as the track's protocol has it, of another metric the
mean of its raw values; beside it stands how many of the expected videos went into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from refbench.baselines.wan.execution import free_gpu_memory
from refbench.bench.dataset import Track
from refbench.bench.environment import Environment
from refbench.bench.runner.evaluate import evaluate
from refbench.bench.runner.plan import as_selection, selected_metrics
from refbench.bench.runner.scoring import need_torch
from refbench.bench.scores.aggregate import scoreboards
from refbench.bench.scores.record import NOT_APPLICABLE, Record

FOLDER = "validation-scores"


@dataclass(frozen=True, kw_only=True)
class ValidationFigure:
    """A mean over the validation videos: `value` (None where no video has one), and of how many of the
    `expected` videos. `is_component`: on the scale 0..1 of a component, else in the metric's raw values.
    """

    name: str
    value: float | None
    counted: int
    expected: int
    is_component: bool

    @property
    def text(self) -> str:
        """`gmescore 0.6123 (3/3)`."""
        value = "–" if self.value is None else f"{self.value:.4f}"
        return f"{self.name} {value} ({self.counted}/{self.expected})"


class ValidationScores:
    """The metrics of a run's validation, those that can run here; the main process alone scores.

    `metrics`: names, `components` or `all`; `track`: the validation's samples. `lacking` says of each metric
    that cannot run why. Raises UserError for an unknown name.
    """

    def __init__(
        self, metrics: Sequence[str], track: Track, out: Path, weights: Path | None, device: torch.device
    ) -> None:
        chosen = selected_metrics(as_selection(metrics), {})
        # Among several processes on CPUs torch calls one `cpu:0`.
        name = "cpu" if device.type == "cpu" else str(device)
        environment = Environment(device=name, weights=weights)
        cannot = {metric.declaration.name: metric.unavailable(environment) for metric in chosen}
        self.lacking = {name: reason for name, reason in cannot.items() if reason is not None}
        self._metrics = [metric for metric in chosen if metric.declaration.name not in self.lacking]
        self._device = name if need_torch(self._metrics, weights) else "cpu"
        self._track = track
        self._out = out
        self._weights = weights

    def score(self, videos: Path) -> list[ValidationFigure]:
        """The figures of the videos of a step in a folder of `<sample id>.mp4`, in the order of the metrics.

        What the metrics took of the GPU's memory is free again afterwards. Raises UserError where the scoring
        cannot begin, for lack of memory for instance.
        """
        if not self._metrics:
            return []
        with _undisturbed():
            evaluated = evaluate(
                videos,
                track=self._track,
                name=videos.name,
                metrics=[metric.declaration.name for metric in self._metrics],
                weights=self._weights,
                device=self._device,
                out=self._out / FOLDER,
            )
        return self._figures(evaluated.records)

    def _figures(self, records: Sequence[Record]) -> list[ValidationFigure]:
        (board,) = scoreboards(records)
        components = {result.component: result for result in board.components}
        figures = []
        for metric in self._metrics:
            name, component = metric.declaration.name, metric.declaration.component
            if component in components:
                result = components[component]
                figures.append(
                    ValidationFigure(
                        name=name,
                        value=result.value,
                        counted=result.counted,
                        expected=result.expected,
                        is_component=True,
                    )
                )
                continue
            own = [record for record in records if record.metric == name]
            values = [record.value for record in own if record.value is not None]
            figures.append(
                ValidationFigure(
                    name=name,
                    value=sum(values) / len(values) if values else None,
                    counted=len(values),
                    expected=sum(record.reason_kind != NOT_APPLICABLE for record in own),
                    is_component=False,
                )
            )
        return figures


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Inside the block metrics may set threads and draw numbers; training goes on with its own, and with the
    memory that they took.
    """
    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    # Metrics count what torch holds and does not use as taken.
    free_gpu_memory()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(generator)
        free_gpu_memory()
