"""What an evaluation will do: which scores are current, which are to be made, and which cannot be and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError
from refbench.bench.files import shortlist
from refbench.bench.metric import Metric
from refbench.bench.provenance import digest_of, package_versions
from refbench.bench.registry import metrics
from refbench.bench.runner.scoring import ScoringJob, ScoringOutcome, make_metric
from refbench.bench.runner.turns import WORKING_GIB, needed_gib, turns
from refbench.bench.runs.folder import VideoFolder
from refbench.bench.sample import Input, Sample
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
from refbench.bench.weights.kind import WeightsKind
from refbench.bench.weights.store import kind_on_disk

# What `--metrics` may be instead of names.
METRIC_SETS = ("components", "all")


@dataclass
class MetricPlan:
    """One metric's share of a plan, in counts of videos; `lacking` are those that `cannot` be scored."""

    to_score: int = 0
    lacking: int = 0
    cached: int = 0
    reused: int = 0
    not_applicable: int = 0
    missing_video: int = 0
    cannot: str = ""


@dataclass
class Plan:
    """`jobs` are to be scored; `settled` are records known without scoring that the store does not hold
    yet; `remarks` name files that are read otherwise than ordinary ones. `limits_s` are the seconds that a
    job of each metric may take, `needs` the memory in GiB of each that has jobs and weights of full size.
    """

    run_key: RunKey
    jobs: list[ScoringJob] = field(default_factory=list)
    settled: list[Record] = field(default_factory=list)
    per_metric: dict[str, MetricPlan] = field(default_factory=dict)
    unregistered: list[str] = field(default_factory=list)
    turns: list[list[str]] = field(default_factory=list)
    limits_s: dict[str, float | None] = field(default_factory=dict)
    needs: list[tuple[str, float]] = field(default_factory=list)
    forecasts: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    blanks: dict[tuple[str, str, int], Record] = field(default_factory=dict)
    digests: Digests | None = None

    def is_of_the_folder(self, record: Record, sample: Sample) -> bool:
        """Whether a stored record tells of what the folder holds now.

        Those of this plan's metrics do: what was not current is made anew. Of another metric a score counts
        while its video, sample and references are those that it was made from. An imported score names no
        video: it counts where the folder holds one.
        """
        digests = self.digests
        assert digests is not None, "a plan of make_plan has digests"
        if record.metric in self.per_metric or record.reason_kind == NOT_APPLICABLE:
            return True
        video = digests.video(sample, record.seed)
        if record.provenance.source is not None:
            return record.value is None or video is not None
        if record.metric not in metrics.names():
            return record.provenance.video == video
        uses = metrics.get(record.metric).declaration.uses
        return (
            record.provenance.video == video
            and record.provenance.sample == digests.sample(sample, uses)
            and ("references" not in uses or record.provenance.references == digests.references(sample))
        )

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


@dataclass(frozen=True, kw_only=True)
class Ability:
    """Whether a metric can run somewhere: why it cannot (empty where it can), and its weights' kind there."""

    cannot: str
    kind: WeightsKind


def abilities(chosen: Iterable[Metric], environment: Environment) -> dict[str, Ability]:
    """What each of these metrics, by name, can do in an environment."""
    return {
        metric.declaration.name: Ability(
            cannot=metric.unavailable(environment) or "",
            kind=kind_on_disk(metric.declaration.weights, environment.weights),
        )
        for metric in chosen
    }


def require_named(
    selection: str | None,
    chosen: Iterable[Metric],
    able: Mapping[str, Ability],
    videos: Mapping[str, int],
) -> None:
    """See that metrics that were asked for by name can run, where `videos` (by metric) wait for them.

    Raises UserError with what is missing and how to get it. Metrics of `components` and `all` may be missing:
    they become reasons in the records.
    """
    if selection is None or selection.strip() in METRIC_SETS:
        return
    for metric in chosen:
        name = metric.declaration.name
        missing = able[name].cannot if videos.get(name) else ""
        if missing:
            raise UserError(f"{name} was asked for and cannot run: {missing}")


