"""Generate: run a method over a track into a run folder, resumably.

A video is written under a temporary name and renamed when it is whole, so that a file `<id>.mp4` is always
finished: a copied one is decoded to its end before. What exists is not made again. A sample that fails
leaves `<id>.error.txt`, is tried again next time, and the run goes on; so does one that the method refuses,
without being tried.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from refbench.bench import DEFAULT_TRACK
from refbench.bench.console import note
from refbench.bench.dataset import Track, as_track, declared_tracks
from refbench.bench.environment import (
    Environment,
    missing_packages,
    quiet_onnx,
    resolve_device,
    usable_cores,
)
from refbench.bench.errors import MissingWeights, SampleError, UserError, one_line
from refbench.bench.files import (
    is_disk_error,
    is_there,
    regular_size,
    remove_leftovers,
    replacing,
    write_text,
)
from refbench.bench.method import Frames, Generator, Method, MethodCard
from refbench.bench.options import build_options
from refbench.bench.prompts import PromptSet
from refbench.bench.provenance import package_versions, python_version, source_commit
from refbench.bench.registry import load_plugins, methods
from refbench.bench.runner.evaluate import EVERYTHING, Shard, chosen_samples
from refbench.bench.runner.progress import Progress
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
from refbench.bench.video import LARGEST_VIDEO_BYTES, Video, VideoError, write_video
from refbench.bench.weights.kind import check_one_kind, joined_kind, kind_of_digest

SHUFFLED_GENERATION = "generated-shuffled"
SETTINGS = ("native", "matched")
NAMED_REFUSALS = 3


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What to generate: a method (by registered name) over a track, for the given seeds.

    `settings` is `native`, `matched` or None (as the options say); `prompts` replace the benchmark's.
    """

    method: str
    track: Track
    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: str | None = None
    prompts: PromptSet | None = None
    seeds: tuple[int, ...] = (0,)
    shuffled_references: int | None = None
    limit: int | None = None
    shard: Shard = EVERYTHING
    device: str = "auto"
    weights: Path | None = None
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


def make_method(
    name: str, assignments: Mapping[str, Any] | None = None, settings: str | None = None
) -> Method:
    """A method by name, with options by key (text, or values of their type); faults are UserErrors.

    `settings` fills the option of that name; a method that has none knows its native settings only.
    """
    method_class = methods.get(name)
    values = dict(assignments or {})
    if settings is not None:
        if settings not in SETTINGS:
            raise UserError(f"--settings is {' or '.join(SETTINGS)}, not {settings!r}")
        if "settings" in {item.name for item in fields(method_class.Options)}:
            if values.setdefault("settings", settings) != settings:
                raise UserError(f"--settings {settings} contradicts --set settings={values['settings']}")
        elif settings != "native":
            raise UserError(
                f"the method {method_class.name} has no {settings} settings; leave --settings out"
            )
    options = build_options(method_class.Options, values, f"the method {method_class.name}")
    return method_class(options)


def generate(
    method: str,
    *,
    track: Track | str = DEFAULT_TRACK,
    dataset: Path | str | None = None,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    settings: str | None = None,
    prompts: PromptSet | None = None,
    seeds: Sequence[int] = (0,),
    limit: int | None = None,
    weights: Path | str | None = None,
    device: str = "auto",
    plugins: Iterable[Path | str] = (),
    out: Path | str = "runs",
) -> Generated:
    """Make a registered method's videos below `out`, and say how many were made, kept and failed.

    `track` is a loaded track, or an official one's name, which is read from `dataset`; `options` are the
    method's options by name, `settings` `native` or `matched`. What is finished is not made again. Raises
    UserError for what the caller can mend; a sample that fails leaves its reason and the run goes on.
    """
    load_plugins(map(Path, plugins))
    return run_generation(
        Generation(
            method=method,
            track=as_track(track, dataset),
            name=name,
            options=options or {},
            settings=settings,
            prompts=prompts,
            seeds=check_seeds(seeds),
            limit=limit,
            weights=Path(weights) if weights is not None else None,
            device=device,
            out=Path(out),
        )
    )


def run_generation(generation: Generation) -> Generated:
    """Make the videos that are not there yet. Raises UserError before any long work for what the user can
    mend.
    """
    method = make_method(generation.method, generation.options, generation.settings)
    name = checked_name(generation.name or method.name, "--name")
    samples = chosen_samples(
        generation.track, generation.shuffled_references, generation.shard, generation.limit
    )
    if generation.prompts is not None:
        if method.card().settings == "matched":
            raise UserError("matched settings take the benchmark's prompts: leave --prompts out")
        samples = generation.prompts.applied(samples)
    digests, problem = _find_weights(method, generation.weights)
    _check_weights(method, generation.track, digests)
    variant = _variant(generation, digests)
    folder = run_folder(generation.out, name, generation.track.name, variant)
    refused = _refused(method, samples)
    todo = [(sample, seed) for seed in generation.seeds for sample in samples]
    missing = [(sample, seed) for sample, seed in todo if not _is_made(_video_path(folder, sample, seed))]
    wanted = [(sample, seed) for sample, seed in missing if sample.id not in refused]
    if wanted and problem is not None:
        raise UserError(problem)
    info = _run_info(generation, _card(generation, method, digests if wanted else {}), name, variant)
    if is_there(folder / RUN_FILE):
        # Another run's folder is refused before anything is loaded.
        begin_run(folder, info, same_weights=not wanted)
    for place in (folder, *(folder / f"seed-{seed}" for seed in generation.seeds)):
        remove_leftovers(place)
    failures: dict[tuple[str, int], str] = {}
    with _loaded(method, generation) if wanted else nullcontext() as generator:
        # Only now: a method that does not load must not take the run's name.
        begin_run(folder, info, same_weights=not wanted)
        for sample, seed in missing:
            if sample.id in refused:
                failures[sample.id, seed] = reason = refused[sample.id]
                write_text(_error_path(_video_path(folder, sample, seed)), reason + "\n")
        if generator is not None:
            failures |= _make(generator, method.card(), name, folder, wanted)
    return Generated(
        folder=folder,
        made=len(missing) - len(failures),
        kept=len(todo) - len(missing),
        failures=failures,
    )


