"""Reference alignment (RA): pulls the generator's reference tokens towards a frozen teacher's features of
their own reference, and pushes them away from those of the sample's other references.

With h_i a projected reference token and f_j a teacher token, both of unit length, for each aligned block
    positive = mean over tokens i of relu(1 - h_i·f_i - positive_margin)
    negative = mean over ordered pairs (i, j) of different references of relu(negative_margin - 1 + h_i·f_j)
and over blocks their means. A sample without references, or whose teacher is all zero (the null condition),
has 0 for both; with one reference the negative is 0.

Source: RefAlign, arXiv 2603.25743, code at gudaochangsheng/RefAlign@6f91526 (goldens `refalign/`). Different
here: a sample never meets tokens of another one of its batch, which the original takes as negatives, and no
matrix of tokens × tokens is kept for the backward pass.

Shapes: B samples, N reference tokens, C channels of the generator, D channels of the teacher, K aligned
blocks; M are the tokens of the other references.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from refbench.bench.errors import UserError
from refbench.bench.weights.checkpoint import key_faults
from refbench.refalign.losses import (
    AlignmentLoss,
    LossDeclaration,
    LossInputs,
    LossModule,
    LossNeeds,
    TokenWidths,
    losses,
)
from refbench.refalign.teacher import DEFAULT_TEACHER, get_teacher_spec

Gate = Literal["cubic", "none"]
TIMESTEPS = 1000.0
# Shorter tokens are no directions; torch's 1e-12 would let their gradients reach 1e12.
SMALLEST_NORM = 1e-6
# Cosines held at once: 16 MiB in float32, small enough for a processor's cache, large enough for a GPU.
CHUNK_COSINES = 2**22


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """The alignment loss and its ablations.

    `enabled` False: trained without alignment. `blocks`: after which blocks of the generator, ascending.
    `negative_weight` 0: positives only; their product is not computed. `weight`: of RA in the training loss.
    `gate`: factor of a sample's loss by its timestep, `cubic` is clamp(t/1000, 0, 1)³. `projector_hidden`:
    None is half of the generator's width. `teachers`: names of `refalign.teacher.TEACHERS`; of several each
    has its own projectors, and the terms are averaged. Raises UserError for values out of range and unknown
    teachers.
    """

    enabled: bool = True
    blocks: tuple[int, ...] = tuple(range(9))
    positive_margin: float = 0.0
    negative_margin: float = 1.0
    positive_weight: float = 1.0
    negative_weight: float = 1.0
    weight: float = 1.0
    gate: Gate = "cubic"
    projector_hidden: int | None = None
    teachers: tuple[str, ...] = (DEFAULT_TEACHER,)

    def __post_init__(self) -> None:
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks)) or self.blocks[0] < 0:
            raise UserError(f"alignment blocks must be ascending block numbers from 0 on, not {self.blocks}")
        for name in ("positive_margin", "negative_margin"):
            if not 0 <= getattr(self, name) <= 2:
                raise UserError(f"alignment {name} must lie in 0..2, not {getattr(self, name)}")
        for name in ("positive_weight", "negative_weight", "weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"alignment {name} must be 0 or positive, not {getattr(self, name)}")
        if self.gate not in get_args(Gate):
            raise UserError(f"alignment gate must be {' or '.join(get_args(Gate))}, not {self.gate!r}")
        if self.projector_hidden is not None and self.projector_hidden < 1:
            raise UserError(f"alignment projector_hidden must be at least 1, not {self.projector_hidden}")
        if not self.teachers or len(set(self.teachers)) != len(self.teachers):
            raise UserError(f"alignment needs one or several different teachers, not {self.teachers}")
        for teacher in self.teachers:
            get_teacher_spec(teacher)


@losses.register
class ReferenceAlignment(AlignmentLoss):
    """RefAlign's loss behind the interface of all losses; its settings are the section `alignment`."""

    declaration = LossDeclaration(
        name="ra",
        terms=("positive", "negative"),
        summary="reference tokens towards a teacher's features of their own reference, away from others'",
        source="arXiv 2603.25743",
    )
    Options: ClassVar[type] = AlignmentConfig

    def needs(self) -> LossNeeds:
        """Reference tokens of the aligned blocks, and the teachers' features of the references."""
        config: AlignmentConfig = self.options
        return LossNeeds(reference_blocks=config.blocks, reference_teachers=config.teachers)

    def build(self, widths: TokenWidths) -> AlignmentProjectors:
        """The projectors."""
        config: AlignmentConfig = self.options
        return AlignmentProjectors(
            config,
            width=widths.generator,
            teacher_widths=[widths.teachers[name] for name in config.teachers],
        )


