"""A tiny MAGREF checkpoint: Wan's image-to-video transformer in original format, in two shards."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.magref import MAGREF
from refbench.baselines.small.networks import IMAGE_NETWORK, write_original
from refbench.baselines.small.pipelines import DIFFUSERS_WEIGHTS
from refbench.bench.weights.tiny import marked_folder


def write_tiny(folder: Path) -> None:
    """Write the transformer below `folder`; it takes the features of the tiny image-to-video base's CLIP."""
    write_original(marked_folder(folder, MAGREF.repository), IMAGE_NETWORK, DIFFUSERS_WEIGHTS, shards=2)
