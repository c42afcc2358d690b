"""A small random OneAlign: config.json, two float16 shards with their index, and a SentencePiece tokenizer.

The weights are noise, so scores mean nothing; on moving pictures some differences of neighbouring frames lie
above the metric's threshold and others below.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refbench.bench.files import write_json, write_text
from refbench.bench.weights.tiny import marked_folder, random_parameter
from refbench.metrics.motion_smoothness import ONE_ALIGN, RATING_WEIGHTS, TEXT_AFTER, TEXT_BEFORE

VOCABULARY = 400
VISUAL_CONFIG = {
    "visual_model": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "layer_norm_eps": 1e-6,
    },
    "visual_abstractor": {
        "num_learnable_queries": 4,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "layer_norm_eps": 1e-6,
        "encoder_hidden_size": 32,
        "grid_size": 4,
    },
}
CONFIG = {
    "model_type": "mplug_owl2",
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "torch_dtype": "float16",
    "visual_config": VISUAL_CONFIG,
}


def write_tiny(folder: Path) -> None:
    """Write the checkpoint below `folder`, where weights are looked for; always the same bytes."""
    import torch

    from refbench.metrics.nets.mplug_owl2.network import MplugOwl2, MplugOwl2Config

    place = marked_folder(folder, ONE_ALIGN.repository)
    with torch.device("meta"):
        shapes = {
            key: tuple(tensor.shape)
            for key, tensor in MplugOwl2(MplugOwl2Config.from_json(CONFIG, "tiny")).state_dict().items()
        }
    shards = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    shard_of = {key: shards[not key.startswith("model.layers.")] for key in shapes}
    for shard in shards:
        tensors = {
            key: torch.from_numpy(values(key, shapes[key])).half() for key in shapes if shard_of[key] == shard
        }
        torch.save(tensors, place / shard)
    total = sum(2 * int(np.prod(shape)) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": shard_of}
    write_json(place / "pytorch_model.bin.index.json", index)
    write_settings(place, CONFIG)


def write_settings(place: Path, config: Mapping[str, Any]) -> None:
    """Write config.json and the tokenizer, which is the same for every size of the network."""
    # The metric digests this file: its bytes are those of earlier versions.
    write_text(place / "config.json", json.dumps(config, indent=2))
    (place / "tokenizer.model").write_bytes(tokenizer())


def values(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of one entry, float32, a function of its key: the position tables, else scaled noise."""
    if key.endswith("q_pos_embed"):
        return line_positions(np.arange(shape[0]), shape[1])
    if key.endswith("k_pos_embed"):
        return grid_positions(round((shape[0] - 1) ** 0.5), shape[1])
    return random_parameter(key, shape)


def line_positions(positions: np.ndarray, width: int) -> np.ndarray:
    """The original's sin-cos table: [sin(p·w) | cos(p·w)], w_i = 10000^(-2i/width); float32 (len, width)."""
    angles = np.outer(positions, 10000.0 ** (-np.arange(width // 2) / (width / 2)))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def grid_positions(side: int, width: int) -> np.ndarray:
    """Zeros for the class token, then the grid row by row: columns first, then rows; (side² + 1, width)."""
    rows, columns = np.divmod(np.arange(side**2), side)
    table = np.concatenate([line_positions(columns, width // 2), line_positions(rows, width // 2)], axis=1)
    return np.concatenate([np.zeros((1, width), np.float32), table])


def tokenizer() -> bytes:
    """A SentencePiece model with LLaMA's settings in which each rating word is one piece."""
    import sentencepiece

    model = io.BytesIO()
    corpus = [TEXT_BEFORE.strip(), TEXT_AFTER.strip()] + 9 * list(RATING_WEIGHTS)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
