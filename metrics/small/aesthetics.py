"""Tiny Aesthetics weights: the tiny CLIP and a head of the real depth whose scores lie around 5."""

from __future__ import annotations

from pathlib import Path

from refbench.bench.weights.tiny import marked_folder, random_state_dict
from refbench.metrics.small.similarity import write_clip

REPOSITORY = "BestWishYsh/OpenS2V-Weight"
HEAD_FILE = "aesthetic-model.pth"
CLIP_PROJECTION = 48
MIDDLE_SCORE = 5.5


def write_tiny(folder: Path) -> None:
    """Write CLIP folder and head below `folder`, where `bench.weights.store` looks for them."""
    import torch

    from refbench.metrics.nets.aesthetic_head import AestheticHead

    write_clip(folder)
    head = random_state_dict(AestheticHead(CLIP_PROJECTION))
    head["layers.7.bias"] += MIDDLE_SCORE
    torch.save(head, marked_folder(folder, REPOSITORY) / HEAD_FILE)
