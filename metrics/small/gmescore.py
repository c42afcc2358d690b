"""A tiny random GME in the real layout: config, tokenizer, image processor, weights under published names.

`write_qwen2_vl` writes any tiny Qwen2-VL; the judge's stand-in (`metrics/small/naturalscore.py`) uses it too.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

REPOSITORY = "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct"
MARKER = "REFBENCH_TINY"

BYTES = 256
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TOKEN_IDS = {token: BYTES + rank for rank, token in enumerate(SPECIAL_TOKENS)}

HIDDEN = 64
LAYERS = 2
VISION_DEPTH = 2
VISION_WIDTH = 32

# transformers' attribute names → the names in the published checkpoints.
PUBLISHED_PREFIXES = {"model.visual.": "visual.", "model.language_model.": "model."}

Weights = dict[str, np.ndarray]


# How much the last token, at which GME reads its embedding, outweighs what came before it.
END_WEIGHT = 5.0


def write_tiny(folder: Path) -> None:
    """Write the tiny GME below `folder`, where `bench.weights.store` looks for the published one.

    Its end token is heavy, so that any text and any picture are somewhat alike: NexusScore keeps only crops
    that are like their label.
    """
    write_qwen2_vl(folder / REPOSITORY, adjust=outweigh_the_end)


def outweigh_the_end(weights: Weights) -> None:
    """Scale the end token's embedding in place."""
    weights["model.embed_tokens.weight"][TOKEN_IDS["<|endoftext|>"]] *= END_WEIGHT


def write_qwen2_vl(
    folder: Path,
    *,
    adjust: Callable[[Weights], None] | None = None,
    further_files: Mapping[str, Any] | None = None,
) -> None:
    """Write a tiny Qwen2-VL folder with byte-level tokens; the same bytes each time.

    `adjust` may change the weights (by published name) in place; `further_files` are more JSON files by name.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("random weights of refbench for trying the pipeline; scores mean nothing\n")
    files = {
        "config.json": _config(),
        "preprocessor_config.json": _image_processor(),
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": _tokenizer_settings(),
        **(further_files or {}),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    weights = {
        published_name(name): _random(published_name(name), tuple(tensor.shape))
        for name, tensor in _empty_model(files["config.json"]).state_dict().items()
    }
    if adjust is not None:
        adjust(weights)
    tensors = {name: torch.from_numpy(value) for name, value in sorted(weights.items())}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def published_name(name: str) -> str:
    """The name in the published checkpoint of a transformers state-dict entry."""
    for prefix, published in PUBLISHED_PREFIXES.items():
        if name.startswith(prefix):
            return published + name.removeprefix(prefix)
    return name


def byte_symbols() -> dict[str, int]:
    """The usual byte-level alphabet: a printable stand-in for each byte, with its token id."""
    printable = [*range(33, 127), *range(161, 173), *range(174, BYTES)]
    hidden = [byte for byte in range(BYTES) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(BYTES + rank) for rank in range(len(hidden))]
    return {symbol: rank for rank, symbol in enumerate(symbols)}


def _empty_model(config: Mapping[str, Any]) -> torch.nn.Module:
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    with torch.device("meta"):
        model: torch.nn.Module = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**config))
    return model


def _random(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Noise from the name alone, scaled so that activations neither vanish nor grow."""
    state = np.random.RandomState(zlib.crc32(name.encode()))
    noise: np.ndarray = state.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return noise * np.float32(np.prod(shape[1:]) ** -0.5)
    is_scale = name.endswith("weight")
    return np.float32(1 if is_scale else 0) + np.float32(0.1) * noise


def _config() -> dict[str, Any]:
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "vocab_size": BYTES + len(SPECIAL_TOKENS),
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "rms_norm_eps": 1e-06,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "bos_token_id": TOKEN_IDS["<|endoftext|>"],
        "eos_token_id": TOKEN_IDS["<|im_end|>"],
        "pad_token_id": TOKEN_IDS["<|endoftext|>"],
        "vision_start_token_id": TOKEN_IDS["<|vision_start|>"],
        "vision_end_token_id": TOKEN_IDS["<|vision_end|>"],
        "vision_token_id": TOKEN_IDS["<|vision_pad|>"],
        "image_token_id": TOKEN_IDS["<|image_pad|>"],
        "video_token_id": TOKEN_IDS["<|video_pad|>"],
        "torch_dtype": "float32",
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": VISION_DEPTH,
            "embed_dim": VISION_WIDTH,
            "num_heads": 2,
            "mlp_ratio": 4,
            "hidden_size": HIDDEN,
            "in_channels": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def _image_processor() -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def _tokenizer() -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, "special": True, **flags} for token, number in TOKEN_IDS.items()
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": byte_symbols(), "merges": []},
    }


def _tokenizer_settings() -> dict[str, Any]:
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "processor_class": "Qwen2VLProcessor",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
    }