def _find_weights(method: Method, folder: Path | None) -> tuple[dict[str, str], str | None]:
    """Digests of what the method would load, and why it cannot run here (which matters only if it must)."""
    absent = missing_packages(method.modules, "baselines")
    if absent is not None:
        return {}, f"{method.name} cannot run: {absent}"
    try:
        return method.find_weights(Environment(threads=usable_cores(), weights=folder)), None
    except MissingWeights as error:
        return {}, f"{method.name} cannot run: {one_line(error)}"
    except UserError as error:
        return {}, str(error)


def _variant(generation: Generation, digests: Mapping[str, str]) -> str:
    """What makes this another run than the plain one; above all weights that are no released ones."""
    shuffled = PLAIN if generation.shuffled_references is None else SHUFFLED_GENERATION
    kind = joined_kind(map(kind_of_digest, digests.values()))
    return joined_variant([shuffled, weights_variant(kind)])


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
    packages = ("av", "numpy", "opencv-python", "torch", "transformers", "diffusers")
    return RunInfo(
        method=name,
        track=generation.track.name,
        variant=variant,
        card=card,
        references="shuffled" if shuffled else "own",
        reference_seed=generation.shuffled_references,
        dataset=dataset_digest(generation.track),
        versions={"python": python_version(), **package_versions(packages)},
        commit=source_commit(),
    )


@contextmanager
def _loaded(method: Method, generation: Generation) -> Iterator[Generator]:
    """The method's generator, closed at the end. Raises UserError where it cannot be loaded."""
    quiet_onnx()
    environment = Environment(
        device=resolve_device(generation.device, needs_torch=method.needs_torch),
        threads=usable_cores(),
        weights=generation.weights,
    )
    try:
        generator = method.load(environment)
    except MissingWeights as error:
        raise UserError(f"{method.name} cannot run: {one_line(error)}") from None
    try:
        yield generator
    finally:
        generator.close()


def _make(
    generator: Generator, card: MethodCard, name: str, folder: Path, wanted: Sequence[tuple[Sample, int]]
) -> dict[tuple[str, int], str]:
    """Make these videos; the reasons of those that failed."""
    failures: dict[tuple[str, int], str] = {}
    with Progress(f"generating {name}", len(wanted)) as progress:
        for sample, seed in wanted:
            progress.begin(sample.id)
            path = _video_path(folder, sample, seed)
            reason = _generate_one(generator, card, sample, seed, path, progress)
            if reason is not None:
                failures[sample.id, seed] = reason
                progress.say(f"{sample.id}, seed {seed}: {reason}")
            progress.step()
    return failures


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


def _generate_one(
    generator: Generator, card: MethodCard, sample: Sample, seed: int, path: Path, progress: Progress
) -> str | None:
    """Make one video; the reason where that failed. Raises UserError where no further one can be written."""
    error_file = _error_path(path)
    try:
        with replacing(path) as partial:
            made = generator.generate(sample, seed, progress.part)
            if isinstance(made, Frames):
                padding = write_video(partial, made.images, made.fps).note
                for remark in (*made.notes, *([padding] if padding else [])):
                    progress.say(f"{sample.id}: {one_line(remark)}")
            else:
                _copy(made, partial)
                _check_copy(Video(partial), card)
    except UserError:
        raise
    except SampleError as error:
        reason = one_line(error, 1000)
    except Exception as error:  # noqa: BLE001 - one sample must not end the run
        if is_disk_error(error):
            # The next video would be made for nothing as well.
            raise UserError(
                f"{sample.id}, seed {seed}, cannot be written: {one_line(error)}; "
                "what was finished is kept, and the same command goes on from there"
            ) from None
        reason = f"{type(error).__name__}: {one_line(error)}"
    else:
        error_file.unlink(missing_ok=True)
        return None
    write_text(error_file, reason + "\n")
    return reason


def _copy(source: Path, destination: Path) -> None:
    """Copy a finished video byte for byte. Raises SampleError for what is no file of a video's size."""
    try:
        size_bytes = regular_size(source, LARGEST_VIDEO_BYTES)
    except UserError as error:
        raise SampleError(f"the finished video {error}") from None
    if size_bytes == 0:
        raise SampleError("the finished video is empty")
    shutil.copyfile(source, destination)


def _check_copy(video: Video, card: MethodCard) -> None:
    """Decode a copied video to its end. Raises SampleError unless it is whole and as its card says."""
    probe = video.probe
    if video.missing_end is not None:
        raise SampleError(f"the finished video is not whole: {video.missing_end}")
    # 4:2:0 holds no odd side: one more column or row is what `write_video` makes of it as well.
    for what, promised, found, more in (
        ("columns", card.width, probe.width, 1),
        ("rows", card.height, probe.height, 1),
        ("frames", card.num_frames, probe.frames, 0),
    ):
        if promised is not None and not promised <= found <= promised + promised % 2 * more:
            raise SampleError(f"the finished video has {found} {what}, and not {promised} as the method says")


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds without repeats; negative ones are a UserError."""
    if any(seed < 0 for seed in seeds):
        raise UserError("a seed must not be negative")
    return tuple(dict.fromkeys(seeds))
