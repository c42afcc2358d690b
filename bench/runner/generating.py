"""The generating worker: holds one loaded method and turns jobs into videos under temporary names."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from refbench.bench.devices import (
    Place,
    use_here,
)
from refbench.bench.environment import Environment, missing_packages, quiet_onnx, threads_per_job
from refbench.bench.errors import MissingWeights, SampleError, UserError, one_line
from refbench.bench.files import (
    is_disk_error,
    partial_path,
    regular_size,
)
from refbench.bench.leaderboard_settings import LEADERBOARD, required_leaderboard_settings
from refbench.bench.method import Frames, Generator, Method, MethodCard, OnStep
from refbench.bench.options import build_options
from refbench.bench.registry import load_plugins, methods
from refbench.bench.sample import Sample
from refbench.bench.video import LARGEST_VIDEO_BYTES, Video, write_video

SETTINGS = ("leaderboard", "native", "matched")
# The distributions whose versions a run states.
RUN_PACKAGES = ("av", "numpy", "opencv-python", "torch", "transformers", "diffusers")


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
            known = f"{', '.join(SETTINGS[:-1])} or {SETTINGS[-1]}"
            raise UserError(f"--settings is {known}, not {settings!r}")
        if settings == LEADERBOARD:
            try:
                required_leaderboard_settings(method_class.name)
            except ValueError as error:
                raise UserError(str(error)) from None
        if "settings" in {item.name for item in fields(method_class.Options)}:
            if values.setdefault("settings", settings) != settings:
                raise UserError(f"--settings {settings} contradicts --set settings={values['settings']}")
        elif settings != "native":
            raise UserError(
                f"the method {method_class.name} has no {settings} settings; leave --settings out"
            )
    options = build_options(method_class.Options, values, f"the method {method_class.name}")
    return method_class(options)


def find_method_weights(method: Method, folder: Path | None) -> tuple[dict[str, str], str | None]:
    """Digests of what the method would load, and why it cannot run here (which matters only if it must)."""
    absent = missing_packages(method.modules, "baselines")
    if absent is not None:
        return {}, f"{method.name} cannot run: {absent}"
    try:
        return method.find_weights(Environment(threads=threads_per_job(), weights=folder)), None
    except MissingWeights as error:
        return {}, f"{method.name} cannot run: {one_line(error)}"
    except UserError as error:
        return {}, str(error)


@dataclass(frozen=True, kw_only=True)
class GenerationJob:
    """One video to be made: `video` is where it will stand, which the driver alone writes."""

    sample: Sample
    seed: int
    video: Path
    limit_s: float | None = None

    @property
    def id(self) -> str:
        """What no other job of a generation is called."""
        return f"{self.sample.id} seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class GenerationOutcome:
    """A whole video under a temporary name beside its own, or the reason why there is none; with remarks."""

    partial: Path | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GenerationWorkerFactory:
    """Makes a generating worker, here or in another process: everything in it can be pickled."""

    method: str
    options: Mapping[str, Any]
    settings: str | None
    environment: Environment
    plugins: tuple[Path, ...] = ()

    def __call__(self, place: Place) -> GenerationWorker:
        use_here(place)
        load_plugins(self.plugins)
        method = make_method(self.method, self.options, self.settings)
        return GenerationWorker(method, replace(self.environment, device=place.inside))


class GenerationWorker:
    """Makes videos with one method, which is loaded before the first."""

    def __init__(self, method: Method, environment: Environment) -> None:
        self._method = method
        self._environment = environment
        self._card = method.card()
        self._generator: Generator | None = None

    def prepare(self, job: GenerationJob) -> None:
        """Load the method, unless it is. Raises UserError where it cannot be loaded."""
        if self._generator is None:
            quiet_onnx()
            try:
                self._generator = self._method.load(self._environment)
            except MissingWeights as error:
                raise UserError(f"{self._method.name} cannot run: {one_line(error)}") from None
            if (torch := sys.modules.get("torch")) is not None:
                torch.set_num_threads(self._environment.threads)

    def work(self, job: GenerationJob, on_step: OnStep) -> GenerationOutcome:
        """Make one video under a temporary name; whatever the method raises becomes a reason.

        Raises UserError where no further one can be written.
        """
        assert self._generator is not None, "prepare() comes first"
        partial = partial_path(job.video)
        notes: list[str] = []
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            made = self._generator.generate(job.sample, job.seed, on_step)
            if isinstance(made, Frames):
                padding = write_video(partial, made.images, made.fps).note
                notes += [*made.notes, *([padding] if padding else [])]
            else:
                _copy(made, partial)
                _check_copy(Video(partial), self._card)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, UserError) or not isinstance(error, Exception):
                raise
            return GenerationOutcome(reason=_reason(error, job), notes=tuple(notes))
        return GenerationOutcome(partial=partial, notes=tuple(notes))

    def close(self) -> None:
        """Give the method's memory back."""
        if self._generator is not None:
            self._generator.close()


def _reason(error: Exception, job: GenerationJob) -> str:
    """Why a sample failed. Raises UserError where the next video would be made for nothing as well."""
    if isinstance(error, SampleError):
        return one_line(error, 1000)
    if is_disk_error(error):
        raise UserError(
            f"{job.sample.id}, seed {job.seed}, cannot be written: {one_line(error)}; "
            "what was finished is kept, and the same command goes on from there"
        ) from None
    return f"{type(error).__name__}: {one_line(error)}"


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