def as_selection(metrics: str | Iterable[str] | None) -> str | None:
    """A selection of metrics as one text: names separated by commas, `components`, `all` or None."""
    return metrics if metrics is None or isinstance(metrics, str) else ",".join(metrics)


def selected_metrics(selection: str | None, options: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    """The metrics to run: `components` (the default: those that fill a protocol's column), `all`, or a comma
    list.

    Raises UserError for unknown names and for options of a metric that does not run.
    """
    chosen = (selection or "components").strip()
    if chosen in METRIC_SETS:
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
    able: Mapping[str, Ability],
    memory_gib: float,
    job_timeout_s: float | None = None,
) -> Plan:
    """Decide for each metric, sample and seed what is to be done; `held` are the store's latest records, and
    `able` says which metrics can run where the work will be done.

    A held value is current while its metric version and digests match, no judge's run is missing from it
    (one that is missing is asked again, where the judge can be asked), and it says of an unusual video how
    that was read (`Video.remarks`): one that does not is from before it was read so. A failure, missing
    weights and a missing video are looked at again in every run: their causes lie outside the digests. A
    value of another variant with the same inputs is taken over instead of being scored twice.
    """
    plan = Plan(run_key=run_key)
    chosen = list(chosen)
    by_inputs: dict[tuple[Any, ...], Record] | None = None
    digests = plan.digests = Digests(folder)
    samples = list(samples)
    for metric in chosen:
        name = metric.declaration.name
        counts = plan.per_metric[name] = MetricPlan()
        counts.cannot = able[name].cannot
        limit_s = metric.declaration.job_limit_s if job_timeout_s is None else job_timeout_s
        plan.limits_s[name] = limit_s or None
        settings = digest_of(metric.settings())
        kind = able[name].kind
        for sample in samples:
            inapplicable = metric.not_applicable(sample)
            for seed in folder.seeds:
                blank = _blank(run_key, metric, sample, seed, settings, digests)
                reason, video = _settled_reason(inapplicable, folder, sample, seed, digests)
                if reason is not None:
                    _settle(plan, counts, blank, reason, held)
                    continue
                current = held.get(blank.key)
                stands = partial(
                    _is_current,
                    blank=blank,
                    metric=metric,
                    digests=digests,
                    kind=kind,
                    can_score=not counts.cannot,
                )
                if current is not None and stands(current):
                    counts.cached += 1
                    if current.category != sample.category:
                        # No score depends on it, but the tables by category do.
                        plan.settled.append(current.model_copy(update={"category": sample.category}))
                    continue
                if by_inputs is None:
                    # Only now: of a large store in which all is current it would take as long as reading it.
                    by_inputs = _by_inputs(held.values())
                twin = by_inputs.get((sample.id, seed, name, blank.provenance.inputs()))
                if twin is not None and stands(twin):
                    counts.reused += 1
                    plan.settled.append(twin.model_copy(update={"variant": run_key.variant}))
                    continue
                if counts.cannot:
                    counts.lacking += 1
                    # Only now: a value that was scored where the weights were is not given up for this.
                    _settle(plan, counts, blank, f"{MISSING_WEIGHTS}: {counts.cannot}", held)
                    continue
                assert video is not None
                counts.to_score += 1
                plan.blanks[name, sample.id, seed] = blank
                plan.jobs.append(
                    ScoringJob(
                        turn=0,
                        metric=name,
                        sample=sample,
                        seed=seed,
                        video=video,
                        limit_s=plan.limits_s[name],
                    )
                )
        if counts.to_score and metric.declaration.weights and kind == "real":
            plan.needs.append((name, needed_gib([metric]) + WORKING_GIB))
    busy = [metric for metric in chosen if plan.per_metric[metric.declaration.name].to_score]
    plan.turns = [[metric.declaration.name for metric in turn] for turn in turns(busy, memory_gib)]
    plan.jobs = in_turns(plan.jobs, plan.turns)
    plan.remarks = _remarks(plan.jobs, chosen, digests)
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


