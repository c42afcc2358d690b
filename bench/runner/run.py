"""Run: generate and evaluate one or several methods, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.console import inform, note
from refbench.bench.dataset import Track
from refbench.bench.devices import chosen_devices
from refbench.bench.environment import Environment
from refbench.bench.metric import Metric
from refbench.bench.options import assignments_by_owner
from refbench.bench.prompts import PromptSet
from refbench.bench.registry import methods as method_registry
from refbench.bench.runner.evaluate import Evaluated, Evaluation, PreparedEvaluation
from refbench.bench.runner.executors import LOCAL, RAY, connection
from refbench.bench.runner.generate import Generated, Generation, check_seeds, run_generation
from refbench.bench.runner.generating import make_method
from refbench.bench.runner.plan import abilities, require_named, selected_metrics
from refbench.bench.runner.scoring import need_torch
from refbench.bench.scores.store import StorePart, store_path


@dataclass(frozen=True, kw_only=True)
class MethodsRun:
    """Methods by name to run over a track; `assignments` are `NAME.KEY=VALUE` of methods and metrics.

    With `shuffled_references`, a seed, each sample is generated with another sample's references and scored
    against its own.
    """

    methods: Sequence[str]
    track: Track
    seeds: Sequence[int] = (0,)
    assignments: Sequence[str] = ()
    settings: str | None = None
    prompts: PromptSet | None = None
    shuffled_references: int | None = None
    metrics: str | None = None
    samples: Sequence[str] = ()
    limit: int | None = None
    workers: int = 1
    devices: str = "auto"
    job_timeout_s: float | None = None
    executor: str = LOCAL
    ray_address: str | None = None
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()
    runs: Path = Path("runs")
    out: Path = Path("results")


@dataclass(frozen=True, kw_only=True)
class MethodsDone:
    """The evaluations in order, and whether a generation failed."""

    evaluated: list[Evaluated]
    generation_failed: bool

    @property
    def stores(self) -> list[StorePart]:
        """Of the score stores that were written the records of what the runs' folders hold."""
        return [
            StorePart(file=one.store, keys=frozenset(record.key for record in one.records))
            for one in self.evaluated
        ]


@dataclass(frozen=True, kw_only=True)
class CheckedNames:
    """The methods by their registered names, and the options of methods and of metrics by name."""

    methods: list[str]
    method_options: dict[str, dict[str, str]]
    metric_options: dict[str, dict[str, str]]
    metrics: list[Metric]


def check_names(
    methods: Sequence[str], assignments: Sequence[str], settings: str | None, metrics: str | None
) -> CheckedNames:
    """See that methods, metrics and the options of each are known and fit; nothing is loaded.

    Raises UserError otherwise.
    """
    by_owner = assignments_by_owner(list(assignments))
    names = [method_registry.get(name).name for name in methods]
    metric_options = {owner: values for owner, values in by_owner.items() if owner not in names}
    method_options = {name: by_owner.get(name, {}) for name in names}
    for name in names:
        make_method(name, method_options[name], settings)
    return CheckedNames(
        methods=names,
        method_options=method_options,
        metric_options=metric_options,
        metrics=selected_metrics(metrics, metric_options),
    )


def check_run(run: MethodsRun) -> CheckedNames:
    """As `check_names`, and that the devices are there and metrics asked for by name can run.

    Raises UserError for what is wrong.
    """
    checked = check_names(run.methods, run.assignments, run.settings, run.metrics)
    if run.executor == RAY:
        # What is there is asked of the nodes, by the generation and the evaluation.
        return checked
    by_torch = [method_registry.get(name).needs_torch for name in checked.methods]
    by_torch.append(need_torch(checked.metrics, run.weights))
    chosen_devices(run.devices, needs_torch=any(by_torch))
    if not all(store_path(run.out, name, run.track.name).exists() for name in checked.methods):
        # Nothing can be current yet; where something may be, the evaluation decides.
        every = {metric.declaration.name: len(run.track.samples) for metric in checked.metrics}
        able = abilities(checked.metrics, Environment(weights=run.weights))
        require_named(run.metrics, checked.metrics, able, every)
    return checked


def run_methods(run: MethodsRun) -> MethodsDone:
    """Generate and evaluate each method; names and options of all are checked before the first begins."""
    checked = check_run(run)
    # One connection, and perhaps one start of Ray, for all parts of the run.
    with connection(run.executor, run.ray_address):
        return _run_methods(run, checked)


def _run_methods(run: MethodsRun, checked: CheckedNames) -> MethodsDone:
    evaluated = []
    failed = False
    for name in checked.methods:
        generated = generate_and_say(
            Generation(
                method=name,
                track=run.track,
                options=checked.method_options[name],
                settings=run.settings,
                prompts=run.prompts,
                seeds=check_seeds(run.seeds),
                shuffled_references=run.shuffled_references,
                samples=tuple(run.samples),
                limit=run.limit,
                workers=run.workers,
                devices=_devices_of(run, needs_torch=method_registry.get(name).needs_torch),
                job_timeout_s=run.job_timeout_s,
                executor=run.executor,
                ray_address=run.ray_address,
                weights=run.weights,
                plugins=run.plugins,
                out=run.runs,
            )
        )
        failed = failed or bool(generated.failures)
        prepared = PreparedEvaluation(
            Evaluation(
                videos=generated.folder,
                track=run.track,
                metrics=run.metrics,
                options=checked.metric_options,
                samples=tuple(run.samples),
                limit=run.limit,
                workers=run.workers,
                devices=_devices_of(run, needs_torch=need_torch(checked.metrics, run.weights)),
                job_timeout_s=run.job_timeout_s,
                executor=run.executor,
                ray_address=run.ray_address,
                weights=run.weights,
                plugins=run.plugins,
                out=run.out,
            )
        )
        done = prepared.run()
        if done.left_out:
            note(done.left_out)
        evaluated.append(done)
    return MethodsDone(evaluated=evaluated, generation_failed=failed)


def _devices_of(run: MethodsRun, *, needs_torch: bool) -> str:
    """The devices of one part of a run: what needs no torch runs beside it on the CPU."""
    return run.devices if needs_torch or run.executor == RAY else "cpu"


def generate_and_say(generation: Generation) -> Generated:
    """Generate, and say on stderr how many videos were made, kept and failed."""
    done = run_generation(generation)
    say = note if done.failures else inform
    say(
        f"{done.folder}: {done.made} made, {done.kept} there already, {len(done.failures)} failed"
        + (" (tried again by the same command)" if done.failures else "")
    )
    return done
