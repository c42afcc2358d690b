"""What an evaluation or a generation wants of a Ray cluster's nodes, and what it finds there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refbench.bench.devices import Place, check_memory
from refbench.bench.environment import Environment, available_gib, threads_per_job
from refbench.bench.files import machine
from refbench.bench.method import Method
from refbench.bench.metric import Metric
from refbench.bench.provenance import package_versions
from refbench.bench.runner.generating import RUN_PACKAGES, find_method_weights, make_method
from refbench.bench.runner.plan import Ability, abilities
from refbench.bench.runner.ray_cluster import Cluster, Demand
from refbench.bench.runner.ray_executor import RayExecutor
from refbench.bench.runner.run_config import JUDGED_METRIC
from refbench.bench.runner.scoring import make_metric, read_by
from refbench.bench.runner.shipping import GenerationShipping, ScoringShipping, sent_plugins
from refbench.bench.runner.sites import GenerationSite, ScoringSite
from refbench.bench.weights.kind import joined_kind, kind_of_digest
from refbench.bench.weights.store import weights_folder


@dataclass(frozen=True, kw_only=True)
class NodeFound:
    """What every node says: its machine, its free memory in GiB, and versions of what computes there."""

    machine: str
    free_gib: float
    packages: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ScoringFound(NodeFound):
    """What the metrics can do on a node."""

    able: Mapping[str, Ability]


@dataclass(frozen=True, kw_only=True)
class GenerationFound(NodeFound):
    """The digests of a method's weights on a node, or why it cannot run there."""

    digests: Mapping[str, str]
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class ScoringSurvey:
    """Looks on a node at what scoring needs. It is called there: options travel as they are."""

    metrics: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    weights: Path | None

    def __call__(self) -> ScoringFound:
        chosen = [make_metric(name, self.options.get(name, {})) for name in self.metrics]
        return ScoringFound(
            machine=machine(),
            free_gib=_free_gib(),
            packages=_scoring_packages(chosen),
            able=abilities(chosen, Environment(weights=self.weights)),
        )


@dataclass(frozen=True, kw_only=True)
class GenerationSurvey:
    """Looks on a node at what a method needs; as ScoringSurvey."""

    method: str
    options: Mapping[str, Any]
    settings: str | None
    weights: Path | None

    def __call__(self) -> GenerationFound:
        method = make_method(self.method, self.options, self.settings)
        digests, problem = find_method_weights(method, self.weights)
        return GenerationFound(
            machine=machine(),
            free_gib=_free_gib(),
            packages=package_versions(RUN_PACKAGES),
            digests=digests,
            problem=problem,
        )


def _free_gib() -> float:
    """The memory of the GPU that this process was given a trace of, else the machine's."""
    import ray

    return available_gib("cuda:0" if ray.get_gpu_ids() else "cpu")


def _scoring_packages(chosen: Sequence[Metric]) -> dict[str, str]:
    return package_versions(("av", *(name for metric in chosen for name in metric.packages())))


def ray_scoring_site(
    metrics: Sequence[Metric],
    *,
    options: Mapping[str, Mapping[str, Any]],
    weights: Path | None,
    devices: str,
    workers: int,
    plugins: Sequence[Path],
) -> ScoringSite:
    """The cluster as a place to score. Raises UserError where no node can be used."""
    weights = _weights(weights)
    demand = Demand.of(
        devices,
        workers,
        threads_per_job(),
        needs_torch=any("torch" in metric.packages() for metric in metrics),
    )
    survey = ScoringSurvey(
        metrics=tuple(metric.declaration.name for metric in metrics),
        options=options,
        weights=weights,
    )
    cluster = Cluster(demand, survey, sent_plugins(plugins))
    cluster.look(wait=True)
    cluster.require_a_node()
    # A metric that runs on some node must run on all that are used.
    able: dict[str, Ability] = {}
    for _, found in cluster.found.values():
        for name, ability in found.able.items():
            if name not in able or (able[name].cannot and not ability.cannot):
                able[name] = ability
    packages = _scoring_packages(metrics)
    has_budget = options.get(JUDGED_METRIC, {}).get("budget") is not None

    def accept(found: ScoringFound) -> str | None:
        for name, ability in found.able.items():
            if ability.cannot and not able[name].cannot:
                return f"{name} cannot run there: {ability.cannot}"
            if ability.kind != able[name].kind:
                return f"{name} has {ability.kind} weights there and {able[name].kind} ones elsewhere"
        if has_budget and found.machine != machine():
            return "the judge's budget is counted on the driver's machine alone"
        return _other_versions(packages, found.packages)

    cluster.accept = accept
    cluster.nodes()
    cluster.require_a_node()
    return ScoringSite(
        places=cluster.places(),
        sharing=cluster.most_on_a_device(),
        able=able,
        free_gib=lambda: _share_gib(cluster),
        executor=RayExecutor(cluster, ScoringShipping(), topic_of=read_by),
        weights=weights,
        plugins=(),
    )


def ray_generation_site(
    method: Method,
    *,
    name: str,
    options: Mapping[str, Any],
    settings: str | None,
    weights: Path | None,
    devices: str,
    workers: int,
    plugins: Sequence[Path],
) -> GenerationSite:
    """The cluster as a place to generate. Raises UserError where no node can be used."""
    weights = _weights(weights)
    demand = Demand.of(devices, workers, threads_per_job(), needs_torch=method.needs_torch)
    survey = GenerationSurvey(
        method=name,
        options=options,
        settings=settings,
        weights=weights,
    )
    cluster = Cluster(demand, survey, sent_plugins(plugins))
    cluster.look(wait=True)
    cluster.require_a_node()
    every = [found for _, found in cluster.found.values()]
    # All say the same where none has the weights.
    best = next((found for found in every if found.problem is None), every[0])
    packages = package_versions(RUN_PACKAGES)

    def accept(found: GenerationFound) -> str | None:
        if found.problem is not None and best.problem is None:
            return found.problem
        if found.digests != best.digests:
            return f"its weights of {method.name} are not those of the other nodes"
        return _other_versions(packages, found.packages)

    cluster.accept = accept
    cluster.nodes()
    cluster.require_a_node()

    def places() -> tuple[Place, ...]:
        sharing = cluster.most_on_a_device()
        needed = method.memory_gib(sharing[0].device)
        if needed is not None and joined_kind(map(kind_of_digest, best.digests.values())) == "real":
            check_memory(sharing, [(method.name, needed)], _share_gib(cluster))
        return cluster.places()

    return GenerationSite(
        digests=best.digests,
        problem=best.problem,
        places=places,
        executor=lambda places: RayExecutor(cluster, GenerationShipping()),
        weights=weights,
        plugins=(),
    )


def _weights(given: Path | None) -> Path | None:
    """The folder of weights by a path that means the same on every node."""
    folder = weights_folder(given)
    return None if folder is None else folder.absolute()


def _other_versions(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Why a node with these versions of packages is not used: records state those of the driver."""
    for name in sorted({*mine, *theirs}):
        if mine.get(name) != theirs.get(name):
            return f"it has {name} {theirs.get(name, 'not at all')}, and the driver {mine.get(name, 'none')}"
    return None


def _share_gib(cluster: Cluster[Any]) -> float:
    """The memory that each actor may plan with: its share where that is least."""
    demand = cluster.demand
    shares = [
        found.free_gib / demand.workers / (1 if demand.gpus else max(demand.devices_of(node), 1))
        for node, found in cluster.found.values()
    ]
    return min(shares, default=math.inf)
