"""Tiny Bernini-R pipeline folders: Wan's text-to-video shape with VAE and text encoder, as one network and as
two experts with other values in each.
"""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.bernini import BERNINI_R_1_3B, BERNINI_R_14B
from refbench.baselines.small.networks import TEXT_NETWORK
from refbench.baselines.small.pipelines import write_pipeline
from refbench.baselines.wan.spec import WAN22_T2V_BOUNDARY
from refbench.bench.weights.tiny import marked_folder


def write_tiny(folder: Path) -> None:
    """Write both folders below `folder`."""
    write_pipeline(marked_folder(folder, BERNINI_R_1_3B.repository), TEXT_NETWORK, pipeline="WanPipeline")
    write_pipeline(
        marked_folder(folder, BERNINI_R_14B.repository),
        TEXT_NETWORK,
        pipeline="WanPipeline",
        shards=2,
        boundary=WAN22_T2V_BOUNDARY,
    )
