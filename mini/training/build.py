"""The build of the mini weights: parts in order, each resumable, each measured on held-out identities.

OUT/weights/…            what `--weights` takes: repositories in their published formats, marked as mini
OUT/runs/<part>/         the state of a part's training, and its log
OUT/parts/<part>.json    what a finished part is: machine, seconds, settings, digests, measured values
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.bench.errors import UserError
from refbench.bench.files import read_json_object, write_json
from refbench.bench.provenance import package_versions, python_version
from refbench.bench.weights.kind import kind_of_folder
from refbench.bench.weights.store import sha256_of
from refbench.bench.weights.tiny import marked_folder

if TYPE_CHECKING:
    from refbench.mini.training.loop import Learner, Schedule

LEAST_STEPS = 2
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "opencv-python")

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Build:
    """Where and how the weights are built: `scale` times the recipes' steps, on one device.

    `batch`: the base's samples per step times this; those of VAE and fine-tunings, and the clips that all of
    them are from, times its square root (`wider`). Small steps leave a GPU idle.
    `workers`: processes that draw training examples; 0: a thread. They change no bit.
    """

    root: Path
    seed: int = 0
    device: str = "cpu"
    scale: float = 1.0
    batch: int = 1
    workers: int = 0

    @property
    def wider(self) -> int:
        """The square root of `batch`, rounded up."""
        return math.ceil(math.sqrt(self.batch))

    @property
    def weights(self) -> Path:
        """The folder that `--weights` takes."""
        return self.root / "weights"

    def run_folder(self, part: str) -> Path:
        """Where a part keeps the state of its training."""
        return self.root / "runs" / part

    def place(self, repository: str) -> Path:
        """The folder of a repository's files, made and marked as mini. Raises UserError for other weights."""
        place = self.weights / repository
        if place.is_dir() and kind_of_folder(place) != "mini":
            raise UserError(f"{place} holds other weights: choose another --out")
        return marked_folder(self.weights, repository, "mini")

    def scaled(self, schedule: Schedule) -> Schedule:
        """The schedule with its steps, and its warm-up, times `scale`."""
        steps = max(round(schedule.steps * self.scale), LEAST_STEPS)
        return replace(schedule, steps=steps, warmup_steps=max(min(schedule.warmup_steps, steps // 2), 1))

    def count(self, number: int, least: int = 4) -> int:
        """A number of examples to prepare or to measure on, times `scale` where that is below 1."""
        return max(round(number * min(self.scale, 1.0)), min(least, number))

    def train(
        self, learner: Learner[Any], schedule: Schedule, on_step: OnStep, *, compiled: bool = False
    ) -> None:
        """Train a learner from where an earlier call stopped; then its network holds the weights to keep.
        For `compiled`, see `Run`.
        """
        from refbench.mini.training.loop import Run

        Run(
            learner=learner,
            schedule=self.scaled(schedule),
            folder=self.run_folder(learner.name),
            seed=self.seed,
            device=self.device,
            workers=self.workers,
            batch=self.batch,
            compiled=compiled,
        ).train(on_step)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network or one preparation: `make` writes `files` (paths or patterns below `weights`); `measure`
    loads them as users do and returns figures on held-out identities by name. `needs` are parts that come
    before.
    """

    name: str
    summary: str
    make: Callable[[Build, OnStep], None]
    measure: Callable[[Build], Mapping[str, float]] = lambda build: {}
    files: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


def make_part(build: Build, part: Part, on_step: OnStep, *, any_settings: bool = False) -> dict[str, Any]:
    """Make a part, or read what an earlier call made. Raises UserError for one of other settings, unless
    `any_settings`: then a finished part is taken as it stands.
    """
    note = build.root / "parts" / f"{part.name}.json"
    settings = {
        "seed": build.seed,
        "scale": build.scale,
        "batch": build.batch,
        "device": build.device.partition(":")[0],
    }
    if note.is_file():
        done = read_json_object(note)
        if done.get("settings") != settings and not any_settings:
            raise UserError(f"{note} is of other settings ({done.get('settings')}): choose another --out")
        return done
    started = time.monotonic()
    part.make(build, on_step)
    done = {
        "part": part.name,
        "settings": settings,
        "machine": machine(build.device),
        "seconds": round(time.monotonic() - started, 1),
        "files": {str(path.relative_to(build.weights)): sha256_of(path) for path in written(build, part)},
        # What could not be measured (no value at all) is null.
        "measured": {
            name: round(value, 4) if math.isfinite(value) else None
            for name, value in part.measure(build).items()
        },
    }
    write_json(note, done)
    return done


def written(build: Build, part: Part) -> list[Path]:
    """The files of a finished part. Raises UserError where a pattern has none."""
    found = []
    for pattern in part.files:
        files = sorted(path for path in build.weights.glob(pattern) if path.is_file())
        if not files:
            raise UserError(f"{part.name} wrote no {build.weights / pattern}")
        found += files
    return found


def machine(device: str) -> dict[str, Any]:
    """What trained a part: the name of the GPU or processor, the number of cores, and versions."""
    import torch

    name = processor() if device == "cpu" else torch.cuda.get_device_name(device)
    versions = {"python": python_version(), **package_versions(PACKAGES)}
    return {"device": name, "cores": os.cpu_count(), "versions": versions}


def processor() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
