"""Where work is done: this machine or a Ray cluster, as an evaluation and a generation see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.devices import Place
from refbench.bench.runner.executors import Executor
from refbench.bench.runner.generating import GenerationJob, GenerationOutcome
from refbench.bench.runner.plan import Ability
from refbench.bench.runner.scoring import ScoringJob, ScoringOutcome


@dataclass(frozen=True, kw_only=True)
class ScoringSite:
    """Where an evaluation's scoring is done: a place for each worker, those of them that share the memory of
    one device (`free_gib` is the share of each), what each metric can do there, and what workers there need.
    """

    places: tuple[Place, ...]
    sharing: tuple[Place, ...]
    able: Mapping[str, Ability]
    free_gib: Callable[[], float]
    executor: Executor[ScoringJob, ScoringOutcome]
    weights: Path | None
    plugins: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class GenerationSite:
    """Where a generation is done: the digests of the weights there, or why the method cannot run; a place for
    each worker, as soon as there is work, and its executor; and what workers there need.
    """

    digests: Mapping[str, str]
    problem: str | None
    places: Callable[[], tuple[Place, ...]]
    executor: Callable[[Sequence[Place]], Executor[GenerationJob, GenerationOutcome]]
    weights: Path | None
    plugins: tuple[Path, ...]
