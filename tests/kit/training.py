"""What the trainer's tests share: a tiny recipe on drawn features without any frozen network, and clips."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kit.clips import moving_square
from refbench.bench.video import write_video
from refbench.bench.weights.checkpoint import read_state_dict, write_tensors
from refbench.refalign.data import registered
from refbench.refalign.data.dataset import PositionSampler
from refbench.refalign.data.sample import EpochPosition, Skipped
from refbench.refalign.losses import losses
from refbench.refalign.reference_inputs import reference_inputs
from refbench.refalign.teacher import TEACHERS
from refbench.refalign.training.assembly import StartingPoint
from refbench.refalign.training.batch import Example, Features
from refbench.refalign.training.checkpoints import CheckpointStore
from refbench.refalign.training.examples import ExampleSource
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.recipes import RECIPES, build_config
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.trainer import Trainer, TrainingResult, find_resumed, read_start

# Settings of a short run on the clips of `write_clips`.
CLIP_SIZE = ("data.clip.width=64", "data.clip.height=48", "data.clip.num_frames=5", "data.clip.stride=1")
SHORT_RUN = (*CLIP_SIZE, "run.max_steps=4", "log.every=1000", "log.tensorboard=false", "alignment.blocks=0,1")
# Settings of a run in two processes. With AdamW's usual epsilon the smallest gradients, which are mostly
# rounding, move a weight as far as large ones do, and a gradient of a wrong scale would not be noticed.
TWO_STEPS = ("run.samples_per_step=4", "run.max_steps=2", "optimizer.epsilon=1e-4")
# What differs between two equal runs in a row of their logs.
TIMES = ("seconds", "data_wait_s")
TOKENS = 6
TEACHER_WIDTH = 20
ARCHITECTURE = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 3,
}
SMALL = (
    "data.clip.width=48",
    "data.clip.height=32",
    "data.clip.num_frames=5",
    "alignment.blocks=0,1",
    "run.max_steps=4",
    "log.every=1000",
    "log.tensorboard=false",
)


class DrawnSource(ExampleSource):
    """Features drawn from their position; every third sample has no references. `broken` positions hold NaN,
    and `on_position` hears of each that is taken.
    """

    def __init__(
        self,
        length: int = 5,
        broken: int | None = None,
        on_position: Callable[[EpochPosition], None] | None = None,
    ) -> None:
        self.length = length
        self.teacher_widths = (TEACHER_WIDTH,)
        self.broken = broken
        self.on_position = on_position

    def examples(self, *, start: int, rank: int, world_size: int) -> Iterator[Example]:
        for position in PositionSampler(self.length, start=start, rank=rank, world_size=world_size):
            if self.on_position is not None:
                self.on_position(position)
            yield self.example(position)

    def example(self, position: EpochPosition) -> Example:
        number = position.epoch * self.length + position.position
        state = np.random.RandomState(number)
        references = number % 3

        def drawn(*shape: int) -> torch.Tensor:
            return torch.from_numpy(state.standard_normal(shape).astype(np.float32))

        features = Features(
            latents_CFhw=drawn(16, 2, 4, 6) * (float("nan") if number == self.broken else 1),
            text_LD=drawn(3 + references, 8),
            references_CNhw=drawn(16, references, 4, 6),
            teachers=(drawn(references, TOKENS, TEACHER_WIDTH),),
        )
        skipped = (Skipped(key="bad clip", reason="it is broken"),) if number == 1 else ()
        return Example(
            key=f"clip {number}",
            epoch=position.epoch,
            position=position.position,
            features=features,
            skipped=skipped,
        )


@contextmanager
def own_registries() -> Iterator[None]:
    """What plugins register inside of the block is forgotten after it, the plugins too."""
    held: list[dict[str, Any]] = [
        losses._classes,  # type: ignore[list-item]
        reference_inputs._classes,  # type: ignore[list-item]
        RECIPES,  # type: ignore[list-item]
        TEACHERS,  # type: ignore[list-item]
        registered._sources,  # type: ignore[list-item]
    ]
    before = [dict(one) for one in held]
    modules = set(sys.modules)
    yield
    for one, earlier in zip(held, before, strict=True):
        one.clear()
        one.update(earlier)
    for name in set(sys.modules) - modules:
        if name.startswith("refbench_plugin_"):
            del sys.modules[name]


def small(*overrides: str) -> TrainingConfig:
    """A run of a few steps of two samples."""
    return build_config("tiny", [*SMALL, *overrides])


def run(
    config: TrainingConfig,
    out: Path,
    *,
    resume: bool = False,
    source: DrawnSource | None = None,
    validation: Any = None,
) -> tuple[Trainer, TrainingResult]:
    """Train a fresh network of `ARCHITECTURE`, or go on with what is in `out`."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=False)
    out.mkdir(parents=True, exist_ok=True)
    parallel = Parallel(config, out)
    store = CheckpointStore(out, config.checkpoints.keep)
    config, resumed = find_resumed(store, config, parallel, resume=resume)
    fresh = StartingPoint(architecture=ARCHITECTURE, network=None, projectors=None)
    start = fresh if resumed is None or config.lora.enabled else read_start(config, parallel, None, resumed)
    if resumed is not None and config.lora.enabled:
        start = replace(fresh, **resumed_adapter(resumed))
    trainer = Trainer(
        config,
        parallel,
        source or DrawnSource(),
        out,
        start=start,
        resumed=resumed,
        validation=validation,
    )
    return trainer, trainer.run()


