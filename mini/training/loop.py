"""One training loop for all small networks: seeded, resumable at any step, with progress.

Everything random is a function of (name of the part, seed, step), and the number of threads is fixed, so a
run on one CPU machine gives the same bits whether or not it was interrupted.
"""

from __future__ import annotations

import json
import math
import random
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from refbench.bench.errors import UserError
from refbench.bench.files import replacing
from refbench.mini.training.replay import ReplayedLosses

# Sums come out in another order with another number of threads.
THREADS = 2
STATE_FILE, LOG_FILE = "state.pt", "log.jsonl"
SAVE_EVERY_S = 60.0
LOG_EVERY_STEPS = 50
# The factor of the moving average grows to its end value as (1 + n)/(10 + n), as diffusers' EMAModel's.
AVERAGE_START = 10

Batch = TypeVar("Batch")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length and step sizes of a run: AdamW, linear warm-up, then a cosine to a twentieth of the rate.

    `average` is the end value of the moving average's factor; None: the last weights are taken.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    average: float | None = None

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = min((step + 1) / self.warmup_steps, 1.0)
        return self.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


class Learner(Protocol[Batch]):
    """What is learned: a network, its examples, and its loss."""

    name: str
    network: nn.Module

    def examples(self, generator: random.Random, progress: float) -> Batch:
        """The examples of a step; `progress` (0 to 1) is the share of steps that are done."""

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The terms whose sum is minimised, by name."""


@dataclass(frozen=True, kw_only=True)
class Run(Generic[Batch]):
    """A training run of one learner in a folder of its own.

    `workers`: processes that prepare the examples; 0: a thread beside the training. They change no bit.
    `batch`: how many times its own number of examples the learner gives; a run goes on with the same only.
    `compiled`: on a GPU, forward and backward are compiled, in bfloat16, and replayed as one graph. For
    learners whose batches all have the same shapes, and whose losses are work of the GPU alone.
    """

    learner: Learner[Batch]
    schedule: Schedule
    folder: Path
    seed: int = 0
    device: str = "cpu"
    workers: int = 0
    batch: int = 1
    compiled: bool = False

    def train(self, on_step: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Train to the end, from where an earlier call stopped; then the network holds the weights to keep,
        in evaluation mode.

        Raises UserError when the folder holds a run of other settings, or the loss is not finite.
        """
        schedule = self.schedule
        if self.device != "cpu":
            # Tensor cores: eleven bits of a product's factors are enough to learn by.
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        network = self.learner.network.to(self.device).train()
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=1.0, weight_decay=schedule.weight_decay, fused=True
        )
        average = Average(network, schedule.average) if schedule.average is not None else None
        step = self._restore(network, optimizer, average)
        gradients = self._gradients()
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        saved = time.monotonic()
        with fixed_threads():
            for batch in self._batches(step):
                terms = gradients(on_device(batch, self.device), self._number("loss", step))
                for group in optimizer.param_groups:
                    group["lr"] = schedule.rate(step)
                nn.utils.clip_grad_norm_(network.parameters(), schedule.max_gradient_norm)
                optimizer.step()
                step += 1
                if average is not None:
                    average.update(network, step)
                finite &= torch.stack(list(terms.values())).isfinite().all()
                last = step == schedule.steps
                saving = last or time.monotonic() - saved > SAVE_EVERY_S
                # To look at a value is to wait for the GPU.
                if (saving or step % LOG_EVERY_STEPS == 0 or self.device == "cpu") and not bool(finite):
                    raise UserError(f"{self.learner.name}: the loss is not finite at step {step - 1}")
                if last or step % LOG_EVERY_STEPS == 0:
                    self._log(step, {name: term.item() for name, term in terms.items()})
                if saving:
                    self._save(step, network, optimizer, average)
                    saved = time.monotonic()
                on_step(step, schedule.steps)
        if average is not None:
            average.copy_to(network)
        network.eval()

    def _gradients(self) -> Callable[[Batch, int], dict[str, torch.Tensor]]:
        """What gives the terms of a batch, by a seed, and leaves the gradients at the parameters."""
        learner, network = self.learner, self.learner.network
        compiled = self.compiled and self.device != "cpu"

        def once(batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
            # A default device would break the compiled graph into pieces.
            with (
                made_on("cpu" if compiled else self.device),
                torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=compiled),
            ):
                terms = learner.losses(batch, generator)
                loss = torch.stack(list(terms.values())).sum()
            loss.backward()
            return {name: term.detach() for name, term in terms.items()}

        def in_turn(batch: Batch, seed: int) -> dict[str, torch.Tensor]:
            network.zero_grad(set_to_none=True)
            return once(batch, torch.Generator(self.device).manual_seed(seed))

        if not compiled:
            return in_turn
        network.compile(dynamic=False)
        return ReplayedLosses(once, network, self.device)

    def _batches(self, first: int) -> Iterator[Batch]:
        """The examples of the steps from `first` on, prepared ahead."""
        steps = range(first, self.schedule.steps)
        examples: _Examples[Batch] = _Examples(self.learner, self.schedule.steps, self.seed)
        if self.workers:
            yield from DataLoader(
                examples, batch_size=None, sampler=steps, num_workers=self.workers, collate_fn=_as_it_is
            )
            return
        with ThreadPoolExecutor(1) as ahead:
            pending = None
            for step in steps:
                batch = examples[step] if pending is None else pending.result()
                pending = ahead.submit(examples.__getitem__, step + 1) if step + 1 in steps else None
                yield batch

    def _number(self, what: str, step: int) -> int:
        return zlib.crc32(f"{self.learner.name}/{self.seed}/{step}/{what}".encode())

    def _settings(self) -> dict[str, Any]:
        return {"name": self.learner.name, "seed": self.seed, "batch": self.batch, **asdict(self.schedule)}

    def _restore(self, network: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> int:
        path = self.folder / STATE_FILE
        if not path.is_file():
            return 0
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["settings"] != json.dumps(self._settings()):
            raise UserError(f"{path} is of other settings; remove {self.folder}, or choose another --out")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.tensors = state["average"]
        return int(state["step"])

    def _save(
        self, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "settings": json.dumps(self._settings()),
            "step": step,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.tensors if average is not None else {},
        }
        with replacing(self.folder / STATE_FILE) as partial:
            torch.save(state, partial)

    def _log(self, step: int, terms: dict[str, float]) -> None:
        """A line of the losses. A resumed run repeats those after its last saved step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {"step": step, **{name: round(value, 6) for name, value in terms.items()}}
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class _Examples(Dataset[Batch], Generic[Batch]):
    """A learner's examples by step."""

    learner: Learner[Batch]
    steps: int
    seed: int

    def __getitem__(self, step: int) -> Batch:
        generator = random.Random(f"{self.learner.name}/{self.seed}/{step}")
        return self.learner.examples(generator, step / self.steps)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def on_device(batch: Any, device: str | torch.device) -> Any:
    """A batch (a tensor, or tuples, lists, mappings and dataclasses of them) with its tensors on a device."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: on_device(one, device) for key, one in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(on_device(one, device) for one in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        moved = {field.name: on_device(getattr(batch, field.name), device) for field in fields(batch)}
        return replace(batch, **moved)
    return batch


def made_on(device: str) -> AbstractContextManager[object]:
    """Inside, constants of losses come into being on that device."""
    # On the CPU they do so anyway, and the context would cost time at every call.
    return nullcontext() if device == "cpu" else torch.device(device)


class Average:
    """A moving average of a network's floating-point entries."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        self.factor = factor
        self.tensors = {key: value.detach().clone() for key, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step; entries that are no numbers with a point are copied."""
        factor = min(self.factor, (1 + step) / (AVERAGE_START + step))
        state = network.state_dict()
        moving = [key for key, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[key] for key in moving], [state[key] for key in moving], 1 - factor
        )
        for key in state.keys() - set(moving):
            self.tensors[key].copy_(state[key])

    def copy_to(self, network: nn.Module) -> None:
        """Let the network hold the average."""
        network.load_state_dict(self.tensors)


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Run torch on `THREADS` threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(name: str, seed: int) -> Iterator[None]:
    """Draw a network's first weights from (name, seed) and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{name}/{seed}".encode()))
        yield
