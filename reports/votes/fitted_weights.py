"""Weights of the components that would explain the votes best: an opinion beside the official weights.

The chance that a voter prefers the first of two videos is taken as 1 / (1 + exp(-Σ b_c x_c)), where x_c is
the difference of their normalised scores; b ≥ 0 is fitted by maximum likelihood with a slight pull to 0, and
the weights are b / Σ b. A component that applies to neither video says nothing (x = 0); a pair of which only
one has a score is left out. Intervals are the central 95 % when voters and samples are drawn anew together,
which is rather too wide than too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refbench.bench.scores.bootstrap import SEED, Interval, interval

RIDGE = 0.01
RESAMPLES = 200
# Votes a component, below which no weights are fitted.
LEAST_VOTES = 10


@dataclass(frozen=True, kw_only=True)
class FittedWeights:
    """Component → weight and interval; empty with the reason in `none_because`. `n` votes entered."""

    weights: Mapping[str, float]
    intervals: Mapping[str, Interval | None]
    n: int
    none_because: str = ""


def fit_weights(
    components: Sequence[str],
    differences_VC: np.ndarray,
    wins: np.ndarray,
    voters: np.ndarray,
    samples: np.ndarray,
    *,
    resamples: int | None = None,
) -> FittedWeights:
    """Fit weights to votes. `differences_VC` is (votes, components) with NaN where a vote cannot enter."""
    complete = np.isfinite(differences_VC).all(axis=1)
    number = int(complete.sum())
    if number < LEAST_VOTES * len(components):
        reason = f"{number} votes with all scores are too few for {len(components)} weights"
        return FittedWeights(weights={}, intervals={}, n=number, none_because=reason)
    x_VC, wins = differences_VC[complete], wins[complete]
    fitted = _fit(x_VC, wins, np.ones(number))
    if fitted is None:
        reason = "no component goes with the votes"
        return FittedWeights(weights={}, intervals={}, n=number, none_because=reason)
    _, voter = np.unique(voters[complete], return_inverse=True)
    _, sample = np.unique(samples[complete], return_inverse=True)
    generator = np.random.default_rng([SEED, 4])
    rows = []
    for _ in range(RESAMPLES if resamples is None else resamples):
        drawn = [
            generator.multinomial(count, np.full(count, 1 / count)) if count > 1 else np.ones(1)
            for count in (int(voter.max()) + 1, int(sample.max()) + 1)
        ]
        row = _fit(x_VC, wins, drawn[0][voter] * drawn[1][sample])
        rows.append(np.full(len(components), np.nan) if row is None else row)
    draws = np.array(rows)
    return FittedWeights(
        weights=dict(zip(components, fitted.tolist(), strict=True)),
        intervals={name: interval(draws[:, index]) for index, name in enumerate(components)},
        n=number,
    )


def _fit(x_VC: np.ndarray, wins: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """Weights that sum to 1, or None where every component is better left out."""
    from scipy.optimize import minimize

    total = max(float(weights.sum()), 1.0)

    def loss(b_C: np.ndarray) -> tuple[float, np.ndarray]:
        score = x_VC @ b_C
        likelihood = wins * np.logaddexp(0, -score) + (1 - wins) * np.logaddexp(0, score)
        slope = weights * (1 / (1 + np.exp(-np.clip(score, -500, 500))) - wins)
        value = float(weights @ likelihood) / total + RIDGE / 2 * float(b_C @ b_C) / total
        return value, (x_VC.T @ slope + RIDGE * b_C) / total

    start = np.ones(x_VC.shape[1])
    done = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start))
    result = np.asarray(done.x)
    return result / result.sum() if result.sum() > 1e-9 else None
