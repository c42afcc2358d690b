"""The network in training: one module, one forward, the losses of each sample.

total = training_weight · mean((prediction - target)²) + weight · gate(t) · RA. Everything a step needs passes
through this module's `forward`, so that the hooks of DDP and FSDP see it.

Source: the training step of gudaochangsheng/RefAlign@6f91526 (golden `refalign/dit_tiny.json`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from refbench.refalign.alignment import (
    AlignmentConfig,
    AlignmentProjectors,
    AlignmentTerms,
    alignment_loss,
    alignment_terms,
    average_terms,
)
from refbench.refalign.flow_matching import add_noise, flow_target, squared_error
from refbench.refalign.training.batch import Batch


class Losses(NamedTuple):
    """Of each sample (B,): what is minimised, its flow-matching and alignment parts, and what these are made
    of: the plain squared error, both alignment terms neither weighted nor gated, and whether the sample has
    references that a teacher sees (1 or 0).
    """

    total: torch.Tensor
    flow: torch.Tensor
    ra: torch.Tensor
    squared_error: torch.Tensor
    ra_positive: torch.Tensor
    ra_negative: torch.Tensor
    aligned: torch.Tensor


class TrainingModel(nn.Module):
    """The transformer with its projectors (None: trained without alignment).

    With `config.weight` 0 alignment is measured and not trained.
    """

    def __init__(
        self, transformer: Any, projectors: AlignmentProjectors | None, config: AlignmentConfig
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.projectors = projectors
        self.config = config
        if projectors is not None and config.weight == 0:
            projectors.requires_grad_(False)

    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch, (B,) each, in float32."""
        noisy_BCFhw = add_noise(batch.latents_BCFhw, batch.noise_BCFhw, batch.sigmas_B)
        blocks = () if self.projectors is None else self.config.blocks
        out = self.transformer(
            noisy_BCFhw,
            batch.timesteps_B,
            batch.text_BLD,
            batch.references_BCNhw,
            batch.counts_B,
            state_blocks=blocks,
        )
        error_B = squared_error(out.sample, flow_target(batch.latents_BCFhw, batch.noise_BCFhw))
        flow_B = batch.weights_B * error_B
        zero_B = torch.zeros_like(flow_B)
        if self.projectors is None:
            return Losses(flow_B, flow_B, zero_B, error_B.detach(), zero_B, zero_B, zero_B)
        terms = self._aligned(out.reference_states, batch)
        ra_B = alignment_loss(terms, batch.timesteps_B, self.config)
        return Losses(
            total=flow_B + ra_B,
            flow=flow_B.detach(),
            ra=ra_B.detach(),
            squared_error=error_B.detach(),
            ra_positive=terms.positive_B.detach(),
            ra_negative=terms.negative_B.detach(),
            aligned=_has_teacher(batch).to(flow_B.dtype),
        )

    def predict(self, **inputs: Any) -> torch.Tensor:
        """The network's prediction (B,C,F,h,w), for sampling; `inputs` are those of its `forward`."""
        sample: torch.Tensor = self.transformer(**inputs).sample
        return sample

    def _aligned(self, states: Sequence[torch.Tensor], batch: Batch) -> AlignmentTerms:
        assert self.projectors is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.weight > 0):
            projected = self.projectors(states)
            return average_terms(
                [
                    alignment_terms(by_block, teacher_BTD, batch.subject_BT, self.config)
                    for by_block, teacher_BTD in zip(projected, batch.teachers, strict=True)
                ]
            )


def _has_teacher(batch: Batch) -> torch.Tensor:
    """(B,) whether a sample has references with teacher features."""
    real_BT = batch.subject_BT >= 0
    return torch.stack([(one.any(dim=-1) & real_BT).any(dim=1) for one in batch.teachers]).any(dim=0)
