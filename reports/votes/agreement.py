"""Who agrees with whom: voters among themselves, and the benchmark's components with the voters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from refbench.bench.scores.bootstrap import Interval
from refbench.reports.votes.comparisons import Comparisons
from refbench.reports.votes.resampling import mean_with_interval


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of votes with its interval; None where there is no vote. `n` votes entered."""

    share: float | None
    interval: Interval | None
    n: int


@dataclass(frozen=True, kw_only=True)
class VoterAgreement:
    """How far voters agree on one criterion.

    `same` is the share of pairs of votes on one pair of videos, neither a tie, that prefer the same video;
    `n` is their number. `alpha` is Krippendorff's alpha over first, second and tie: 1 for full agreement, 0
    for what chance gives. None where no pair was voted on twice, or all votes are equal (alpha).
    """

    same: float | None
    n: int
    alpha: float | None


def position_bias(votes: Comparisons, criterion: str) -> Share:
    """The share of votes for the left video among those that are no tie; 0.5 without a bias, since sides are
    drawn.
    """
    wins = votes.wins[criterion]
    left = np.where(wins == 0.5, np.nan, (wins == 1.0) == votes.first_left)
    share, interval = mean_with_interval(left, votes.voter, votes.sample)
    return Share(share=share, interval=interval, n=int((wins != 0.5).sum()))


def voter_agreement(votes: Comparisons, criterion: str) -> VoterAgreement:
    """How far the voters agree with each other."""
    by_pair: dict[int, list[float]] = {}
    for pair, won in zip(votes.pair.tolist(), votes.wins[criterion].tolist(), strict=True):
        by_pair.setdefault(pair, []).append(won)
    both = [
        one == other
        for group in by_pair.values()
        for one, other in combinations(group, 2)
        if one != 0.5 and other != 0.5
    ]
    return VoterAgreement(
        same=sum(both) / len(both) if both else None, n=len(both), alpha=alpha(list(by_pair.values()))
    )


def alpha(units: Sequence[Sequence[float]]) -> float | None:
    """Krippendorff's alpha of nominal values, a sequence of values per unit; None where it is not defined.

    1 - observed / expected disagreement, over the units with at least two values (Krippendorff 2011).
    """
    kept = [list(unit) for unit in units if len(unit) > 1]
    values = sorted({value for unit in kept for value in unit})
    if len(values) < 2:
        return None
    coincidences = np.zeros((len(values), len(values)))
    for unit in kept:
        counts = np.array([unit.count(value) for value in values], float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidences.sum(axis=1)
    total = totals.sum()
    observed = total - np.trace(coincidences)
    expected = (total**2 - (totals**2).sum()) / (total - 1)
    return float(1 - observed / expected)


def pairwise_accuracy(votes: Comparisons, criterion: str, difference: np.ndarray) -> Share:
    """How often a score prefers the video that the voter preferred.

    `difference` is per vote the first video's score minus the second's, NaN where one has none. Ties of
    voters do not enter; a score that is equal for both is right by half.
    """
    wins = votes.wins[criterion]
    right = np.where(difference == 0, 0.5, (difference > 0) == (wins == 1.0))
    right = np.where((wins == 0.5) | np.isnan(difference), np.nan, right)
    share, interval = mean_with_interval(right, votes.voter, votes.sample)
    return Share(share=share, interval=interval, n=int(np.isfinite(right).sum()))


def kendall_tau(scores: Mapping[int, float | None], ratings: Mapping[int, float]) -> float | None:
    """Kendall's tau-b between a score and the ratings over the methods that have both; None for fewer than
    three, or where all are equal.
    """
    from scipy.stats import kendalltau

    both = [
        (score, ratings[index]) for index, score in scores.items() if score is not None and index in ratings
    ]
    if len(both) < 3:
        return None
    tau = float(kendalltau([one for one, _ in both], [other for _, other in both]).statistic)
    return tau if np.isfinite(tau) else None
