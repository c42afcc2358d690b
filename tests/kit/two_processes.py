"""What `test_two_processes.py` launches in two processes: small trainings by DDP and FSDP2 in the folder that
the first argument names, then `refbench` with the other arguments.
"""

from __future__ import annotations

import gc
import os
import runpy
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate.state import AcceleratorState
from PIL import Image

from kit.training import TWO_STEPS, run, small
from refbench.bench.errors import UserError
from refbench.bench.sample import Reference, Sample
from refbench.refalign.training.validation import Validation

ONE_STEP = (*TWO_STEPS, "run.max_steps=1")
COMMON = ("ema.enabled=true", "run.gradient_checkpointing=true", "run.timeout_s=1234")
ADAPTER = ("run.strategy=fsdp2", "lora.enabled=true", "lora.rank=4")
out = Path(sys.argv[1])
for strategy in ("ddp", "fsdp2"):
    # Blocks are computed again in backward, as the recipes of the large networks have it.
    common = (f"run.strategy={strategy}", *COMMON)
    run(small(*TWO_STEPS, *common), out / strategy)
    run(small(*ONE_STEP, *common), out / f"{strategy}-halves")
    run(small(*TWO_STEPS, *common), out / f"{strategy}-halves", resume=True)
run(small(*TWO_STEPS, "run.strategy=fsdp2", "run.precision=bfloat16"), out / "half")
run(small(*ONE_STEP, *ADAPTER), out / "adapter")
run(small(*TWO_STEPS, *ADAPTER), out / "adapter", resume=True)

# A run that the second process does not see, and one that it alone sees.
rank = int(os.environ["RANK"])
shutil.copytree(out / "ddp-halves", out / "seen-by-0") if rank == 0 else None
for strategy in ("ddp", "fsdp2"):
    place = out / ("seen-by-0" if rank == 0 else "elsewhere")
    try:
        run(small(*TWO_STEPS, *COMMON, f"run.strategy={strategy}", "run.max_steps=3"), place, resume=True)
    except UserError as error:
        (out / f"unseen-{strategy}-{rank}.txt").write_text(str(error))
# A validation of which one picture is to be seen by the first process alone, and the other has no codec.
Image.new("RGB", (8, 8)).save(out / "seen-by-all.png")
samples = [
    Sample(
        id=name,
        category=name,
        prompt="",
        references=(Reference(path=f"{name}.png", root=root, label="", kind="object"),),
    )
    for name, root in (("seen-by-all", out), ("seen-by-0", out / f"rank-{rank}"))
]
if rank == 0:
    (out / "rank-0").mkdir()
    Image.new("RGB", (8, 8)).save(out / "rank-0" / "seen-by-0.png")
for strategy in ("ddp", "fsdp2"):
    config = small(*TWO_STEPS, *COMMON, f"run.strategy={strategy}", "validation.every=1")
    validation = Validation(config, samples, SimpleNamespace(codec=None, at_work=nullcontext))
    run(config, out / f"{strategy}-watched", validation=validation)

options = torch.distributed.group.WORLD._get_backend(torch.device("cpu")).options
(out / f"timeout-{rank}.txt").write_text(str(options._timeout.total_seconds()))

# The modules of DDP keep the group of processes, which the command takes over and ends.
gc.collect()
AcceleratorState._reset_state(reset_partial_state=False)
sys.argv = ["refbench", *sys.argv[2:]]
runpy.run_module("refbench", run_name="__main__")
