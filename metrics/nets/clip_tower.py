"""OpenAI's CLIP image tower through open_clip, from a checkpoint in the Hugging Face layout.

    embedding = projection(LayerNorm(class token after the last layer)),   not normalised

The architecture is the vision side of open_clip's `ViT-L-14-quickgelu` (the exact GELU of `ViT-L-14` moves an
aesthetic score by 0.002); its sizes are read from the folder's config.json, so that a tiny checkpoint loads
by the same code. Weights: openai/clip-vit-large-patch14, of which the text side is left out. open_clip's
tower stands for transformers' CLIPVisionModelWithProjection within 4e-6 (goldens `aesthetic.json`).

Axes: N pictures, C channels, H W rows and columns, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from refbench.bench.errors import UserError, one_line
from refbench.bench.weights.checkpoint import load_exactly, read_state_dict
from refbench.metrics.nets.pixels import CropRule
from refbench.metrics.nets.pretrained import read_config, weight_files

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# open_clip's names of what lies around the layers, and the Hugging Face names ("layrnorm" is theirs).
OUTER_KEYS = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
    "proj": "visual_projection.weight",
}
LAYER_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# Not weights, or not of the image tower; position_ids is a counter that old checkpoints hold.
IGNORED_KEYS = ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids")


def build_tower(config: Mapping[str, Any]) -> nn.Module:
    """The tower, with weights as PyTorch initialises them, for the content of a CLIP folder's config.json.

    Raises UserError for sizes that are missing or that are no quick-GELU CLIP.
    """
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        raise UserError("config.json has no vision_config: this is no CLIP")
    if vision.get("hidden_act") != "quick_gelu":
        raise UserError(f"config.json names the activation {vision.get('hidden_act')!r}, not quick_gelu")
    try:
        width, heads = int(vision["hidden_size"]), int(vision["num_attention_heads"])
        vision_cfg = CLIPVisionCfg(
            layers=int(vision["num_hidden_layers"]),
            width=width,
            head_width=width // heads,
            mlp_ratio=int(vision["intermediate_size"]) / width,
            patch_size=int(vision["patch_size"]),
            image_size=int(vision["image_size"]),
        )
        # CLIP comes with a text tower; the smallest one is made and thrown away.
        text_cfg = CLIPTextCfg(context_length=1, vocab_size=1, width=1, heads=1, layers=1)
        model = CLIP(int(config["projection_dim"]), vision_cfg, text_cfg, quick_gelu=True)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AssertionError) as error:
        raise UserError(f"config.json has no usable CLIP sizes: {one_line(repr(error), 120)}") from None
    tower: nn.Module = model.visual
    return tower


def open_clip_tensors(
    tensors: Mapping[str, torch.Tensor], layers: int, source: object
) -> dict[str, torch.Tensor]:
    """Hugging Face CLIP tensors under the names of open_clip's image tower.

    q, k and v become one matrix, the projection is transposed. Raises UserError for missing and unknown keys.
    """
    names = dict(OUTER_KEYS)
    joined: dict[str, tuple[str, ...]] = {}
    for layer in range(layers):
        ours, theirs = f"transformer.resblocks.{layer}", f"vision_model.encoder.layers.{layer}"
        for leaf in ("weight", "bias"):
            names |= {f"{ours}.{a}.{leaf}": f"{theirs}.{b}.{leaf}" for a, b in LAYER_PARTS.items()}
            joined[f"{ours}.attn.in_proj_{leaf}"] = tuple(
                f"{theirs}.self_attn.{part}_proj.{leaf}" for part in ("q", "k", "v")
            )
    expected = {*names.values(), *(key for keys in joined.values() for key in keys)}
    given = {key for key in tensors if not key.startswith(IGNORED_KEYS)}
    for title, keys in (("lacks", expected - given), ("has unknown", given - expected)):
        if keys:
            raise UserError(f"{source} {title} {len(keys)} keys of the CLIP image tower ({min(keys)}, …)")
    mapped = {name: tensors[key] for name, key in names.items()}
    mapped["proj"] = mapped["proj"].T.contiguous()
    try:
        return mapped | {name: torch.cat([tensors[key] for key in keys]) for name, keys in joined.items()}
    except RuntimeError as error:
        raise UserError(f"{source}: q, k and v do not fit together: {one_line(error, 120)}") from None


def load_tower(folder: Path) -> nn.Module:
    """The tower of a CLIP folder, float32, on the CPU, in eval mode; UserError for files that do not fit."""
    files = weight_files(folder)
    if len(files) != 1:
        raise UserError(f"{folder} holds {len(files)} weight files where one is expected")
    config = read_config(folder)
    # On the meta device nothing is initialised: the checkpoint's tensors take the parameters' places.
    with torch.device("meta"):
        tower = build_tower(config)
    layers = int(config["vision_config"]["num_hidden_layers"])
    load_exactly(tower, open_clip_tensors(read_state_dict(files[0]), layers, files[0]), files[0])
    return tower.float().eval().requires_grad_(False)


def crop_rule(tower: nn.Module) -> CropRule:
    """How the tower takes its pictures: CLIP's mean and std, the shorter side resized to the crop's."""
    side = int(tower.image_size[0])
    return CropRule(resized_px=side, crop_px=side, mean=CLIP_MEAN, std=CLIP_STD)


def image_embeddings(tower: nn.Module, pixels_NCHW: np.ndarray) -> torch.Tensor:
    """Embeddings (N, D), not normalised, on the tower's device, of normalised pixels."""
    device = next(tower.parameters()).device
    # Convolutions run in TF32 on recent GPUs unless told otherwise.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        embeddings_ND: torch.Tensor = tower(torch.from_numpy(pixels_NCHW).to(device))
    return embeddings_ND
