"""Small trainings in as many processes as were launched: `python many_processes.py FOLDER`, which holds
`cases-N.json` for N processes, a list of {"name", "settings", "resume", "validates"}; run folders are made
beside it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kit.training import ARCHITECTURE, run, small
from refbench.refalign.training.model import TrainingModel
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.validation import NetworkInTraining


class Prediction:
    """A validation that asks the network once, as the sampler does, and writes nothing."""

    samples: Sequence[Any] = ("one",)

    def run(self, model: TrainingModel, parallel: Parallel, folder: Path) -> list[str]:
        network = NetworkInTraining(model, parallel)
        latents = torch.ones(1, 16, 2, 4, 6)
        found = network(
            hidden_states=latents,
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=torch.ones(1, 4, ARCHITECTURE["text_dim"]),
            reference_hidden_states=latents[:, :, :1],
        )
        assert found.sample.isfinite().all()
        return []


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for case in json.loads((folder / f"cases-{processes}.json").read_text()):
        validation = Prediction() if case["validates"] else None
        run(small(*case["settings"]), folder / case["name"], resume=case["resume"], validation=validation)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
