"""Trains in each of several launched processes, by DDP and by FSDP2: what `test_trainer.py` starts."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "goldens")]

from kit.training import run, small  # noqa: E402

FOUR = ("run.samples_per_step=4",)
out = Path(sys.argv[1])
for strategy in ("ddp", "fsdp2"):
    # Blocks are computed again in backward, as the recipes of the large networks have it.
    common = (*FOUR, f"run.strategy={strategy}", "ema.enabled=true", "run.gradient_checkpointing=true")
    config = small(*common)
    run(config, out / strategy)
    half = small(*common, "run.max_steps=2")
    run(half, out / f"{strategy}-halves")
    run(config, out / f"{strategy}-halves", resume=True)

run(small(*FOUR, "run.strategy=fsdp2", "run.precision=bfloat16"), out / "half")
adapter = (*FOUR, "run.strategy=fsdp2", "lora.enabled=true", "lora.rank=4")
run(small(*adapter, "run.max_steps=2"), out / "adapter")
run(small(*adapter), out / "adapter", resume=True)

import torch.distributed  # noqa: E402

# The modules of DDP keep the group, whose threads abort a process that ends before it.
torch.distributed.barrier()
gc.collect()
torch.distributed.destroy_process_group()
