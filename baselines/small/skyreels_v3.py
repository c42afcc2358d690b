"""A tiny SkyReels-V3 pipeline folder: Wan's text-to-video shape with VAE and text encoder, in two shards."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.skyreels_v3 import SKYREELS_V3
from refbench.baselines.small.networks import TEXT_NETWORK
from refbench.baselines.small.pipelines import write_pipeline
from refbench.bench.weights.tiny import marked_folder


def write_tiny(folder: Path) -> None:
    """Write the whole folder below `folder`."""
    write_pipeline(
        marked_folder(folder, SKYREELS_V3.repository), TEXT_NETWORK, pipeline="WanPipeline", shards=2
    )
