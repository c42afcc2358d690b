"""A first layer that starts with what patches of the world differ in, all of it equally strong.

Fine detail is a small part of a patch's energy, and blur and noise are told by it: from random weights a
small network takes most of its training to see it.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from refbench.mini.training.seen import normalised
from refbench.mini.world.render import render
from refbench.mini.world.scene import random_scene

# Added to each component's deviation, as a share of the largest: what nearly never occurs stays small.
LEAST_DEVIATION = 0.02
FRAMES = 24


def some_frames(name: str, seed: int) -> np.ndarray:
    """First frames of clips of the training split, RGB uint8 (24,64,64,3)."""
    generator = random.Random(f"{name}/whitening/{seed}")
    return np.stack([render(random_scene("training", generator), [0]).video_FHWC[0] for _ in range(FRAMES)])


def patches_of_frames(side_px: int, name: str, seed: int) -> torch.Tensor:
    """All patches (N, 3·side²) of some frames, normalised as CLIP's pictures."""
    cut = normalised(some_frames(name, seed)).unfold(2, side_px, side_px).unfold(3, side_px, side_px)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)


@torch.no_grad()
def whiten(weight: torch.Tensor, patches_NC: torch.Tensor, strength: float = 1.0) -> None:
    """Set the weight (D,...) of a first layer to the D strongest components of patches (N,C), N ≥ D, as the
    layer takes them; each then has the deviation `strength`.
    """
    _, values_K, rows_KC = torch.linalg.svd(patches_NC.float(), full_matrices=False)
    deviations_K = values_K / len(patches_NC) ** 0.5
    # The sign of a component is arbitrary, and libraries choose it differently.
    rows_KC = rows_KC * rows_KC.sum(1).sign().where(rows_KC.sum(1) != 0, torch.tensor(1.0))[:, None]
    scaled_KC = strength * rows_KC / (deviations_K + LEAST_DEVIATION * deviations_K[0])[:, None]
    weight.copy_(scaled_KC[: len(weight)].reshape(weight.shape))
