"""How many votes would settle which of two methods people prefer.

With the probability w that the first is preferred, l that the second is, and ties, a vote counts +1, -1 or 0
with mean d = w - l and variance v - d², v = w + l. A two-sided test at 5 % of d = 0 has power 80 % with
n = ((z(0.975) √v + z(0.80) √(v - d²)) / d)² votes. The votes are taken as independent: different samples, and
not all of one voter.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from refbench.bench.scores.bootstrap import CONFIDENCE
from refbench.bench.scores.comparison import POWER

# More than this nobody gathers: the two are as good as equal.
MOST_VOTES = 100_000


def votes_to_settle(preferred: float, ties: float = 0.0) -> int | None:
    """Votes on one pair of methods; `preferred` is the chance that the first is preferred, a tie counted as a
    half, `ties` the share of ties. None where more than `MOST_VOTES` would be needed.
    """
    decided = 1.0 - ties
    difference = min(abs(2 * preferred - 1), decided)
    if difference <= 0:
        return None
    normal = NormalDist()
    level, power = normal.inv_cdf(0.5 + CONFIDENCE / 2), normal.inv_cdf(POWER)
    spread = level * math.sqrt(decided) + power * math.sqrt(max(decided - difference**2, 0.0))
    needed = math.ceil((spread / difference) ** 2)
    return needed if needed <= MOST_VOTES else None
