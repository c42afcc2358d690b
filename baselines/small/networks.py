"""Tiny Wan transformers: configurations, tensors under either naming, and how their files are split.

All are 96 channels wide (4 heads of 24), 4 blocks deep and take 32 text features. Their values are a function
of their keys: of Wan's own names in original files, of diffusers' in its folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.bench.files import write_json
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
# Of a network on a VAE of 48 channels, as Wan2.2-TI2V-5B is.
WIDE_LATENT_NETWORK = TEXT_NETWORK | {"in_channels": 48, "out_channels": 48}
# Mask (4) and condition (16) behind the noise, CLIP features through an image branch.
IMAGE_NETWORK = TEXT_NETWORK | {"in_channels": 36, "image_dim": IMAGE_WIDTH, "added_kv_proj_dim": WIDTH}
# A norm that released image-to-video files hold and no network uses.
UNUSED_KEY = "blocks.0.attn2.norm_added_q.weight"
# Before the keys that the values of a low-noise expert are a function of, so that the two experts differ.
LOW_NOISE_VALUES = "low_noise."
VACE_NETWORK = TEXT_NETWORK | {"vace_layers": [0, 2], "vace_in_channels": 96}


def network(config: Mapping[str, Any]) -> Any:
    """The diffusers transformer of a configuration, without memory (on the meta device)."""
    import torch
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

    network_class = WanVACETransformer3DModel if "vace_layers" in config else WanTransformer3DModel
    with torch.device("meta"):
        return network_class(**config)


def tensors(
    config: Mapping[str, Any], rename: Callable[[str], str] = str, *, values: str = ""
) -> dict[str, torch.Tensor]:
    """A transformer's random tensors under diffusers' names, or as `rename` names these; with `values` before
    a key, another network of the same shapes.
    """
    state = random_state_dict(network(config), lambda key: values + rename(key))
    return {key.removeprefix(values): value for key, value in state.items()}


def original_tensors(config: Mapping[str, Any], *, values: str = "") -> dict[str, torch.Tensor]:
    """A transformer's random tensors under the names of Wan's own code."""
    from refbench.baselines.wan.checkpoint import original_key

    return tensors(config, original_key, values=values)


def write_original(
    folder: Path, config: Mapping[str, Any], stem: str, shards: int = 1, *, values: str = ""
) -> None:
    """Write a whole transformer as Wan's own repositories have it: `<stem>.safetensors` in a number of
    shards,
    and its configuration.
    """
    write_shards(folder, original_tensors(config, values=values), stem, shards)
    write_original_config(folder, config)


def write_original_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the `config.json` of Wan's own repositories.

    The tiny networks need one everywhere: only heads of 128 channels, as all released ones have, can be
    counted without it.
    """
    from refbench.baselines.wan.checkpoint import original_config

    write_json(folder / "config.json", original_config(config))


def write_shards(folder: Path, state: Mapping[str, torch.Tensor], stem: str, count: int) -> None:
    """Write tensors as `<stem>.safetensors`, or as `count` shards of it with their index."""
    if count == 1:
        save_tensors(folder, state, f"{stem}.safetensors")
        return
    names = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    keys = sorted(state)
    file_of = {key: names[rank * count // len(keys)] for rank, key in enumerate(keys)}
    for name in names:
        save_tensors(folder, {key: state[key] for key in keys if file_of[key] == name}, name)
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    write_json(folder / f"{stem}.safetensors.index.json", index)
