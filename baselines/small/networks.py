"""Tiny Wan transformers: configurations, tensors under either naming, and how their files are split.

Every generator's is 96 channels wide (4 heads of 24) and 4 blocks deep, takes 32 text features and carries
values that are a function of its keys: of Wan's own names in original files, of diffusers' in its folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.bench.weights.tiny import random_state_dict, save_tensors

if TYPE_CHECKING:
    import torch

TEXT_WIDTH = 32
IMAGE_WIDTH = 40
HEADS = 4
WIDTH = 96

TEXT_NETWORK: dict[str, Any] = {
    "num_attention_heads": HEADS,
    "attention_head_dim": WIDTH // HEADS,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": TEXT_WIDTH,
    "freq_dim": 64,
    "ffn_dim": 2 * WIDTH,
    "num_layers": 4,
}
# Mask (4) and condition (16) behind the noise, CLIP features through an image branch.
IMAGE_NETWORK = TEXT_NETWORK | {"in_channels": 36, "image_dim": IMAGE_WIDTH, "added_kv_proj_dim": WIDTH}
VACE_NETWORK = TEXT_NETWORK | {"vace_layers": [0, 2], "vace_in_channels": 96}


def network(config: Mapping[str, Any]) -> Any:
    """The diffusers transformer of a configuration, without memory (on the meta device)."""
    import torch
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

    network_class = WanVACETransformer3DModel if "vace_layers" in config else WanTransformer3DModel
    with torch.device("meta"):
        return network_class(**config)


def tensors(config: Mapping[str, Any], rename: Callable[[str], str] = str) -> dict[str, torch.Tensor]:
    """A transformer's random tensors under diffusers' names, or as `rename` names these."""
    return random_state_dict(network(config), rename)


def original_tensors(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A transformer's random tensors under the names of Wan's own code."""
    from refbench.baselines.wan.checkpoint import original_key

    return tensors(config, original_key)


def write_original_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the `config.json` of Wan's own repositories.

    The tiny networks need one everywhere: only heads of 128 channels, as all released ones have, can be
    counted without it.
    """
    content: dict[str, Any] = {
        "_class_name": "WanModel",
        "model_type": "t2v",
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        "ffn_dim": config["ffn_dim"],
        "freq_dim": config["freq_dim"],
        "in_dim": config["in_channels"],
        "out_dim": config["out_channels"],
        "num_heads": config["num_attention_heads"],
        "num_layers": config["num_layers"],
        "text_dim": config["text_dim"],
        "text_len": 512,
        "eps": 1e-6,
    }
    if "image_dim" in config:
        content["model_type"] = "i2v"
    if "vace_layers" in config:
        content |= {
            "_class_name": "VaceWanModel",
            "model_type": "vace",
            "vace_layers": config["vace_layers"],
            "vace_in_dim": config["vace_in_channels"],
        }
    write_json(folder / "config.json", content)


def write_shards(folder: Path, state: Mapping[str, torch.Tensor], stem: str, count: int) -> None:
    """Write tensors as `<stem>.safetensors`, or as `count` shards of it with their index."""
    if count == 1:
        save_tensors(folder, state, f"{stem}.safetensors")
        return
    names = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    keys = sorted(state)
    place_of = {key: names[rank * count // len(keys)] for rank, key in enumerate(keys)}
    for name in names:
        save_tensors(folder, {key: state[key] for key in keys if place_of[key] == name}, name)
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": place_of}
    write_json(folder / f"{stem}.safetensors.index.json", index)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file, always the same bytes for the same content."""
    path.write_text(
        json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
