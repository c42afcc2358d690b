"""Evaluate: score a folder of videos into the store, resumably."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from refbench.bench import DEFAULT_TRACK, FRAME_MEMORY_GIB
from refbench.bench.console import count_text
from refbench.bench.dataset import Track, as_track
from refbench.bench.devices import Place, check_memory, chosen_devices, free_gib, one_device, places_of
from refbench.bench.environment import Environment, threads_per_job
from refbench.bench.errors import SampleError, UserError
from refbench.bench.files import scratch_folder
from refbench.bench.registry import load_plugins, unknown_name
from refbench.bench.runner.executors import (
    LOCAL,
    RAY,
    Watcher,
    WorkerDied,
    connection,
    make_executor,
)
from refbench.bench.runner.plan import (
    Plan,
    abilities,
    as_selection,
    make_plan,
    require_named,
    selected_metrics,
)
from refbench.bench.runner.progress import Progress
from refbench.bench.runner.scoring import (
    ScoringJob,
    ScoringOutcome,
    ScoringWorkerFactory,
    need_torch,
    read_by,
)
from refbench.bench.runner.sites import ScoringSite
from refbench.bench.runs.folder import VideoFolder, scan_videos, stored_run_file, write_run
from refbench.bench.sample import Sample, shuffle_references
from refbench.bench.scores.record import (
    FAILED,
    NOT_APPLICABLE,
    Record,
    RecordKey,
    RunKey,
    joined_variant,
)
from refbench.bench.scores.store import StoreWriter, checked_name, read_latest, store_path

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
    """What to evaluate. `name` may be None where a `run.json` names the method.

    `workers` is their number per device, `devices` as `chosen_devices` reads it; `job_timeout_s` limits each
    job (0: no limit; None: as its metric declares, where workers have processes of their own). Decoded frames
    take `frame_memory_gib` in each worker (0: none is kept for another metric). `executor` is
    `local` or `ray`, `ray_address` as `ray_connection.connected` takes it.
    """

    videos: Path
    track: Track
    name: str | None = None
    pattern: str | None = None
    metrics: str | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    samples: tuple[str, ...] = ()
    limit: int | None = None
    shard: Shard = EVERYTHING
    workers: int = 1
    devices: str = "auto"
    job_timeout_s: float | None = None
    executor: str = LOCAL
    ray_address: str | None = None
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()
    out: Path = Path("results")
    shuffled_references: int | None = None
    memory_gib: float | None = None
    frame_memory_gib: float = FRAME_MEMORY_GIB


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What came of it: whose scores these are, the records of the folder's videos, the plan, and the folder.

    `left_out` says in a line which values of the run the store holds besides, or is empty.
    """

    run_key: RunKey
    store: Path
    records: list[Record]
    plan: Plan
    folder: VideoFolder
    left_out: str = ""

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
    pattern: str | None = None,
    metrics: str | Iterable[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Path | str | None = None,
    device: str = "auto",
    devices: str | None = None,
    workers: int = 1,
    job_timeout_s: float | None = None,
    executor: str = LOCAL,
    ray_address: str | None = None,
    samples: Sequence[str] = (),
    limit: int | None = None,
    plugins: Iterable[Path | str] = (),
    out: Path | str = "results",
) -> Evaluated:
    """Score a folder of videos into the store below `out`, and return what the store then holds of them.

    `videos` is a run folder or a flat folder of `<sample id>.mp4`; `pattern` says how other names are read
    (`{id}_seed{seed}.mp4`). `track` is a loaded track, or an official one's name, which is read from
    `dataset`. `name` is the method's name (a run folder knows its own).
    `metrics` is `components` (the default: those in TotalScore), `all`, or names, as a list or separated by
    commas; `options` are values by metric and key. One worker works in this process, on `device`; several, or
    one with a time limit per job, have processes of their own, on `device` or on each of `devices` (`auto`:
    all GPUs), and then a script needs its `if __name__ == "__main__":`. With `executor="ray"` they are actors
    of a Ray cluster (`ray_address`: HOST:PORT or `auto`; None: one that is there, else this machine). What is
    current in the store is not scored again. Raises UserError for what the caller can mend (also a metric
    asked for by name whose weights are missing); a sample that fails is a record with its reason.
    """
    paths = tuple(map(Path, plugins))
    load_plugins(paths)
    return PreparedEvaluation(
        Evaluation(
            videos=Path(videos),
            track=as_track(track, dataset),
            name=name,
            pattern=pattern,
            metrics=as_selection(metrics),
            options=options or {},
            weights=Path(weights) if weights is not None else None,
            devices=one_device(device) if devices is None else devices,
            workers=workers,
            job_timeout_s=job_timeout_s,
            executor=executor,
            ray_address=ray_address,
            samples=tuple(samples),
            limit=limit,
            plugins=paths,
            out=Path(out),
        )
    ).run()


