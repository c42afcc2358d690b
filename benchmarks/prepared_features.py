"""Prepared features: how long a training step waits for them, and how much of the disk they take.

    python benchmarks/prepared_features.py [--steps 20] [--positions 64] [--data DATA --weights DIR]
    # Other sizes than the default's: the recipe's own, for instance.
    python benchmarks/prepared_features.py --data OpenS2V-5M run.seed=0

Wait: updates that read ahead, in turn with updates that read when they need an example, one trainer,
medians; the first of each is thrown away. The files leave the system's page cache before each update, so
that they are read from the disk (Linux). Ratio: time waited / time of the update.

Size: bytes of the files by kind, and the bytes of the same positions where each keeps its own features, as
the layout by position did, conditions already dropped. Without --data a drawn clip of the recipe's size is
used.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path

import torch
from machine import describe
from safetensors import safe_open
from training_step import draw_clip, seconds_per_update

from refbench.refalign.data.dataset import PositionSampler
from refbench.refalign.training.batch import Example
from refbench.refalign.training.forecast import size_text
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.prepared import PreparedSource
from refbench.refalign.training.recipes import build_config
from refbench.refalign.training.run import made_weights, prepare
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.trainer import Trainer, read_start

# A network that is small and not trivial: 4 blocks of 96 channels on about 1,200 tokens a sample.
CLIP = ("data.clip.width=208", "data.clip.height=128", "data.clip.num_frames=33")


def leave_page_cache(folder: Path) -> None:
    """Let the system forget the files' content."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*.safetensors"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def as_needed(source: PreparedSource) -> Generator[Example, None, None]:
    """The source's examples, each read when it is asked for."""
    order = PositionSampler(source.length, start=0, rank=0, world_size=1)
    return source.timed(map(source._example, order))


def measure_wait(config: TrainingConfig, features: Path, weights: Path | None, steps: int) -> None:
    """Time of updates and the part of it that is waited."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = PreparedSource(features, config, weights=weights)
        parallel = Parallel(config, folder)
        trainer = Trainer(config, parallel, source, folder, start=read_start(config, parallel, weights, None))
        streams: dict[str, Iterator[Example]] = {
            "read ahead": source.examples(start=0, rank=0, world_size=1),
            "read when needed": as_needed(source),
        }
        rows: dict[str, list[tuple[float, float]]] = {way: [] for way in streams}
        for turn in range(steps + 1):
            for way, stream in list(streams.items())[:: 1 if turn % 2 else -1]:
                leave_page_cache(features)
                source.take_waited()
                seconds = seconds_per_update(trainer, stream)
                rows[way].append((source.take_waited(), seconds))
        for way, found in rows.items():
            waited, seconds = (statistics.median(row[side] for row in found[1:]) for side in (0, 1))
            share = statistics.median(row[0] / row[1] for row in found[1:])
            print(
                f"{way}: {1000 * waited:.2f} ms waited of {1000 * seconds:.0f} ms an update of "
                f"{config.run.samples_per_step} samples, {100 * share:.3f} % (medians of {steps})"
            )
        streams["read ahead"].close()  # type: ignore[attr-defined]


def measure_size(config: TrainingConfig, features: Path, weights: Path | None) -> None:
    """Bytes on disk, by kind, and those of each position's own features."""
    source = PreparedSource(features, config, weights=weights)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for path in features.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - not a mapping
                kind = name.partition("/")[0]
                counts[kind] += 1
                sizes[kind] += stored.get_tensor(name).nbytes
    on_disk = sum(path.stat().st_size for path in features.rglob("*.safetensors"))
    own = 0
    for example in islice(as_needed(source), source.positions):
        kept = example.features
        tensors = (kept.latents_CFhw, kept.text_LD, kept.references_CNhw, *kept.teachers)
        own += sum(tensor.nbytes for tensor in tensors)
    for kind in sizes:
        print(f"  {counts[kind]} {kind}: {size_text(sizes[kind])}")
    count = source.positions
    print(
        f"{count} positions of {source.length} clips: {size_text(on_disk)} of files, "
        f"{size_text(on_disk / count)} a position; by position {size_text(own / count)} "
        f"(ratio {on_disk / own:.2f})"
    )


def main() -> None:
    """Run the measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    # Several threads wait for each other where a machine does other work.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*", default=CLIP)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    quiet = ["log.tensorboard=false", "log.every=1000000"]
    config = build_config(chosen.recipe, [*quiet, *chosen.overrides])
    print(describe("torch", "diffusers", "safetensors"))
    with tempfile.TemporaryDirectory() as name, made_weights(config, chosen.weights) as weights:
        folder = Path(name)
        data = draw_clip(folder, config) if chosen.data is None else chosen.data
        prepare(config, data, folder / "features", weights, positions=chosen.positions)
        measure_size(config, folder / "features", weights)
        measure_wait(config, folder / "features", weights, chosen.steps)


if __name__ == "__main__":
    main()
