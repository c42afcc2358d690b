"""Generate: run a method over a track into a run folder, resumably.

A video is written under a temporary name and renamed when it is whole, so that a file `<id>.mp4` is always
finished: a copied one is decoded to its end before. What exists is not made again. A sample that fails
leaves `<id>.error.txt`, is tried again next time, and the run goes on; so does one that the method refuses,
without being tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from refbench.bench import DEFAULT_TRACK
from refbench.bench.console import count_text, note
from refbench.bench.dataset import Track, as_track, declared_tracks
from refbench.bench.devices import (
    Place,
    check_memory,
    chosen_devices,
    free_gib,
    one_device,
    places_of,
)
from refbench.bench.environment import Environment, threads_per_job
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import (
    is_there,
    remove_leftovers,
    write_text,
)
from refbench.bench.leaderboard_settings import default_seeds
from refbench.bench.method import Method, MethodCard
from refbench.bench.prompts import PromptSet
from refbench.bench.provenance import package_versions, python_version, source_commit
from refbench.bench.registry import load_plugins
from refbench.bench.runner.evaluate import EVERYTHING, Shard, chosen_samples
from refbench.bench.runner.executors import (
    LOCAL,
    RAY,
    Watcher,
    WorkerDied,
    connection,
    make_executor,
)
from refbench.bench.runner.generating import (
    RUN_PACKAGES,
    GenerationJob,
    GenerationOutcome,
    GenerationWorkerFactory,
    find_method_weights,
    make_method,
)
from refbench.bench.runner.progress import Progress
from refbench.bench.runner.sites import GenerationSite
from refbench.bench.runs.folder import (
    ERROR_SUFFIX,
    RUN_FILE,
    RunInfo,
    begin_run,
    dataset_digest,
    run_folder,
)
from refbench.bench.sample import Sample
from refbench.bench.scores.record import PLAIN, joined_variant, weights_variant
from refbench.bench.scores.store import checked_name
from refbench.bench.video import Video, VideoError
from refbench.bench.weights.kind import check_one_kind, joined_kind, kind_of_digest

SHUFFLED_GENERATION = "generated-shuffled"
NAMED_REFUSALS = 3
# How often a video is begun whose worker process dies.
ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What to generate: a method (by registered name) over a track, for the given seeds.

    `settings` is `native`, `matched`, `leaderboard` or None (as the options say); `prompts` replace the
    benchmark's. `workers` is their number per device, `devices` as `chosen_devices` reads it; `job_timeout_s`
    limits each video (0: no limit; None: as the method says, where workers have processes of their own).
    `executor` is `local` or `ray`, `ray_address` as `ray_connection.connected` takes it.
    """

    method: str
    track: Track
    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: str | None = None
    prompts: PromptSet | None = None
    seeds: tuple[int, ...] = (0,)
    shuffled_references: int | None = None
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
    out: Path = Path("runs")


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What came of it: the run's folder, how many videos were made, were there already, or failed (with
    reasons).
    """

    folder: Path
    made: int
    kept: int
    failures: Mapping[tuple[str, int], str]


def generate(
    method: str,
    *,
    track: Track | str = DEFAULT_TRACK,
    dataset: Path | str | None = None,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    settings: str | None = None,
    prompts: PromptSet | None = None,
    seeds: Sequence[int] | None = None,
    samples: Sequence[str] = (),
    limit: int | None = None,
    weights: Path | str | None = None,
    device: str = "auto",
    devices: str | None = None,
    workers: int = 1,
    job_timeout_s: float | None = None,
    executor: str = LOCAL,
    ray_address: str | None = None,
    plugins: Iterable[Path | str] = (),
    out: Path | str = "runs",
) -> Generated:
    """Make a registered method's videos below `out`, and say how many were made, kept and failed.

    `track` is a loaded track, or an official one's name, which is read from `dataset`; `options` are the
    method's options by name, `settings` `native`, `matched` or `leaderboard`; `samples` are ids (none: all);
    `seeds` are 0 alone, under the leaderboard's settings 42, unless they are given. What is finished is not
    made again. One worker works in this process, on `device`; several, or one with a time limit per video,
    have processes of their own, on `device` or on each of `devices` (`auto`: all GPUs), and then a script
    needs its `if __name__ == "__main__":`. With `executor="ray"` they are actors of a Ray cluster
    (`ray_address`: HOST:PORT or `auto`; None: one that is there, else this machine). Raises UserError for
    what the caller can mend; a sample that fails leaves its reason and the run goes on.
    """
    paths = tuple(map(Path, plugins))
    load_plugins(paths)
    return run_generation(
        Generation(
            method=method,
            track=as_track(track, dataset),
            name=name,
            options=options or {},
            settings=settings,
            prompts=prompts,
            seeds=check_seeds(default_seeds(settings, options or {}) if seeds is None else seeds),
            samples=tuple(samples),
            limit=limit,
            workers=workers,
            devices=one_device(device) if devices is None else devices,
            job_timeout_s=job_timeout_s,
            executor=executor,
            ray_address=ray_address,
            weights=Path(weights) if weights is not None else None,
            plugins=paths,
            out=Path(out),
        )
    )


def run_generation(generation: Generation) -> Generated:
    """Make the videos that are not there yet. Raises UserError before any long work for what the user can
    mend.
    """
    with connection(generation.executor, generation.ray_address):
        return _run_generation(generation)


def _run_generation(generation: Generation) -> Generated:
    method = make_method(generation.method, generation.options, generation.settings)
    name = checked_name(generation.name or method.name, "--name")
    samples = chosen_samples(
        generation.track,
        generation.shuffled_references,
        generation.shard,
        generation.limit,
        generation.samples,
    )
    if generation.prompts is not None:
        if method.card().settings == "matched":
            raise UserError("matched settings take the benchmark's prompts: leave --prompts out")
        samples = generation.prompts.applied(samples)
    site = _site(generation, method)
    digests, problem = site.digests, site.problem
    _check_weights(method, generation.track, digests)
    variant = _variant(generation, method, digests)
    folder = run_folder(generation.out, name, generation.track.name, variant)
    refused = _refused(method, samples)
    todo = [(sample, seed) for seed in generation.seeds for sample in samples]
    missing = [(sample, seed) for sample, seed in todo if not _is_made(_video_path(folder, sample, seed))]
    wanted = [(sample, seed) for sample, seed in missing if sample.id not in refused]
    if wanted and problem is not None:
        raise UserError(problem)
    places = site.places() if wanted else ()
    info = _run_info(generation, _card(generation, method, digests if wanted else {}), name, variant)
    if is_there(folder / RUN_FILE):
        # Another run's folder is refused before anything is loaded.
        begin_run(folder, info, same_weights=not wanted)
    seed_folders = [folder / f"seed-{seed}" for seed in generation.seeds]
    for place in (folder, *seed_folders):
        remove_leftovers(place)
    failures: dict[tuple[str, int], str] = {}

    def begin() -> None:
        begin_run(folder, info, same_weights=not wanted)
        for sample, seed in missing:
            if sample.id in refused:
                failures[sample.id, seed] = reason = refused[sample.id]
                write_text(_error_path(_video_path(folder, sample, seed)), reason + "\n")

    if wanted:
        limit_s = method.job_limit_s(places[0].device)
        if generation.job_timeout_s is not None:
            limit_s = generation.job_timeout_s
        jobs = [
            GenerationJob(
                sample=sample, seed=seed, video=_video_path(folder, sample, seed), limit_s=limit_s or None
            )
            for sample, seed in wanted
        ]
        try:
            _make(generation, site, places, name, jobs, begin, failures)
        finally:
            for place in seed_folders:
                # Of workers that were ended in the middle of a video.
                remove_leftovers(place)
    else:
        begin()
    return Generated(
        folder=folder,
        made=len(missing) - len(failures),
        kept=len(todo) - len(missing),
        failures=failures,
    )


def _site(generation: Generation, method: Method) -> GenerationSite:
    """Where the videos are made; for Ray within a connection."""
    if generation.executor == RAY:
        from refbench.bench.runner.ray_sites import ray_generation_site

        return ray_generation_site(
            method,
            name=generation.method,
            options=generation.options,
            settings=generation.settings,
            weights=generation.weights,
            devices=generation.devices,
            workers=generation.workers,
            plugins=generation.plugins,
        )
    digests, problem = find_method_weights(method, generation.weights)
    return GenerationSite(
        digests=digests,
        problem=problem,
        places=partial(_places, generation, method, digests),
        executor=partial(make_executor, attempts=ATTEMPTS),
        weights=generation.weights,
        plugins=generation.plugins,
    )


def _variant(generation: Generation, method: Method, digests: Mapping[str, str]) -> str:
    """What makes this another run than the plain one: weights that are no released ones, above all."""
    shuffled = PLAIN if generation.shuffled_references is None else SHUFFLED_GENERATION
    kind = joined_kind(map(kind_of_digest, digests.values()))
    return joined_variant([shuffled, weights_variant(kind), method.run_variant() or PLAIN])


def _check_weights(method: Method, track: Track, digests: Mapping[str, str]) -> None:
    """Raises UserError for weights that do not go together, or not with the track."""
    if not digests:
        return
    check_one_kind(method.name, digests)
    kind = joined_kind(map(kind_of_digest, digests.values()))
    declared = declared_tracks().get(track.name)
    if declared is not None and kind not in declared.accepted_weights:
        accepted = " or ".join(sorted(declared.accepted_weights))
        raise UserError(f"{method.name} has {kind} weights; the track {track.name} takes {accepted} ones")


def _refused(method: Method, samples: Sequence[Sample]) -> dict[str, str]:
    """Sample id → why the method cannot generate it; said in one line. Raises UserError if that is all."""
    refused = {
        sample.id: one_line(reason, 1000)
        for sample in samples
        if (reason := method.refuses(sample)) is not None
    }
    if not refused:
        return {}
    named = "; ".join(
        f"{sample_id}: {reason}" for sample_id, reason in list(refused.items())[:NAMED_REFUSALS]
    )
    more = f"; and {len(refused) - NAMED_REFUSALS} more" if len(refused) > NAMED_REFUSALS else ""
    if len(refused) == len(samples):
        raise UserError(
            f"none of the {len(samples)} samples can be generated by {method.name}: {named}{more}"
        )
    note(f"{len(refused)} of {len(samples)} samples cannot be generated by {method.name}: {named}{more}")
    return refused


def _card(generation: Generation, method: Method, digests: Mapping[str, str]) -> MethodCard:
    """The method's card with the digests of its weights and the prompt set, as it will be read back."""
    card = method.card()
    update: dict[str, object] = {"weights": {**card.weights, **digests}}
    if generation.prompts is not None:
        update["prompt_set"] = generation.prompts.name
    # Through JSON: what is compared with a stored card must not differ by a tuple that came back as a list.
    return MethodCard.model_validate_json(card.model_copy(update=update).model_dump_json())


