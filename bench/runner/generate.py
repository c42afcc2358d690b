"""Generate: run a method over a track into a run folder, resumably.

A video is written under a temporary name and renamed when it is whole, so that a file `<id>.mp4` is always
finished; what exists is not made again. A sample that fails leaves `<id>.error.txt`, is tried again next
time, and the run goes on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.dataset import Track
from bench.errors import MissingWeights, SampleError, UserError, one_line
from bench.method import Frames, Method
from bench.metric import Environment
from bench.options import build_options
from bench.provenance import digest_of, package_versions, python_version, source_commit
from bench.record import PLAIN
from bench.registry import methods
from bench.run_folder import ERROR_SUFFIX, RUN_FILE, RunInfo, read_run, run_folder, write_run, write_text
from bench.runner.devices import resolve_device
from bench.runner.evaluate import EVERYTHING, Shard, chosen_samples
from bench.runner.executors import usable_cores
from bench.runner.progress import Progress
from bench.sample import Sample
from bench.store import checked_name
from bench.video import write_video

SHUFFLED_GENERATION = "generated-shuffled"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What to generate: a method (by registered name) over a track, for the given seeds."""

    method: str
    track: Track
    name: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
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


def make_method(name: str, assignments: Mapping[str, str]) -> Method:
    """A method by name with its options filled from text values; faults are UserErrors."""
    method_class = methods.get(name)
    options = build_options(method_class.Options, assignments, f"the method {method_class.name}")
    return method_class(options)


def generate(generation: Generation) -> Generated:
    """Make the videos that are not there yet. Raises UserError before any long work for what the user can
    mend.
    """
    method = make_method(generation.method, generation.options)
    name = checked_name(generation.name or method.name, "--name")
    variant = PLAIN if generation.shuffled_references is None else SHUFFLED_GENERATION
    folder = run_folder(generation.out, name, generation.track.name, variant)
    samples = chosen_samples(
        generation.track, generation.shuffled_references, generation.shard, generation.limit
    )
    _write_run_info(folder, _run_info(generation, method, name, variant))
    todo = [(sample, seed) for seed in generation.seeds for sample in samples]
    wanted = [(sample, seed) for sample, seed in todo if not _video_path(folder, sample, seed).is_file()]
    failures: dict[tuple[str, int], str] = {}
    if wanted:
        environment = Environment(
            device=resolve_device(generation.device, needs_torch=method.needs_torch),
            threads=usable_cores(),
            weights=generation.weights,
        )
        try:
            method.load(environment)
        except MissingWeights as error:
            raise UserError(f"{method.name} cannot run: {one_line(error)}") from None
        try:
            with Progress(f"generating {name}", len(wanted)) as progress:
                for sample, seed in wanted:
                    reason = _generate_one(method, sample, seed, _video_path(folder, sample, seed), progress)
                    if reason is not None:
                        failures[sample.id, seed] = reason
                        progress.say(f"{sample.id}, seed {seed}: {reason}")
                    progress.step()
        finally:
            method.close()
    return Generated(
        folder=folder,
        made=len(wanted) - len(failures),
        kept=len(todo) - len(wanted),
        failures=failures,
    )


def _run_info(generation: Generation, method: Method, name: str, variant: str) -> RunInfo:
    shuffled = generation.shuffled_references is not None
    content = [sample.digest(("prompt", "references")) for sample in generation.track.samples]
    return RunInfo(
        method=name,
        track=generation.track.name,
        variant=variant,
        card=method.card(),
        references="shuffled" if shuffled else "own",
        reference_seed=generation.shuffled_references,
        dataset=digest_of(content),
        versions={"python": python_version(), **package_versions(("av", "numpy", "opencv-python", "torch"))},
        commit=source_commit(),
    )


def _write_run_info(folder: Path, info: RunInfo) -> None:
    """Write `run.json`, or see that the one there describes the same run: one folder never mixes two
    settings.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        write_run(path, info)
        return
    there = read_run(path)
    fixed = ("method", "track", "variant", "card", "references", "reference_seed", "dataset")
    different = [name for name in fixed if getattr(there, name) != getattr(info, name)]
    if different:
        raise UserError(
            f"{folder} was generated with another {', '.join(different)}; "
            "choose another --name or --out, or remove that folder"
        )


def _video_path(folder: Path, sample: Sample, seed: int) -> Path:
    return folder / f"seed-{seed}" / f"{sample.id}.mp4"


def _generate_one(method: Method, sample: Sample, seed: int, path: Path, progress: Progress) -> str | None:
    """Make one video; the reason where that failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    error_file = path.with_name(f"{sample.id}{ERROR_SUFFIX}")
    partial = path.with_name(f".{sample.id}.{os.getpid()}.partial")
    try:
        made = method.generate(sample, seed)
        if isinstance(made, Frames):
            padding = write_video(partial, made.images, made.fps).note
            if padding:
                progress.say(f"{sample.id}: {padding}")
        else:
            _copy(made, partial)
        partial.replace(path)
    except UserError:
        raise
    except SampleError as error:
        reason = one_line(error, 1000)
    except Exception as error:  # noqa: BLE001 - one sample must not end the run
        reason = f"{type(error).__name__}: {one_line(error)}"
    else:
        error_file.unlink(missing_ok=True)
        return None
    finally:
        partial.unlink(missing_ok=True)
    write_text(error_file, reason + "\n")
    return reason


def _copy(source: Path, destination: Path) -> None:
    """Copy a finished video byte for byte."""
    if source.stat().st_size == 0:
        raise SampleError("the finished video is empty")
    shutil.copyfile(source, destination)


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds without repeats; negative ones are a UserError."""
    if any(seed < 0 for seed in seeds):
        raise UserError("a seed must not be negative")
    return tuple(dict.fromkeys(seeds))
