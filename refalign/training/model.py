"""The network in training: one module, one forward, the losses of each sample.

total = training_weight · mean((prediction - target)²) + sum over alignment losses of loss(terms), of which
RefAlign's is weight · gate(t) · RA. Everything a step needs passes through this module's `forward`, so that
the hooks of DDP and FSDP see it.

Source: the training step of gudaochangsheng/RefAlign@6f91526 (golden `refalign/dit_tiny.json`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from refbench.bench.errors import UserError
from refbench.refalign.alignment import AlignmentConfig, AlignmentProjectors, ReferenceAlignment
from refbench.refalign.flow_matching import add_noise, flow_target, squared_error
from refbench.refalign.losses import (
    AlignmentLoss,
    LossInputs,
    LossModule,
    LossNeeds,
    guarded_loss,
    guarded_terms,
    place_of,
)
from refbench.refalign.reference_inputs import ReferenceFeatures, ReferenceInput, guarded_addition
from refbench.refalign.training.batch import Batch

# Where the modules of reference inputs are among the network's, and so the names of their tensors.
NETWORK_INPUTS = "reference_inputs"


class Losses(NamedTuple):
    """Of each sample (B,): what is minimised, its flow-matching and alignment parts, and what these are made
    of: the plain squared error, both alignment terms neither weighted nor gated, and whether the sample has
    references that a teacher sees (1 or 0). `others` (B,K) are the columns of other losses
    (`TrainingModel.other_columns`), K 0 where there are none.
    """

    total: torch.Tensor
    flow: torch.Tensor
    ra: torch.Tensor
    squared_error: torch.Tensor
    ra_positive: torch.Tensor
    ra_negative: torch.Tensor
    aligned: torch.Tensor
    others: torch.Tensor

    def table(self) -> torch.Tensor:
        """All of them as columns (B, …), float32 without gradient, named by `TrainingModel.columns`."""
        own = [value.detach().float() for value in self[:-1]]
        return torch.cat([torch.stack(own, dim=1), self.others.detach().float()], dim=1)


class TrainingModel(nn.Module):
    """The transformer with the projectors of RefAlign's loss (None: trained without it) and those of other
    losses.

    A loss of weight 0 is measured and not trained. `teachers` and `frame_teachers` name those of a batch, in
    its order; the reference inputs' modules are the network's own (`NETWORK_INPUTS`).
    """

    def __init__(
        self,
        transformer: Any,
        projectors: AlignmentProjectors | None,
        config: AlignmentConfig,
        *,
        losses: Sequence[tuple[AlignmentLoss, LossModule]] = (),
        inputs: Sequence[ReferenceInput] = (),
        teachers: Sequence[str] | None = None,
        frame_teachers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.projectors = projectors
        self.losses = nn.ModuleDict({loss.declaration.name: module for loss, module in losses})
        self.config = config
        self.teachers = tuple(config.teachers if teachers is None else teachers)
        self.frame_teachers = tuple(frame_teachers)
        self._inputs = tuple(inputs)
        self._others = tuple(loss for loss, _ in losses)
        own = [] if projectors is None else [ReferenceAlignment(config)]
        asked = [loss.needs() for loss in (*own, *self._others)]
        self._needs = LossNeeds(
            reference_blocks=_ascending(one.reference_blocks for one in asked),
            video_blocks=_ascending(one.video_blocks for one in asked),
        )
        if projectors is not None and config.weight == 0:
            projectors.requires_grad_(False)
        for loss, module in losses:
            if loss.options.weight == 0:
                module.requires_grad_(False)

    @property
    def other_losses(self) -> tuple[AlignmentLoss, ...]:
        """The losses beside RefAlign's."""
        return self._others

    def told_of(self, columns: Sequence[str]) -> str:
        """`term NAME_TERM of the loss NAME (FILE, line N)` for the first of these columns that is a term of
        another loss, else of what a loss adds; "loss" where none is.
        """
        for loss in self._others:
            added, *terms = loss.columns
            module = type(self.losses[loss.declaration.name])
            term = next((name for name in terms if name in columns), None)
            if term is not None:
                return f"term {term} of the loss {added!r} ({place_of(module.terms)})"
            if added in columns:
                return f"loss {added!r} ({place_of(module.loss)})"
        return "loss"

    def check_gradients(self) -> None:
        """Raises UserError for a parameter of a plugin that took no part in an update: several processes
        would wait for its gradient, and a resumed run for its moments.
        """
        parts = [(f"the loss {name!r}", module) for name, module in self.losses.items()]
        if self._inputs:
            inputs = getattr(self.transformer, NETWORK_INPUTS)
            parts += [(f"the reference input {name!r}", module) for name, module in inputs.items()]
        for what, module in parts:
            for name, parameter in module.named_parameters():
                if parameter.requires_grad and parameter.grad is None:
                    raise UserError(
                        f"{what} ({place_of(type(module))}): its parameter {name} took no part in the "
                        "update; each has to, in every call"
                    )

    @property
    def other_columns(self) -> tuple[str, ...]:
        """The columns of `Losses.others`: of each loss what it adds, its terms, and whether it applies."""
        return tuple(
            column
            for loss in self._others
            for column in (*loss.columns, applies_column(loss.declaration.name))
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `Losses.table`."""
        return (*Losses._fields[:-1], *self.other_columns)

    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch, (B,) each, in float32.

        Raises UserError, with file and line, for what a plugin's loss or input does wrong.
        """
        noisy_BCFhw = add_noise(batch.latents_BCFhw, batch.noise_BCFhw, batch.sigmas_B)
        # A source may hold more than the run asks for.
        features = dict(zip(self.teachers, batch.teachers, strict=False))
        out = self.transformer(
            noisy_BCFhw,
            batch.timesteps_B,
            batch.text_BLD,
            batch.references_BCNhw,
            batch.counts_B,
            state_blocks=self._needs.reference_blocks,
            video_state_blocks=self._needs.video_blocks,
            reference_additions=self._additions(batch, features),
        )
        error_B = squared_error(out.sample, flow_target(batch.latents_BCFhw, batch.noise_BCFhw))
        flow_B = batch.weights_B * error_B
        zero_B = torch.zeros_like(flow_B)
        seen = self._seen(out, batch, features)
        total_B = flow_B
        ra_B = positive_B = negative_B = aligned_B = zero_B
        if self.projectors is not None:
            with self._measuring(self.config.weight):
                terms = self.projectors.terms(seen)
            ra_B = self.projectors.loss(terms, seen, weight=self.config.weight)
            total_B = total_B + ra_B
            positive_B, negative_B = terms["positive"], terms["negative"]
            aligned_B = self.projectors.applies(seen).to(flow_B.dtype)
        columns = []
        for loss in self._others:
            module: Any = self.losses[loss.declaration.name]
            with self._measuring(loss.options.weight):
                terms = guarded_terms(loss, module, seen)
                added_B, applies_B = guarded_loss(loss, module, terms, seen)
            total_B = total_B + added_B
            columns += [added_B, *terms.values(), applies_B]
        others = [column.detach().to(flow_B.dtype) for column in columns]
        return Losses(
            total=total_B,
            flow=flow_B.detach(),
            ra=ra_B.detach(),
            squared_error=error_B.detach(),
            ra_positive=positive_B.detach(),
            ra_negative=negative_B.detach(),
            aligned=aligned_B,
            others=torch.stack(others, dim=1) if others else flow_B.new_zeros(len(flow_B), 0),
        )

    def predict(self, **inputs: Any) -> torch.Tensor:
        """The network's prediction (B,C,F,h,w), for sampling; `inputs` are those of its `forward`."""
        sample: torch.Tensor = self.transformer(**inputs).sample
        return sample

    def _measuring(self, weight: float) -> torch.set_grad_enabled:
        """Inside of the block gradients are kept where a loss of this weight is trained."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0)

    def _additions(self, batch: Batch, features: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """What the reference inputs add to the reference tokens, None where there is none of them."""
        if not self._inputs:
            return None
        given = ReferenceFeatures(
            latents_BCNhw=batch.references_BCNhw, features=features, subject_BT=batch.subject_BT
        )
        modules = getattr(self.transformer, NETWORK_INPUTS)
        channels = self.transformer.config.num_attention_heads * self.transformer.config.attention_head_dim
        added = [
            guarded_addition(one, modules[one.declaration.name], given, channels) for one in self._inputs
        ]
        return torch.stack(added).sum(dim=0)

    def _seen(self, out: Any, batch: Batch, features: Mapping[str, torch.Tensor]) -> LossInputs:
        """What the losses see; `out` is the network's answer."""
        frames, rows, columns = batch.latents_BCFhw.shape[2:]
        _, patch_rows, patch_columns = self.transformer.config.patch_size
        return LossInputs(
            reference_tokens=dict(zip(self._needs.reference_blocks, out.reference_states, strict=True)),
            video_tokens=dict(zip(self._needs.video_blocks, out.video_states, strict=True)),
            reference_features=features,
            frame_features=dict(zip(self.frame_teachers, batch.frame_teachers, strict=True)),
            subject_BT=batch.subject_BT,
            timesteps_B=batch.timesteps_B,
            sigmas_B=batch.sigmas_B,
            grid=(frames, rows // patch_rows, columns // patch_columns),
        )


def applies_column(loss: str) -> str:
    """The column that says for which samples a loss applies."""
    return f"{loss}/applies"


def _ascending(blocks: Any) -> tuple[int, ...]:
    return tuple(sorted({block for each in blocks for block in each}))
