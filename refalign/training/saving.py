"""Saving a run and taking it up again: network, moving average and AdamW's state, gathered or in shards.

A gathered checkpoint is written by the main process; in a sharded one each process writes what it holds, if
wanted while training goes on. Either way it counts once its folder has its name. A run goes on from both, in
any number of processes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refbench.baselines.wan.checkpoint import SHARDED, read_checkpoint
from refbench.bench.errors import UserError
from refbench.bench.provenance import package_versions, source_commit
from refbench.bench.weights.checkpoint import read_state_dict, write_tensors
from refbench.refalign.training.assembly import plain_config, save_network
from refbench.refalign.training.checkpoints import (
    EMA,
    NETWORK,
    OPTIMIZER,
    TRANSFORMER,
    Checkpoint,
    CheckpointStore,
    TrainingState,
    guarded_save,
    write_state,
)
from refbench.refalign.training.model import TrainingModel
from refbench.refalign.training.optimizer import placed_count
from refbench.refalign.training.parallel import MOMENTS, Parallel
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.sharded import (
    AVERAGE_PREFIX,
    MODEL_PREFIX,
    OPTIMIZER_PREFIX,
    ShardedState,
    start_writing,
    write_index,
)

VERSIONS = ("torch", "diffusers", "accelerate", "transformers", "peft")
AVERAGE_FILE = "average.safetensors"


@dataclass(kw_only=True)
class _Writing:
    """A sharded checkpoint on its way: when it began, and what comes of it (None, or why it failed)."""

    step: int
    began: float
    result: Future[str | None]
    blocked_s: float = 0.0
    told: bool = False


class Saver:
    """Writes the checkpoints of a run and reads the one that it goes on from.

    Args:
        averaged: the parameters of which `average` (diffusers' EMAModel, or None) keeps a moving average.
        inputs: the data and weights of the run by name.
    """

    def __init__(
        self,
        config: TrainingConfig,
        parallel: Parallel,
        store: CheckpointStore,
        model: TrainingModel,
        optimizer: torch.optim.Optimizer,
        *,
        average: Any,
        averaged: list[torch.nn.Parameter],
        inputs: Mapping[str, str],
    ) -> None:
        self.config = config
        self.parallel = parallel
        self.store = store
        self.model = model
        self.optimizer = optimizer
        self.average = average
        self.averaged = averaged
        self.inputs = dict(inputs)
        self._writing: _Writing | None = None

    def save(self, step: int) -> None:
        """Write a checkpoint of this step, or begin to where that goes on in the background.

        Raises UserError when it, or the one before it, cannot be written.
        """
        self.settle()
        if self.config.checkpoints.sharded and not self.config.lora.enabled:
            self._save_shards(step)
        else:
            self._save_whole(step)

    def settle(self) -> None:
        """Wait for the checkpoint that is being written. Raises UserError, in all processes, if it failed."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        reason = writing.result.result()
        self.parallel.together(lambda: reason)

    def failed(self) -> bool:
        """Whether it is known here that the checkpoint in the background could not be written."""
        writing = self._writing
        return writing is not None and writing.result.done() and writing.result.result() is not None

    def finished(self) -> str | None:
        """A line, once, about a checkpoint that became whole in the background."""
        writing = self._writing
        if (
            writing is None
            or writing.told
            or not writing.result.done()
            or writing.result.result() is not None
        ):
            return None
        writing.told = True
        seconds = time.perf_counter() - writing.began
        return (
            f"checkpoint of step {writing.step} is whole: training stood for {writing.blocked_s:.1f} s of "
            f"{seconds:.1f} s"
        )

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, whatever comes of it."""
        if self._writing is not None:
            self._writing.result.result()

    def _save_whole(self, step: int) -> None:
        whole = self.parallel.whole(dict(self.model.named_parameters()))
        averages = self.parallel.whole(self._averages())
        moments = self.parallel.optimizer_state(self.model, self.optimizer)
        base = self.inputs.get(NETWORK)

        def write(folder: Path) -> None:
            save_network(folder, self.model, self.config, whole, base_digest=base)
            if averages:
                save_network(folder / EMA, self.model, self.config, whole | averages, base_digest=base)
                if self.config.lora.enabled:
                    write_tensors(folder / AVERAGE_FILE, averages)
            write_tensors(folder / OPTIMIZER, moments)
            write_state(folder, self._state(step))

        self.parallel.together(lambda: guarded_save(self.store, step, write))

    def _save_shards(self, step: int) -> None:
        began = time.perf_counter()
        self.parallel.together(lambda: self._begun(step))
        state = self._state(step)
        folder = self.store.partial_of(step)
        result: Future[str | None] = Future()

        def end(written: Future[None]) -> None:
            error = written.exception()
            if error is None and self.parallel.is_main:
                error = self._named(state, folder)
            result.set_result(None if error is None else self._failure(step, error))

        written = start_writing(
            folder / SHARDED,
            self._tensors(),
            group=self.parallel.save_group,
            background=self.config.checkpoints.background,
        )
        blocked = time.perf_counter() - began
        self._writing = _Writing(step=step, began=began, result=result, blocked_s=blocked)
        written.add_done_callback(end)
        if not self.config.checkpoints.background:
            self.settle()

    def _begun(self, step: int) -> str | None:
        try:
            self.store.begin(step)
        except OSError as error:
            return self._failure(step, error)
        return None

    def _named(self, state: TrainingState, folder: Path) -> Exception | None:
        """Give a written checkpoint its name; what went wrong, or None."""
        try:
            write_index(folder / SHARDED, plain_config(self.model.transformer))
            write_state(folder, state)
            self.store.complete(state.step)
            self.store.prune()
        except Exception as error:  # noqa: BLE001 - in a thread of its own, where nobody else would hear of it
            return error
        return None

    def _failure(self, step: int, error: BaseException) -> str:
        if self.parallel.is_main:
            shutil.rmtree(self.store.partial_of(step), ignore_errors=True)
        return self.store.failure(step, error)

    def _state(self, step: int) -> TrainingState:
        return TrainingState(
            step=step,
            consumed_positions=step * self.config.run.samples_per_step,
            average_steps=None if self.average is None else self.average.optimization_step,
            processes=self.parallel.world_size,
            config=self.config.plain(),
            versions=package_versions(VERSIONS),
            inputs=self.inputs,
            commit=source_commit(),
        )

    def _averages(self) -> dict[str, torch.Tensor]:
        if self.average is None:
            return {}
        names = {id(value): name for name, value in self.model.named_parameters()}
        pairs = zip(self.averaged, self.average.shadow_params, strict=True)
        return {names[id(value)]: shadow for value, shadow in pairs}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """What this process gives to a sharded checkpoint, by its names there.

        Where every process has everything the main one gives it: the others would copy it for nothing.
        """
        if not (self.parallel.sharded or self.parallel.is_main):
            return {}
        return {
            **{MODEL_PREFIX + name: value for name, value in self.model.named_parameters()},
            **{AVERAGE_PREFIX + name: value for name, value in self._averages().items()},
            **{
                f"{OPTIMIZER_PREFIX}{name}/{moment}": value.reshape(-1) if value.ndim == 0 else value
                for name, parameter in self.model.named_parameters()
                for moment, value in self.optimizer.state.get(parameter, {}).items()
            },
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over what a checkpoint holds; the network of a gathered one was read before.

        Raises UserError for one that is damaged or of another network.
        """
        if checkpoint.sharded:
            self._restore_shards(checkpoint.shards)
        else:
            self._restore_whole(checkpoint.folder)
        if self.average is not None:
            self.average.optimization_step = checkpoint.state.average_steps or 0

    def _restore_shards(self, stored: ShardedState) -> None:
        trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        moments = stored.names(OPTIMIZER_PREFIX)
        strangers = [key for key in moments if key.rpartition("/")[0] not in trained]
        if strangers:
            raise UserError(f"{stored.folder} does not fit the network: it has no {strangers[0]}")
        # AdamW has none of a parameter that never had a gradient.
        state: dict[str, dict[str, torch.Tensor]] = {}
        for key in moments:
            name, _, moment = key.rpartition("/")
            parameter = trained[name]
            state.setdefault(name, {})[moment] = (
                torch.zeros(1) if moment == MOMENTS[0] else torch.empty_like(parameter, requires_grad=False)
            )
        targets: dict[str, torch.Tensor] = {
            **{MODEL_PREFIX + name: value for name, value in self.model.named_parameters()},
            **{AVERAGE_PREFIX + name: value for name, value in self._averages().items()},
        }
        for name, values in state.items():
            targets |= {f"{OPTIMIZER_PREFIX}{name}/{moment}": value for moment, value in values.items()}
        stored.read_into(targets, self.parallel.save_group)
        for name, values in state.items():
            count = values[MOMENTS[0]].reshape(())
            values[MOMENTS[0]] = placed_count(self.optimizer, trained[name], count)
            self.optimizer.state[trained[name]] = values

    def _restore_whole(self, folder: Path) -> None:
        self.parallel.load_optimizer_state(self.model, self.optimizer, folder / OPTIMIZER)
        if self.average is not None:
            self.parallel.load(self._averages(), self._stored_averages(folder))

    def _stored_averages(self, folder: Path) -> dict[str, torch.Tensor]:
        if self.parallel.sharded and not self.parallel.is_main:
            return {}
        # Of adapters, and in earlier checkpoints, the averages have a file of their own.
        if (folder / AVERAGE_FILE).is_file():
            return read_state_dict(folder / AVERAGE_FILE)
        network = read_checkpoint(folder / EMA / TRANSFORMER, dtype=torch.float32, extra_inputs=True)
        tensors = network.tensors | network.extra_inputs
        found = {f"transformer.{name}": value for name, value in tensors.items()}
        absent = [name for name in self._averages() if name not in found]
        if absent:
            raise UserError(f"{folder / EMA} does not fit the network: no average of {absent[0]}")
        return found
