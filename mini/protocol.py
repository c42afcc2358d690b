"""The protocol `mini-1.0`: the rules of opens2v-1.1 with ranges of the drawn world.

Columns, weights and rules per video are the official ones, with their oddities; only where 0 and 1 lie is the
world's own. `RANGES` were fixed once, from what the trained networks give to the two extremes of the world:
worst is the mean of noise and of black frames, whichever is lower, best the upper decile of the world's own
videos (`world-truth`), both rounded. Where a component cannot tell these apart, or rewards noise, the
official range stands. Only mini weights and the local judge count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from refbench.bench.scores.protocol import OPENS2V_1_1, Column, Protocol
from refbench.mini.track import MINI

RANGES: dict[str, tuple[float, float]] = {
    "aesthetics": (2.0, 6.6),
    "facesim": (0.0, 0.93),
    "gmescore": (0.0, 0.82),
}


def between(worst: float, best: float, score: float) -> float:
    """To worst..best; NaN stays NaN."""
    return max(min(score, best), worst)


def magnitude(worst: float, best: float, score: float) -> float:
    """The absolute value, at most best."""
    return min(abs(score), best)


def at_most(worst: float, best: float, score: float) -> float:
    """At most best; no lower bound."""
    return min(score, best)


def found_at_most(worst: float, best: float, score: float) -> float | None:
    """Dropped (None) if exactly 0, else at most best; no lower bound."""
    return None if score == 0 else min(score, best)


Rule = Callable[[float, float, float], float | None]
RULES: dict[str, Rule] = {
    "aesthetics": between,
    "motion_smoothness": magnitude,
    "motion_amplitude": magnitude,
    "facesim": at_most,
    "gmescore": at_most,
    "nexusscore": found_at_most,
    "naturalscore": between,
}


def _column(official: Column) -> Column:
    name = official.component.name
    worst, best = RANGES.get(name, (official.worst, official.best))
    return replace(official, clip=partial(RULES[name], worst, best), range=(worst, best))


MINI_1_0 = Protocol(
    name=MINI.protocol,
    summary="the drawn world: the rules of opens2v-1.1 between the world's own extremes; nothing official",
    columns=tuple(map(_column, OPENS2V_1_1.columns)),
    open_weights=OPENS2V_1_1.open_weights,
    human_weights=OPENS2V_1_1.human_weights,
    accepted_weights=frozenset({"mini"}),
    accepted_judges=frozenset({"local"}),
)
