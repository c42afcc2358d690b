"""Forward and backward of a small network as one CUDA graph.

A network this small is over before the host has named its next kernel: each step is thousands of launches.
Compiled, and replayed as one graph, a step costs one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import nn

WARM_UPS = 3


class ReplayedLosses:
    """The losses of a step, with the gradients of the network's parameters, in fixed places of memory.

    `once` computes both, from a batch (a dataclass of tensors) and a generator, by nothing but work of the
    GPU; every batch has the shapes of the first. Gradients are overwritten by each call: they are not to be
    set to None.
    """

    def __init__(
        self,
        once: Callable[[Any, torch.Generator], dict[str, torch.Tensor]],
        network: nn.Module,
        device: str,
    ) -> None:
        self.once = once
        self.network = network
        self.generator = torch.Generator(device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Any, seed: int) -> dict[str, torch.Tensor]:
        """The terms of a batch; those of the call before are overwritten."""
        if self.graph is None:
            self._capture(batch, seed)
        else:
            for field in fields(self.batch):
                getattr(self.batch, field.name).copy_(getattr(batch, field.name), non_blocking=True)
        assert self.graph is not None
        self.generator.manual_seed(seed)
        self.graph.replay()
        return self.terms

    def _capture(self, batch: Any, seed: int) -> None:
        self.batch = batch
        # Compilation, and memory that libraries take once, must be over before the recording.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self.generator.manual_seed(seed)
                self.once(batch, self.generator)
        torch.cuda.current_stream().wait_stream(aside)
        self.network.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        with torch.cuda.graph(self.graph):
            self.terms = self.once(self.batch, self.generator)
