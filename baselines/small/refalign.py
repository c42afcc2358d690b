"""Tiny RefAlign checkpoints as released for inference: one file in original format, without projectors."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.small.networks import (
    TEXT_NETWORK,
    original_tensors,
    write_original_config,
    write_shards,
)
from refbench.bench.weights.tiny import marked_folder

REPOSITORIES = ("gudaochangsheng/RefAlign-1.3B", "gudaochangsheng/RefAlign-14B")


def write_tiny(folder: Path) -> None:
    """Write both sizes below `folder`, under the file name that the inference scripts read."""
    state = original_tensors(TEXT_NETWORK)
    for repository in REPOSITORIES:
        place = marked_folder(folder, repository)
        write_shards(place, state, "model", 1)
        write_original_config(place, TEXT_NETWORK)
