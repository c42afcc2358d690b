"""What an evaluation will do: which scores are current, which are to be made, and which cannot be and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError
from refbench.bench.metric import Metric
from refbench.bench.provenance import digest_of, package_versions
from refbench.bench.registry import metrics
from refbench.bench.runner.scoring import ScoringJob, ScoringOutcome, make_metric
from refbench.bench.runner.turns import turns
from refbench.bench.runs.folder import VideoFolder
from refbench.bench.sample import Sample
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.record import (
    FAILED,
    MISSING_VIDEO,
    MISSING_WEIGHTS,
    NOT_APPLICABLE,
    Provenance,
    Record,
    RecordKey,
    RunKey,
)
from refbench.bench.video import Video
from refbench.bench.weights.store import any_tiny


@dataclass
class MetricPlan:
    """One metric's share of a plan, in counts of videos."""

    to_score: int = 0
    cached: int = 0
    reused: int = 0
    not_applicable: int = 0
    missing_video: int = 0
    cannot: str = ""


@dataclass
class Plan:
    """`jobs` are to be scored; `settled` are records known without scoring that the store does not hold
    yet.
    """

    run_key: RunKey
    jobs: list[ScoringJob] = field(default_factory=list)
    settled: list[Record] = field(default_factory=list)
    per_metric: dict[str, MetricPlan] = field(default_factory=dict)
    unregistered: list[str] = field(default_factory=list)
    turns: list[list[str]] = field(default_factory=list)
    forecasts: list[str] = field(default_factory=list)
    blanks: dict[tuple[str, str, int], Record] = field(default_factory=dict)

    def record(self, job: ScoringJob, outcome: ScoringOutcome) -> Record:
        """The record of a finished job."""
        blank = self.blanks[job.metric, job.sample.id, job.seed]
        provenance = blank.provenance.model_copy(update=dict(outcome.provenance))
        return Record.model_validate(
            blank.model_dump()
            | {
                "value": outcome.value,
                "reason": outcome.reason,
                "details": dict(outcome.details),
                "provenance": provenance.model_dump(),
            }
        )


