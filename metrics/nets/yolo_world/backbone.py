"""The image backbone of YOLO-World v2: a CSPDarknet (P5) whose modules carry the checkpoint's names.

Three feature maps leave it, at strides 8, 16 and 32. It does not see the prompt, so one pass per frame serves
every reference.

Source: the description of `backbone.image_model` of YOLO-World v2-L (AILab-CVC/YOLO-World, as vendored by
`eval/utils/yoloworld` of PKU-YuanGroup/OpenS2V-Nexus@210eb08). Different: batch norms are for inference only
and keep no counter of batches.

Axes of tensor names: B frames, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

# MMYOLO's batch norms, against torch's default of 1e-5.
BATCH_NORM_EPSILON = 1e-3


class InferenceBatchNorm(nn.Module):
    """Batch norm with its stored statistics; the state dict lacks torch's `num_batches_tracked`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.register_buffer("running_mean", torch.empty(channels))
        self.register_buffer("running_var", torch.empty(channels))

    def forward(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same shape."""
        return functional.batch_norm(
            features_BCHW,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=BATCH_NORM_EPSILON,
        )


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, and SiLU unless `activated` is off; padding keeps the size."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, activated: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = InferenceBatchNorm(outputs)
        self.activated = activated

    def forward(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        normed_BCHW = self.bn(self.conv(features_BCHW))
        return functional.silu(normed_BCHW, inplace=True) if self.activated else normed_BCHW


class Bottleneck(nn.Module):
    """Two 3x3 units of one width; with `identity` the input is added after the last activation."""

    def __init__(self, channels: int, *, identity: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 3)
        self.conv2 = ConvUnit(channels, channels, 3)
        self.identity = identity

    def forward(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same shape."""
        changed_BCHW = self.conv2(self.conv1(features_BCHW))
        return features_BCHW + changed_BCHW if self.identity else changed_BCHW


class SplitChain(nn.Module):
    """What cross-stage partial blocks share: a 1x1 unit whose output is split in half, a chain of bottlenecks
    on the second half, and a 1x1 unit over both halves, every bottleneck and `extra` members of half width.
    """

    def __init__(self, inputs: int, outputs: int, depth: int, *, identity: bool, extra: int = 0) -> None:
        super().__init__()
        self.half = outputs // 2
        self.main_conv = ConvUnit(inputs, 2 * self.half, 1)
        self.final_conv = ConvUnit((2 + depth + extra) * self.half, outputs, 1)
        self.blocks = nn.ModuleList(Bottleneck(self.half, identity=identity) for _ in range(depth))

    def members(self, features_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """The members of the concatenation, (B, half, H, W) each: both halves, then every bottleneck."""
        found = list(self.main_conv(features_BCHW).split(self.half, dim=1))
        for block in self.blocks:
            found.append(block(found[-1]))
        return found


class CSPBlock(SplitChain):
    """The cross-stage partial block of the backbone: bottlenecks with shortcuts, nothing extra."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__(inputs, outputs, depth, identity=True)

    def forward(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        fused_BCHW: torch.Tensor = self.final_conv(torch.cat(self.members(features_BCHW), dim=1))
        return fused_BCHW


class SpatialPyramidPooling(nn.Module):
    """SPPF: a 1x1 unit to half width, three 5x5 max-pools in a chain, a 1x1 unit over the four maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels // 2, 1)
        self.conv2 = ConvUnit(4 * (channels // 2), channels, 1)

    def forward(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same shape."""
        pooled = [self.conv1(features_BCHW)]
        for _ in range(3):
            pooled.append(functional.max_pool2d(pooled[-1], kernel_size=5, stride=1, padding=2))
        fused_BCHW: torch.Tensor = self.conv2(torch.cat(pooled, dim=1))
        return fused_BCHW


class CSPDarknet(nn.Module):
    """Stem and four stages, each halving the resolution; the last stage ends in spatial pyramid pooling.

    `widths` and `depths` are the stages' output channels and bottlenecks.
    """

    def __init__(self, stem: int, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.stem = ConvUnit(3, stem, 3, stride=2)
        before = (stem, *widths[:-1])
        for number, (inputs, outputs, depth) in enumerate(zip(before, widths, depths, strict=True), start=1):
            layers: list[nn.Module] = [
                ConvUnit(inputs, outputs, 3, stride=2),
                CSPBlock(outputs, outputs, depth),
            ]
            if number == len(widths):
                layers.append(SpatialPyramidPooling(outputs))
            self.add_module(f"stage{number}", nn.Sequential(*layers))

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W), 0..1, to the maps (B, C, H / s, W / s) at the strides s of 8, 16 and 32."""
        stride8_BCHW = self.stage2(self.stage1(self.stem(images_BCHW)))
        stride16_BCHW = self.stage3(stride8_BCHW)
        return stride8_BCHW, stride16_BCHW, self.stage4(stride16_BCHW)