class AlignmentProjectors(LossModule):
    """One two-layer SiLU MLP without biases for each teacher and aligned block, in torch's initialisation.

    Args:
        width: C, channels of the generator's tokens.
        teacher_widths: D of each teacher, in the order of `config.teachers`.
    """

    def __init__(self, config: AlignmentConfig, *, width: int, teacher_widths: Sequence[int]) -> None:
        super().__init__()
        hidden = config.projector_hidden or width // 2
        self.config = config
        self.by_teacher = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    nn.Linear(width, hidden, bias=False),
                    nn.SiLU(),
                    nn.Linear(hidden, teacher_width, bias=False),
                )
                for _ in config.blocks
            )
            for _, teacher_width in zip(config.teachers, teacher_widths, strict=True)
        )

    def forward(self, block_tokens: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        """Reference tokens (B,N,C) after each aligned block → projections (B,N,D) by teacher, then block.

        Raises ValueError for another number of blocks, as of a generator with fewer blocks than asked for.
        """
        if len(block_tokens) != len(self.config.blocks):
            raise ValueError(f"{len(block_tokens)} blocks of tokens for {len(self.config.blocks)} projectors")
        return [
            [_project(mlp, tokens) for mlp, tokens in zip(projectors, block_tokens, strict=True)]
            for projectors in self.by_teacher
        ]

    def terms(self, inputs: LossInputs) -> dict[str, torch.Tensor]:
        """`positive` and `negative` (B,), means over blocks and teachers."""
        projected = self([inputs.reference_tokens[block] for block in self.config.blocks])
        average = average_terms(
            [
                alignment_terms(by_block, inputs.reference_features[teacher], inputs.subject_BT, self.config)
                for by_block, teacher in zip(projected, self.config.teachers, strict=True)
            ]
        )
        return {"positive": average.positive_B, "negative": average.negative_B}

    def loss(self, terms: Mapping[str, torch.Tensor], inputs: LossInputs, *, weight: float) -> torch.Tensor:
        """(B,): weight · gate(t) · both terms with their own weights."""
        total_B = weighted_terms(terms["positive"], terms["negative"], self.config)
        return weight * timestep_gate(inputs.timesteps_B, self.config) * total_B

    def applies(self, inputs: LossInputs) -> torch.Tensor:
        """(B,) whether a sample has references with features of any of the teachers."""
        real_BT = inputs.subject_BT >= 0
        features = [inputs.reference_features[teacher] for teacher in self.config.teachers]
        return torch.stack([(one.any(dim=-1) & real_BT).any(dim=1) for one in features]).any(dim=0)

    def original_state_dict(self) -> dict[str, torch.Tensor]:
        """The weights under the names of RefAlign's checkpoints: `blocks.3.input_mlp.proj.0.weight`.

        Each projector has two: (hidden, C) and (D, hidden). Those of further teachers, which the original
        does not have, carry the teacher's name after `input_mlp`.
        """
        return {key: parameter.detach() for key, parameter in self._original_parameters()}

    def load_original_state_dict(self, tensors: Mapping[str, torch.Tensor], source: object) -> None:
        """Copy in weights with their original names; errors call their origin `source`.

        Raises UserError that names the first keys that are missing, unexpected or of another shape.
        """
        parameters = dict(self._original_parameters())
        shared = parameters.keys() & tensors.keys()
        faults = key_faults(
            {
                "missing": parameters.keys() - tensors.keys(),
                "unexpected": tensors.keys() - parameters.keys(),
                "of a wrong shape": [k for k in shared if tensors[k].shape != parameters[k].shape],
            }
        )
        if faults:
            raise UserError(f"{source} does not fit the alignment's projectors: keys {faults}")
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(tensors[key])

    def _original_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for number, (teacher, projectors) in enumerate(
            zip(self.config.teachers, self.by_teacher, strict=True)
        ):
            infix = f"{teacher}." if number else ""
            for block, mlp in zip(self.config.blocks, projectors, strict=True):
                for name, parameter in mlp.named_parameters():
                    yield f"blocks.{block}.input_mlp.{infix}proj.{name}", parameter


def _project(mlp: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    device = tokens.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        tokens = tokens.to(next(mlp.parameters()).dtype)
    projected: torch.Tensor = mlp(tokens)
    return projected


@dataclass(frozen=True, kw_only=True)
class AlignmentTerms:
    """The two terms of the loss for each sample, neither weighted nor gated: means over blocks (B,), and
    those of each aligned block (K,B); float32 or float64, 0 or greater.
    """

    positive_B: torch.Tensor
    negative_B: torch.Tensor
    positive_KB: torch.Tensor
    negative_KB: torch.Tensor

    @classmethod
    def of_blocks(cls, positive_KB: torch.Tensor, negative_KB: torch.Tensor) -> AlignmentTerms:
        """Average the terms (K,B) of the aligned blocks over the blocks."""
        return cls(
            positive_B=positive_KB.mean(dim=0),
            negative_B=negative_KB.mean(dim=0),
            positive_KB=positive_KB,
            negative_KB=negative_KB,
        )

    def total(self, config: AlignmentConfig) -> torch.Tensor:
        """(B,) both terms with their own weights; without `config.weight` and the gate."""
        return weighted_terms(self.positive_B, self.negative_B, config)


def weighted_terms(
    positive_B: torch.Tensor, negative_B: torch.Tensor, config: AlignmentConfig
) -> torch.Tensor:
    """(B,) both terms with their own weights."""
    return config.positive_weight * positive_B + config.negative_weight * negative_B


def average_terms(terms: Sequence[AlignmentTerms]) -> AlignmentTerms:
    """The mean of the terms of one or more teachers, in the same shapes."""
    return AlignmentTerms.of_blocks(
        torch.stack([each.positive_KB for each in terms]).mean(dim=0),
        torch.stack([each.negative_KB for each in terms]).mean(dim=0),
    )


def timestep_gate(timesteps_B: torch.Tensor, config: AlignmentConfig) -> torch.Tensor:
    """The gate of each sample, (B,) float32 in 0..1, for timesteps (B,) on 0..1000."""
    if config.gate == "none":
        return torch.ones_like(timesteps_B, dtype=torch.float32)
    return (timesteps_B.float() / TIMESTEPS).clamp(0, 1) ** 3


def alignment_terms(
    projected: Sequence[torch.Tensor],
    teacher_BND: torch.Tensor,
    subject_BN: torch.Tensor,
    config: AlignmentConfig,
) -> AlignmentTerms:
    """The terms against one teacher, computed in float32 (float64 for float64 tokens), also under autocast.

    Args:
        projected: projections (B,N,D) of each aligned block, of any floating-point type.
        teacher_BND: the teacher's tokens; no gradient flows to them.
        subject_BN: the number of the reference that a token belongs to, -1 for padding. Tokens of a reference
            should stand together: work is done by runs of them.

    Raises ValueError for shapes that do not fit.
    """
    if not projected:
        raise ValueError("no projections to align")
    for tokens in (*projected, teacher_BND):
        if tokens.shape != projected[0].shape or tokens.shape[:2] != subject_BN.shape:
            raise ValueError(
                f"tokens {tuple(tokens.shape)} do not fit {tuple(projected[0].shape)} projections and "
                f"{tuple(subject_BN.shape)} subject numbers"
            )
    dtype = torch.promote_types(projected[0].dtype, torch.float32)
    teacher_BND = teacher_BND.detach().to(dtype)
    norm_BN = torch.linalg.vector_norm(teacher_BND, dim=-1)
    # `norm > 0` would take a broken teacher's NaN for the null condition.
    present_B = (~(norm_BN == 0) & (subject_BN >= 0)).any(dim=1)
    subject_BN = torch.where(present_B[:, None], subject_BN, -1)
    sample_runs = [_ReferenceRuns.of(row) for row in subject_BN.tolist()]
    directions_BND = teacher_BND / norm_BN.clamp(min=SMALLEST_NORM)[..., None]
    shift = config.negative_margin - 1 if config.negative_weight else None
    found = [
        _Cosines.apply(tokens, directions_BND, sample_runs, shift, torch.is_grad_enabled())
        for tokens in projected
    ]
    real_BN = subject_BN >= 0
    distances_KBN = 1 - torch.stack([cosines_BN for cosines_BN, _ in found]) - config.positive_margin
    sums_KB = torch.stack([sums_B for _, sums_B in found])
    return AlignmentTerms.of_blocks(
        torch.where(real_BN, distances_KBN.relu(), 0).sum(dim=-1) / real_BN.sum(dim=1).clamp(min=1),
        sums_KB / sums_KB.new_tensor([max(runs.pairs, 1) for runs in sample_runs]),
    )


@dataclass(frozen=True, kw_only=True)
class _ReferenceRuns:
    """The tokens of each reference of a sample as runs (start, stop, subject); padding is left out."""

    spans: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, subjects: Sequence[int]) -> _ReferenceRuns:
        spans, start = [], 0
        for subject, tokens in groupby(subjects):
            stop = start + sum(1 for _ in tokens)
            if subject >= 0:
                spans.append((start, stop, subject))
            start = stop
        return cls(spans=tuple(spans))

    @property
    def pairs(self) -> int:
        """Ordered pairs of tokens of different subjects."""
        return sum(
            (stop - start) * sum(end - begin for begin, end in self.others(subject))
            for start, stop, subject in self.spans
        )

    def chunks(self) -> Iterator[tuple[slice, list[slice]]]:
        """Rows of one subject, as many as `CHUNK_COSINES` allows, with the ranges of all other subjects."""
        for start, stop, subject in self.spans:
            others = self.others(subject)
            longest = max((end - begin for begin, end in others), default=1)
            rows = max(1, CHUNK_COSINES // longest)
            for first in range(start, stop, rows):
                yield slice(first, min(first + rows, stop)), [slice(*other) for other in others]

    def others(self, subject: int) -> list[tuple[int, int]]:
        """Ranges of the tokens of all other subjects, as few as there can be."""
        ranges: list[tuple[int, int]] = []
        for start, stop, other in self.spans:
            if other == subject:
                continue
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, stop))
        return ranges


