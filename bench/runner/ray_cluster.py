"""The nodes of a Ray cluster: which there are, what each has, and which can do the work.

The driver looks at the nodes before it plans and again between results: a node with another version of this
package, without weights that others have, or without an answer is named in one line and not used; one that
joins later is.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from refbench.bench.console import note
from refbench.bench.devices import AUTO, Place
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import family_folder
from refbench.bench.provenance import package_version, source_commit
from refbench.bench.registry import load_plugins
from refbench.bench.runner.shipping import SentPlugin, placed_plugins

# How long a node may take to say what it has.
LONGEST_SURVEY_S = 120.0

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What an actor takes: a share of a GPU, or processor cores; `devices` bounds how many GPUs (or groups of
    cores) are used (None: all), `workers` is the number of actors on each.
    """

    gpus: bool | None
    devices: int | None
    workers: int
    threads: int

    @classmethod
    def of(cls, devices: str, workers: int, threads: int, *, needs_torch: bool) -> Demand:
        """As `--devices` says it: `auto` (GPUs if a node has any), `cpu`, `cuda`, or how many of `auto`'s.

        Raises UserError for a device by number: Ray gives GPUs out.
        """
        if workers < 1:
            raise UserError(f"--workers must be at least 1, not {workers}")
        kinds = {AUTO: None, "cpu": False, "cuda": True}
        text = devices.strip()
        count = int(text) if text.isdecimal() else None
        if (text not in kinds and count is None) or count == 0:
            raise UserError(
                f"--devices {one_line(devices, 60)}: with --executor ray it is auto, cpu, cuda or a number; "
                "Ray gives the devices out"
            )
        gpus = kinds.get(text) if needs_torch else False
        return cls(gpus=gpus, devices=count, workers=workers, threads=threads)

    def resources(self, node: Node) -> dict[str, float]:
        """What Ray reserves for an actor on a node."""
        if self.gpus:
            return {"num_gpus": 1 / self.workers, "num_cpus": 0}
        return {"num_gpus": 0, "num_cpus": min(self.threads, node.cores) / self.workers}

    def devices_of(self, node: Node) -> int:
        """How many GPUs, or groups of cores, a node has."""
        if self.gpus:
            return node.gpus
        return max(int(node.cores // self.threads), 1) if node.cores >= 1 else 0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A living node of the cluster with what it gives to actors."""

    id: str
    name: str
    cores: float
    gpus: int


def living_nodes() -> list[Node]:
    """The cluster's nodes, in the order of their ids."""
    import ray

    nodes = [
        Node(
            id=node["NodeID"],
            name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            cores=node["Resources"].get("CPU", 0),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: node.id)


@dataclass(eq=False)
class _Asked:
    """A node that was asked for its versions, or what there is, and has not answered yet."""

    node: Node
    answer: Any
    is_survey: bool = False
    deadline: float = field(default_factory=lambda: time.monotonic() + LONGEST_SURVEY_S)


class Cluster(Generic[Found]):
    """The nodes that can do the work, as far as they were looked at.

    `survey` is called on each node (it can be pickled) and says what is there. `accept` says why a node of
    which that was found is not used, or None; it may be set once the first nodes were looked at.
    """

    def __init__(self, demand: Demand, survey: Callable[[], Found], plugins: Sequence[SentPlugin]) -> None:
        self.run = secrets.token_hex(4)
        self.plugins = tuple(plugins)
        self.found: dict[str, tuple[Node, Found]] = {}
        self.accept: Callable[[Found], str | None] = lambda found: None
        self.say: Callable[[str], None] = note
        self._survey = survey
        self._asked: dict[str, _Asked] = {}
        self._refused: set[str] = set()
        self._reasons: dict[str, str] = {}
        if demand.gpus is None:
            demand = Demand(
                gpus=any(node.gpus for node in living_nodes()),
                devices=demand.devices,
                workers=demand.workers,
                threads=demand.threads,
            )
        self.demand = demand

    def look(self, *, wait: bool) -> None:
        """Look at the nodes that were not looked at yet; without `wait`, what they answer is taken later."""
        import ray

        for node in living_nodes():
            known = node.id in self.found or node.id in self._refused or node.id in self._asked
            if not known and self.demand.devices_of(node) > 0:
                check = self._on(node, ray.remote(_version_check())).remote()
                self._asked[node.id] = _Asked(node=node, answer=check)
        while self._asked:
            asked = {one.answer: one for one in self._asked.values()}
            first = min(one.deadline for one in asked.values()) - time.monotonic()
            ready, _ = ray.wait(list(asked), num_returns=1, timeout=max(first, 0) if wait else 0)
            late = [one.answer for one in asked.values() if one.deadline <= time.monotonic()]
            for reference in dict.fromkeys([*ready, *late]):
                self._hear(asked[reference])
            if not ready and not wait:
                return

    def _hear(self, asked: _Asked) -> None:
        """Take what a node answered: its versions, and then what was found there."""
        import ray

        node = asked.node
        answer = _answer(asked)
        if not isinstance(answer, str) and not asked.is_survey:
            answer = _version_fault((package_version("refalign-bench"), source_commit()), answer)
            if answer is None:
                survey = self._on(node, ray.remote(_surveyed))
                asked.answer = survey.remote(self._survey, self.plugins, self.run)
                asked.is_survey = True
                return
        del self._asked[node.id]
        if isinstance(answer, str):
            # One that has died meanwhile has nothing to be named for.
            if any(node.id == living.id for living in living_nodes()):
                self.refuse(node, answer)
        else:
            self.found[node.id] = (node, answer[0])

    def nodes(self) -> list[Node]:
        """The nodes to be used; those that `accept` turns away are named."""
        for node, found in list(self.found.values()):
            reason = self.accept(found)
            if reason is not None:
                self.refuse(node, reason)
        return [node for node, _ in self.found.values()]

    def refuse(self, node: Node, reason: str) -> None:
        """Say in one line why a node is not used (any more)."""
        self._refused.add(node.id)
        self._reasons[node.name] = reason
        self.found.pop(node.id, None)
        self.say(f"the node {node.name} is not used: {reason}")

    def require_a_node(self) -> None:
        """Raises UserError where no node can be used."""
        if self.found:
            return
        if self._reasons:
            name, reason = next(iter(self._reasons.items()))
            raise UserError(f"no node of the Ray cluster can be used ({name}: {one_line(reason, 200)})")
        what = "a GPU" if self.demand.gpus else "a free processor core"
        raise UserError(f"no node of the Ray cluster has {what}")

    def places(self) -> tuple[Place, ...]:
        """A place for each actor that the nodes now hold."""
        device = "cuda" if self.demand.gpus else "cpu"
        count = sum(self.demand.devices_of(node) for node in self.nodes())
        if self.demand.devices is not None:
            count = min(count, self.demand.devices)
        return (Place(device=device, alone=True),) * (count * self.demand.workers)

    def most_on_a_device(self) -> tuple[Place, ...]:
        """The places of those actors that share the memory of one GPU, or of one node."""
        device = "cuda" if self.demand.gpus else "cpu"
        shared = 1 if self.demand.gpus else max(map(self.demand.devices_of, self.nodes()), default=1)
        return (Place(device=device, alone=True),) * (shared * self.demand.workers)

    def _on(self, node: Node, remote: Any) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # A trace of a GPU, so that the device can be looked at.
        share = {"num_gpus": 0.001} if self.demand.gpus else {}
        return remote.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False),
            **share,
        )


def _version_check() -> Callable[[], tuple[str | None, str | None]]:
    """A function that travels as code, and so runs where this package is another one or not installed."""

    def versions() -> tuple[str | None, str | None]:
        from refbench.bench.provenance import package_version, source_commit

        return package_version("refalign-bench"), source_commit()

    return versions


def _version_fault(
    expected: tuple[str | None, str | None], there: tuple[str | None, str | None]
) -> str | None:
    for mine, theirs in zip(expected, there, strict=True):
        if mine is not None and theirs is not None and mine != theirs:
            return f"it has refalign-bench {_version_text(there)}, and the driver {_version_text(expected)}"
    return None


def _version_text(versions: tuple[str | None, str | None]) -> str:
    version, commit = versions
    return f"{version or '?'}{f' (commit {commit[:12]}{commit[40:]})' if commit else ''}"


def _surveyed(survey: Callable[[], Found], plugins: Sequence[SentPlugin], run: str) -> tuple[Found]:
    """What a survey finds on this node, in a tuple: a text alone is a fault."""
    load_plugins(placed_plugins(plugins, family_folder("node", run)))
    return (survey(),)


def _answer(asked: _Asked) -> Any:
    """What a node answered, or as a text why it did not."""
    import ray

    try:
        return ray.get(asked.answer, timeout=0.1)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked.answer, force=True)
        return f"it did not answer within {LONGEST_SURVEY_S:g} s"
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, ModuleNotFoundError) and (cause.name or "").startswith("refbench"):
            return "refalign-bench is not installed there"
        return f"{type(cause).__name__}: {one_line(cause, 200)}"
    except ray.exceptions.RayError as error:
        return one_line(error, 200)