class PreparedEvaluation:
    """An evaluation whose inputs are read and checked; it can be planned, and carried out."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.folder = scan_videos(evaluation.videos, evaluation.track, evaluation.pattern)
        self.run_key = _run_key(evaluation, self.folder)
        self.store = store_path(evaluation.out, self.run_key.method, self.run_key.track)
        # Faults are said before anything is read; nothing is connected yet.
        self._connection()
        self.metrics = selected_metrics(evaluation.metrics, evaluation.options)
        if not self.metrics:
            raise UserError("no metric is selected; refbench metrics lists them")
        self.places: tuple[Place, ...] = ()
        if evaluation.executor == LOCAL:
            self.places = places_of(
                chosen_devices(evaluation.devices, needs_torch=need_torch(self.metrics, evaluation.weights)),
                evaluation.workers,
                own_process=evaluation.job_timeout_s is not None,
            )
        self.environment = Environment(
            device=self.places[0].device if self.places else "cpu",
            threads=threads_per_job(),
            weights=evaluation.weights,
        )
        self.samples = chosen_samples(
            evaluation.track,
            evaluation.shuffled_references,
            evaluation.shard,
            evaluation.limit,
            evaluation.samples,
        )

    def plan(self, held: Mapping[RecordKey, Record] | None = None) -> Plan:
        """The plan against the store's records (read without locking where they are not given)."""
        if held is None:
            held = read_latest([self.store]) if self.store.is_file() else {}
        with self._connection():
            return self._plan(self._site(), held)

    def run(self) -> Evaluated:
        """Score what is not current and append it to the store, one record at a time as it comes.

        Interrupted at any point, the store holds what was finished; the same call goes on from there.
        """
        with self._connection():
            return self._run(self._site())

    def _connection(self) -> AbstractContextManager[None]:
        return connection(self.evaluation.executor, self.evaluation.ray_address)

    def _site(self) -> ScoringSite:
        """Where the scoring is done; for Ray within a connection."""
        if self.evaluation.executor == RAY:
            from refbench.bench.runner.ray_sites import ray_scoring_site

            site = ray_scoring_site(
                self.metrics,
                options=self.evaluation.options,
                weights=self.evaluation.weights,
                devices=self.evaluation.devices,
                workers=self.evaluation.workers,
                plugins=self.evaluation.plugins,
            )
            self.places = site.places
            return site
        return ScoringSite(
            places=self.places,
            sharing=self.places,
            able=abilities(self.metrics, self.environment),
            free_gib=partial(free_gib, self.places),
            executor=make_executor(self.places, topic_of=read_by),
            weights=self.evaluation.weights,
            plugins=self.evaluation.plugins,
        )

    def _plan(self, site: ScoringSite, held: Mapping[RecordKey, Record]) -> Plan:
        share_gib = self.evaluation.memory_gib or site.free_gib()
        plan = make_plan(
            run_key=self.run_key,
            samples=self.samples,
            folder=self.folder,
            chosen=self.metrics,
            held=held,
            able=site.able,
            memory_gib=share_gib,
            job_timeout_s=self.evaluation.job_timeout_s,
        )
        if self.evaluation.memory_gib is None:
            check_memory(site.sharing, plan.needs, share_gib)
        return plan

    def _run(self, site: ScoringSite) -> Evaluated:
        run_folder = scratch_folder("run") if site.places[0].alone else nullcontext()
        with run_folder as shared, StoreWriter(self.store) as writer:
            factory = ScoringWorkerFactory(
                options=self.evaluation.options,
                environment=replace(
                    self.environment, weights=site.weights, shared=Path(shared) if shared else None
                ),
                plugins=site.plugins,
                frame_memory_gib=self.evaluation.frame_memory_gib,
            )
            plan = self._plan(site, writer.records)
            lacking = {name: counts.lacking for name, counts in plan.per_metric.items()}
            require_named(self.evaluation.metrics, self.metrics, site.able, lacking)
            writer.append(plan.settled)
            if self.folder.info is not None:
                write_run(stored_run_file(self.store, self.run_key.variant), self.folder.info)
            if plan.jobs:
                with Progress("scoring", len(plan.jobs)) as progress:
                    for text in (*plan.forecasts, *plan.remarks):
                        progress.say(text)
                    watcher = _NamedJobs(progress) if len(self.places) == 1 else None
                    for job, result in site.executor.run(factory, plan.jobs, watcher):
                        outcome = (
                            ScoringOutcome(reason=f"{FAILED}: {result.reason}")
                            if isinstance(result, WorkerDied)
                            else result
                        )
                        record = plan.record(job, outcome)
                        if writer.records.get(record.key) != record:
                            writer.append([record])
                        progress.step(f"{job.metric} {job.sample.id}")
            of_the_run = [
                record for record in writer.records.values() if record.variant == self.run_key.variant
            ]
        records, left_out = self._counted(of_the_run, plan)
        return Evaluated(
            run_key=self.run_key,
            store=self.store,
            records=records,
            plan=plan,
            folder=self.folder,
            left_out=left_out,
        )

    def workers_text(self, plan: Plan) -> str:
        """How many workers there are, where, their threads, and how long a job of each metric may take."""
        count = count_text(len(self.places), "worker")
        devices = ", ".join(dict.fromkeys(place.device for place in self.places))
        each = "; ".join(
            f"{name} {'any time' if (limit := plan.limits_s[name]) is None else f'{limit:,.0f} s'}"
            for turn in plan.turns
            for name in turn
        )
        limits = (
            f"a job may take: {each} (--job-timeout)"
            if self.places[0].alone
            else "no time limit in this process (--job-timeout gives the worker one of its own)"
        )
        return f"{count} on {devices}, {count_text(self.environment.threads, 'thread')} each; {limits}"

    def _counted(self, records: Iterable[Record], plan: Plan) -> tuple[list[Record], str]:
        """The records of what the folder holds, and a line on the values that the store holds besides."""
        samples = {sample.id: sample for sample in self.samples}
        counted: list[Record] = []
        besides: Counter[str] = Counter()
        for record in records:
            sample = samples.get(record.sample)
            if record.seed not in self.folder.seeds:
                why = f"seed {record.seed}, which is not in the folder"
            elif sample is None:
                why = "samples that are not among the chosen ones"
            elif not plan.is_of_the_folder(record, sample):
                why = f"{record.metric} for videos or samples that are gone or have changed"
            else:
                counted.append(record)
                continue
            besides[why] += record.value is not None
        parts = [f"{count} of {why}" for why, count in sorted(besides.items()) if count]
        return counted, f"not counted, the store also holds scores: {'; '.join(parts)}" if parts else ""


class _NamedJobs(Watcher[ScoringJob]):
    """Names each job of the one worker when it is begun."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def begun(self, job: ScoringJob) -> None:
        """See Watcher.begun."""
        self._progress.now(f"{job.metric} {job.sample.id}")


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


def chosen_samples(
    track: Track, shuffle_seed: int | None, shard: Shard, limit: int | None, ids: Sequence[str] = ()
) -> list[Sample]:
    """The samples to work on, in the track's order: those of `ids` (none: all), of them the shard's, of these
    the first. References are shuffled over the whole track before (None: they stay), so that no choice
    changes a pairing. Raises UserError for an unknown id and when none is left.
    """
    known = [sample.id for sample in track.samples]
    for wrong in ids:
        if wrong not in known:
            raise UserError(f"--samples: {unknown_name('sample', wrong, known)}")
    samples = list(track.samples)
    if shuffle_seed is not None:
        try:
            samples = shuffle_references(samples, shuffle_seed)
        except SampleError as error:
            raise UserError(str(error)) from None
    named = [sample for sample in samples if not ids or sample.id in ids]
    chosen = shard.of(named)[:limit]
    if not chosen:
        raise UserError("--limit or --shard leaves no sample")
    return chosen
