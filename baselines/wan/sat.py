"""Names of tensors between Wan's code and SwissArmyTransformer, in whose format Kaleido was released.

Attention is fused there: query, key and value of self-attention in one matrix, key and value of
cross-attention in another. Source of the names: `convert_ckpt_init_wan2sat.py` and `dit_video_crossattn.py`
of zai-org/Kaleido@4c6c757. No released file was at hand: the map is proved on a tiny checkpoint in this
format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

PREFIX = "model.diffusion_model."
TOP_NAMES = {
    "patch_embedding": "mixins.patch_embed.proj",
    "text_embedding.0": "text_embedding.0",
    "text_embedding.2": "text_embedding.2",
    "time_embedding.0": "time_embed.0",
    "time_embedding.2": "time_embed.2",
    "time_projection.1": "adaln_projection.1",
    "head.head": "mixins.final_layer.linear",
    "head.modulation": "mixins.final_layer.adaLN_modulation",
}
BLOCK_NAMES = {
    "self_attn.o": "transformer.layers.{}.attention.dense",
    "self_attn.norm_q": "mixins.adaln_layer.query_layernorm_list.{}",
    "self_attn.norm_k": "mixins.adaln_layer.key_layernorm_list.{}",
    "cross_attn.q": "transformer.layers.{}.cross_attention.query",
    "cross_attn.o": "transformer.layers.{}.cross_attention.dense",
    "cross_attn.norm_q": "mixins.adaln_layer.cross_query_layernorm_list.{}",
    "cross_attn.norm_k": "mixins.adaln_layer.cross_key_layernorm_list.{}",
    "norm3": "transformer.layers.{}.post_cross_attention_layernorm",
    "ffn.0": "transformer.layers.{}.mlp.dense_h_to_4h",
    "ffn.2": "transformer.layers.{}.mlp.dense_4h_to_h",
    "modulation": "mixins.adaln_layer.adaLN_modulations.{}",
}
# Joined on the output axis, in this order.
FUSED_NAMES = {
    "transformer.layers.{}.attention.query_key_value": ("self_attn.q", "self_attn.k", "self_attn.v"),
    "transformer.layers.{}.cross_attention.key_value": ("cross_attn.k", "cross_attn.v"),
}
LEAF = re.compile(r"(.+?)(\.weight|\.bias)?")
BLOCK_KEY = re.compile(r"blocks\.(\d+)\.(.+)")


def is_sat(keys: Mapping[str, object]) -> bool:
    """Whether the keys are those of a SwissArmyTransformer file."""
    return any(key.startswith(f"{PREFIX}transformer.layers.") for key in keys)


def wan_tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under Wan's original names; what has no counterpart (other modules of the file) is left out."""
    tops = {name: key for key, name in TOP_NAMES.items()}
    parts_of = {name: (key,) for key, name in BLOCK_NAMES.items()} | FUSED_NAMES
    blocks = [(_pattern(name), parts) for name, parts in parts_of.items()]
    result: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if not key.startswith(PREFIX):
            continue
        name, leaf = _split(key.removeprefix(PREFIX))
        if name in tops:
            result[tops[name] + leaf] = tensor
            continue
        for pattern, parts in blocks:
            match = pattern.fullmatch(name)
            if match is not None:
                pieces = tensor.chunk(len(parts)) if len(parts) > 1 else [tensor]
                result |= {
                    f"blocks.{match[1]}.{part}{leaf}": piece
                    for part, piece in zip(parts, pieces, strict=True)
                }
                break
    return result


def sat_tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under Wan's names as this format has them; a name without a counterpart is a KeyError."""
    fused = {part for names in FUSED_NAMES.values() for part in names}
    result = {}
    layers = set()
    for key, tensor in state.items():
        name, leaf = _split(key)
        match = BLOCK_KEY.fullmatch(name)
        if match is None:
            result[f"{PREFIX}{TOP_NAMES[name]}{leaf}"] = tensor
            continue
        layers.add(int(match[1]))
        if match[2] not in fused:
            result[f"{PREFIX}{BLOCK_NAMES[match[2]].format(match[1])}{leaf}"] = tensor
    for layer in sorted(layers):
        for pattern, names in FUSED_NAMES.items():
            for leaf in (".weight", ".bias"):
                joined = torch.cat([state[f"blocks.{layer}.{name}{leaf}"] for name in names])
                result[f"{PREFIX}{pattern.format(layer)}{leaf}"] = joined
    return result


def _split(key: str) -> tuple[str, str]:
    match = LEAF.fullmatch(key)
    return (match[1], match[2] or "") if match else (key, "")


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))
