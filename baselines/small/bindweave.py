"""A tiny BindWeave checkpoint as its repository's converter reads it (diffusers' names, shards at the root,
the projector of the vision-language model's states among them), and its base, Wan's 720p image-to-video.

The vision-language model's folder is the local judge's, 64 features wide, which the metrics' stand-ins write.
"""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.small.networks import IMAGE_NETWORK, WIDTH, network, write_shards
from refbench.baselines.small.pipelines import DIFFUSERS_WEIGHTS, write_pipeline
from refbench.bench.weights.tiny import marked_folder, random_state_dict

REPOSITORY = "ByteDance/BindWeave"
BASE_REPOSITORY = "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"
STATE_WIDTH = 64
UNUSED_KEY = "blocks.0.attn2.norm_added_q.weight"


def write_tiny(folder: Path) -> None:
    """Write both repositories below `folder`."""
    import torch

    from refbench.baselines.wan.nets.bindweave import BindWeaveTransformer3DModel

    write_pipeline(
        marked_folder(folder, BASE_REPOSITORY), IMAGE_NETWORK, pipeline="WanImageToVideoPipeline", shards=2
    )
    place = marked_folder(folder, REPOSITORY)
    with torch.device("meta"):
        module = BindWeaveTransformer3DModel(**IMAGE_NETWORK, state_width=STATE_WIDTH)
    state = random_state_dict(module) | {UNUSED_KEY: torch.ones(WIDTH)}
    write_shards(place, state, DIFFUSERS_WEIGHTS, 2)
    network(IMAGE_NETWORK).save_config(place)
