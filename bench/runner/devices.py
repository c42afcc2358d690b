"""Which device models run on, how much memory it has, and which metrics are loaded together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from refbench.bench.errors import UserError, one_line
from refbench.bench.metric import Metric
from refbench.bench.weights.store import CATALOGUE

# Activations, decoder and libraries beside the parameters. Measured on a GPU: OneAlign 4.2 GiB, NexusScore's
# detector 0.4 for each pair of a pass, GME 1.4, the others less.
WORKING_GIB = 5.0


def resolve_device(name: str, *, needs_torch: bool) -> str:
    """`auto` as `cuda` where torch sees a GPU, else `cpu`; a device that is not there is a UserError.

    torch is imported only where something that needs it is going to run.
    """
    if name == "cpu" or not needs_torch or find_spec("torch") is None:
        if name not in ("auto", "cpu"):
            raise UserError(f"--device {name} needs torch and a metric that uses it")
        return "cpu"
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except Exception as error:  # noqa: BLE001 - torch has a kind of error per back-end
        raise UserError(f"--device {name} cannot be used: {one_line(error, 120)}") from None
    return name


def available_gib(device: str) -> float:
    """Free memory of a GPU, or the machine's memory for the CPU, in GiB."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(device)[0]) / 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def needed_gib(metrics: Sequence[Metric]) -> float:
    """What the parameters of several metrics take together at full size: shared weights count once."""
    names = {name for metric in metrics for name in metric.declaration.weights}
    return sum(CATALOGUE[name].memory_gib for name in names if name in CATALOGUE)


def turns(metrics: Sequence[Metric], memory_gib: float) -> list[list[Metric]]:
    """Metrics in groups that are loaded together, one group after the other.

    Metrics that share weights stand next to each other. A group grows while its weights, shared ones counted
    once, and the working memory fit into `memory_gib`; a metric that does not fit alone gets a group of its
    own.
    """
    waiting = list(metrics)
    groups: list[list[Metric]] = []
    while waiting:
        group = [waiting.pop(0)]
        while (candidate := _next(group, waiting)) is not None:
            needed = needed_gib([*group, candidate])
            # What adds nothing joins even a group that is too large already.
            if needed > needed_gib(group) and needed + WORKING_GIB > memory_gib:
                break
            waiting.remove(candidate)
            group.append(candidate)
        groups.append(group)
    return groups


def _next(group: Sequence[Metric], waiting: Sequence[Metric]) -> Metric | None:
    """The waiting metric that adds the least memory to a group."""
    return min(waiting, key=lambda metric: needed_gib([*group, metric]), default=None)
