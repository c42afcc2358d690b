"""Bradley–Terry ratings of methods from votes.

The probability that method i is preferred to j is 1 / (1 + exp(r_j - r_i)); ratings are log-odds with mean 0.
Fitted by maximum likelihood with `choix` (iterative Luce spectral ranking, Maystre and Grossglauser 2015)
from the matrix of wins, in which a tie is half a win for both. A tenth of a win and of a loss that each
method has against all others together keeps the rating of one that always won finite. Intervals: see
`resampling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refbench.bench.scores.bootstrap import Interval
from refbench.reports.votes.resampling import Draws, resample

PRIOR_WINS = 0.1
MOST_ITERATIONS = 2000
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Rating:
    """One method's rating for a criterion, with the votes that it rests on."""

    index: int
    rating: float
    interval: Interval | None
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """The ratings of all methods that votes compared, best first.

    `groups` holds more than one set of methods where no vote connects them: ratings of different groups then
    mean nothing beside each other.
    """

    ratings: tuple[Rating, ...]
    groups: tuple[tuple[int, ...], ...]
    draws: Draws

    def difference(self, one: int, other: int) -> tuple[float, Interval | None]:
        """How much higher `one` is rated than `other`, with its interval."""
        contrast = np.zeros(len(self.draws.estimate))
        contrast[one], contrast[other] = 1.0, -1.0
        return float(self.draws.estimate @ contrast), self.draws.interval(contrast)


def fit_ratings(wins: np.ndarray) -> np.ndarray:
    """Ratings (methods,) from a matrix whose entry (i, j) is how often i was preferred to j."""
    import choix

    matrix = wins + PRIOR_WINS / (len(wins) - 1)
    np.fill_diagonal(matrix, 0.0)
    fitted: np.ndarray = choix.ilsr_pairwise_dense(matrix, max_iter=MOST_ITERATIONS, tol=TOLERANCE)
    centred: np.ndarray = fitted - fitted.mean()
    return centred


def rate(
    first: np.ndarray,
    second: np.ndarray,
    wins: np.ndarray,
    voters: np.ndarray,
    samples: np.ndarray,
    methods: int,
    *,
    resamples: int | None = None,
) -> Ratings:
    """Rate `methods` methods from votes given as arrays of one length (see `Comparisons`)."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        forward = first * methods + second
        backward = second * methods + first
        rows = []
        for row in weights:
            won = np.bincount(forward, row * wins, methods**2)
            won += np.bincount(backward, row * (1 - wins), methods**2)
            rows.append(fit_ratings(won.reshape(methods, methods)))
        return np.array(rows)

    draws = resample(statistic, voters, samples, resamples=resamples)
    found = []
    for index in range(methods):
        results = np.concatenate([wins[first == index], 1 - wins[second == index]])
        if len(results):
            contrast = np.zeros(methods)
            contrast[index] = 1.0
            found.append(
                Rating(
                    index=index,
                    rating=float(draws.estimate[index]),
                    interval=draws.interval(contrast),
                    wins=int((results == 1).sum()),
                    ties=int((results == 0.5).sum()),
                    losses=int((results == 0).sum()),
                )
            )
    return Ratings(
        ratings=tuple(sorted(found, key=lambda one: -one.rating)),
        groups=connected(list(zip(first.tolist(), second.tolist(), strict=True))),
        draws=draws,
    )


def connected(pairs: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """The sets of methods that votes connect, directly or over others."""
    group_of: dict[int, set[int]] = {}
    for one, other in set(pairs):
        joint = group_of.get(one, {one}) | group_of.get(other, {other})
        for member in joint:
            group_of[member] = joint
    return tuple(sorted({tuple(sorted(group)) for group in group_of.values()}))
