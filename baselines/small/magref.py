"""A tiny MAGREF checkpoint: Wan's image-to-video transformer in original format, in two shards."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.small.networks import (
    IMAGE_NETWORK,
    original_tensors,
    write_original_config,
    write_shards,
)
from refbench.baselines.small.pipelines import DIFFUSERS_WEIGHTS
from refbench.bench.weights.tiny import marked_folder

REPOSITORY = "MAGREF-Video/MAGREF"


def write_tiny(folder: Path) -> None:
    """Write the transformer below `folder`; it takes the features of the tiny image-to-video base's CLIP."""
    place = marked_folder(folder, REPOSITORY)
    write_shards(place, original_tensors(IMAGE_NETWORK), DIFFUSERS_WEIGHTS, 2)
    write_original_config(place, IMAGE_NETWORK)
