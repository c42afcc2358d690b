"""One process or many: DDP, FSDP2 or HSDP around the training model, and its whole state.

accelerate finds the processes, moves and wraps the model, and accumulates. FSDP2 is put on with torch's
`fully_shard` itself: accelerate 1.15 does so on accelerators only (on a CPU its plugin is ignored and DDP
used), and would cast the inputs of every block, the rotary tables among them, to bfloat16. Under FSDP2 only
the main process holds the whole network, on the CPU; with a sharded checkpoint none does.

Weights, gradients and moments are float32 shards; bfloat16 is what blocks gather and compute in. Each call
reduces its gradients to shards at once, also where calls are accumulated: keeping them whole until the last
one would save communication and take the float32 size of the network on every card. HSDP shards within groups
of `run.shard_size` processes (a node), which hold copies of each other; only the last call of an update sums
over the groups.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from refbench.bench.errors import MissingWeights, UserError, one_line
from refbench.refalign.training.model import TrainingModel
from refbench.refalign.training.optimizer import placed_count
from refbench.refalign.training.settings import RunConfig, TrainingConfig

# What gloo and NCCL say of a process that is late, and of one that is gone.
LATE = re.compile(r"timed out|timeout", re.IGNORECASE)
GONE = re.compile(r"connection (closed|reset) by peer|connection was likely closed", re.IGNORECASE)
Result = TypeVar("Result")

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Parallel:
    """The processes of a run and what they do together."""

    def __init__(self, config: TrainingConfig, out: Path) -> None:
        from accelerate import Accelerator
        from accelerate.utils import (
            GradientAccumulationPlugin,
            InitProcessGroupKwargs,
            ProjectConfiguration,
        )

        run = config.run
        world_size = _world_size()
        self.accumulation = _accumulation(run, world_size)
        self.strategy = run.strategy if world_size > 1 else "single"
        self.sharded = self.strategy in ("fsdp2", "hsdp")
        self._mesh_shape = _mesh_shape(run, world_size) if self.sharded else ()
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="bf16" if run.precision == "bfloat16" else "no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=self.accumulation, sync_with_dataloader=False
            ),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=run.timeout_s))],
            log_with=_trackers(config) or None,
            project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "curves")),
        )
        self.device: torch.device = self.accelerator.device
        self.is_main: bool = self.accelerator.is_main_process
        self.rank: int = self.accelerator.process_index
        self.world_size: int = self.accelerator.num_processes
        # Checkpoints talk in a thread of their own, over CPUs, beside the training.
        self.save_group = (
            torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=run.timeout_s))
            if torch.distributed.is_initialized()
            else None
        )

    def wrap(
        self,
        model: TrainingModel | None,
        make: Callable[[], TrainingModel],
        optimizer: Callable[[Any], Any],
        *,
        filled_later: bool = False,
    ) -> tuple[TrainingModel, Any, Any]:
        """Distribute the training model: (the module itself, the wrapped module to call, its optimiser).

        `model` may be None under FSDP2 in all processes but the main one, which then build theirs with `make`
        on the meta device. `filled_later`: it is None in all of them, and the weights hold anything until a
        checkpoint is read into them.
        """
        if self.sharded:
            sharded = self._shard(model, make, filled_later=filled_later)
            return sharded, sharded, optimizer(sharded)
        if filled_later:
            with torch.device("meta"):
                model = make()
            model.to_empty(device=self.device)
        assert model is not None
        return model, self.accelerator.prepare(model), optimizer(model)

    def _shard(
        self, model: TrainingModel | None, make: Callable[[], TrainingModel], *, filled_later: bool
    ) -> TrainingModel:
        from accelerate.utils import broadcast_object_list
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        state = {} if model is None else {name: value.detach() for name, value in model.named_parameters()}
        types: list[Any] = [{name: value.dtype for name, value in state.items()}]
        broadcast_object_list(types)
        if model is None:
            with torch.device("meta"):
                model = make()
            for name, value in model.named_parameters():
                value.data = value.data.to(types[0].get(name, value.dtype))
        else:
            model = model.to("meta")
        half = self.accelerator.mixed_precision == "bf16"
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(
                self.device.type,
                self._mesh_shape,
                mesh_dim_names=("copies", "shards")[-len(self._mesh_shape) :],
            ),
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=torch.bfloat16 if half else None,
                reduce_dtype=torch.float32 if half else None,
                cast_forward_inputs=False,
            ),
        }
        for block in model.transformer.blocks:
            fully_shard(block, **settings)
        fully_shard(model, **settings)
        model.to_empty(device=self.device)
        register_fsdp_forward_method(model, "predict")
        if not filled_later:
            self.load(dict(model.named_parameters()), state)
        return model

    @contextmanager
    def micro_step(self, wrapped_model: Any) -> Iterator[bool]:
        """One call among those accumulated for an update; yields whether it is the last of them."""
        with self.accelerator.accumulate(wrapped_model):
            last = bool(self.accelerator.sync_gradients)
            if self.strategy == "hsdp":
                wrapped_model.set_requires_all_reduce(last)
            yield last

    def forget_calls(self) -> None:
        """Begin a new update with the next call, whatever was accumulated."""
        self.accelerator.step = 0

    def reshard(self, model: nn.Module) -> None:
        """Give up what a forward pass has gathered, so that the next one gathers the shards as they are then.

        FSDP2 keeps the root's own parameters whole after a pass without backward. Does nothing elsewhere.
        """
        if self.sharded:
            from torch.distributed.fsdp import FSDPModule

            for module in model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def load(self, targets: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
        """Copy the whole tensors of `state` into `targets` of the same names and shapes, sharded or not.

        For sharded targets only the main process needs a `state`.
        """
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(self.sharded_like(target, state.get(name)))

    def sharded_like(self, target: Any, value: torch.Tensor | None) -> torch.Tensor:
        """Shard a whole tensor of the main process like `target`; return it as it is where `target` is whole.

        `value`: of the shape of `target`; for sharded targets None in all processes but the main one.
        """
        if not hasattr(target, "full_tensor"):
            assert value is not None
            return value
        from torch.distributed.tensor import distribute_tensor

        if self.is_main:
            assert value is not None
            whole = value.to(self.device, target.dtype)
        else:
            whole = torch.empty(target.shape, dtype=target.dtype, device=self.device)
        placed: torch.Tensor = distribute_tensor(whole, target.device_mesh, target.placements)
        return placed

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors by name, whole and on the CPU, in the main process; an empty mapping in others."""
        found = {}
        for name, value in tensors.items():
            full = value.detach()
            if hasattr(full, "full_tensor"):
                full = full.full_tensor()
            if self.is_main:
                found[name] = full.cpu()
        return found

    def optimizer_state(self, model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
        """AdamW's state by `<parameter>/<name>`, whole, in the main process."""
        return self.whole(
            {
                f"{name}/{moment}": optimizer.state[parameter][moment]
                for name, parameter in model.named_parameters()
                if parameter in optimizer.state
                for moment in MOMENTS
            }
        )

    def load_optimizer_state(self, model: nn.Module, optimizer: Any, file: Path) -> None:
        """Load AdamW's state, as `optimizer_state` gives it, from a safetensors file.

        Raises UserError for a damaged file and for a state of other parameters.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="pt") as stored:
                names = set(stored.keys())
                for name, parameter in model.named_parameters():
                    if not parameter.requires_grad:
                        continue
                    keys = {moment: f"{name}/{moment}" for moment in MOMENTS}
                    if not names.issuperset(keys.values()) or any(
                        stored.get_slice(keys[moment]).get_shape() != list(parameter.shape)
                        for moment in MOMENTS[1:]
                    ):
                        raise UserError(f"{file} does not fit the network: no state of {name}")
                    count = stored.get_tensor(keys[MOMENTS[0]])
                    state = {MOMENTS[0]: placed_count(optimizer, parameter, count)}
                    for moment in MOMENTS[1:]:
                        here = self.is_main or not hasattr(parameter, "full_tensor")
                        value = stored.get_tensor(keys[moment]) if here else None
                        empty = torch.empty_like(parameter, requires_grad=False)
                        state[moment] = empty.copy_(self.sharded_like(parameter, value))
                    optimizer.state[parameter] = state
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} is damaged or missing: {one_line(error, 160)}") from None

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Rows (rows, columns) of all processes as (world size · rows, columns), in the order of their
        positions.
        """
        rows: torch.Tensor = self.accelerator.gather(values)
        return rows.view(self.world_size, -1, values.shape[1]).transpose(0, 1).flatten(0, 1)

    def gather_objects(self, values: list[Any]) -> list[Any]:
        """The lists of all processes, joined."""
        from accelerate.utils import gather_object

        found: list[Any] = gather_object(values)
        return found

    def from_main(self, work: Callable[[], Result]) -> Result:
        """Do `work` in the main process and return what it gave in all of them.

        A UserError or MissingWeights of the main process is raised in all as a UserError.
        """
        from accelerate.utils import broadcast_object_list

        answer: list[Any] = [None]
        if self.is_main:
            try:
                answer = [(work(), None)]
            except (UserError, MissingWeights) as error:
                answer = [(None, str(error))]
        broadcast_object_list(answer)
        value, reason = answer[0]
        if reason is not None:
            raise UserError(reason)
        found: Result = value
        return found

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        if self.world_size == 1:
            return flag
        return bool(self.accelerator.gather(torch.tensor([float(flag)], device=self.device)).any())

    def together(self, work: Callable[[], str | None]) -> None:
        """Do `work` in the main process; where it returns a reason, all processes raise it as a UserError."""
        from accelerate.utils import broadcast_object_list

        reason = [work() if self.is_main else None]
        broadcast_object_list(reason)
        if reason[0] is not None:
            raise UserError(reason[0])


def lost_process(error: RuntimeError, limit_s: int) -> str | None:
    """The line for an error of torch.distributed that means another process is late or gone; None for others.

    `limit_s`: the time limit that the group of processes has.
    """
    if LATE.search(str(error)):
        return (
            f"a process did not answer the others within {limit_s} s: it hangs, has ended, or works longer "
            "than run.timeout_s allows; its own lines say more, --resume goes on from the newest checkpoint"
        )
    if GONE.search(str(error)):
        return (
            "another process of the run has ended; its own lines say why, --resume goes on from the newest "
            "checkpoint"
        )
    return None


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _accumulation(run: RunConfig, world_size: int) -> int:
    """Calls of each process that make one update."""
    together = world_size * run.samples_per_call
    if run.samples_per_step % together:
        raise UserError(
            f"run.samples_per_step={run.samples_per_step} does not divide into {world_size} processes with "
            f"run.samples_per_call={run.samples_per_call}; take a multiple of {together}"
        )
    return run.samples_per_step // together


def _mesh_shape(run: RunConfig, world_size: int) -> tuple[int, ...]:
    """Processes by copy and shard; under FSDP2 there is one copy, and no dimension for it."""
    if run.strategy == "fsdp2":
        return (world_size,)
    size = run.shard_size or int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    if world_size % size:
        raise UserError(
            f"run.strategy=hsdp shards over groups of {size} processes, which {world_size} do not divide "
            "into; give run.shard_size"
        )
    return (world_size // size, size)


def _trackers(config: TrainingConfig) -> list[str]:
    chosen = [
        (name, package)
        for wanted, name, package in (
            (config.log.tensorboard, "tensorboard", "tensorboard"),
            (config.log.wandb, "wandb", "wandb"),
            (config.log.trackio, "trackio", "trackio"),
        )
        if wanted
    ]
    for name, package in chosen:
        if find_spec(package) is None:
            raise UserError(f"log.{name}=true needs the package {package}; pip install {package}")
    return [name for name, _ in chosen]
