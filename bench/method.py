"""The method interface: one file in `baselines/` (or a plugin) declares and implements one generator.

A `Method` is light and knows its card; `load()` returns a ready `Generator`, which holds the networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from refbench.bench.environment import Environment
from refbench.bench.options import NoOptions
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import WeightEntry


class MethodCard(BaseModel):
    """What a method is, as data: printed, stored in `run.json`, and compared when two runs are compared.

    Sizes in pixels, fps in frames per second; `num_frames` are the frames of the finished video,
    `generated_frames` those the network made before trimming. What does not apply stays None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    summary: str
    base_model: str | None = None
    licence: str | None = None
    weights: dict[str, str] = Field(default_factory=dict, description="name → revision or digest")
    max_references: int | None = None
    reference_overflow: str | None = Field(
        default=None, description="what happens to references beyond the maximum"
    )
    reference_preparation: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    generated_frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    solver: str | None = None
    shift: float | None = None
    guidance: dict[str, float] = Field(default_factory=dict)
    negative_prompt: str | None = None
    prompt_set: str = "benchmark"
    settings: str = Field(
        default="native", description="native (the authors' defaults), matched or leaderboard"
    )
    deviations: tuple[str, ...] = Field(
        default=(), description="where the run differs from the authors' code"
    )
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A generated video in memory: RGB uint8 arrays of shape (height, width, 3) and frames per second.

    `images` may be a generator, so that a long video is never held whole. `notes` are remarks on this video
    that are said while it is made (`the prompt was cut after 512 tokens`).
    """

    images: Iterable[np.ndarray]
    fps: float
    notes: tuple[str, ...] = ()


OnStep = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """The `on_step` of a generation that nobody watches."""


class Generator(ABC):
    """A loaded method: makes videos. It is made ready and closed once."""

    @abstractmethod
    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Frames | Path:
        """The video for one sample: frames, or the path of a finished mp4, which is copied byte for byte.

        `on_step(done, total)` may be called after each step of a long sample, and with 0 when the first
        begins. Raises SampleError with the reason when this sample cannot be generated.
        """

    def close(self) -> None:
        """Give memory back."""
        return


class Method(ABC):
    """A generator of videos with its options, before anything is loaded.

    `Options` is a frozen dataclass of settings that the user may change with `--set key=value`; the text
    under each field is shown by `methods show`, and a field `settings` of it (`native`, `matched`,
    `leaderboard`) is what `--settings` sets. A result must depend on (sample, seed, options) alone, never on
    what was generated before. `weights` are the repositories that it loads, `modules` importable names of
    optional packages that `load` needs.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs_torch: ClassVar[bool] = False
    weights: ClassVar[tuple[WeightEntry, ...]] = ()
    modules: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options

    @abstractmethod
    def card(self) -> MethodCard:
        """The method card for these options."""

    def find_weights(self, environment: Environment) -> dict[str, str]:
        """Name → digest of what `load` will read, found on disk without loading it; cheap.

        `bench.weights.store.weights_fingerprint` makes such digests. They become part of the run's card.
        Raises MissingWeights for what is not there, UserError for what is there and cannot be used.
        """
        return {}

    def refuses(self, sample: Sample) -> str | None:
        """Why this sample cannot be generated (from the sample alone: too many references, none), or None.

        Asked for all samples before anything is loaded.
        """
        return None

    def run_variant(self) -> str | None:
        """The name of the variant that these options make of a run, where its videos must not stand beside
        the method's own as if they were the same (`cache-first-block`); None where they may.
        """
        return None

    def memory_gib(self, device: str) -> float | None:
        """About how much memory of the device a loaded generator needs with weights of full size, in GiB;
        None where that is not known.
        """
        return None

    def job_limit_s(self, device: str) -> float:
        """How many seconds one video may take on a slow device of that kind before it counts as a hang."""
        return 3600.0

    @abstractmethod
    def load(self, environment: Environment) -> Generator:
        """A ready generator; called once per worker, before its first video. Raises MissingWeights."""

    def option_values(self) -> dict[str, Any]:
        """The options as JSON-serialisable values, for the card."""
        return {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(self.options).items()
        }
