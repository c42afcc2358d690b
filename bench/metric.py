"""The metric interface: one file in `metrics/` (or a plugin) declares and implements one metric.

A metric is a light class until `load()`: importing its module and reading its declaration must not import
torch, cv2 or a model library. A complete example is `metrics/motion_amplitude.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from refbench.bench.errors import MissingWeights
from refbench.bench.options import NoOptions
from refbench.bench.sample import Input, Sample
from refbench.bench.video import Video


@dataclass(frozen=True, kw_only=True)
class MetricDeclaration:
    """What a metric says of itself.

    `version` is raised whenever its numbers can change: records of another version are scored again.
    `component` names the protocol's column it fills (None: supplementary). `uses` are the inputs that its
    score depends on; a change of any other leaves its records current. `weights` are names in the weight
    catalogue, `packages` the distributions whose versions a record states.
    """

    name: str
    version: str
    summary: str
    source: str
    component: str | None = None
    uses: frozenset[Input] = frozenset({"video"})
    weights: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a metric or method runs: `device` as torch names it, CPU threads it may use, folder of
    weights.
    """

    device: str = "cpu"
    threads: int = 1
    weights: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric's answer for one video: a finite raw value (official scale) and JSON-serialisable details."""

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)


class Metric(ABC):
    """Turns (sample, video) into a score.

    `Options` is a frozen dataclass of settings that the user may change with `--set METRIC.key=value`; they
    are part of each record's settings digest.
    """

    declaration: ClassVar[MetricDeclaration]
    # Importable names of the optional packages that `load` needs.
    modules: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options
        self.environment = Environment()

    def not_applicable(self, sample: Sample) -> str | None:
        """Why the metric does not apply to this sample (from the sample alone), or None."""
        return None

    def find_weights(self, environment: Environment) -> object:
        """Find on disk what `load` reads, without reading it. Raises MissingWeights for what is not there."""
        return None

    def unavailable(self, environment: Environment) -> str | None:
        """Why the metric cannot run here, without loading anything: weights or `modules` missing; or None."""
        from refbench.bench.weights.store import missing_packages

        try:
            self.find_weights(environment)
        except MissingWeights as error:
            return str(error)
        return missing_packages(self.modules)

    def forecast(self, videos: int) -> str | None:
        """What scoring so many videos will cost outside of this machine, said before work starts; or None."""
        return None

    def load(self, environment: Environment) -> None:
        """Load models onto `environment.device`; called once per worker before the first score.

        Raises MissingWeights with the names and how to get them.
        """
        self.environment = environment

    @abstractmethod
    def score(self, sample: Sample, video: Video) -> Score:
        """The raw score of one video. Raises SampleError with the reason when there is none."""

    def settings(self) -> dict[str, Any]:
        """What the score depends on beyond its inputs, as JSON; its digest is part of the record."""
        return asdict(self.options)

    def provenance(self) -> dict[str, Any]:
        """`dtype`, `batch_size`, `weights` (digests by name) after `load()`; what is not said stays empty."""
        return {}

    def close(self) -> None:
        """Give memory back before another metric loads."""
        return
