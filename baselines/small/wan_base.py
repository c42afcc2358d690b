"""Tiny base repositories: text-to-video in both sizes and as two experts, and image-to-video in both sizes
with its CLIP parts.
"""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.small.networks import IMAGE_NETWORK, TEXT_NETWORK
from refbench.baselines.small.pipelines import write_pipeline
from refbench.baselines.wan.spec import WAN22_T2V_BOUNDARY
from refbench.baselines.wan.weights import (
    WAN21_I2V_14B_480P,
    WAN21_I2V_14B_720P,
    WAN21_T2V_1_3B,
    WAN21_T2V_14B,
    WAN22_T2V_A14B,
)
from refbench.bench.weights.tiny import marked_folder


def write_tiny(folder: Path) -> None:
    """Write the five pipeline folders below `folder`; the transformers of 14B are in two shards."""
    write_small(folder)
    write_pipeline(
        marked_folder(folder, WAN21_T2V_14B.repository), TEXT_NETWORK, pipeline="WanPipeline", shards=2
    )
    write_pipeline(
        marked_folder(folder, WAN22_T2V_A14B.repository),
        TEXT_NETWORK,
        pipeline="WanPipeline",
        shards=2,
        boundary=WAN22_T2V_BOUNDARY,
    )
    for entry in (WAN21_I2V_14B_480P, WAN21_I2V_14B_720P):
        write_pipeline(
            marked_folder(folder, entry.repository),
            IMAGE_NETWORK,
            pipeline="WanImageToVideoPipeline",
            shards=2,
        )


def write_small(folder: Path) -> None:
    """Write the text-to-video base of 1.3B alone."""
    write_pipeline(marked_folder(folder, WAN21_T2V_1_3B.repository), TEXT_NETWORK, pipeline="WanPipeline")