def _by_inputs(records: Iterable[Record]) -> dict[tuple[Any, ...], Record]:
    """The last value that was made for a sample, seed and metric from these inputs, whatever its variant."""
    return {
        (record.sample, record.seed, record.metric, record.provenance.inputs()): record
        for record in records
        if record.value is not None
    }


def in_turns(jobs: Iterable[ScoringJob], turns_of_names: list[list[str]]) -> list[ScoringJob]:
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


class Digests:
    """Digests of a folder's videos and of references and remarks on videos, each file read once per plan."""

    def __init__(self, folder: VideoFolder) -> None:
        self._folder = folder
        self._videos: dict[Path, str | SampleError] = {}
        self._samples: dict[tuple[str, frozenset[str]], str] = {}
        self._references: dict[str, str] = {}
        self._remarks: dict[tuple[str, int], tuple[str, ...]] = {}

    def video(self, sample: Sample, seed: int) -> str | SampleError | None:
        """The SHA-256 of a sample's video, why it cannot be read, or None where there is none."""
        path = self._folder.videos.get((sample.id, seed))
        if path is None:
            return None
        if path not in self._videos:
            try:
                self._videos[path] = Video(path).digest
            except SampleError as error:
                self._videos[path] = error
        return self._videos[path]

    def remarks(self, sample_id: str, seed: int) -> tuple[str, ...]:
        """What is unusual about a video; nothing is said of one that cannot be opened."""
        key = (sample_id, seed)
        if key not in self._remarks:
            try:
                self._remarks[key] = Video(self._folder.videos[key]).remarks
            except SampleError:
                self._remarks[key] = ()
        return self._remarks[key]

    def sample(self, sample: Sample, uses: Iterable[Input]) -> str:
        """The SHA-256 of what a metric with these inputs sees of a sample; see `Sample.digest`."""
        key = (sample.id, frozenset(uses))
        if key not in self._samples:
            self._samples[key] = sample.digest(uses)
        return self._samples[key]

    def references(self, sample: Sample) -> str:
        """The SHA-256 of a sample's reference images; see `Sample.references_digest`."""
        if sample.id not in self._references:
            self._references[sample.id] = sample.references_digest()
        return self._references[sample.id]


def _blank(
    run_key: RunKey, metric: Metric, sample: Sample, seed: int, settings: str, digests: Digests
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
            sample=digests.sample(sample, uses),
            references=digests.references(sample) if "references" in uses else None,
            settings=settings,
            packages=package_versions(("av", *metric.packages())),
        ),
    )


def _settled_reason(
    inapplicable: str | None,
    folder: VideoFolder,
    sample: Sample,
    seed: int,
    digests: Digests,
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


def _is_current(
    held: Record, blank: Record, metric: Metric, digests: Digests, *, kind: WeightsKind, can_score: bool
) -> bool:
    """Whether a held value still stands; one of tiny weights does not where others have come, nor back, and
    one that lacks some of its judge's runs only where they cannot be asked.

    Other changes of weights are not looked for: a digest takes the reading of many gigabytes.
    """
    same_weights = not metric.declaration.weights or held.provenance.weights_kind == kind
    complete = not held.details.get("failed_runs") or not can_score
    return (
        held.value is not None
        and same_weights
        and complete
        and held.provenance.inputs() == blank.provenance.inputs()
        and set(digests.remarks(blank.sample, blank.seed)) <= set(held.reading)
    )


def _remarks(jobs: Iterable[ScoringJob], chosen: Iterable[Metric], digests: Digests) -> list[str]:
    """What is unusual about the files of these jobs, each sentence once with the samples that it is about."""
    uses = {metric.declaration.name: metric.declaration.uses for metric in chosen}
    about: dict[str, dict[str, None]] = {}
    for job in jobs:
        said = list(digests.remarks(job.sample.id, job.seed))
        if "references" in uses[job.metric]:
            said += job.sample.reference_remarks()
        for remark in said:
            about.setdefault(remark, {})[job.sample.id] = None
    return [f"{shortlist(samples)}: {remark}" for remark, samples in about.items()]
