"""The scoring worker: holds one loaded metric at a time and turns jobs into outcomes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from refbench.bench import FRAME_MEMORY_GIB
from refbench.bench.devices import Place, use_here
from refbench.bench.environment import Environment, quiet_onnx, resolve_device, threads_per_job
from refbench.bench.errors import MissingWeights, NotApplicable, SampleError, UserError, one_line
from refbench.bench.files import family_folder, is_disk_error
from refbench.bench.method import OnStep, silent
from refbench.bench.metric import Metric, Scorer
from refbench.bench.options import build_options
from refbench.bench.registry import load_plugins, metrics
from refbench.bench.sample import Input, Sample
from refbench.bench.scores.record import FAILED, MISSING_WEIGHTS, NOT_APPLICABLE, READING
from refbench.bench.streams import Budget
from refbench.bench.video import Video
from refbench.bench.weights.kind import check_one_kind

# Frames that are made ready for a metric before it asks.
FRAMES_AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """One video to be scored by one metric. Metrics of one `turn` are loaded together."""

    turn: int
    metric: str
    sample: Sample
    seed: int
    video: Path
    limit_s: float | None = None

    @property
    def id(self) -> str:
        """What no other job of an evaluation is called."""
        return f"{self.metric} {self.sample.id} seed {self.seed}"


def read_by(job: ScoringJob) -> tuple[int, Path]:
    """What a job has in common with those that are done best by the same worker after it: the metrics and
    the decoded video.
    """
    return job.turn, job.video


@dataclass(frozen=True, kw_only=True)
class ScoringOutcome:
    """A value or a reason, with the metric's details and what it says of its own making."""

    value: float | None = None
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def make_metric(name: str, assignments: Mapping[str, Any] | None = None) -> Metric:
    """A metric by name, with options by key (text, or values of their type); faults are UserErrors."""
    metric_class = metrics.get(name)
    owner = f"the metric {metric_class.declaration.name}"
    return metric_class(build_options(metric_class.Options, assignments or {}, owner))


def need_torch(metrics: Iterable[Metric], weights: Path | None) -> bool:
    """Whether any of these metrics runs here by torch."""
    # Without its weights a metric does not run, and torch need not be imported to learn of a GPU.
    anywhere = Environment(weights=weights)
    return any("torch" in metric.packages() and metric.unavailable(anywhere) is None for metric in metrics)


def scoring_environment(metrics: Iterable[Metric], device: str, weights: Path | None) -> Environment:
    """Where these metrics run within this process: the device (see `resolve_device`) and its threads."""
    return Environment(
        device=resolve_device(device, needs_torch=need_torch(metrics, weights)),
        threads=threads_per_job(),
        weights=weights,
    )


@dataclass(frozen=True, kw_only=True)
class LoadedMetric:
    """A ready scorer, where it runs, and which inputs it uses."""

    scorer: Scorer
    device: str
    uses: frozenset[Input]


@dataclass(frozen=True, kw_only=True)
class ScoringWorkerFactory:
    """Makes a scoring worker, here or in another process: everything in it can be pickled."""

    options: Mapping[str, Mapping[str, Any]]
    environment: Environment
    plugins: tuple[Path, ...] = ()
    frame_memory_gib: float = FRAME_MEMORY_GIB

    def __call__(self, place: Place) -> ScoringWorker:
        use_here(place)
        load_plugins(self.plugins)
        shared = self.environment.shared
        if shared is not None and not shared.is_dir():
            # Another machine than the driver's: its workers count together, for themselves.
            shared = family_folder("node", shared.name.rpartition("-")[2])
        environment = replace(self.environment, device=place.inside, shared=shared)
        return ScoringWorker(self.options, environment, place.device, frame_memory_gib=self.frame_memory_gib)


