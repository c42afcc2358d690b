"""Running networks and giving their memory back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def exact_inference() -> Iterator[None]:
    """No gradients, and float32 convolutions in full float32 while the block runs.

    Recent GPUs run them in TF32 unless told otherwise, which moves scores by 1e-4.
    """
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def release(*networks: nn.Module) -> None:
    """Free the parameters of networks, on whatever device, even while something still refers to them.

    A released network cannot run any more.
    """
    for network in networks:
        network.to("meta")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
