"""A tiny VACE-Fun repository: two experts in original format, with other values in each.

They are two blocks deep, half of the other tiny networks, so that both together are as small.
"""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.small.networks import LOW_NOISE_VALUES, VACE_NETWORK, write_original
from refbench.baselines.small.pipelines import DIFFUSERS_WEIGHTS
from refbench.baselines.vace_fun import VACE_FUN
from refbench.bench.weights.tiny import marked_folder

NETWORK = VACE_NETWORK | {"num_layers": 2, "vace_layers": [0]}


def write_tiny(folder: Path) -> None:
    """Write `high_noise_model` and `low_noise_model` below `folder`."""
    repository = marked_folder(folder, VACE_FUN.repository)
    for part, values in (("high_noise_model", ""), ("low_noise_model", LOW_NOISE_VALUES)):
        write_original(repository / part, NETWORK, DIFFUSERS_WEIGHTS, values=values)
