"""Which gaps of a ranking mean something: every pair of methods compared, corrected for many comparisons.

Each pair is the paired bootstrap of `refbench compare`. The p-values of the TotalScores' differences of all
pairs of a track are adjusted by Holm's rule, so that the chance of any false "better" stays at 5 %. A
method's rank group is the range of ranks that remain: 1 + how many are shown to be better, to the number of
methods less how many are shown to be worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from refbench.bench.errors import UserError
from refbench.bench.scores.bootstrap import CONFIDENCE
from refbench.bench.scores.comparison import Comparison, compare_records, holm
from refbench.bench.scores.protocol import Protocol
from refbench.bench.scores.record import Record, RunKey


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Methods `a` and `b` by their place in the ranking, compared; without `comparison`, `why` says why.

    `adjusted` is Holm's p-value of the difference of their TotalScores, None where it has no interval.
    """

    a: int
    b: int
    comparison: Comparison | None
    why: str = ""
    adjusted: float | None = None

    @property
    def told_apart(self) -> bool:
        """Whether the samples tell the two TotalScores apart, with all pairs corrected for."""
        return self.adjusted is not None and self.adjusted < 1 - CONFIDENCE


def compare_all(
    runs: Sequence[RunKey], records: Mapping[RunKey, list[Record]], protocol: Protocol
) -> list[Pair]:
    """All pairs of the runs of one track, in the order of the ranking."""
    pairs = []
    for a, b in combinations(range(len(runs)), 2):
        comparison, why = None, ""
        try:
            labels = (runs[a].label, runs[b].label)
            comparison = compare_records(records[runs[a]], records[runs[b]], protocol, labels)
        except UserError as error:
            why = str(error)
        pairs.append(Pair(a=a, b=b, comparison=comparison, why=why))
    adjusted = holm([pair.comparison.total.p_value if pair.comparison else None for pair in pairs])
    return [
        Pair(a=pair.a, b=pair.b, comparison=pair.comparison, why=pair.why, adjusted=value)
        for pair, value in zip(pairs, adjusted, strict=True)
    ]


def rank_groups(methods: int, pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """For each method (by its place in the ranking) the best and the worst rank that the samples leave it."""
    better, worse = [0] * methods, [0] * methods
    for pair in pairs:
        if pair.told_apart and pair.comparison is not None:
            a_leads = (pair.comparison.total.difference or 0.0) > 0
            loser, winner = (pair.b, pair.a) if a_leads else (pair.a, pair.b)
            better[loser] += 1
            worse[winner] += 1
    return [(1 + better[place], methods - worse[place]) for place in range(methods)]
