"""Rows `files-…`: metrics, a method and the trainer as they are used, with tiny weights from disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.state import AcceleratorState
from nexusscore import drawn_sample, drawn_video
from training_step import draw_clip

from gpu_rows.bench import PROMPT, Bench, exact_convolutions, largest
from gpu_rows.rows import Fact, Measured
from refbench.bench.environment import Environment
from refbench.bench.metric import Metric
from refbench.refalign.method import RefAlignTiny
from refbench.refalign.training.recipes import build_config
from refbench.refalign.training.run import TrainingPaths
from refbench.refalign.training.run import prepare as prepare_training
from refbench.refalign.training.run import train as run_training
from refbench.refalign.training.settings import TrainingConfig


def metric_from_files(bench: Bench, metric_class: type[Metric], small: Any, options: Any = None) -> Measured:
    """A metric as it is used: tiny weights from disk, a video file, on the CPU and on the device."""
    folder = bench.subfolder()
    small.write_tiny(folder)
    clip = drawn_video(folder / "clip.mp4", 9)
    sample = replace(drawn_sample(folder, 2), prompt=PROMPT)
    facts: dict[str, Fact] = {}
    values = []
    for name in ("cpu", str(bench.device)):
        scorer = metric_class(options).load(Environment(device=name, threads=2, weights=folder))
        values.append(scorer.score(sample, clip).value)
        facts[f"score on {name}"] = values[-1]
        facts["dtype"] = str(scorer.provenance().get("dtype", ""))
        scorer.close()
    return Measured(facts={**facts, "difference": abs(values[1] - values[0])})


class Together:
    """Several writers of tiny weights as one."""

    def __init__(self, *writers: Any) -> None:
        self._writers = writers

    def write_tiny(self, folder: Path) -> None:
        """Write all of them."""
        for writer in self._writers:
            writer.write_tiny(folder)


def method_from_files(bench: Bench) -> Measured:
    """refalign-tiny as it is used, float32, against the CPU, under every offload that the device has.

    Its random VAE and four steps at scales of 5 and 7.5 enlarge what TensorFloat-32 rounds.
    """
    folder = bench.subfolder()
    sample = replace(drawn_sample(folder, 2), prompt=PROMPT)

    def frames(device: str, **options: Any) -> np.ndarray:
        method = RefAlignTiny(RefAlignTiny.Options(dtype="float32", **options))
        generator = method.load(Environment(device=device))
        made = np.stack(list(generator.generate(sample, 0).images)).astype(np.float64)
        generator.close()
        return made

    expected = frames("cpu")
    ways: dict[str, dict[str, Any]] = {"resident": {}, "separate passes": {"batch_passes": "no"}}
    if bench.clock.on_gpu:
        ways |= {f"offload {name}": {"offload": name} for name in ("model", "group")}
        ways["tiled"] = {"vae_tiling": True}
    facts: dict[str, Fact] = {}
    for name, options in ways.items():
        with exact_convolutions():
            exact = frames(str(bench.device), **options)
        facts[f"{name}, grey levels"] = largest(exact, expected)
        plain = frames(str(bench.device), **options)
        facts[f"{name} with torch's defaults"] = largest(plain, expected)
    return Measured(facts=facts)


def train_from_files(bench: Bench) -> Measured:
    """The tiny recipe as it is used: on clips, from prepared features, interrupted and resumed."""
    folder = bench.subfolder()
    sample = drawn_sample(folder, 1)
    line = {"id": sample.id, "prompt": PROMPT, "references": [one.path for one in sample.references]}
    (folder / "suite.jsonl").write_text(json.dumps(line) + "\n")
    settings = [
        "log.tensorboard=false", "log.every=1000000", "run.max_steps=4", "checkpoints.every=2",
        "validation.every=4", f"validation.dataset={folder / 'suite.jsonl'}",
        f"validation.samples={sample.id}",
    ]  # fmt: skip
    config = build_config("tiny", settings)
    clips = draw_clip(folder, config)

    def losses(name: str, *configs: TrainingConfig, features: Path | None = None) -> np.ndarray:
        for number, one in enumerate(configs):
            # accelerate keeps the precision of a process's first run.
            AcceleratorState._reset_state(reset_partial_state=True)
            paths = TrainingPaths(
                out=folder / name, data=clips if features is None else None, features=features
            )
            run_training(one, paths, resume=number > 0)
        lines = (folder / name / "log.jsonl").read_text().splitlines()
        return np.array([json.loads(one)["loss"] for one in lines])

    whole = losses("whole", config)
    halved = build_config("tiny", [*settings, "run.max_steps=2"])
    prepare_training(config, clips, folder / "features", None, epochs=8)
    ways = {
        "repeated": losses("repeated", config),
        "resumed": losses("resumed", halved, config),
        "from prepared features": losses("prepared", config, features=folder / "features"),
        "in bfloat16": losses("half", build_config("tiny", [*settings, "run.precision=bfloat16"])),
    }
    facts: dict[str, Fact] = {"loss of step 4": float(whole[-1])}
    facts |= {f"{name}, largest relative": float(np.abs(one / whole - 1).max()) for name, one in ways.items()}
    videos = list((folder / "whole" / "validation").rglob("*.mp4"))
    return Measured(facts={**facts, "validation videos": float(len(videos))})
