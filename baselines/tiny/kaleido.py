"""A tiny Kaleido checkpoint as SwissArmyTransformer saves it: Wan's network, other names, joined attention.

Source of the names: `dit_video_crossattn.py` and `sat/model/transformer.py` of CriliasMiller/Kaleido@459fc9c,
which is zai-org/Kaleido, and its converter `convert_ckpt_init_wan2sat.py`; of the folders:
`configs/sampling/sample_wanvae_concat_14b.yaml`, which loads `model`, and `sat/training/model_io.py`, which
reads the iteration in `latest` and opens `<iteration>/mp_rank_00_model_states.pt`. The released file itself
was not at hand. The tensors' values are those of Wan's names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.tiny.networks import TEXT_NETWORK, original_tensors, write_original_config
from bench.tiny_weights import marked_folder

if TYPE_CHECKING:
    import torch

REPOSITORY = "zai-org/Kaleido-14B-S2V"
ITERATION = "1"
FILE = "mp_rank_00_model_states.pt"
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
FUSED = {
    "transformer.layers.{}.attention.query_key_value": ("self_attn.q", "self_attn.k", "self_attn.v"),
    "transformer.layers.{}.cross_attention.key_value": ("cross_attn.k", "cross_attn.v"),
}
BLOCK_KEY = re.compile(r"blocks\.(\d+)\.(.+)")


def write_tiny(folder: Path) -> None:
    """Write the checkpoint below `folder`, and the configuration that says how many heads it has."""
    import torch

    place = marked_folder(folder, REPOSITORY) / "model"
    (place / ITERATION).mkdir(parents=True, exist_ok=True)
    state = sat_tensors(original_tensors(TEXT_NETWORK))
    torch.save({"module": state}, place / ITERATION / FILE)
    (place / "latest").write_text(ITERATION)
    write_original_config(place / ITERATION, TEXT_NETWORK)


def sat_tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under Wan's names as SAT has them; a name without a counterpart is a KeyError."""
    import torch

    parts = {part for names in FUSED.values() for part in names}
    result = {}
    for key, tensor in state.items():
        name = key.removesuffix(".weight").removesuffix(".bias")
        leaf = key.removeprefix(name)
        match = BLOCK_KEY.fullmatch(name)
        if match is None:
            result[f"{PREFIX}{TOP_NAMES[name]}{leaf}"] = tensor
        elif match[2] not in parts:
            result[f"{PREFIX}{BLOCK_NAMES[match[2]].format(match[1])}{leaf}"] = tensor
    for block in sorted({match[1] for key in state if (match := BLOCK_KEY.fullmatch(key))}, key=int):
        for pattern, names in FUSED.items():
            for leaf in (".weight", ".bias"):
                joined = torch.cat([state[f"blocks.{block}.{name}{leaf}"] for name in names])
                result[f"{PREFIX}{pattern.format(block)}{leaf}"] = joined
    return result
