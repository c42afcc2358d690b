"""RefAlign in the drawn world, by the project's own trainer: `refbench prepare` and `refbench train`.

Features are prepared once and serve all variants; each command runs in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.errors import UserError
from refbench.bench.weights.entry import WeightEntry
from refbench.mini.clips import write_training_clips
from refbench.mini.training.base import NAME as BASE
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.teacher import NAME as TEACHER
from refbench.mini.weights import REFALIGN_MINI, REFALIGN_MINI_NO_RA, REFALIGN_MINI_POSITIVE_ONLY
from refbench.refalign.training.recipes import build_config

CLIPS, FEATURES = "clips", "features"
CLIPS_NUMBER = 4000
STAGES = ("mini_stage1", "mini_stage2")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to train: its weights, and what it overrides in both recipes."""

    entry: WeightEntry
    summary: str
    overrides: tuple[str, ...] = ()


VARIANTS = (
    Variant(entry=REFALIGN_MINI, summary="RefAlign"),
    Variant(
        entry=REFALIGN_MINI_NO_RA,
        summary="the same without the alignment loss",
        overrides=("alignment.enabled=false",),
    ),
    Variant(
        entry=REFALIGN_MINI_POSITIVE_ONLY,
        summary="the same without the loss's negatives",
        overrides=("alignment.negative_weight=0",),
    ),
)


def make_clips(build: Build, on_step: OnStep) -> None:
    """Write the training clips in OpenS2V-5M's layout."""
    number = build.count(CLIPS_NUMBER, least=8) * build.wider
    write_training_clips(build.run_folder(CLIPS), number, build.seed, on_step, build.workers)


def make_features(build: Build, clips: Path) -> None:
    """Encode the clips of a folder once: latents, text, references and the teacher's tokens.

    A GPU's build does it on the processors: one clip at a time is all host's work to networks this small.
    """
    refbench(
        "prepare", STAGES[0], f"run.seed={build.seed}", "--epochs", 1,
        "--data", clips, "--out", build.run_folder(FEATURES), "--weights", build.weights,
        processes=1 if build.device == "cpu" else max(build.workers, 1),
    )  # fmt: skip


def make_variant(build: Build, variant: Variant) -> None:
    """Train both stages on the build's features, and write the moving average of the second as the released
    file is laid out.
    """
    network = None
    for stage in STAGES:
        out = training_folder(build, variant, stage)
        steps = max(round(build_config(STAGES[0]).run.max_steps * build.scale), 2)
        if stage == STAGES[1]:
            steps = max(steps // 4, 1)
        refbench("train", stage, *_settings(build, variant, steps, network), "--out", out)
        network = newest(out) / "ema" / "transformer"
    assert network is not None
    place = build.place(variant.entry.repository)
    converted = place.with_name(f".{place.name}-converted")
    shutil.rmtree(converted, ignore_errors=True)
    refbench("convert", network, converted, "--to", "original", "--dtype", "float16", "--drop-projectors")
    for file in sorted(converted.iterdir()):
        name = "model.safetensors" if file.suffix == ".safetensors" else file.name
        file.replace(place / name)
    converted.rmdir()


def training_folder(build: Build, variant: Variant, stage: str) -> Path:
    """Where a stage of a variant keeps its checkpoints and its log."""
    return build.run_folder(f"{variant.entry.name}-{stage}")


def _settings(build: Build, variant: Variant, steps: int, network: Path | None) -> list[object]:
    start = [f"model.transformer={network}"] if network is not None else []
    samples = build_config(STAGES[0]).run.samples_per_step * build.wider
    return [
        *start, *variant.overrides, f"run.seed={build.seed}", f"run.max_steps={steps}",
        f"run.samples_per_step={samples}", f"run.samples_per_call={samples}",
        "--features", build.run_folder(FEATURES), "--weights", build.weights, "--resume",
    ]  # fmt: skip


def newest(out: Path) -> Path:
    """The newest checkpoint of a finished training run. Raises UserError where there is none."""
    found = sorted((out / "checkpoints").glob("step-*"))
    if not found:
        raise UserError(f"{out} holds no checkpoint")
    return found[-1]


def refbench(*words: object, processes: int = 1) -> None:
    """Run a command of this project in a process of its own, or in several that share its work on processors
    alone; its lines go where ours go. Raises UserError.
    """
    start, changed = [sys.executable, "-m"], {}
    if processes > 1:
        start += ["torch.distributed.run", "--nproc_per_node", str(processes), "-m"]
        changed = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command: Sequence[str] = [*start, "refbench", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False, env=os.environ | changed)
    if done.returncode:
        raise UserError(
            f"refbench {words[0]} {words[1]} ended with {done.returncode}; its lines above say why"
        )


def _part(variant: Variant) -> Part:
    return Part(
        name=variant.entry.name,
        summary=variant.summary,
        make=lambda build, on_step: make_variant(build, variant),
        files=(f"{variant.entry.repository}/*",),
        needs=(FEATURES,),
    )


PARTS = (
    Part(name=CLIPS, summary="training clips in OpenS2V-5M's layout", make=make_clips),
    Part(
        name=FEATURES,
        summary="features of the training clips",
        make=lambda build, on_step: make_features(build, build.run_folder(CLIPS)),
        needs=(CLIPS, BASE, TEACHER),
    ),
    *(_part(variant) for variant in VARIANTS),
)