class ScoringWorker:
    """Scores jobs; loads a metric when its first job comes and closes all of a turn when the next one
    begins.

    A video is decoded once for all jobs on it that follow each other, and the next one meanwhile, if `expect`
    has named it.
    """

    def __init__(
        self,
        options: Mapping[str, Mapping[str, Any]],
        environment: Environment,
        device: str | None = None,
        *,
        frame_memory_gib: float = FRAME_MEMORY_GIB,
    ) -> None:
        """`device` is what the machine calls the environment's device, where that is another name.

        Decoded frames take `frame_memory_gib` at most; with 0 each metric decodes for itself.
        """
        self._options = options
        self._environment = environment
        self._device = device or environment.device
        self._turn = 0
        # Of each metric the scorer, or the reason why it could not be loaded.
        self._loaded: dict[str, LoadedMetric | str] = {}
        self._frames = Budget(round(frame_memory_gib * 2**30)) if frame_memory_gib else None
        self._video: Video | None = None
        self._next_video: Video | None = None
        self._expected: Path | None = None

    def prepare(self, job: ScoringJob) -> None:
        """Load the job's metric, unless it is. Raises UserError."""
        if job.turn != self._turn:
            self._close_metrics()
            self._turn = job.turn
        if job.metric not in self._loaded:
            self._loaded[job.metric] = self._load(job.metric)

    def expect(self, job: ScoringJob) -> None:
        """Have the video of this job, which may come later, decoded during the next call of `work`."""
        self._expected = job.video

    def work(self, job: ScoringJob, on_step: OnStep = silent) -> ScoringOutcome:
        """The outcome of a job. Whatever a metric raises becomes a reason, but for a UserError."""
        self.prepare(job)
        loaded = self._loaded[job.metric]
        if isinstance(loaded, str):
            return ScoringOutcome(reason=loaded)
        video = self._opened(job.video)
        self._begin_expected(video)
        try:
            score = loaded.scorer.score(job.sample, video)
        except NotApplicable as error:
            return ScoringOutcome(reason=f"{NOT_APPLICABLE}: {one_line(error)}")
        except SampleError as error:
            return ScoringOutcome(reason=f"{FAILED}: {one_line(error)}")
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - one sample must not end the run
            if is_disk_error(error):
                # A cache that cannot be written: the next video would be scored for nothing as well.
                raise UserError(f"{job.metric}: {one_line(error)}") from None
            return ScoringOutcome(reason=f"{FAILED}: {type(error).__name__}: {one_line(error)}")
        fault = _fault(score.value, score.details)
        if fault:
            return ScoringOutcome(reason=f"{FAILED}: {fault}")
        remarks = read_remarks(job.sample, video, loaded.uses)
        return ScoringOutcome(
            value=float(score.value),
            details={**score.details, READING: remarks} if remarks else score.details,
            provenance=self._provenance(loaded),
        )

    def _provenance(self, loaded: LoadedMetric) -> dict[str, Any]:
        """What a metric says of its making, with the device as the machine names it."""
        said = {"device": loaded.device, "threads": self._environment.threads, **loaded.scorer.provenance()}
        inside = self._environment.device
        if inside != self._device and said["device"].startswith(inside):
            said["device"] = self._device + said["device"].removeprefix(inside)
        return said

    def _opened(self, path: Path) -> Video:
        """The video, kept for the next jobs on it: what was decoded is not decoded again."""
        if self._video is None or self._video.path != path:
            expected, self._next_video = self._next_video, None
            if expected is not None and expected.path != path:
                # Two that are decoded at once could wait for each other's memory.
                expected.close()
                expected = None
            if self._video is not None:
                self._video.close()
            self._video = expected or Video(path, ahead=FRAMES_AHEAD, budget=self._frames)
        return self._video

    def _begin_expected(self, present: Video) -> None:
        """Decode the expected video when the present one is decoded."""
        path, self._expected = self._expected, None
        if path is None or self._frames is None or path == present.path:
            return
        if self._next_video is not None:
            if self._next_video.path == path:
                return
            self._next_video.close()
        self._next_video = Video(path, ahead=FRAMES_AHEAD, budget=self._frames)
        self._next_video.begin(after=present)

    def close(self) -> None:
        """Close all loaded metrics and let go of decoded frames."""
        self._close_metrics()
        self.close_videos()

    def close_videos(self) -> None:
        """Let go of decoded frames."""
        for video in (self._video, self._next_video):
            if video is not None:
                video.close()
        self._video = self._next_video = None

    def _close_metrics(self) -> None:
        for loaded in self._loaded.values():
            if isinstance(loaded, LoadedMetric):
                loaded.scorer.close()
        self._loaded = {}

    def _load(self, name: str) -> LoadedMetric | str:
        metric = make_metric(name, self._options.get(name, {}))
        quiet_onnx()
        try:
            scorer = metric.load(self._environment)
        except MissingWeights as error:
            return f"{MISSING_WEIGHTS}: {one_line(error)}"
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - another metric may still load
            return f"{FAILED}: {name} did not load: {type(error).__name__}: {one_line(error)}"
        check_one_kind(name, scorer.provenance().get("weights", {}))
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(self._environment.threads)
        device = self._environment.device if metric.declaration.weights else "cpu"
        return LoadedMetric(scorer=scorer, device=device, uses=metric.declaration.uses)


def read_remarks(sample: Sample, video: Video, uses: Collection[Input]) -> list[str]:
    """What is unusual about how a metric with these inputs reads its files; empty for ordinary ones."""
    remarks: list[str] = []
    # What cannot be opened has a reason of its own.
    with suppress(SampleError):
        remarks += video.remarks
    if "references" in uses:
        remarks += sample.reference_remarks()
    return remarks


def _fault(value: float, details: Mapping[str, Any]) -> str | None:
    """What is wrong with a metric's answer, or None."""
    if not math.isfinite(value):
        return f"the metric returned {value}"
    try:
        json.dumps(dict(details), allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"the metric's details are no JSON: {one_line(error)}"
    return None
