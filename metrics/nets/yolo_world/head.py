"""The head of YOLO-World v2: per point a logit for each prompt and the distances to the four sides of a box.

Source: the description of `bbox_head.head_module` of YOLO-World v2-L (AILab-CVC/YOLO-World, as vendored by
`eval/utils/yoloworld` of PKU-YuanGroup/OpenS2V-Nexus@210eb08).

Axes of tensor names: G (frame, reference) pairs, K prompts of one pass, D prompt width, C channels, H rows,
W columns, S the four sides left, top, right, bottom, I bins of a distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from refbench.metrics.nets.yolo_world.backbone import ConvUnit, InferenceBatchNorm

SIDES = 4


class BatchNormContrast(nn.Module):
    """Scaled dot product of batch-normed point embeddings and L2-normalised prompts."""

    def __init__(self, prompt_width: int) -> None:
        super().__init__()
        self.norm = InferenceBatchNorm(prompt_width)
        self.bias = nn.Parameter(torch.empty(()))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def forward(self, embeddings_GDHW: torch.Tensor, prompts_GKD: torch.Tensor) -> torch.Tensor:
        """Embeddings (G, D, H, W) and prompts (G, K, D) to logits (G, K, H, W)."""
        unit_GKD = functional.normalize(prompts_GKD, dim=-1)
        products_GKHW = torch.einsum("gdhw,gkd->gkhw", self.norm(embeddings_GDHW), unit_GKD)
        return products_GKHW * self.logit_scale.exp() + self.bias


class HeadModule(nn.Module):
    """Three levels with nothing shared: an embedding and a regression branch each.

    `widths` are the neck's channels; `classification` and `regression` the branches' inner channels; `bins`
    the bins of one side's distance.
    """

    def __init__(
        self, widths: Sequence[int], classification: int, regression: int, bins: int, prompt_width: int
    ) -> None:
        super().__init__()
        self.bins = bins
        self.cls_preds = nn.ModuleList(_branch(width, classification, prompt_width) for width in widths)
        self.reg_preds = nn.ModuleList(_branch(width, regression, SIDES * bins) for width in widths)
        self.cls_contrasts = nn.ModuleList(BatchNormContrast(prompt_width) for _ in widths)

    def forward(
        self, maps_GCHW: Sequence[torch.Tensor], prompts_GKD: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Maps (G, C, H, W) of each level and prompts (G, K, D) to what each level says of the prompts.

        Logits (G, K, H, W), and distances (G, 4, H, W) in units of the level's stride.
        """
        logits = [
            contrast(branch(map_GCHW), prompts_GKD)
            for map_GCHW, branch, contrast in zip(maps_GCHW, self.cls_preds, self.cls_contrasts, strict=True)
        ]
        distances = [
            expected_distances(branch(map_GCHW), self.bins)
            for map_GCHW, branch in zip(maps_GCHW, self.reg_preds, strict=True)
        ]
        return logits, distances


class Head(nn.Module):
    """The level of nesting that the checkpoint's keys have: `bbox_head.head_module`."""

    def __init__(self, head_module: HeadModule) -> None:
        super().__init__()
        self.head_module = head_module


def expected_distances(bin_logits_GCHW: torch.Tensor, bins: int) -> torch.Tensor:
    """Bin logits (G, 4·bins, H, W), side by side, to the expected bin number of each side, (G, 4, H, W)."""
    bin_GSIHW = bin_logits_GCHW.unflatten(1, (SIDES, bins)).softmax(dim=2)
    numbers_I = torch.arange(bins, dtype=bin_GSIHW.dtype, device=bin_GSIHW.device)
    return torch.einsum("gsihw,i->gshw", bin_GSIHW, numbers_I)


def _branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        ConvUnit(inputs, hidden, 3), ConvUnit(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1)
    )
