"""Wan's transformer with reference tokens in its sequence: the network of Phantom, Kaleido, RefAlign and
Bernini-R.

Reference latents go through the same patch embedding as the video, stand before or behind its tokens, share
the timestep modulation, take part in self-attention both ways and in the feed-forward, and are dropped before
the output layer. What the methods differ in is data, a `ReferenceRule`. Weights and configuration are those
of diffusers' `WanTransformer3DModel`, so its checkpoints load unchanged.

Differences from diffusers 0.42.1: the time sinusoid and the rotary angles are computed in float64 as in Wan's
code (diffusers' float32 sinusoid is 1.8e-5 off at t = 731), and no rotary table can be cast to bfloat16 or be
too short. Context parallelism is refused: its plan splits a sequence that here has two parts.

Shapes: B samples, C channels, F latent frames, N references, H and W latent rows and columns, T tokens,
D channels of a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ClassVar, Literal

import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import nn

ROPE_BASE = 10_000.0
TIME_BASE = 10_000.0


@dataclass(frozen=True, kw_only=True)
class ReferenceRule:
    """How a method's references enter the sequence.

    `position`: before or behind the video's tokens. `rope`: `continue` counts references on as further
    frames; `shifted` gives reference j time index j and rows and columns from `rope_shift` on; `rope_dtype`
    is what the original computes its angles in. `text`:
    whether reference tokens attend to the prompt.
    """

    position: Literal["head", "tail"] = "tail"
    rope: Literal["continue", "shifted"] = "continue"
    rope_shift: int = 0
    rope_dtype: torch.dtype = torch.float64
    text: bool = True


@dataclass(frozen=True, kw_only=True)
class SequencePart:
    """The video's or the references' part of the sequence: tokens (B,T,D), their rotary indices (T,3), the
    grid of frames, rows and columns that they make (None where references differ in size), and the source of
    each token (T,) where the method tells sources apart.
    """

    tokens_BTD: torch.Tensor
    positions_T3: torch.Tensor
    grid: tuple[int, int, int] | None
    sources_T: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ReferenceOutput:
    """`sample`: the prediction for the video, (B,C,F,H,W); `reference_states`: the reference tokens after the
    blocks asked for, each (B,N·h·w,D); `video_states`: the video's, each (B,F·H·W,D) counted in patches.
    """

    sample: torch.Tensor
    reference_states: list[torch.Tensor]
    video_states: list[torch.Tensor]


class ExactTimesteps(nn.Module):
    """The sinusoidal time embedding in float64: cosines, then sines, of t·10000^(-j/half)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        """(B,) timesteps → (B, channels) float64."""
        half = self.channels // 2
        exponents = torch.arange(half, dtype=torch.float64, device=timesteps.device) / half
        angles = timesteps.double()[:, None] * TIME_BASE ** (-exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


def grid_positions(
    frames: int, rows: int, columns: int, start: tuple[int, int, int], device: torch.device
) -> torch.Tensor:
    """(frames·rows·columns, 3) indices (time, row, column) in token order, counted from `start`."""
    axes = [
        torch.arange(first, first + count, device=device)
        for first, count in zip(start, (frames, rows, columns), strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


def rotary_embedding(
    positions: torch.Tensor,
    head_dim: int,
    dtype: torch.dtype = torch.float64,
    sources_T: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines as diffusers' Wan attention takes them: float32 (1, T, 1, head_dim), each value
    twice.

    Of a head's channels, rows and columns have head_dim//3 each (even), time has the rest; pair j of an axis
    with d channels turns by position·10000^(-2j/d). Where tokens have sources (numbers), pair k of the whole
    head turns by source·10000^(-2k/head_dim) more.
    """
    side = 2 * (head_dim // 6)
    angles = []
    for axis, width in enumerate((head_dim - 2 * side, side, side)):
        exponents = torch.arange(0, width, 2, dtype=dtype, device=positions.device) / width
        angles.append(positions[:, axis, None].to(dtype) / ROPE_BASE**exponents)
    angles_TP = torch.cat(angles, dim=1)
    if sources_T is not None:
        exponents = torch.arange(0, head_dim, 2, dtype=dtype, device=positions.device) / head_dim
        angles_TP = angles_TP + sources_T[:, None].to(dtype) / ROPE_BASE**exponents
    angles_TD = angles_TP.repeat_interleave(2, dim=1)[None, :, None]
    return angles_TD.cos().float(), angles_TD.sin().float()


class ReferenceWanBlock(WanTransformerBlock):
    """Wan's block, told which tokens attend to the text and which keys are padding."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary_emb: tuple[torch.Tensor, torch.Tensor],
        text_span: tuple[int, int] | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B,T,D) tokens after the block.

        `temb` (B,6,D) is the timestep's modulation; tokens outside of `text_span` [start, stop) pass the text
        attention unchanged; `attention_mask` (B,1,1,T) is false for padding.
        """
        table = self.scale_shift_table + temb.float()
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.chunk(6, dim=1)

        normed = (self.norm1(hidden_states.float()) * (1 + scale) + shift).type_as(hidden_states)
        attended = self.attn1(normed, None, attention_mask, rotary_emb)
        hidden_states = (hidden_states.float() + attended * gate).type_as(hidden_states)
        # Where no gradient is wanted, what is done with must not stay beside the feed-forward's inner width.
        del normed, attended

        start, stop = text_span or (0, hidden_states.shape[1])
        readers = hidden_states[:, start:stop]
        read = self.attn2(self.norm2(readers.float()).type_as(readers), encoder_hidden_states, None, None)
        if readers.shape[1] == hidden_states.shape[1]:
            hidden_states = hidden_states + read
        else:
            hidden_states = torch.cat(
                [hidden_states[:, :start], readers + read, hidden_states[:, stop:]], dim=1
            )
        del readers, read

        normed = (self.norm3(hidden_states.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden_states)
        fed = self.ffn(normed)
        return (hidden_states.float() + fed.float() * ffn_gate).type_as(hidden_states)


# Block caches look a class up exactly.
TransformerBlockRegistry.register(
    model_class=ReferenceWanBlock,
    metadata=TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None),
)


class ReferenceWanTransformer3DModel(WanTransformer3DModel):
    """The transformer of one method: a subclass names its `rule`.

    Built, saved and loaded like diffusers' class; without references it computes the same function.
    """

    rule: ClassVar[ReferenceRule] = ReferenceRule()
    _no_split_modules = ("ReferenceWanBlock",)
    _repeated_blocks = ("ReferenceWanBlock",)
    _cp_plan = None

    # With the parent's signature, which saving and loading read the configuration's names from.
    @wraps(WanTransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.condition_embedder.timesteps_proj = ExactTimesteps(self.config.freq_dim)
        for block in self.blocks:
            # The parent names its block class in its constructor; a second list of blocks would hold the
            # model twice while it is built.
            block.__class__ = ReferenceWanBlock

    def enable_parallelism(self, **settings: Any) -> None:
        """Raises NotImplementedError: the sequence has two parts, which diffusers' plan would split
        wrongly."""
        raise NotImplementedError(
            f"{type(self).__name__} does not support context parallelism; use one GPU per video"
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        reference_hidden_states: Any = None,
        reference_counts: torch.Tensor | None = None,
        state_blocks: Sequence[int] = (),
        video_state_blocks: Sequence[int] = (),
        reference_additions: torch.Tensor | None = None,
    ) -> ReferenceOutput:
        """Predict the flow of the video's latents.

        Args:
            hidden_states: noisy latents (B,C,F,H,W); H and W even.
            timestep: (B,) on the scale 0..1000, one for each sample.
            encoder_hidden_states: (B, text rows, text width), every row attended.
            reference_hidden_states: clean reference latents (B,C,N,h,w), of the video's size or another, or
                what a subclass takes; None for none at all, which differs from zeros.
            reference_counts: (B,) how many of the N are real; the others are padding that nothing attends to.
                For references of one size.
            state_blocks: blocks after which the reference tokens are returned.
            video_state_blocks: the same of the video's tokens.
            reference_additions: (B,N·h·w,D), added to the reference tokens behind the patch embedding.

        Raises ValueError for sizes that do not divide into patches.
        """
        batch, _, frames, height, width = hidden_states.shape
        video_BTD, grid = self._patches(hidden_states)
        video_tokens = video_BTD.shape[1]
        video = SequencePart(
            tokens_BTD=video_BTD, positions_T3=self.video_positions(grid, video_BTD.device), grid=grid
        )
        parts, mask, start = [video], None, 0
        if reference_hidden_states is not None:
            references = self.reference_part(reference_hidden_states, grid)
            if reference_additions is not None:
                added_BTD = references.tokens_BTD + reference_additions.to(references.tokens_BTD.dtype)
                references = replace(references, tokens_BTD=added_BTD)
            if reference_counts is not None and references.grid is not None:
                mask = _key_mask(reference_counts, references.grid, video_tokens, self.rule.position)
            if self.rule.position == "tail":
                parts = [video, references]
            else:
                parts, start = [references, video], references.tokens_BTD.shape[1]
        # Not of the video alone: a copy of it would stay beside the blocks' working memory.
        tokens_BTD = torch.cat([part.tokens_BTD for part in parts], dim=1) if len(parts) > 1 else video_BTD
        positions_T3 = torch.cat([part.positions_T3 for part in parts])
        video_span = (start, start + video_tokens)

        temb_BD, modulation, text, _ = self.condition_embedder(timestep, encoder_hidden_states, None)
        tokens_BTD, states, video_states = self._run_blocks(
            tokens_BTD,
            (
                text,
                modulation.unflatten(1, (6, -1)),
                rotary_embedding(
                    positions_T3, self.config.attention_head_dim, self.rule.rope_dtype, _sources(parts)
                ),
                None if self.rule.text else video_span,
                mask,
            ),
            video_span,
            set(state_blocks),
            set(video_state_blocks),
        )

        video_BTD = tokens_BTD[:, start : start + video_tokens]
        shift, scale = (self.scale_shift_table + temb_BD.unsqueeze(1)).chunk(2, dim=1)
        video_BTD = (self.norm_out(video_BTD.float()) * (1 + scale) + shift).type_as(video_BTD)
        patches = self.proj_out(video_BTD).reshape(batch, *grid, *self.config.patch_size, -1)
        sample_BCFHW = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(batch, -1, frames, height, width)
        return ReferenceOutput(sample=sample_BCFHW, reference_states=states, video_states=video_states)

    def _run_blocks(
        self,
        tokens_BTD: torch.Tensor,
        shared: tuple[Any, ...],
        video_span: tuple[int, int],
        wanted: set[int],
        wanted_of_video: set[int],
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        start, stop = video_span
        states, video_states = [], []
        for index, block in enumerate(self.blocks):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens_BTD = self._gradient_checkpointing_func(block, tokens_BTD, *shared)
            else:
                tokens_BTD = block(tokens_BTD, *shared)
            if index in wanted:
                states.append(tokens_BTD[:, :start] if start else tokens_BTD[:, stop:])
            if index in wanted_of_video:
                video_states.append(tokens_BTD[:, start:stop])
        return tokens_BTD, states, video_states

    def _patches(self, latents_BCFHW: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Tokens (B,T,D) in the order frame, row, column, and their grid."""
        sizes = latents_BCFHW.shape[2:]
        if any(size % patch for size, patch in zip(sizes, self.config.patch_size, strict=True)):
            raise ValueError(
                f"latents of {tuple(sizes)} do not divide into patches of {tuple(self.config.patch_size)}"
            )
        embedded = self.patch_embedding(latents_BCFHW)
        grid = (embedded.shape[2], embedded.shape[3], embedded.shape[4])
        return embedded.flatten(2).transpose(1, 2).contiguous(), grid

    def video_positions(self, grid: tuple[int, int, int], device: torch.device) -> torch.Tensor:
        """Rotary indices (T,3) of the video's tokens; the grid is frames, rows and columns of patches."""
        return grid_positions(*grid, (0, 0, 0), device)

    def reference_part(self, latents: Any, grid: tuple[int, int, int]) -> SequencePart:
        """The references' tokens beside a video of this grid, from their latents (B,C,N,h,w)."""
        tokens_BTD, own_grid = self._patches(latents)
        positions_T3 = self.reference_positions(grid, own_grid, tokens_BTD.device)
        return SequencePart(tokens_BTD=tokens_BTD, positions_T3=positions_T3, grid=own_grid)

    def reference_positions(
        self, grid: tuple[int, int, int], reference_grid: tuple[int, int, int], device: torch.device
    ) -> torch.Tensor:
        """Rotary indices (T,3) of the references' tokens beside a video of this grid."""
        shift = self.rule.rope_shift
        start = (grid[0], 0, 0) if self.rule.rope == "continue" else (0, shift, shift)
        return grid_positions(*reference_grid, start, device)


def _sources(parts: Sequence[SequencePart]) -> torch.Tensor | None:
    """The source of each token of the sequence: 0 where a part names none; None where no part names any."""
    if all(part.sources_T is None for part in parts):
        return None
    return torch.cat(
        [
            part.positions_T3.new_zeros(len(part.positions_T3), dtype=torch.float64)
            if part.sources_T is None
            else part.sources_T
            for part in parts
        ]
    )


def _key_mask(
    counts_B: torch.Tensor, grid: tuple[int, int, int], video_tokens: int, position: str
) -> torch.Tensor | None:
    """(B,1,1,T): true for the video and real references; None where nothing is padding."""
    references, tokens_each = grid[0], math.prod(grid[1:])
    real_BN = torch.arange(references, device=counts_B.device)[None] < counts_B[:, None]
    if bool(real_BN.all()):
        return None
    references_BT = real_BN.repeat_interleave(tokens_each, dim=1)
    video_BT = references_BT.new_ones(len(counts_B), video_tokens)
    parts = [video_BT, references_BT] if position == "tail" else [references_BT, video_BT]
    return torch.cat(parts, dim=1)[:, None, None]
