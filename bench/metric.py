"""The metric interface: one file in `metrics/` (or a plugin) declares and implements one metric.

A `Metric` is light: its module and its declaration are read without importing torch, cv2 or a model library.
`load()` returns a ready `Scorer`, which holds the networks. A complete example is
`metrics/motion_amplitude.py`; `docs/plugins.md` says how to write one outside of this project.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from refbench.bench.environment import Environment, missing_packages
from refbench.bench.errors import MissingWeights
from refbench.bench.options import NoOptions
from refbench.bench.sample import Input, Sample
from refbench.bench.video import Video
from refbench.bench.weights.entry import WeightEntry


@dataclass(frozen=True, kw_only=True)
class ScoringCost:
    """What scoring one video takes, for `refbench plan --evaluate`.

    `gpu_s` are seconds of the networks at full size, measured on the card `gpu`; `assumed_gpu_s` are further
    seconds of it that were not measured. `parallel_s` and `serial_s` are seconds of one processor thread,
    of work that is and that is not spread over the threads of a worker, without decoding. `tflop` are the
    networks' operations, from which a processor's time follows; `parameter_bytes` is 2 where a GPU runs them
    in half precision. `peak_gib` is the measured peak of that card's memory, weights included. A cost that
    `grows_with` the frames of a video or the references of its sample is of `measured_at` of them. The work
    of the metrics in `shares` comes in addition, decoding included, unless they are scored in the same turn.
    `remarks` say what is assumed and what is left out.
    """

    gpu: str = "h200"
    gpu_s: float = 0.0
    assumed_gpu_s: float = 0.0
    parallel_s: float = 0.0
    serial_s: float = 0.0
    tflop: float = 0.0
    parameter_bytes: int = 4
    peak_gib: float = 0.0
    grows_with: Literal["frames", "references"] | None = None
    measured_at: int = 1
    shares: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MetricDeclaration:
    """What a metric says of itself.

    `version` is raised whenever its numbers can change: records of another version are scored again.
    `component` names the protocol's column it fills (None: supplementary). `uses` are the inputs that its
    score depends on; a change of any other leaves its records current. `weights` are the repositories that it
    loads, `optional_weights` those that it loads under certain options only; `refbench weights` knows both.
    `job_limit_s` is how many seconds one video may take on a slow machine before it counts as a hang; `cost`
    is what it is expected to take, where that is known.
    `packages` are the distributions whose versions a record states (`Metric.packages` adds an option's).
    """

    name: str
    version: str
    summary: str
    source: str
    component: str | None = None
    uses: frozenset[Input] = frozenset({"video"})
    weights: tuple[WeightEntry, ...] = ()
    optional_weights: tuple[WeightEntry, ...] = ()
    job_limit_s: float = 3600.0
    cost: ScoringCost | None = None
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric's answer for one video: a finite raw value (official scale) and JSON-serialisable details."""

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)


class Scorer(ABC):
    """A loaded metric: turns (sample, video) into a score. It is made ready and closed once."""

    @abstractmethod
    def score(self, sample: Sample, video: Video) -> Score:
        """The raw score of one video. Raises SampleError with the reason when there is none."""

    def provenance(self) -> dict[str, Any]:
        """`dtype`, `batch_size`, `weights` (digests by name); what is not said stays empty."""
        return {}

    def close(self) -> None:
        """Give memory back before another metric loads."""
        return


class Metric(ABC):
    """A metric with its options, before anything is loaded.

    `Options` is a frozen dataclass of settings that the user may change with `--set METRIC.key=value`; they
    are part of each record's settings digest, and the text under each field is shown by `metrics show`.
    `modules` are importable names of the optional packages that `load` needs.
    """

    declaration: ClassVar[MetricDeclaration]
    modules: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options

    def not_applicable(self, sample: Sample) -> str | None:
        """Why the metric does not apply to this sample (from the sample alone), or None."""
        return None

    def find_weights(self, environment: Environment) -> object:
        """Find on disk what `load` reads, without reading it. Raises MissingWeights for what is not there."""
        return None

    def unavailable(self, environment: Environment) -> str | None:
        """Why the metric cannot run here, without loading anything: weights or `modules` missing; or None."""
        try:
            self.find_weights(environment)
        except MissingWeights as error:
            return str(error)
        return missing_packages(self.modules)

    def packages(self) -> tuple[str, ...]:
        """The distributions that compute the score under these options; records state their versions."""
        return self.declaration.packages

    def forecast(self, videos: int) -> str | None:
        """What scoring so many videos will cost outside of this machine, said before work starts; or None."""
        return None

    def cost(self) -> ScoringCost | None:
        """What one video takes of this machine under these options; None where that is not known."""
        return self.declaration.cost

    @abstractmethod
    def load(self, environment: Environment) -> Scorer:
        """A ready scorer with its networks on `environment.device`; called once per worker.

        Raises MissingWeights with the names and how to get them.
        """

    def settings(self) -> dict[str, Any]:
        """What the score depends on beyond its inputs, as JSON; its digest is part of the record."""
        return asdict(self.options)
