"""The LAION aesthetic predictor's head: five linear layers on a normalised CLIP embedding.

768 → 1024 → 128 → 64 → 16 → 1 with dropout between and no activation at all, so the head is affine. Module
names are the checkpoint's keys (`layers.{0,2,4,6,7}`); source: the MLP class of OpenS2V-Nexus@210eb08
`eval/get_aesscore.py`, first published in christophschuhmann/improved-aesthetic-predictor.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from refbench.bench.weights.checkpoint import load_exactly, read_state_dict


class AestheticHead(nn.Module):
    """(N, D) embeddings of length 1 to (N,) scores, roughly 1 to 10."""

    def __init__(self, embedding_width: int = 768) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(embedding_width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embeddings_ND: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, D) of length 1 to scores (N,)."""
        scores_N1: torch.Tensor = self.layers(embeddings_ND)
        return scores_N1.squeeze(1)


def load_head(path: Path, embedding_width: int) -> AestheticHead:
    """The head of a checkpoint, float32 on the CPU, for inference. UserError for one that does not fit."""
    with torch.device("meta"):
        head = AestheticHead(embedding_width)
    load_exactly(head, read_state_dict(path), path)
    head.float().eval().requires_grad_(False)
    return head
