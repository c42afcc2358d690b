"""Which metrics are loaded together: as many as fit into the memory of the device, one turn after another."""

from __future__ import annotations

from collections.abc import Sequence

from refbench.bench.metric import Metric

# Activations, decoder and libraries beside the parameters. Measured on a GPU: OneAlign 4.2 GiB, NexusScore's
# detector 0.4 for each pair of a pass, GME 1.4, the others less.
WORKING_GIB = 5.0


def needed_gib(metrics: Sequence[Metric]) -> float:
    """What the parameters of several metrics take together at full size: shared weights count once."""
    entries = {entry.name: entry for metric in metrics for entry in metric.declaration.weights}
    return sum(entry.memory_gib for entry in entries.values())


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
