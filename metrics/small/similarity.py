"""Small CLIP and DINOv2 folders for clip-t, clip-i and dino-i."""

from __future__ import annotations

from pathlib import Path

from refbench.bench.files import write_json
from refbench.bench.weights.common import DINOV2_BASE
from refbench.bench.weights.tiny import marked_folder, random_state_dict, save_tensors
from refbench.metrics.small.clip import write_clip_l14

SMALL_DINOV2 = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 14,
    "image_size": 56,
}


def write_tiny(folder: Path) -> None:
    """Write both model folders below `folder`, where weights are looked for."""
    write_clip_l14(folder)
    write_dino(folder)


def write_dino(folder: Path) -> None:
    """Write a two-layer DINOv2 under the published names of its tensors."""
    from transformers import Dinov2Config, Dinov2Model

    place = marked_folder(folder, DINOV2_BASE.repository)
    write_json(place / "config.json", SMALL_DINOV2)
    state = random_state_dict(Dinov2Model(Dinov2Config.from_json_file(place / "config.json")))
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