def _run_info(generation: Generation, card: MethodCard, name: str, variant: str) -> RunInfo:
    shuffled = generation.shuffled_references is not None
    return RunInfo(
        method=name,
        track=generation.track.name,
        variant=variant,
        card=card,
        references="shuffled" if shuffled else "own",
        reference_seed=generation.shuffled_references,
        dataset=dataset_digest(generation.track),
        versions={"python": python_version(), **package_versions(RUN_PACKAGES)},
        commit=source_commit(),
        threads=threads_per_job(),
    )


def _places(generation: Generation, method: Method, digests: Mapping[str, str]) -> tuple[Place, ...]:
    """Where the workers run. Raises UserError for devices that are not there and too many workers."""
    places = places_of(
        chosen_devices(generation.devices, needs_torch=method.needs_torch),
        generation.workers,
        own_process=generation.job_timeout_s is not None,
    )
    needed = method.memory_gib(places[0].device)
    if (
        needed is not None
        and len(places) > 1
        and joined_kind(map(kind_of_digest, digests.values())) == "real"
    ):
        check_memory(places, [(method.name, needed)], free_gib(places))
    return places


class _Begun(Watcher[GenerationJob]):
    """Calls `begin` when the first worker is ready, and shows the steps of a worker that is the only one."""

    def __init__(self, begin: Callable[[], None], progress: Progress, *, alone: bool) -> None:
        self._begin = begin
        self._progress = progress
        self._alone = alone
        self._has_begun = False

    def begun(self, job: GenerationJob) -> None:
        """See Watcher.begun."""
        if not self._has_begun:
            # Only now: a method that does not load must not take the run's name.
            self._has_begun = True
            self._begin()
        if self._alone:
            self._progress.begin(job.sample.id)

    def step(self, job: GenerationJob, done: int, total: int) -> None:
        """See Watcher.step."""
        if self._alone:
            self._progress.part(done, total)


