"""A tiny SkyReels-A2 pipeline folder: Wan's image-to-video shape, one norm in its file that nothing uses."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.skyreels_a2 import SKYREELS_A2
from refbench.baselines.small.networks import IMAGE_NETWORK, UNUSED_KEY
from refbench.baselines.small.pipelines import write_pipeline
from refbench.bench.weights.tiny import marked_folder


def write_tiny(folder: Path) -> None:
    """Write the whole folder below `folder`."""
    write_pipeline(
        marked_folder(folder, SKYREELS_A2.repository),
        IMAGE_NETWORK,
        pipeline="WanImageToVideoPipeline",
        extra_keys=(UNUSED_KEY,),
    )
