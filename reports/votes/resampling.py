"""Intervals for statistics of votes, which hang together in two ways: by voter and by sample.

Votes of one voter share a taste, votes on one sample share its videos. The variance of a statistic is that of
two-way clusters (Cameron, Gelbach and Miller 2011): the variance when voters are drawn anew, plus that when
samples are drawn anew (each with all its pairs), minus that when single votes are drawn anew, which both
hold. The interval is the estimate ± t standard errors, with Satterthwaite's degrees of freedom, so that three
voters do not look like thirty. The seed is fixed: the same votes give the same intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from refbench.bench.scores.bootstrap import CONFIDENCE, SEED, Interval

RESAMPLES = 400
# A resample can lose what a statistic needs; of more than this share no interval is given.
LARGEST_LEFT_OUT = 0.1

# Weights of the votes (resamples, votes) → values (resamples, columns), NaN where there is none.
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """A statistic's estimate (columns,) and its resamples (resamples, columns) by voter, sample and vote.

    `voters` and `samples` are how many there are; of fewer than two none are drawn, and the array is empty.
    """

    estimate: np.ndarray
    by_voter: np.ndarray
    by_sample: np.ndarray
    by_vote: np.ndarray
    voters: int
    samples: int

    def interval(self, contrast: np.ndarray) -> Interval | None:
        """The 95 % interval of `contrast @ values`; None where votes are too few for one."""
        from scipy.stats import t

        alone = _variance(self.by_vote @ contrast)
        voter = _variance(self.by_voter @ contrast, self.voters)
        sample = _variance(self.by_sample @ contrast, self.samples)
        value = float(self.estimate @ contrast)
        if alone is None or not np.isfinite(value) or (voter is None and sample is None):
            return None
        if voter is None or sample is None:
            variance = max(voter or 0.0, sample or 0.0, alone)
            freedom = float(max(self.voters, self.samples) - 1)
        else:
            # What voters add to the rest; noise of the three variances must not make it negative.
            added = max(voter - alone, 0.0)
            rest = max(sample, alone)
            variance = added + rest
            parts = added**2 / (self.voters - 1) + rest**2 / (self.samples - 1)
            freedom = variance**2 / parts if parts > 0 else 1.0
        reach = float(t.ppf(0.5 + CONFIDENCE / 2, freedom)) * float(np.sqrt(variance))
        return value - reach, value + reach

    def column_interval(self, column: int) -> Interval | None:
        """The interval of one value."""
        contrast = np.zeros(len(self.estimate))
        contrast[column] = 1.0
        return self.interval(contrast)


def resample(
    statistic: Statistic,
    voters: np.ndarray,
    samples: np.ndarray,
    *,
    resamples: int | None = None,
) -> Draws:
    """Draw a statistic anew; `voters` and `samples` hold each vote's voter and sample as numbers from 0.

    `resamples` of each kind are drawn (default: `RESAMPLES`).
    """
    votes = len(voters)
    repeats = RESAMPLES if resamples is None else resamples
    voter_count, sample_count = (len(np.unique(groups)) for groups in (voters, samples))
    estimate = statistic(np.ones((1, votes)))[0]

    def drawn(groups: np.ndarray, salt: int) -> np.ndarray:
        _, dense = np.unique(groups, return_inverse=True)
        number = int(dense.max()) + 1
        if number < 2:
            return np.empty((0, len(estimate)))
        generator = np.random.default_rng([SEED, salt, number])
        counts = generator.multinomial(number, np.full(number, 1 / number), size=repeats)
        return statistic(counts[:, dense].astype(np.float64))

    return Draws(
        estimate=estimate,
        by_voter=drawn(voters, 1),
        by_sample=drawn(samples, 2),
        by_vote=drawn(np.arange(votes), 3),
        voters=voter_count,
        samples=sample_count,
    )


def _variance(draws: np.ndarray, groups: int | None = None) -> float | None:
    """The variance of the finite draws; with few groups a bootstrap's is (n - 1) / n of what it should be."""
    finite = draws[np.isfinite(draws)]
    if len(finite) < 2 or len(finite) < (1 - LARGEST_LEFT_OUT) * len(draws):
        return None
    factor = groups / (groups - 1) if groups is not None else 1.0
    return float(finite.var(ddof=1)) * factor


def weighted_mean(values: np.ndarray) -> Statistic:
    """The mean of one number per vote; votes without one (NaN) do not enter."""
    present = np.isfinite(values)
    filled = np.where(present, values, 0.0)

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            mean: np.ndarray = (weights @ filled) / (weights @ present.astype(np.float64))
        return mean[:, None]

    return statistic


def mean_with_interval(
    values: np.ndarray, voters: np.ndarray, samples: np.ndarray
) -> tuple[float | None, Interval | None]:
    """The mean of values of the scale 0..1, NaN left out, and its interval within that scale."""
    present = np.isfinite(values)
    if not present.any():
        return None, None
    draws = resample(weighted_mean(values[present]), voters[present], samples[present])
    found = draws.column_interval(0)
    within = None if found is None else (max(found[0], 0.0), min(found[1], 1.0))
    return float(draws.estimate[0]), within