def _make(
    generation: Generation,
    site: GenerationSite,
    places: Sequence[Place],
    name: str,
    jobs: Sequence[GenerationJob],
    begin: Callable[[], None],
    failures: dict[tuple[str, int], str],
) -> None:
    """Make these videos; the reasons of those that failed go into `failures`."""
    factory = GenerationWorkerFactory(
        method=generation.method,
        options=generation.options,
        settings=generation.settings,
        environment=Environment(threads=threads_per_job(), weights=site.weights),
        plugins=site.plugins,
    )
    with Progress(f"generating {name}", len(jobs)) as progress:
        if places[0].alone:
            progress.say(workers_text(places, jobs[0].limit_s))
        watcher = _Begun(begin, progress, alone=len(places) == 1)
        for job, result in site.executor(places).run(factory, jobs, watcher):
            outcome = GenerationOutcome(reason=result.reason) if isinstance(result, WorkerDied) else result
            for remark in outcome.notes:
                progress.say(f"{job.sample.id}: {one_line(remark)}")
            if outcome.partial is not None:
                outcome.partial.replace(job.video)
                _error_path(job.video).unlink(missing_ok=True)
            else:
                reason = outcome.reason or "no reason is known"
                failures[job.sample.id, job.seed] = reason
                write_text(_error_path(job.video), reason + "\n")
                progress.say(f"{job.sample.id}, seed {job.seed}: {reason}")
            progress.step()


def workers_text(places: Sequence[Place], limit_s: float | None) -> str:
    """How many workers there are, where, and how long a job may take."""
    devices = ", ".join(dict.fromkeys(place.device for place in places))
    limit = "may take any time" if limit_s is None else f"may take {limit_s:,.0f} s (--job-timeout)"
    return f"{count_text(len(places), 'worker')} on {devices}; a job {limit}"


def _is_made(path: Path) -> bool:
    """Whether a finished video is there: not merely a file of its name."""
    if not path.is_file():
        return False
    try:
        Video(path).glance  # noqa: B018 - reads the header and the first frame
    except VideoError as error:
        note(f"{path} is no finished video and is made again: {one_line(error)}")
        return False
    return True


def _video_path(folder: Path, sample: Sample, seed: int) -> Path:
    return folder / f"seed-{seed}" / f"{sample.id}.mp4"


def _error_path(video: Path) -> Path:
    return video.with_name(f"{video.stem}{ERROR_SUFFIX}")


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds without repeats; negative ones are a UserError."""
    if any(seed < 0 for seed in seeds):
        raise UserError("a seed must not be negative")
    return tuple(dict.fromkeys(seeds))
