"""Tiny VACE checkpoints: diffusers folders of both sizes, and the 1.3B preview in original format."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.small.networks import (
    VACE_NETWORK,
    original_tensors,
    write_original_config,
    write_shards,
)
from refbench.baselines.small.pipelines import DIFFUSERS_WEIGHTS, write_pipeline
from refbench.bench.weights.tiny import marked_folder

SMALL_REPOSITORY = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"
LARGE_REPOSITORY = "Wan-AI/Wan2.1-VACE-14B-diffusers"
PREVIEW_REPOSITORY = "ali-vilab/VACE-Wan2.1-1.3B-Preview"


def write_tiny(folder: Path) -> None:
    """Write the three repositories below `folder`; the transformer of 14B is in two shards."""
    write_pipeline(marked_folder(folder, SMALL_REPOSITORY), VACE_NETWORK, pipeline="WanVACEPipeline")
    write_pipeline(
        marked_folder(folder, LARGE_REPOSITORY), VACE_NETWORK, pipeline="WanVACEPipeline", shards=2
    )
    place = marked_folder(folder, PREVIEW_REPOSITORY)
    write_shards(place, original_tensors(VACE_NETWORK), DIFFUSERS_WEIGHTS, 1)
    write_original_config(place, VACE_NETWORK)
