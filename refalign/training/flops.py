"""Floating point operations of a training step, from the architecture, and their share of a GPU's peak.

Counted are matrix products and attention, as torch's own counter does, a multiply-add as two: what the model
needs, not what is executed again where blocks are recomputed (model FLOP utilisation, MFU, of Chowdhery et
al., arXiv 2204.02311). A step is three forward passes; where only adapters are trained, no gradient of the
network's own weights is computed, and its matrix products count twice. The loss with its projectors (less
than 0.1 % of a pass of the released networks) and adapters are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from refbench.bench.gpus import gpu_of_device
from refbench.refalign.training.batch import Batch

BACKWARD_OF_ATTENTION = 2
DEFAULT_PATCH = (1, 2, 2)


@dataclass(frozen=True, kw_only=True)
class ForwardFlops:
    """Operations of one sample's forward pass: `products` with weights, and `attention`."""

    products: float
    attention: float

    @property
    def total(self) -> float:
        """Both."""
        return self.products + self.attention

    def of_training(self, *, adapters: bool = False) -> float:
        """Operations of forward and backward pass; `adapters`: the network's own weights are frozen."""
        backward_of_products = 1 if adapters else 2
        return (1 + backward_of_products) * self.products + (1 + BACKWARD_OF_ATTENTION) * self.attention


def forward_flops(
    architecture: Mapping[str, Any], *, video_tokens: int, reference_tokens: int, text_rows: int
) -> ForwardFlops:
    """Operations of a pass over one sample with so many tokens and rows of text.

    `architecture` is the network's configuration; reference tokens do not attend to the text.
    """
    width = architecture["num_attention_heads"] * architecture["attention_head_dim"]
    tokens = video_tokens + reference_tokens
    patch = math.prod(architecture.get("patch_size", DEFAULT_PATCH))
    # Self-attention's four projections and the feed-forward over all tokens; text attention's query and
    # output over the video's tokens, its key and value over the text.
    block = tokens * (4 * width * width + 2 * width * architecture["ffn_dim"])
    block += 2 * (video_tokens + text_rows) * width * width
    outside = tokens * architecture["in_channels"] * patch * width
    outside += video_tokens * width * architecture["out_channels"] * patch
    outside += text_rows * (architecture["text_dim"] + width) * width
    outside += (architecture["freq_dim"] + width + 6 * width) * width
    attention = 4 * width * (tokens * tokens + video_tokens * text_rows)
    layers = architecture["num_layers"]
    return ForwardFlops(products=2.0 * (layers * block + outside), attention=float(layers * attention))


def peak_flops(device: torch.device, *, half: bool) -> float | None:
    """The GPU's dense peak in FLOP/s, in bfloat16 (`half`) or float32; None where it is not known."""
    if device.type != "cuda":
        return None
    gpu = gpu_of_device(torch.cuda.get_device_name(device))
    return None if gpu is None else gpu.peak_tflops(2 if half else 4) * 1e12


class StepMeter:
    """What an update takes of the machine: operations, their share of the GPUs' peak, the most memory.

    `architecture` is the network's configuration, `half`: it computes in bfloat16, `adapters`: they alone are
    trained, `processes`: each on a GPU as `device` is.
    """

    def __init__(
        self,
        architecture: Mapping[str, Any],
        device: torch.device,
        *,
        half: bool,
        adapters: bool,
        processes: int,
    ) -> None:
        self._architecture = architecture
        self._device = device
        self._adapters = adapters
        peak = peak_flops(device, half=half)
        self._peak = None if peak is None else peak * processes

    def start(self) -> None:
        """Begin an update: its own peak of memory is counted."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def tflop_of_sample(self, batch: Batch) -> float:
        """Operations of forward and backward pass of one sample of a batch, in 10^12."""
        flops = forward_flops(
            self._architecture,
            video_tokens=batch.video_tokens,
            reference_tokens=batch.reference_tokens,
            text_rows=batch.text_BLD.shape[1],
        )
        return flops.of_training(adapters=self._adapters) / 1e12

    def share_of_peak(self, tflop: float, seconds: float) -> float | None:
        """The share, 0 to 1, of all GPUs' peak that so many operations (10^12) in that time are."""
        return None if self._peak is None else tflop * 1e12 / seconds / self._peak

    def peak_gib(self) -> float | None:
        """The most memory that was allocated on this process's GPU since `start`; None on a CPU."""
        if self._device.type != "cuda":
            return None
        return float(torch.cuda.max_memory_allocated(self._device)) / 2**30