def resumed_adapter(resumed: Any) -> dict[str, Any]:
    """The adapter and projectors of a checkpoint."""
    from refbench.refalign.training.assembly import ADAPTER_FILE
    from refbench.refalign.training.checkpoints import ADAPTER, PROJECTORS

    return {
        "adapter": resumed.folder / ADAPTER / ADAPTER_FILE,
        "projectors": read_state_dict(resumed.folder / PROJECTORS),
    }


def logged_steps(out: Path) -> list[dict[str, Any]]:
    """The updates in a run's log, without the times that each took."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows if "step" in row]


def files_of(folder: Path) -> dict[str, dict[str, bytes]]:
    """The tensors of all files below a folder, as bytes: safetensors writes metadata in any order."""
    return {
        path.relative_to(folder).as_posix(): {
            key: value.numpy().tobytes() for key, value in read_state_dict(path).items()
        }
        for path in sorted(folder.rglob("*.safetensors"))
    }


def write_features_by_position(
    config: TrainingConfig, clips: Path, folder: Path, weights: Path, *, epochs: int, per_shard: int = 64
) -> None:
    """Prepared features as version 3 of their layout held them: each position's own, conditions dropped."""
    from refbench.refalign.training.prepare import (
        sample_digest,
        settings_by_position,
        weight_fingerprints,
    )
    from refbench.refalign.training.run import make_encoder, open_data

    data = open_data(config, clips, folder / "data-index")
    encoder = make_encoder(config, weights, "cpu")
    index = {
        "schema_version": 3,
        "settings": settings_by_position(config),
        "weights": weight_fingerprints(config, weights),
        "first_sample": sample_digest(data),
        "data_files": data.content_digest(),
        "length": len(data),
        "epochs": epochs,
        "teacher_widths": [teacher.width for teacher in encoder.teachers.values()],
    }
    (folder / "index.json").write_text(json.dumps(index))
    positions = range(epochs * len(data))
    for number, first in enumerate(positions[::per_shard]):
        tensors: dict[str, torch.Tensor] = {}
        described = {}
        for at in positions[first : first + per_shard]:
            sample = data.sample(at // len(data), at % len(data))
            features = encoder.encode(sample)
            tensors |= {
                f"{at}/latents": features.latents_CFhw,
                f"{at}/text": features.text_LD,
                f"{at}/references": features.references_CNhw,
            }
            for teacher, tokens in zip(encoder.teachers, features.teachers, strict=True):
                tensors[f"{at}/teacher/{teacher}"] = tokens
            skipped = [[skip.key, skip.reason] for skip in sample.skipped]
            described[str(at)] = {"key": sample.clip.key, "skipped": skipped}
        notes = {"samples": json.dumps(described)}
        write_tensors(folder / f"features-{number:05d}.safetensors", tensors, notes)


def write_clips(folder: Path, *, broken: bool = True) -> Path:
    """Four lines: two references, one, none, and a video that is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(3):
        frames = list(moving_square(frames=12, speed=2, seed=number))
        write_video(folder / f"{number}.mp4", frames, 8)
        references = []
        for which in range(2 - number):
            references.append(f"{number}-{which}.png")
            Image.fromarray(frames[6 * which][10:40, 5:50]).save(folder / references[-1])
        prompt = "a square moves" * (number + 1)
        lines.append(
            {"video": f"{number}.mp4", "prompt": prompt, "references": references, "id": f"n{number}"}
        )
    if broken:
        lines.append({"video": "absent.mp4", "prompt": "nothing", "references": [], "id": "n3"})
    file = folder / "clips.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file
