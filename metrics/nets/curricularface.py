"""The face embedding network of CurricularFace: an improved ResNet (IR-101) with 49 residual units.

Input: aligned RGB faces of 112×112 pixels in [-1, 1]; output: 512 numbers, not normalised. Every convolution
is without bias and every BatchNorm uses its running statistics (eps 1e-5). A unit is

    shortcut(x) + BN(conv_stride(PReLU(BN(conv(BN(x))))))

without activation after the sum. Its shortcut is the input sub-sampled by the stride where the width stays,
and a strided 1×1 convolution with BatchNorm where it changes. The first unit of each of the four groups has
stride 2, also the very first one.

Source of the layout and names: the IR_101 backbone of OpenS2V-Nexus@210eb08 `eval/utils/curricularface`, as
described by the goldens `opens2v_eval` (917 state-dict entries). Modules are named after the checkpoint's
keys. Different: the network's widths are read from the checkpoint, so that a tiny one loads by the same code.

Axes: N faces, C channels, H W rows and columns, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from refbench.bench.errors import UserError
from refbench.bench.weights.checkpoint import load_exactly, read_state_dict
from refbench.metrics.nets.inference import exact_inference

FACE_SIDE_PX = 112
# Four groups of stride 2: what is left of 112 pixels before the linear layer.
LAST_MAP_SIDE = 7


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Widths of the network: of the first convolution, of each residual unit, of the embedding."""

    stem_width: int
    unit_widths: tuple[int, ...]
    embedding_width: int

    @property
    def strides(self) -> tuple[int, ...]:
        """2 for the first unit of each group of equal widths, else 1."""
        changes = [2 if width != before else 1 for before, width in pairwise(self.unit_widths)]
        return (2, *changes)


IR_101 = Layout(
    stem_width=64,
    unit_widths=(64,) * 3 + (128,) * 13 + (256,) * 30 + (512,) * 3,
    embedding_width=512,
)


class ResidualUnit(nn.Module):
    """One unit, (N, C, H, W) to (N, width, H/stride, W/stride)."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if in_width == width:
            # A window of one pixel takes every stride-th row and column and has no parameters.
            self.shortcut_layer = nn.MaxPool2d(kernel_size=1, stride=stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_width, width, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_width),
            nn.Conv2d(in_width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """(N, in_width, H, W) to (N, width, H / stride, W / stride)."""
        summed: torch.Tensor = self.shortcut_layer(features_NCHW) + self.res_layer(features_NCHW)
        return summed


class CurricularFace(nn.Module):
    """The whole network, (N, 3, 112, 112) in [-1, 1] to (N, D); use it in eval mode."""

    def __init__(self, layout: Layout = IR_101) -> None:
        super().__init__()
        stem, widths = layout.stem_width, layout.unit_widths
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, stem, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)
        )
        self.body = nn.Sequential(
            *(
                ResidualUnit(in_width, width, stride)
                for in_width, width, stride in zip((stem, *widths[:-1]), widths, layout.strides, strict=True)
            )
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(widths[-1] * LAST_MAP_SIDE**2, layout.embedding_width),
            nn.BatchNorm1d(layout.embedding_width, affine=False),
        )

    def forward(self, faces_NCHW: torch.Tensor) -> torch.Tensor:
        """Faces (N, 3, 112, 112) in [-1, 1] to embeddings (N, D), not normalised."""
        embeddings_ND: torch.Tensor = self.output_layer(self.body(self.input_layer(faces_NCHW)))
        return embeddings_ND


def layout_of(tensors: Mapping[str, torch.Tensor], source: object) -> Layout:
    """The layout of a checkpoint, read from its tensors' shapes; UserError if it is no such network."""
    units = 0
    while f"body.{units}.res_layer.1.weight" in tensors:
        units += 1
    try:
        layout = Layout(
            stem_width=tensors["input_layer.0.weight"].shape[0],
            unit_widths=tuple(tensors[f"body.{unit}.res_layer.1.weight"].shape[0] for unit in range(units)),
            embedding_width=tensors["output_layer.3.weight"].shape[0],
        )
    except (KeyError, IndexError) as error:
        raise UserError(f"{source} holds no CurricularFace network: it lacks {error}") from None
    if sum(stride == 2 for stride in layout.strides) != 4 or units == 0:
        raise UserError(f"{source} holds no CurricularFace network: its {units} units are not four groups")
    return layout


def load_curricularface(path: Path, *, any_layout: bool = False) -> CurricularFace:
    """The network of a checkpoint file, float32, on the CPU, in eval mode.

    Only IR-101 is taken unless `any_layout` (a tiny checkpoint). Raises UserError for a damaged file, another
    network, and keys or shapes that do not fit.
    """
    tensors = read_state_dict(path)
    layout = layout_of(tensors, path)
    if layout != IR_101 and not any_layout:
        raise UserError(
            f"{path} is not CurricularFace IR-101: {len(layout.unit_widths)} units up to width "
            f"{max(layout.unit_widths)} instead of {len(IR_101.unit_widths)} up to {IR_101.unit_widths[-1]}"
        )
    with torch.device("meta"):
        network = CurricularFace(layout)
    load_exactly(network, tensors, path)
    network.float().eval()
    return network


def face_embeddings(network: nn.Module, faces_NHWC: np.ndarray) -> np.ndarray:
    """Embeddings of length 1, (N, D) float32, of aligned RGB uint8 faces (N, 112, 112, 3).

    An embedding of length zero becomes NaN, as officially.
    """
    device = next(network.parameters()).device
    faces_NCHW = torch.from_numpy(np.ascontiguousarray(faces_NHWC)).to(device).permute(0, 3, 1, 2).float()
    with exact_inference():
        raw_ND: np.ndarray = network(faces_NCHW.div(255).sub(0.5).div(0.5)).float().cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        normalised_ND: np.ndarray = raw_ND / np.linalg.norm(raw_ND, axis=1, keepdims=True)
    return normalised_ND
