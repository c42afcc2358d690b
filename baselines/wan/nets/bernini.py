"""Bernini-R's network: Wan's with references of their own sizes before the video, told apart by a phase.

Weights and configuration are those of Wan; the phase has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from refbench.baselines.wan.nets.transformer import (
    ReferenceRule,
    ReferenceWanTransformer3DModel,
    SequencePart,
    grid_positions,
)

# The network was trained with this many sources beside the video (`max_trained_src_id`).
TRAINED_SOURCES = 5


def source_numbers(references: int) -> list[float]:
    """The source of each reference in order: 1, 2, …; of more than five, numbers spread evenly from 1 to 5.

    The video is source 0.
    """
    if references <= TRAINED_SOURCES:
        return [float(number) for number in range(1, references + 1)]
    spread: list[float] = torch.linspace(1, TRAINED_SOURCES, references, dtype=torch.float64).tolist()
    return spread


class BerniniTransformer3DModel(ReferenceWanTransformer3DModel):
    """References before the video, each at rotary indices of its own from 0, with its source's phase; all
    share the timestep, read the prompt and attend to each other.

    Source: `bernini/models/transformer_wan.py`, `wan_diffusion.py` of bytedance/Bernini@ed504e3; there the
    rotation is called SA-3D RoPE.
    """

    rule: ClassVar[ReferenceRule] = ReferenceRule(position="head")

    def reference_part(self, latents: Sequence[torch.Tensor], grid: tuple[int, int, int]) -> SequencePart:
        """The tokens of references (B,C,1,h,w) that may differ in size."""
        tokens, positions, sources = [], [], []
        for one, source in zip(latents, source_numbers(len(latents)), strict=True):
            tokens_BTD, own_grid = self._patches(one)
            tokens.append(tokens_BTD)
            positions.append(grid_positions(*own_grid, (0, 0, 0), tokens_BTD.device))
            sources.append(positions[-1].new_full((tokens_BTD.shape[1],), source, dtype=torch.float64))
        return SequencePart(
            tokens_BTD=torch.cat(tokens, dim=1),
            positions_T3=torch.cat(positions),
            grid=None,
            sources_T=torch.cat(sources),
        )
