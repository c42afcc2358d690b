"""A program that drives jobs on Ray, for the tests that kill it: `ray_driver.py ADDRESS PIDS`."""

from __future__ import annotations

import sys
from pathlib import Path

from kit.pool import Task, make_talker
from refbench.bench.runner.ray_cluster import Cluster, Demand
from refbench.bench.runner.ray_connection import connected
from refbench.bench.runner.ray_executor import RayExecutor


def nothing() -> None:
    """A survey of nodes that asks for nothing."""


if __name__ == "__main__":
    address, mark = sys.argv[1:]
    with connected(address, 1):
        cluster = Cluster(Demand.of("cpu", 1, 1, needs_torch=False), nothing, ())
        cluster.look(wait=True)
        executor = RayExecutor[Task, str](cluster)
        list(executor.run(make_talker, [Task(id="hangs", what="hang", mark=Path(mark))]))
