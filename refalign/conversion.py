"""Converting networks on disk between Wan's original names and diffusers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from refbench.baselines.wan.checkpoint import Naming, load_transformer, save_checkpoint
from refbench.baselines.wan.experts import EXPERT_NOTE
from refbench.baselines.wan.nets.vace import VaceTransformer3DModel
from refbench.bench.errors import UserError, system_reason
from refbench.refalign.training.assembly import noted_expert, plain_config, read_network
from refbench.refalign.transformer import RefAlignTransformer3DModel

NAMINGS = ("original", "diffusers")
DTYPES: dict[str, torch.dtype | None] = {
    "keep": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def convert_checkpoint(
    source: Path, target: Path, *, naming: str, dtype: str, drop_projectors: bool, average: bool = False
) -> tuple[list[Path], bool]:
    """Write the network in `source` to the folder `target`; returns its files and whether `source` has
    projectors.

    Every tensor must belong to a Wan network, VACE's among them, and fit. What a file says of the expert that
    it is stays. Of a training run's sharded checkpoint neither the optimiser's state is read nor, except with
    `average`, the moving average, which is then written instead. Raises UserError for a tensor that does not
    fit, for a target that holds something, and for projectors in diffusers naming.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already; name a new folder")
    checkpoint = read_network(source, dtype=DTYPES[dtype], average=average)
    projectors = {} if drop_projectors else checkpoint.projectors
    if projectors and naming == "diffusers":
        raise UserError(
            f"{source} holds {len(projectors)} projector tensors, for which a diffusers folder has no place; "
            "add --drop-projectors, or --to original"
        )
    network_class: Any = RefAlignTransformer3DModel
    class_name = "WanTransformer3DModel"
    if "vace_layers" in checkpoint.config:
        network_class, class_name = VaceTransformer3DModel, "WanVACETransformer3DModel"
    # Reading into a network names keys that are missing, unknown or of another shape.
    network: Any = load_transformer(network_class, checkpoint)
    expert = noted_expert(source)
    try:
        files = save_checkpoint(
            network.state_dict(),
            target,
            naming=cast("Naming", naming),
            config=plain_config(network),
            projectors=projectors or None,
            class_name=class_name,
            notes={} if expert is None else {EXPERT_NOTE: expert},
        )
    except OSError as error:
        raise UserError(f"{target} could not be written: {system_reason(error)}") from None
    return files, bool(checkpoint.projectors)
