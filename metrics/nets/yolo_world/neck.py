"""The prompt-guided neck of YOLO-World v2: a path aggregation network whose blocks are gated by the prompt.

Each prompt needs a pass of its own: a gate takes the maximum over the prompts of one pass, so two references
in one pass would change each other's features. Several references go through together as rows of the batch.
What the first block computes before its gates does not depend on the prompt and is computed once per frame.

Source: the description of `neck` of YOLO-World v2-L (AILab-CVC/YOLO-World, as vendored by
`eval/utils/yoloworld` of PKU-YuanGroup/OpenS2V-Nexus@210eb08).

Axes of tensor names: B frames, R references, G = B·R pairs with the references of a frame side by side,
K prompts of one pass, D prompt width, A heads, E channels of a head, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from refbench.metrics.nets.yolo_world.backbone import ConvUnit, SplitChain


class GuidedAttention(nn.Module):
    """Max-sigmoid attention: one gate per head and pixel, from the best matching prompt."""

    def __init__(self, channels: int, heads: int, prompt_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.bias = nn.Parameter(torch.empty(heads))
        self.guide_fc = nn.Linear(prompt_width, channels)
        self.project_conv = ConvUnit(channels, channels, 3, activated=False)

    def forward(self, features_BCHW: torch.Tensor, prompts_GKD: torch.Tensor) -> torch.Tensor:
        """Features (B, C, H, W) and prompts (B·R, K, D) to gated features (B·R, C, H, W)."""
        guides_GKAE = self.guide_fc(prompts_GKD).unflatten(-1, (self.heads, -1))
        guides_BRKAE = guides_GKAE.unflatten(0, (features_BCHW.shape[0], -1))
        grouped_BAEHW = features_BCHW.unflatten(1, (self.heads, -1))
        match_BRKAHW = torch.einsum("baehw,brkae->brkahw", grouped_BAEHW, guides_BRKAE)
        best_BRAHW = match_BRKAHW.amax(dim=2) / grouped_BAEHW.shape[2] ** 0.5
        gates_BRAHW = (best_BRAHW + self.bias[:, None, None]).sigmoid()
        projected_BAEHW = self.project_conv(features_BCHW).unflatten(1, (self.heads, -1))
        gated_BRAEHW = projected_BAEHW.unsqueeze(1) * gates_BRAHW.unsqueeze(3)
        return gated_BRAEHW.flatten(2, 3).flatten(0, 1)


class GuidedCSPBlock(SplitChain):
    """A cross-stage partial block without shortcuts; its last bottleneck also passes the guided attention."""

    def __init__(self, inputs: int, outputs: int, depth: int, heads: int, prompt_width: int) -> None:
        super().__init__(inputs, outputs, depth, identity=False, extra=1)
        self.attn_block = GuidedAttention(self.half, heads, prompt_width)

    def forward(self, features_BCHW: torch.Tensor, prompts_GKD: torch.Tensor) -> torch.Tensor:
        """Features (B, inputs, H, W) and prompts (B·R, K, D) to (B·R, outputs, H, W)."""
        members = self.members(features_BCHW)
        guided_GCHW = self.attn_block(members[-1], prompts_GKD)
        shared_GCHW = per_pair(torch.cat(members, dim=1), len(prompts_GKD))
        fused_GCHW: torch.Tensor = self.final_conv(torch.cat([shared_GCHW, guided_GCHW], dim=1))
        return fused_GCHW


class GuidedNeck(nn.Module):
    """Top-down and bottom-up passes over the three maps; all four blocks are guided.

    `widths` are the channels at strides 8, 16 and 32, which the outputs keep; `heads` those of the four
    blocks in the order in which they run.
    """

    def __init__(self, widths: Sequence[int], depth: int, heads: Sequence[int], prompt_width: int) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.top_down_layers = nn.ModuleList(
            [
                GuidedCSPBlock(coarse + middle, middle, depth, heads[0], prompt_width),
                GuidedCSPBlock(middle + fine, fine, depth, heads[1], prompt_width),
            ]
        )
        self.downsample_layers = nn.ModuleList(
            [ConvUnit(fine, fine, 3, stride=2), ConvUnit(middle, middle, 3, stride=2)]
        )
        self.bottom_up_layers = nn.ModuleList(
            [
                GuidedCSPBlock(fine + middle, middle, depth, heads[2], prompt_width),
                GuidedCSPBlock(middle + coarse, coarse, depth, heads[3], prompt_width),
            ]
        )

    def forward(
        self, maps_BCHW: Sequence[torch.Tensor], prompts_GKD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Three maps (B, C, H, W) of the backbone and prompts (B·R, K, D) to three maps (B·R, C, H, W)."""
        fine_BCHW, middle_BCHW, coarse_BCHW = maps_BCHW
        pairs = len(prompts_GKD)
        top4_GCHW = self.top_down_layers[0](
            torch.cat([doubled(coarse_BCHW), middle_BCHW], dim=1), prompts_GKD
        )
        fine_GCHW = per_pair(fine_BCHW, pairs)
        out3_GCHW = self.top_down_layers[1](torch.cat([doubled(top4_GCHW), fine_GCHW], dim=1), prompts_GKD)
        down_GCHW = self.downsample_layers[0](out3_GCHW)
        out4_GCHW = self.bottom_up_layers[0](torch.cat([down_GCHW, top4_GCHW], dim=1), prompts_GKD)
        down_GCHW = self.downsample_layers[1](out4_GCHW)
        coarse_GCHW = per_pair(coarse_BCHW, pairs)
        out5_GCHW = self.bottom_up_layers[1](torch.cat([down_GCHW, coarse_GCHW], dim=1), prompts_GKD)
        return out3_GCHW, out4_GCHW, out5_GCHW


def doubled(features_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) to (B, C, 2·H, 2·W) by nearest neighbours."""
    return functional.interpolate(features_BCHW, scale_factor=2, mode="nearest")


def per_pair(features_BCHW: torch.Tensor, pairs: int) -> torch.Tensor:
    """Each frame's map once per reference: (B, C, H, W) to (pairs, C, H, W)."""
    references = pairs // len(features_BCHW)
    return features_BCHW if references == 1 else features_BCHW.repeat_interleave(references, dim=0)
