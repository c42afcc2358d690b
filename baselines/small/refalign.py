"""Tiny RefAlign checkpoints as released for inference: one file in original format, without projectors."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.small.networks import TEXT_NETWORK, write_original
from refbench.bench.weights.tiny import marked_folder

REPOSITORIES = ("gudaochangsheng/RefAlign-1.3B", "gudaochangsheng/RefAlign-14B")


def write_tiny(folder: Path) -> None:
    """Write both sizes below `folder`, under the file name that the inference scripts read."""
    for repository in REPOSITORIES:
        write_original(marked_folder(folder, repository), TEXT_NETWORK, "model")
