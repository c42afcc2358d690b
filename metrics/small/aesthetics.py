"""Small Aesthetics weights: the small CLIP and a head of the real depth whose scores lie around 5."""

from __future__ import annotations

from pathlib import Path

from refbench.bench.weights.tiny import marked_folder, random_state_dict
from refbench.metrics.aesthetics import HEAD_FILES
from refbench.metrics.small.clip import SMALL_L14, write_clip_l14
from refbench.metrics.weights import OPENS2V_WEIGHT

MIDDLE_SCORE = 5.5


def write_tiny(folder: Path) -> None:
    """Write CLIP folder and head below `folder`, where weights are looked for."""
    import torch

    from refbench.metrics.nets.aesthetic_head import AestheticHead

    write_clip_l14(folder)
    head = random_state_dict(AestheticHead(SMALL_L14["projection_dim"]))
    head["layers.7.bias"] += MIDDLE_SCORE
    torch.save(head, marked_folder(folder, OPENS2V_WEIGHT.repository) / HEAD_FILES[0])
