"""The loop that trains every small network: seeded step by step, resumable at any, equal to the last bit.

A step's batch and noise are functions of (part, seed, step) alone, so a run that was stopped and goes on
makes the numbers of one that was not, on one machine with one number of threads.
"""

from __future__ import annotations

import math
import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refbench.bench.errors import UserError
from refbench.bench.files import replacing

STATE_FILE = "state.pt"
WARMUP_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """How a part is trained: its length, its largest learning rate (warmed up, then down to a tenth along a
    cosine), and how often its state is kept.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    keep_every: int = 200

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        falling = 0.1 + 0.45 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * falling * min((step + 1) / WARMUP_STEPS, 1.0)


@dataclass(frozen=True)
class StepDraws:
    """What is random about a step: `python` for scenes, `torch` for noise."""

    python: random.Random
    torch: torch.Generator


def draws_of(part: str, seed: int, step: int) -> StepDraws:
    """The draws of a step; equal for equal arguments."""
    name = f"{part}/{seed}/{step}"
    noise = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return StepDraws(random.Random(name), noise)


class Part(ABC):
    """A network and how it learns."""

    name: str
    settings: PartSettings

    @abstractmethod
    def network(self) -> torch.nn.Module:
        """The network, freshly initialised from torch's present seed."""

    @abstractmethod
    def loss(
        self, network: torch.nn.Module, step: int, draws: StepDraws
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """What a step makes smaller, and figures to show."""

    @abstractmethod
    def finish(self, network: torch.nn.Module, folder: Path) -> None:
        """Write the trained network below `folder`, in the format that the loaders read."""


OnStep = Callable[[int, int, dict[str, float]], None]


def train_part(
    part: Part,
    folder: Path,
    *,
    seed: int = 0,
    stop_at: int | None = None,
    on_step: OnStep = lambda done, total, figures: None,
) -> torch.nn.Module:
    """Train a part, or go on where an earlier call stopped, and write it below `folder` when it is done.

    `stop_at` ends before that step, for a run in pieces. Raises UserError for the state of another run.
    """
    settings = part.settings
    torch.manual_seed(zlib.crc32(f"{part.name}/{seed}".encode()))
    network = part.network().train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    work = folder / "work" / part.name
    first = _restored(work / STATE_FILE, part, seed, network, optimizer)
    last = settings.steps if stop_at is None else min(stop_at, settings.steps)
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        loss, figures = part.loss(network, step, draws_of(part.name, seed, step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.max_gradient_norm)
        optimizer.step()
        on_step(step + 1, settings.steps, figures)
        if (step + 1) % settings.keep_every == 0 or step + 1 == last:
            _keep(work / STATE_FILE, part, seed, step + 1, network, optimizer)
    network.eval()
    if last == settings.steps:
        part.finish(network, folder)
    return network


def _keep(
    path: Path, part: Part, seed: int, step: int, network: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    state = {
        "part": part.name,
        "seed": seed,
        "steps": part.settings.steps,
        "step": step,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with replacing(path) as partial:
        torch.save(state, partial)


def _restored(
    path: Path, part: Part, seed: int, network: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """The step to go on with, after the state of an earlier call was loaded; 0 without one."""
    if not path.is_file():
        return 0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    asked = {"part": part.name, "seed": seed, "steps": part.settings.steps}
    if {name: state.get(name) for name in asked} != asked:
        raise UserError(f"{path} is of another run of {part.name}: choose another --out or remove it")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
