"""The optimiser of a run: AdamW, the parameters that it decays, and the learning rate of each update.

The rate is a function of the update's number and the configuration alone, so a resumed run has the rates of
one that was never stopped.

    constant  learning_rate
    linear    from learning_rate to final_rate in a straight line
    cosine    from learning_rate to final_rate along half a cosine

linear and cosine run from the end of the warm-up to update `optimizer.schedule_steps`; updates after it have
the final rate. The formulas are those of transformers' `get_cosine_schedule_with_warmup` and
`get_linear_schedule_with_warmup`, except that the warm-up's first update has 1/`warmup_steps` of the rate,
not 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from refbench.bench.errors import UserError
from refbench.refalign.training.settings import OptimizerConfig, TrainingConfig

# The authors' scheduler: a third of the rate until it has made five steps.
AUTHORS_FACTOR, AUTHORS_STEPS = 1 / 3, 5
# Wan's modulation tables (1,6,channels) are added to what they modulate, as a bias is.
ADDED_TABLE = "scale_shift_table"


def learning_rate(config: OptimizerConfig, step: int, world_size: int) -> float:
    """The rate of update `step` (from 0 on). `config` has its `schedule_steps` (`with_schedule_steps`)."""
    rate = config.learning_rate
    if config.schedule != "constant" and step >= config.warmup_steps:
        assert config.schedule_steps is not None
        length = config.schedule_steps - config.warmup_steps
        done = min((step - config.warmup_steps) / length, 1)
        kept = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        rate = config.final_rate + (rate - config.final_rate) * kept
    if config.warmup_steps:
        rate *= min((step + 1) / config.warmup_steps, 1)
    if config.authors_warmup and step * world_size < AUTHORS_STEPS:
        rate *= AUTHORS_FACTOR
    return rate


def with_schedule_steps(config: TrainingConfig, stored: Mapping[str, Any] | None = None) -> TrainingConfig:
    """The configuration with the length of its schedule filled in: that of the run in `stored` settings, else
    `run.max_steps`. So a run that is made longer later keeps the rates that it had.

    Raises UserError for a warm-up that leaves nothing of the schedule, and for updates after its end where
    their rate would be 0.
    """
    optimizer, run = config.optimizer, config.run
    if optimizer.schedule == "constant":
        return config
    steps = optimizer.schedule_steps
    if steps is None:
        steps = (stored or {}).get("optimizer", {}).get("schedule_steps") or run.max_steps
    if steps <= optimizer.warmup_steps:
        raise UserError(
            f"optimizer.schedule={optimizer.schedule} over {steps} updates ends within "
            f"optimizer.warmup_steps={optimizer.warmup_steps}; give optimizer.schedule_steps"
        )
    if run.max_steps > steps and not optimizer.final_rate:
        raise UserError(
            f"the {optimizer.schedule} schedule of this run ends at update {steps} with a rate of 0: "
            f"updates from there to run.max_steps={run.max_steps} would learn nothing; stop at {steps}, or "
            "begin a new run with optimizer.final_rate or a longer optimizer.schedule_steps"
        )
    return replace(config, optimizer=replace(optimizer, schedule_steps=steps))


def schedule_text(config: TrainingConfig) -> str | None:
    """A line on a schedule that ends before the run does, or None."""
    optimizer, run = config.optimizer, config.run
    if optimizer.schedule_steps is None or optimizer.schedule_steps >= run.max_steps:
        return None
    return (
        f"the {optimizer.schedule} schedule ends at update {optimizer.schedule_steps} "
        f"(optimizer.schedule_steps); later ones have the final rate {optimizer.final_rate:g}"
    )


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trained parameters of a model, in their order.

    With `weight_decay_on` "all" they are one group; with "matrices" a second group, which is not decayed, has
    norms, biases and modulation tables.
    """
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    groups: list[dict[str, Any]]
    if config.weight_decay_on == "all":
        groups = [{"params": [value for _, value in trained]}]
    else:
        matrices = set(_matrices(trained))
        groups = [
            {"params": [value for name, value in trained if name in matrices]},
            {"params": [value for name, value in trained if name not in matrices], "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        **_kernel(config, trained[0][1].device),
    )


def placed_count(optimizer: torch.optim.Optimizer, parameter: Any, count: torch.Tensor) -> torch.Tensor:
    """A restored count of a parameter's updates where AdamW keeps it: beside the parameter where it is fused,
    else on the CPU.
    """
    return count.to(parameter.device if optimizer.param_groups[0]["fused"] else "cpu")


def _matrices(trained: list[tuple[str, nn.Parameter]]) -> Iterator[str]:
    """Names of the weights that inputs are multiplied with."""
    for name, value in trained:
        if value.ndim > 1 and name.rpartition(".")[2] != ADDED_TABLE:
            yield name


def _kernel(config: OptimizerConfig, device: torch.device) -> dict[str, bool]:
    """AdamW's implementation; the loop is what torch takes on a CPU by itself."""
    if config.kernel == "auto":
        return {"fused": True} if device.type == "cuda" else {}
    return {"foreach": config.kernel == "foreach", "fused": config.kernel == "fused"}
