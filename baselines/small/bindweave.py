"""A tiny BindWeave checkpoint as its repository's converter reads it: diffusers' names, shards at the root,
the projector of the vision-language model's states among them.

Its base, Wan's 720p image-to-video, is written with the other bases; the vision-language model's folder is
the local judge's, 64 features wide, which the metrics' tiny weights bring.
"""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.bindweave import BINDWEAVE
from refbench.baselines.small.networks import IMAGE_NETWORK, UNUSED_KEY, WIDTH, network, write_shards
from refbench.baselines.small.pipelines import DIFFUSERS_WEIGHTS
from refbench.bench.weights.tiny import marked_folder, random_state_dict

STATE_WIDTH = 64


def write_tiny(folder: Path) -> None:
    """Write the repository below `folder`."""
    import torch

    from refbench.baselines.wan.nets.bindweave import BindWeaveTransformer3DModel

    checkpoint = marked_folder(folder, BINDWEAVE.repository)
    with torch.device("meta"):
        module = BindWeaveTransformer3DModel(**IMAGE_NETWORK, state_width=STATE_WIDTH)
    state = random_state_dict(module) | {UNUSED_KEY: torch.ones(WIDTH)}
    write_shards(checkpoint, state, DIFFUSERS_WEIGHTS, 2)
    network(IMAGE_NETWORK).save_config(checkpoint)
