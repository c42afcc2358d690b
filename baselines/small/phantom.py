"""Tiny Phantom checkpoints under the names of Wan's own code: 1.3B in a PyTorch file, 14B in two shards."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.phantom import PHANTOM
from refbench.baselines.small.networks import (
    TEXT_NETWORK,
    original_tensors,
    write_original_config,
    write_shards,
)
from refbench.bench.weights.tiny import marked_folder

SMALL_FILE = "Phantom-Wan-1.3B.pth"
LARGE_STEM = "Phantom_Wan_14B"


def write_tiny(folder: Path) -> None:
    """Write both sizes below `folder`; the two networks are equal."""
    import torch

    checkpoint = marked_folder(folder, PHANTOM.repository)
    state = original_tensors(TEXT_NETWORK)
    torch.save(state, checkpoint / SMALL_FILE)
    write_shards(checkpoint, state, LARGE_STEM, 2)
    write_original_config(checkpoint, TEXT_NETWORK)
