"""Does the alignment loss do what the paper says? RefAlign, the same without the loss, and the same without
the loss's negatives, trained in the drawn world with equal budgets and seeds.

OUT/seed-<n>/       features, trainings, weights, videos and scores of one seed; each part is resumed
OUT/experiment.json all figures; experiment.md the tables; features.png and curves.png the pictures

Figures are those of the protocol mini-1.0. An interval is over training seeds and samples: both are drawn
again, with replacement, in each resample.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from refbench.bench.dataset import domain_of
from refbench.bench.errors import UserError
from refbench.bench.files import write_json
from refbench.bench.scores.aggregate import sample_scores
from refbench.bench.scores.bootstrap import Interval, interval
from refbench.bench.scores.protocol import Protocol
from refbench.bench.scores.record import Record
from refbench.mini.contest import Contest
from refbench.mini.track import MINI
from refbench.mini.training.base import NAME as BASE
from refbench.mini.training.build import Build
from refbench.mini.training.finetune import (
    CLIPS,
    FEATURES,
    VARIANTS,
    Variant,
    make_features,
    make_variant,
)

TOTAL = "total"
RESAMPLES = 4000
# The paper's Table 2, as differences of the full method to the ablation: what the sign should be.
PAPER = {
    ("refalign-mini-no-ra", TOTAL): "higher",
    ("refalign-mini-no-ra", "facesim"): "lower",
    ("refalign-mini-no-ra", "nexusscore"): "higher",
    ("refalign-mini-no-ra", "naturalscore"): "higher",
    ("refalign-mini-positive-only", TOTAL): "higher",
    ("refalign-mini-positive-only", "facesim"): "higher",
    ("refalign-mini-positive-only", "nexusscore"): "about equal",
    ("refalign-mini-positive-only", "naturalscore"): "higher",
}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Where the trained parts are (`build`), where the experiment goes, and its size.

    `variants`: what is trained and compared; the first is compared with each other one.
    """

    build: Build
    out: Path
    seeds: int
    per_category: int
    variants: Sequence[Variant] = VARIANTS

    @property
    def methods(self) -> list[str]:
        """The variants as methods."""
        return [variant.entry.name for variant in self.variants]

    def seed_build(self, seed: int) -> Build:
        """The build of one seed: its variants are its own, everything else is linked from the build.

        Raises UserError where the base is not built yet.
        """
        if not (self.build.root / "parts" / f"{BASE}.json").is_file():
            raise UserError(f"{self.build.root} has no base yet: refbench mini build --out {self.build.root}")
        made = replace(self.build, root=self.out / f"seed-{seed}", seed=seed)
        own = {variant.entry.repository for variant in VARIANTS}
        for place in sorted(self.build.weights.glob("*/*")):
            name = str(place.relative_to(self.build.weights))
            link = made.weights / name
            if name not in own and not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(place.resolve())
        return made

    def train(self, seed: int, variant: Variant) -> None:
        """Train a variant from a seed, unless that is done."""
        made = self.seed_build(seed)
        note = made.root / "parts" / f"{variant.entry.name}.json"
        if note.is_file():
            return
        if seed == self.build.seed and (self.build.root / "parts" / note.name).is_file():
            # The build's own training has this seed: the same bits.
            shutil.copytree(
                self.build.weights / variant.entry.repository,
                made.weights / variant.entry.repository,
                dirs_exist_ok=True,
            )
        else:
            features = made.run_folder(FEATURES)
            if seed == self.build.seed and not features.is_symlink():
                features.parent.mkdir(parents=True, exist_ok=True)
                features.symlink_to(self.build.run_folder(FEATURES).resolve())
            elif seed != self.build.seed:
                make_features(made, self.build.run_folder(CLIPS))
            make_variant(made, variant)
        write_json(note, {"seed": seed, "variant": variant.entry.name, "scale": self.build.scale})

    def score(self, seed: int) -> list[Record]:
        """Generate and score the variants of a seed."""
        made = self.seed_build(seed)
        contest = Contest(
            out=made.root / "contest",
            per_category=self.per_category,
            methods=self.methods,
            weights=made.weights,
            device=self.build.device,
            shuffled=False,
        )
        return [record for one in contest.run().evaluated for record in one.records]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value on the scale 0..1 with its interval over seeds and samples, and the value of each seed."""

    value: float | None
    interval: Interval | None
    by_seed: tuple[float | None, ...]


def estimates(
    records: Sequence[Iterable[Record]],
    protocol: Protocol,
    methods: Sequence[str],
) -> dict[str, dict[str, Estimate]]:
    """Method → component (and `total`) → estimate, and under `A - B` the differences to the first method.

    `records` are those of each training seed.
    """
    drawn = {method: _Drawn.of([_of_method(one, method) for one in records], protocol) for method in methods}
    first, *others = drawn
    result = {method: one.estimates() for method, one in drawn.items()}
    for other in others:
        result[f"{first} - {other}"] = drawn[first].minus(drawn[other]).estimates()
    return result


def _of_method(records: Iterable[Record], method: str) -> list[Record]:
    return [record for record in records if record.method == method]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Normalised means by name: over everything, of each seed, and of each resample (the same draws of seeds
    and samples for every method).
    """

    names: tuple[str, ...]
    whole_N: np.ndarray
    by_seed_KN: np.ndarray
    draws_RN: np.ndarray

    @classmethod
    def of(cls, by_seed: Sequence[list[Record]], protocol: Protocol) -> _Drawn:
        columns = protocol.weighted_columns(domain_of(MINI.name))
        scores = [sample_scores(sorted(records, key=lambda one: one.key), columns) for records in by_seed]
        values_KSC = np.stack([one.official_SC for one in scores])
        dropped_KSC = np.stack([one.dropped_SC for one in scores])
        seeds, samples, _ = values_KSC.shape
        rng = np.random.default_rng(0)
        seed_RK = rng.integers(seeds, size=(RESAMPLES, seeds))
        sample_RS = rng.integers(samples, size=(RESAMPLES, samples))

        def normalised(means_C: np.ndarray) -> np.ndarray:
            values = [column.normalised(mean) for column, mean in zip(columns, means_C, strict=True)]
            weights = protocol.weights(domain_of(MINI.name))
            total = sum(
                weights[column.component.name] * value for column, value in zip(columns, values, strict=True)
            )
            return np.array([total, *values])

        def of_draw(seed_K: np.ndarray, sample_S: np.ndarray) -> np.ndarray:
            picked = values_KSC[seed_K][:, sample_S].reshape(-1, len(columns))
            dropped = dropped_KSC[seed_K][:, sample_S].reshape(-1, len(columns))
            return normalised(_means(picked, dropped))

        everything = np.arange(samples)
        return cls(
            names=(TOTAL, *(column.component.name for column in columns)),
            whole_N=of_draw(np.arange(seeds), everything),
            by_seed_KN=np.stack([of_draw(np.array([seed]), everything) for seed in range(seeds)]),
            draws_RN=np.stack([of_draw(*draw) for draw in zip(seed_RK, sample_RS, strict=True)]),
        )

    def minus(self, other: _Drawn) -> _Drawn:
        return replace(
            self,
            whole_N=self.whole_N - other.whole_N,
            by_seed_KN=self.by_seed_KN - other.by_seed_KN,
            draws_RN=self.draws_RN - other.draws_RN,
        )

    def estimates(self) -> dict[str, Estimate]:
        def known(value: float) -> float | None:
            return float(value) if np.isfinite(value) else None

        return {
            name: Estimate(
                value=known(self.whole_N[index]),
                interval=interval(self.draws_RN[:, index]),
                by_seed=tuple(map(known, self.by_seed_KN[:, index])),
            )
            for index, name in enumerate(self.names)
        }


def _means(values_NC: np.ndarray, dropped_NC: np.ndarray) -> np.ndarray:
    """Means of the columns; NaN for no value at all, the official 0 where all were dropped."""
    present_NC = np.isfinite(values_NC)
    counts_C = present_NC.sum(axis=0)
    sums_C = np.where(present_NC, values_NC, 0.0).sum(axis=0)
    means_C = np.where(counts_C > 0, sums_C / np.maximum(counts_C, 1), np.nan)
    return np.where((counts_C == 0) & dropped_NC.any(axis=0), 0.0, means_C)


def paper_says(difference: str, component: str) -> str:
    """What the paper's Table 2 says of a difference, or an empty text."""
    return PAPER.get((difference.rpartition(" - ")[2], component), "")


def agrees(estimate: Estimate, says: str) -> str:
    """Whether a measured difference points where the paper's does, in a word; `–` where it says nothing."""
    if not says or estimate.interval is None:
        return "–"
    low, high = estimate.interval
    found = "higher" if low > 0 else "lower" if high < 0 else "not told apart"
    if says == found or (says == "about equal" and found == "not told apart"):
        return "yes"
    return "open" if found == "not told apart" else "no"
