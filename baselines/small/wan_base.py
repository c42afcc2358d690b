"""Tiny base repositories: text-to-video in both sizes, as two experts and on a VAE of 48 channels, and
image-to-video in both sizes with its CLIP parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refbench.baselines.small.networks import IMAGE_NETWORK, TEXT_NETWORK, WIDE_LATENT_NETWORK
from refbench.baselines.small.pipelines import write_pipeline
from refbench.baselines.wan.latents import WAN22_5B_LATENTS
from refbench.baselines.wan.spec import WAN22_T2V_BOUNDARY
from refbench.baselines.wan.weights import (
    WAN21_I2V_14B_480P,
    WAN21_I2V_14B_720P,
    WAN21_T2V_1_3B,
    WAN21_T2V_14B,
    WAN22_T2V_A14B,
    WAN22_TI2V_5B,
)
from refbench.bench.weights.entry import WeightEntry
from refbench.bench.weights.tiny import marked_folder

# By name: the repository, its transformer, and what else its pipeline folder has.
TEXT_BASES: dict[str, tuple[WeightEntry, dict[str, Any], dict[str, Any]]] = {
    entry.name: (entry, network, settings)
    for entry, network, settings in (
        (WAN21_T2V_1_3B, TEXT_NETWORK, {}),
        (WAN21_T2V_14B, TEXT_NETWORK, {"shards": 2}),
        (WAN22_T2V_A14B, TEXT_NETWORK, {"shards": 2, "boundary": WAN22_T2V_BOUNDARY}),
        (WAN22_TI2V_5B, WIDE_LATENT_NETWORK, {"latents": WAN22_5B_LATENTS}),
    )
}


def write_tiny(folder: Path) -> None:
    """Write all pipeline folders below `folder`; the transformers of 14B are in two shards."""
    for name in TEXT_BASES:
        write_small(folder, name)
    for entry in (WAN21_I2V_14B_480P, WAN21_I2V_14B_720P):
        write_pipeline(
            marked_folder(folder, entry.repository),
            IMAGE_NETWORK,
            pipeline="WanImageToVideoPipeline",
            shards=2,
        )


def write_small(folder: Path, name: str = WAN21_T2V_1_3B.name) -> None:
    """Write one text-to-video base alone, by its name in the catalogue: one of `TEXT_BASES`."""
    entry, network, settings = TEXT_BASES[name]
    write_pipeline(marked_folder(folder, entry.repository), network, pipeline="WanPipeline", **settings)