class _Cosines(torch.autograd.Function):
    """Cosines (B,N) of tokens with their own teacher token, and per sample (B,) the sum over pairs of
    different subjects of relu(cosine + shift), which is 0 and not computed where shift is None.

    The sum's gradient is known up to its factor as soon as the cosines are: it is the sum of the teacher's
    tokens whose relu is open. It is made in the same pass, chunk by chunk, so that of each block one (B,N,D)
    is kept and no matrix product is done twice: two for each pair of subjects, forward and backward together.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student_BND: torch.Tensor,
        directions_BND: torch.Tensor,
        sample_runs: Sequence[_ReferenceRuns],
        shift: float | None,
        grad_enabled: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Inside of a function gradients are always off; the flag is the caller's.
        pull = grad_enabled and ctx.needs_input_grad[0] and shift is not None
        cosines_BN = directions_BND.new_zeros(student_BND.shape[:2])
        radial_BN, inverse_BN = torch.zeros_like(cosines_BN), torch.zeros_like(cosines_BN)
        pull_BND = torch.zeros_like(directions_BND) if pull else None
        sums_B = directions_BND.new_zeros(len(sample_runs))
        with torch.autocast(student_BND.device.type, enabled=False):
            for sample, runs in enumerate(sample_runs):
                directions_ND = directions_BND[sample]
                for rows, others in runs.chunks():
                    tokens_ND = student_BND[sample, rows].to(directions_ND.dtype)
                    norm_N = torch.linalg.vector_norm(tokens_ND, dim=-1)
                    inverse_BN[sample, rows] = 1 / norm_N.clamp(min=SMALLEST_NORM)
                    unit_ND = tokens_ND * inverse_BN[sample, rows, None]
                    cosines_BN[sample, rows] = (unit_ND * directions_ND[rows]).sum(dim=-1)
                    if shift is None:
                        continue
                    pull_ND = None if pull_BND is None else pull_BND[sample, rows]
                    for other in others:
                        sums_B[sample] += _cross_sum(unit_ND, directions_ND[other], shift, pull_ND)
                    if pull_ND is not None:
                        radial_BN[sample, rows] = (unit_ND * pull_ND).sum(dim=-1)
        ctx.sample_runs = sample_runs
        ctx.save_for_backward(student_BND, directions_BND, pull_BND, cosines_BN, radial_BN, inverse_BN)
        return cosines_BN, sums_B

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, factor_BN: torch.Tensor, factor_B: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None, None]:
        student_BND, directions_BND, pull_BND, cosines_BN, radial_BN, inverse_BN = ctx.saved_tensors
        # With u = x/|x|, a pull v on u is one of (v - (v·u)u)/|x| on x; tokens below the smallest norm are
        # scaled by a constant instead, which has no radial part.
        toward_BN = factor_BN * inverse_BN
        across_BN = factor_B[:, None] * inverse_BN
        along_BN = -(toward_BN * cosines_BN + across_BN * radial_BN) * inverse_BN
        along_BN = torch.where(inverse_BN < 1 / SMALLEST_NORM, along_BN, 0)
        gradient_BND = torch.zeros_like(directions_BND)
        for sample, runs in enumerate(ctx.sample_runs):
            for start, stop, _ in runs.spans:
                part = (sample, slice(start, stop))
                rows_ND = gradient_BND[part]
                torch.mul(directions_BND[part], toward_BN[part][:, None], out=rows_ND)
                rows_ND.addcmul_(student_BND[part].to(rows_ND.dtype), along_BN[part][:, None])
                if pull_BND is not None:
                    rows_ND.addcmul_(pull_BND[part], across_BN[part][:, None])
        return gradient_BND.to(student_BND.dtype), None, None, None, None


def _cross_sum(
    unit_ND: torch.Tensor, others_MD: torch.Tensor, shift: float, pull_ND: torch.Tensor | None
) -> torch.Tensor:
    """Sum of relu(cosine + shift) over all pairs; its gradient in `unit_ND` is added to `pull_ND`."""
    values_NM = unit_ND @ others_MD.T
    if shift:
        values_NM += shift
    total = values_NM.relu_().sum()
    if pull_ND is not None:
        # Counters of FLOPs know this form, not `addmm_`.
        torch.addmm(pull_ND, values_NM.sign_(), others_MD, out=pull_ND)
    return total
