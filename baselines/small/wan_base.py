"""Tiny base repositories: text-to-video in both sizes, and image-to-video with its CLIP parts."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.small.networks import IMAGE_NETWORK, TEXT_NETWORK
from refbench.baselines.small.pipelines import write_pipeline
from refbench.bench.weights.tiny import marked_folder

SMALL_REPOSITORY = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
LARGE_REPOSITORY = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
IMAGE_REPOSITORY = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"


def write_tiny(folder: Path) -> None:
    """Write the three pipeline folders below `folder`; the transformers of 14B are in two shards."""
    write_small(folder)
    write_pipeline(marked_folder(folder, LARGE_REPOSITORY), TEXT_NETWORK, pipeline="WanPipeline", shards=2)
    write_pipeline(
        marked_folder(folder, IMAGE_REPOSITORY), IMAGE_NETWORK, pipeline="WanImageToVideoPipeline", shards=2
    )


def write_small(folder: Path) -> None:
    """Write the text-to-video base of 1.3B alone."""
    write_pipeline(marked_folder(folder, SMALL_REPOSITORY), TEXT_NETWORK, pipeline="WanPipeline")
