"""A tiny SkyReels-A2 pipeline folder: Wan's image-to-video shape, one norm in its file that nothing uses."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.small.networks import IMAGE_NETWORK
from refbench.baselines.small.pipelines import write_pipeline
from refbench.bench.weights.tiny import marked_folder

REPOSITORY = "Skywork/SkyReels-A2"
UNUSED_KEY = "blocks.0.attn2.norm_added_q.weight"


def write_tiny(folder: Path) -> None:
    """Write the whole folder below `folder`."""
    write_pipeline(
        marked_folder(folder, REPOSITORY),
        IMAGE_NETWORK,
        pipeline="WanImageToVideoPipeline",
        extra_keys=(UNUSED_KEY,),
    )