def selected_metrics(selection: str | None, options: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    """The metrics to run: `components` (the default: those that fill a protocol's column), `all`, or a comma
    list.

    Raises UserError for unknown names and for options of a metric that does not run.
    """
    chosen = (selection or "components").strip()
    if chosen in ("components", "all"):
        names = metrics.names()
    else:
        names = [metrics.get(name.strip()).declaration.name for name in chosen.split(",") if name.strip()]
    made = [make_metric(name, options.get(name, {})) for name in dict.fromkeys(names)]
    if chosen == "components":
        made = [metric for metric in made if metric.declaration.component is not None]
    idle = set(options) - {metric.declaration.name for metric in made}
    if idle:
        raise UserError(
            f"options are given for {', '.join(sorted(idle))}, which is not among the metrics to run"
        )
    return made


def make_plan(
    *,
    run_key: RunKey,
    samples: Iterable[Sample],
    folder: VideoFolder,
    chosen: Iterable[Metric],
    held: Mapping[RecordKey, Record],
    environment: Environment,
    memory_gib: float,
) -> Plan:
    """Decide for each metric, sample and seed what is to be done; `held` are the store's latest records.

    A held value is current while its metric version and digests match. A failure, missing weights and a
    missing video are looked at again in every run: their causes lie outside the digests. A value of another
    variant with the same inputs is taken over instead of being scored twice.
    """
    plan = Plan(run_key=run_key)
    chosen = list(chosen)
    by_inputs = {
        (record.sample, record.seed, record.metric, record.provenance.inputs()): record
        for record in held.values()
        if record.value is not None
    }
    digests = _Digests(folder)
    samples = list(samples)
    for metric in chosen:
        name = metric.declaration.name
        counts = plan.per_metric[name] = MetricPlan()
        counts.cannot = metric.unavailable(environment) or ""
        settings = digest_of(metric.settings())
        tiny = any_tiny(metric.declaration.weights, environment.weights)
        for sample in samples:
            inapplicable = metric.not_applicable(sample)
            for seed in folder.seeds:
                blank = _blank(run_key, metric, sample, seed, settings, digests)
                reason, video = _settled_reason(inapplicable, folder, sample, seed, digests)
                if reason is not None:
                    _settle(plan, counts, blank, reason, held)
                    continue
                current = held.get(blank.key)
                if current is not None and _is_current(current, blank, metric, tiny=tiny):
                    counts.cached += 1
                    continue
                twin = by_inputs.get((sample.id, seed, name, blank.provenance.inputs()))
                if twin is not None and _is_current(twin, blank, metric, tiny=tiny):
                    counts.reused += 1
                    plan.settled.append(twin.model_copy(update={"variant": run_key.variant}))
                    continue
                if counts.cannot:
                    # Only now: a value that was scored where the weights were is not given up for this.
                    _settle(plan, counts, blank, f"{MISSING_WEIGHTS}: {counts.cannot}", held)
                    continue
                assert video is not None
                counts.to_score += 1
                plan.blanks[name, sample.id, seed] = blank
                plan.jobs.append(ScoringJob(turn=0, metric=name, sample=sample, seed=seed, video=video))
    busy = [metric for metric in chosen if plan.per_metric[metric.declaration.name].to_score]
    plan.turns = [[metric.declaration.name for metric in turn] for turn in turns(busy, memory_gib)]
    plan.jobs = _in_turns(plan.jobs, plan.turns)
    plan.forecasts = [
        text
        for metric in busy
        if (text := metric.forecast(plan.per_metric[metric.declaration.name].to_score))
    ]
    filled = {metric.declaration.component for metric in chosen}
    plan.unregistered = [
        component.label
        for component in COMPONENTS.values()
        if component.name not in filled and component.metric not in metrics.names()
    ]
    return plan


def _in_turns(jobs: Iterable[ScoringJob], turns_of_names: list[list[str]]) -> list[ScoringJob]:
    """Jobs by turn, then video by video, so that a decoded video's facts serve all metrics of the turn."""
    position = {
        name: (turn, position)
        for turn, names in enumerate(turns_of_names)
        for position, name in enumerate(names)
    }
    videos: dict[Path, int] = {}
    in_turns = [replace(job, turn=position[job.metric][0]) for job in jobs]
    for job in in_turns:
        videos.setdefault(job.video, len(videos))
    return sorted(in_turns, key=lambda job: (job.turn, videos[job.video], position[job.metric][1]))


class _Digests:
    """Digests of videos and references, each file read once per plan."""

    def __init__(self, folder: VideoFolder) -> None:
        self._folder = folder
        self._videos: dict[Path, str | SampleError] = {}
        self._references: dict[str, str] = {}

    def video(self, sample: Sample, seed: int) -> str | SampleError | None:
        path = self._folder.videos.get((sample.id, seed))
        if path is None:
            return None
        if path not in self._videos:
            try:
                self._videos[path] = Video(path).digest
            except SampleError as error:
                self._videos[path] = error
        return self._videos[path]

    def references(self, sample: Sample) -> str:
        if sample.id not in self._references:
            self._references[sample.id] = sample.references_digest()
        return self._references[sample.id]


def _blank(
    run_key: RunKey, metric: Metric, sample: Sample, seed: int, settings: str, digests: _Digests
) -> Record:
    """The record as far as it is known before scoring; its reason is a placeholder."""
    uses = metric.declaration.uses
    video = digests.video(sample, seed)
    return Record(
        method=run_key.method,
        track=run_key.track,
        variant=run_key.variant,
        sample=sample.id,
        category=sample.category,
        seed=seed,
        metric=metric.declaration.name,
        reason=FAILED,
        provenance=Provenance(
            metric_version=metric.declaration.version,
            video=video if isinstance(video, str) else None,
            sample=sample.digest(uses),
            references=digests.references(sample) if "references" in uses else None,
            settings=settings,
            packages=package_versions(("av", *metric.declaration.packages)),
        ),
    )


def _settled_reason(
    inapplicable: str | None,
    folder: VideoFolder,
    sample: Sample,
    seed: int,
    digests: _Digests,
) -> tuple[str | None, Path | None]:
    if inapplicable is not None:
        return f"{NOT_APPLICABLE}: {inapplicable}", None
    digest = digests.video(sample, seed)
    if digest is None:
        error = folder.errors.get((sample.id, seed))
        return f"{MISSING_VIDEO}: generation failed: {error}" if error else MISSING_VIDEO, None
    if isinstance(digest, SampleError):
        return f"{FAILED}: {digest}", None
    return None, folder.videos[sample.id, seed]


def _settle(
    plan: Plan, counts: MetricPlan, blank: Record, reason: str, held: Mapping[RecordKey, Record]
) -> None:
    record = blank.model_copy(update={"reason": reason})
    if record.reason_kind == NOT_APPLICABLE:
        counts.not_applicable += 1
    elif record.reason_kind == MISSING_VIDEO:
        counts.missing_video += 1
    if held.get(record.key) != record:
        plan.settled.append(record)


def _is_current(held: Record, blank: Record, metric: Metric, *, tiny: bool) -> bool:
    """Whether a held value still stands; one of tiny weights does not where real ones have come, nor back.

    Other changes of weights are not looked for: a digest takes the reading of many gigabytes.
    """
    same_weights = not metric.declaration.weights or held.provenance.is_tiny == tiny
    return held.value is not None and same_weights and held.provenance.inputs() == blank.provenance.inputs()
