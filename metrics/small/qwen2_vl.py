"""A small random Qwen2-VL in the real layout: config, tokenizer, image processor, weights by published name.

GME and the local judge are made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refbench.bench.files import write_json
from refbench.bench.weights.tiny import marked_folder, save_tensors
from refbench.metrics.nets.pixels import CLIP_MEAN, CLIP_STD
from refbench.metrics.small.byte_tokens import BYTES, byte_symbols
from refbench.metrics.small.noise import scaled_noise

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
# Two tokens that become one, and the number of the first token that is made of two.
Merge = tuple[str, str]
FIRST_MERGED = BYTES + len(SPECIAL_TOKENS)

HIDDEN = 64
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "model_type": "qwen2_vl",
    "vocab_size": BYTES + len(SPECIAL_TOKENS),
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
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
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 2,
        "mlp_ratio": 4,
        "hidden_size": HIDDEN,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
IMAGE_PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
}
TOKENIZER_SETTINGS = {
    "tokenizer_class": "Qwen2Tokenizer",
    "processor_class": "Qwen2VLProcessor",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "model_max_length": 32768,
    "clean_up_tokenization_spaces": False,
}
# The named class would cut the text at punctuation and line ends before it merges.
READ_AS_IT_IS = {"tokenizer_class": "PreTrainedTokenizerFast"}

# transformers' attribute names → the names in the published checkpoints.
PUBLISHED_PREFIXES = {"model.visual.": "visual.", "model.language_model.": "model."}

Weights = dict[str, np.ndarray]


def write_qwen2_vl(
    folder: Path,
    repository: str,
    *,
    adjust: Callable[[Weights], None],
    further_files: Mapping[str, Any] | None = None,
) -> None:
    """Write a small Qwen2-VL with byte-level tokens in a repository's place; the same bytes each time.

    `adjust` changes the weights (by published name) in place; `further_files` are more JSON files by name.
    """
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    place = marked_folder(folder, repository)
    write_settings(place, further_files=further_files)
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_json_file(place / "config.json"))
    weights = {
        published_name(name): scaled_noise(published_name(name), tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
    }
    adjust(weights)
    save_tensors(place, {name: torch.from_numpy(value) for name, value in sorted(weights.items())})


def write_settings(
    place: Path,
    *,
    config: Mapping[str, Any] = CONFIG,
    image_processor: Mapping[str, Any] = IMAGE_PROCESSOR,
    merges: Sequence[Merge] = (),
    further_files: Mapping[str, Any] | None = None,
) -> None:
    """Write all of the folder but the weights. `merges` are those of the tokenizer, without which each byte
    is a token.
    """
    files = {
        "config.json": config,
        "preprocessor_config.json": image_processor,
        "tokenizer.json": _tokenizer(merges),
        "tokenizer_config.json": TOKENIZER_SETTINGS | (READ_AS_IT_IS if merges else {}),
        **(further_files or {}),
    }
    for name, content in files.items():
        write_json(place / name, content)


def published_name(name: str) -> str:
    """The name in the published checkpoint of a transformers state-dict entry."""
    for prefix, published in PUBLISHED_PREFIXES.items():
        if name.startswith(prefix):
            return published + name.removeprefix(prefix)
    return name


def _tokenizer(merges: Sequence[Merge]) -> dict[str, Any]:
    """tokenizer.json: the tokens of merges come after the special ones."""
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
        "model": {
            "type": "BPE",
            "vocab": byte_symbols()
            # Special tokens get the numbers after the vocabulary, unless they are in it.
            | (TOKEN_IDS if merges else {})
            | {first + second: FIRST_MERGED + rank for rank, (first, second) in enumerate(merges)},
            "merges": [list(merge) for merge in merges],
        },
    }
