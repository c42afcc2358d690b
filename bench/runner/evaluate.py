"""Evaluate: score a folder of videos into the store, resumably."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refbench.bench import DEFAULT_TRACK
from refbench.bench.dataset import Track, as_track
from refbench.bench.environment import available_gib
from refbench.bench.errors import SampleError, UserError
from refbench.bench.registry import load_plugins
from refbench.bench.runner.executors import WorkerDied, make_executor
from refbench.bench.runner.plan import Plan, make_plan, selected_metrics
from refbench.bench.runner.progress import Progress
from refbench.bench.runner.scoring import ScoringOutcome, ScoringWorkerFactory, scoring_environment
from refbench.bench.runs.folder import VideoFolder, scan_videos, stored_run_file, write_run
from refbench.bench.sample import Sample, shuffle_references
from refbench.bench.scores.record import (
    FAILED,
    NOT_APPLICABLE,
    Record,
    RecordKey,
    RunKey,
    joined_variant,
    latest,
)
from refbench.bench.scores.store import StoreWriter, checked_name, read_records, store_path

SHUFFLED_SCORING = "scored-shuffled"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Part `index` (from 1) of `count`: every count-th sample."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """`I/N` with 1 ≤ I ≤ N; None is everything. Raises UserError."""
        if text is None:
            return cls()
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise UserError(f"--shard takes I/N with I from 1 to N (1/4, say), not {text!r}")
        return cls(index=int(index), count=int(count))

    def of(self, samples: Sequence[Sample]) -> list[Sample]:
        """This shard's samples."""
        return list(samples[self.index - 1 :: self.count])


EVERYTHING = Shard()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to evaluate. `name` may be None where a `run.json` names the method."""

    videos: Path
    track: Track
    name: str | None = None
    metrics: str | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limit: int | None = None
    shard: Shard = EVERYTHING
    workers: int = 1
    device: str = "auto"
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()
    out: Path = Path("results")
    shuffled_references: int | None = None
    memory_gib: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What came of it: whose scores these are, the records in the store, the plan, and the video folder."""

    run_key: RunKey
    store: Path
    records: list[Record]
    plan: Plan
    folder: VideoFolder

    @property
    def failures(self) -> list[Record]:
        """Records that failed (not those whose video or weights are missing)."""
        return [record for record in self.records if record.reason_kind == FAILED]

    @property
    def unscored(self) -> list[Record]:
        """All records without a value though one was expected."""
        return [record for record in self.records if record.reason_kind not in (None, NOT_APPLICABLE)]


def evaluate(
    videos: Path | str,
    *,
    track: Track | str = DEFAULT_TRACK,
    dataset: Path | str | None = None,
    name: str | None = None,
    metrics: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Path | str | None = None,
    device: str = "auto",
    workers: int = 1,
    limit: int | None = None,
    plugins: Iterable[Path | str] = (),
    out: Path | str = "results",
) -> Evaluated:
    """Score a folder of videos into the store below `out`, and return what the store then holds of it.

    `videos` is a run folder or a flat folder of `<sample id>.mp4`; `track` a loaded track, or an official
    one's name, which is read from `dataset`. `name` is the method's name (a run folder knows its own).
    `metrics` is `components` (the default: those in TotalScore), `all`, or names separated by commas;
    `options` are values by metric and key. What is current in the store is not scored again. Raises UserError
    for what the caller can mend; a sample that fails is a record with its reason.
    """
    paths = tuple(map(Path, plugins))
    load_plugins(paths)
    return PreparedEvaluation(
        Evaluation(
            videos=Path(videos),
            track=as_track(track, dataset),
            name=name,
            metrics=metrics,
            options=options or {},
            weights=Path(weights) if weights is not None else None,
            device=device,
            workers=workers,
            limit=limit,
            plugins=paths,
            out=Path(out),
        )
    ).run()


class PreparedEvaluation:
    """An evaluation whose inputs are read and checked; it can be planned, and carried out."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.folder = scan_videos(evaluation.videos, evaluation.track)
        self.run_key = _run_key(evaluation, self.folder)
        self.store = store_path(evaluation.out, self.run_key.method, self.run_key.track)
        self.metrics = selected_metrics(evaluation.metrics, evaluation.options)
        if not self.metrics:
            raise UserError("no metric is selected; refbench metrics lists them")
        self.environment = scoring_environment(
            self.metrics, evaluation.device, evaluation.weights, workers=evaluation.workers
        )
        self.samples = chosen_samples(
            evaluation.track, evaluation.shuffled_references, evaluation.shard, evaluation.limit
        )

    def plan(self, held: Mapping[RecordKey, Record] | None = None) -> Plan:
        """The plan against the store's records (read without locking where they are not given)."""
        if held is None:
            held = latest(read_records(self.store)) if self.store.is_file() else {}
        return make_plan(
            run_key=self.run_key,
            samples=self.samples,
            folder=self.folder,
            chosen=self.metrics,
            held=held,
            environment=self.environment,
            memory_gib=self.evaluation.memory_gib
            or available_gib(self.environment.device) / self.evaluation.workers,
        )

    def run(self) -> Evaluated:
        """Score what is not current and append it to the store, one record at a time as it comes.

        Interrupted at any point, the store holds what was finished; the same call goes on from there.
        """
        factory = ScoringWorkerFactory(
            options=self.evaluation.options,
            environment=self.environment,
            plugins=self.evaluation.plugins,
        )
        executor = make_executor(self.evaluation.workers)
        with StoreWriter(self.store) as writer:
            plan = self.plan(writer.records)
            writer.append(plan.settled)
            if self.folder.info is not None:
                write_run(stored_run_file(self.store, self.run_key.variant), self.folder.info)
            if plan.jobs:
                with Progress("scoring", len(plan.jobs)) as progress:
                    for text in plan.forecasts:
                        progress.say(text)
                    for job, result in executor.run(factory, plan.jobs):
                        outcome = (
                            ScoringOutcome(reason=f"{FAILED}: {result.reason}")
                            if isinstance(result, WorkerDied)
                            else result
                        )
                        record = plan.record(job, outcome)
                        if writer.records.get(record.key) != record:
                            writer.append([record])
                        progress.step(f"{job.metric} {job.sample.id}")
            wanted = {sample.id for sample in self.samples}
            records = [
                record
                for record in writer.records.values()
                if record.variant == self.run_key.variant and record.sample in wanted
            ]
        return Evaluated(
            run_key=self.run_key, store=self.store, records=records, plan=plan, folder=self.folder
        )


def _run_key(evaluation: Evaluation, folder: VideoFolder) -> RunKey:
    info = folder.info
    name = evaluation.name or (info.method if info else None)
    if name is None:
        raise UserError(f"{evaluation.videos} has no run.json: give the method's name with --name")
    variants = [info.variant] if info is not None else []
    if evaluation.shuffled_references is not None:
        variants.append(SHUFFLED_SCORING)
    return RunKey(
        method=checked_name(name, "--name"),
        track=evaluation.track.name,
        variant=joined_variant(variants),
    )


def chosen_samples(track: Track, shuffle_seed: int | None, shard: Shard, limit: int | None) -> list[Sample]:
    """The samples to work on. References are shuffled over the whole track first (None: they stay), so that a
    shard or limit changes no pairing. Raises UserError when none is left.
    """
    samples = list(track.samples)
    if shuffle_seed is not None:
        try:
            samples = shuffle_references(samples, shuffle_seed)
        except SampleError as error:
            raise UserError(str(error)) from None
    chosen = shard.of(samples)[:limit]
    if not chosen:
        raise UserError("--limit or --shard leaves no sample")
    return chosen
