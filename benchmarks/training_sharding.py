"""Sharded training on processors: memory of accumulated gradients, and how long a checkpoint stops the run.

    python benchmarks/training_sharding.py [--processes 2] [--parameters 2e8] [--disk DIR]

Each number of processes is launched with torchrun (gloo, FSDP2) on a random network of wide blocks and few
tokens, so that weights are nearly all of its memory. Ratios, all of one launch:

* the peak of a process in an update of 4 calls over that of 1 call, with gradients kept as shards (what the
  trainer does) and kept whole until the last call;
* the seconds that training stands for a checkpoint in the background over those of one that it waits for,
  medians of turns; and what the main process holds beyond its shard's copy while it is written.

Peaks are of resident memory, reset before each part, less what was there before the network.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from machine import describe, peak_mib

from refbench.refalign.data.dataset import PositionSampler
from refbench.refalign.training.assembly import StartingPoint
from refbench.refalign.training.batch import Example, Features
from refbench.refalign.training.checkpoints import CheckpointStore
from refbench.refalign.training.examples import ExampleSource
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.recipes import build_config
from refbench.refalign.training.trainer import Trainer

WIDTH, FFN, TEXT = 1024, 4096, 64
BLOCK_PARAMETERS = 8 * WIDTH * WIDTH + 2 * WIDTH * FFN
CALLS = 4
TURNS = 3
MEBI = 2**20
FLOAT = 4


class Drawn(ExampleSource):
    """The same few tokens at each position, without references."""

    length = 1000
    teacher_widths: tuple[int, ...] = ()

    def examples(self, *, start: int, rank: int, world_size: int) -> Generator[Example, None, None]:
        """See the parent."""
        features = Features(
            latents_CFhw=torch.ones(16, 1, 4, 4),
            text_LD=torch.ones(4, TEXT),
            references_CNhw=torch.zeros(16, 0, 4, 4),
            teachers=(),
        )
        for at in PositionSampler(self.length, start=start, rank=rank, world_size=world_size):
            yield Example(key="drawn", epoch=at.epoch, position=at.position, features=features)


def build(folder: Path, processes: int, parameters: float, calls: int) -> Trainer:
    """A trainer whose update takes `calls` calls of each process."""
    architecture = {
        "num_attention_heads": 8,
        "attention_head_dim": WIDTH // 8,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": TEXT,
        "freq_dim": 64,
        "ffn_dim": FFN,
        "num_layers": max(1, round(parameters / BLOCK_PARAMETERS)),
    }
    config = build_config(
        "tiny",
        [
            "alignment.enabled=false",
            "run.strategy=fsdp2",
            f"run.samples_per_step={processes * calls}",
            "run.gradient_checkpointing=true",
            "checkpoints.sharded=true",
            "checkpoints.keep=1",
            "log.tensorboard=false",
            "log.every=1000000",
            "data.clip.width=32",
            "data.clip.height=32",
            "data.clip.num_frames=1",
        ],
    )
    start = StartingPoint(architecture=architecture, network=None, projectors=None)
    return Trainer(config, Parallel(config, folder), Drawn(), folder, start=start)


def resident_mib() -> float:
    """Resident memory of this process now."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)
    return int(line.split()[1]) / 1024


@contextmanager
def peak_of(found: list[float], before: float) -> Iterator[None]:
    """Appends the peak inside the block over `before`, in MiB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    yield
    found.append(peak_mib() - before)


def updates(trainer: Trainer, count: int) -> None:
    """A few updates."""
    examples = trainer.source.examples(
        start=0, rank=trainer.parallel.rank, world_size=trainer.parallel.world_size
    )
    for _ in range(count):
        trainer.update(examples)


def accumulated(trainer: Trainer, calls: int, *, whole: bool) -> None:
    """Two updates of so many calls; `whole`: gradients are reduced with the last call alone."""
    parallel = trainer.parallel
    parallel.accumulation = calls
    parallel.accelerator.gradient_accumulation_steps = calls
    shared: Any = parallel.micro_step

    @contextmanager
    def kept_whole(model: Any) -> Iterator[bool]:
        with parallel.accelerator.accumulate(model):
            last = bool(parallel.accelerator.sync_gradients)
            model.set_requires_gradient_sync(last)
            yield last

    chosen: Any = kept_whole if whole else shared
    parallel.micro_step = chosen  # type: ignore[method-assign]
    updates(trainer, 2)
    parallel.micro_step = shared  # type: ignore[method-assign]


def work(processes: int, parameters: float, disk: Path) -> None:
    """What each launched process does; the main one prints."""
    torch.set_num_threads(1)
    gc.collect()
    before = resident_mib()
    trainer = build(disk, processes, parameters, CALLS)
    count = sum(value.numel() for value in trainer.model.parameters())
    peaks: list[float] = []
    for calls, whole in ((1, False), (1, False), (CALLS, False), (CALLS, True)):
        with peak_of(peaks, before):
            accumulated(trainer, calls, whole=whole)
    one, several, kept = peaks[1:]
    states_mib = 3 * FLOAT * count / processes / MEBI
    say = print if trainer.parallel.is_main else (lambda text: None)
    say(f"{processes} processes, {count / 1e6:.0f} M parameters, {FLOAT * count / MEBI:.0f} MiB in float32")
    say(f"  peak of the main process, 1 call an update: {one:.0f} MiB")
    say(f"  {CALLS} calls, gradients as shards: {several:.0f} MiB, ratio {several / one:.2f}")
    say(f"  {CALLS} calls, gradients whole: {kept:.0f} MiB, ratio {kept / one:.2f}")

    stood: dict[bool, list[float]] = {True: [], False: []}
    extra: list[float] = []
    settings = trainer.config.checkpoints
    store = CheckpointStore(disk, 1)
    for turn in range(2 * TURNS):
        background = turn % 2 == 0
        object.__setattr__(settings, "background", background)
        trainer.parallel.accelerator.wait_for_everyone()
        start = time.perf_counter()
        with peak_of(extra, resident_mib()):
            trainer.saver.save(turn + 1)
            stood[background].append(time.perf_counter() - start)
            trainer.saver.settle()
    size = sum(file.stat().st_size for file in store.folder_of(2 * TURNS).rglob("*.safetensors"))
    waited, ran = (statistics.median(stood[kind]) for kind in (False, True))
    say(
        f"  checkpoint of {size / MEBI:.0f} MiB: waited for {waited:.2f} s; in the background training stood "
        f"for {ran:.2f} s, ratio {ran / waited:.2f}"
    )
    say(f"  the main process then holds {max(extra[::2]):.0f} MiB more; its shard has {states_mib:.0f} MiB")
    torch.distributed.destroy_process_group()


def main() -> None:
    """Launch and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    parser.add_argument("--parameters", type=float, default=2e8)
    parser.add_argument(
        "--disk", type=Path, help="Where checkpoints are written. Default: a temporary folder."
    )
    chosen = parser.parse_args()
    if "RANK" in os.environ:
        work(chosen.processes[0], chosen.parameters, chosen.disk)
        return
    print(describe("torch", "accelerate"))
    for processes in chosen.processes:
        with tempfile.TemporaryDirectory(dir=chosen.disk) as folder:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            own = [__file__, "--processes", str(processes), "--parameters", str(chosen.parameters)]
            subprocess.run(
                [*launcher, f"--nproc_per_node={processes}", *own, "--disk", folder],
                check=True,
                env=os.environ
                | {
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    # Freed tensors go back to the system at once, so that the peak is of what is held.
                    "MALLOC_MMAP_THRESHOLD_": "65536",
                },
            )


if __name__ == "__main__":
    main()
