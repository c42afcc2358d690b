"""Tiny CLIP and DINOv2 folders for clip-t, clip-i and dino-i; Aesthetics reads the same CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from refbench.bench.weights.tiny import marked_folder, random_state_dict, save_tensors

CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
DINO_REPOSITORY = "facebook/dinov2-base"
CONTEXT_LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


def write_tiny(folder: Path) -> None:
    """Write both model folders below `folder`, where `locate` looks for the published ones."""
    write_clip(folder)
    write_dino(folder)


def write_clip(folder: Path) -> None:
    """Write a two-layer CLIP with a tokenizer of single bytes."""
    from transformers import CLIPConfig, CLIPModel

    place = marked_folder(folder, CLIP_REPOSITORY)
    vocabulary = _byte_vocabulary()
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "quick_gelu"}
    config: dict[str, Any] = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 48,
        "vision_config": {
            **sizes,
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 128,
            "patch_size": 28,
            "image_size": 224,
            "projection_dim": 48,
        },
        "text_config": {
            **sizes,
            "model_type": "clip_text_model",
            "hidden_size": 32,
            "intermediate_size": 128,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": vocabulary[START],
            "eos_token_id": vocabulary[END],
            "pad_token_id": vocabulary[END],
            "projection_dim": 48,
        },
    }
    tokenizer = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    for name, content in (
        ("config.json", config),
        ("vocab.json", vocabulary),
        ("tokenizer_config.json", tokenizer),
    ):
        (place / name).write_text(json.dumps(content, indent=1) + "\n")
    (place / "merges.txt").write_text("#version: 0.2\n")
    save_tensors(place, random_state_dict(CLIPModel(CLIPConfig(**config))))


def write_dino(folder: Path) -> None:
    """Write a two-layer DINOv2 under the published names of its tensors."""
    from transformers import Dinov2Config, Dinov2Model

    place = marked_folder(folder, DINO_REPOSITORY)
    config = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 14,
        "image_size": 56,
    }
    (place / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    state = random_state_dict(Dinov2Model(Dinov2Config(**config)))
    save_tensors(place, {_published_name(key): tensor for key, tensor in state.items()})


def _published_name(key: str) -> str:
    """transformers 5 renames the attention of published DINOv2 checkpoints while it reads them."""
    for ours, theirs in (
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
    ):
        key = key.replace(ours, theirs)
    return key


def _byte_vocabulary() -> dict[str, int]:
    """CLIP's vocabulary without merges: 256 bytes, the same at a word's end, start and end of text.

    A byte that is no printable Latin-1 character is written as a character from 256 on, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte) for byte in printable] + [chr(256 + rank) for rank in range(len(others))]
    tokens = [*characters, *(character + END_OF_WORD for character in characters), START, END]
    return {token: number for number, token in enumerate(tokens)}
