"""The table of directions: what the drawn world must show if metrics, generators and aggregation work.

Each line is a difference of two runs, in TotalScore or in a component, with its paired 95 % interval
(`scores.comparison`), and the direction that it should have. A direction that does not come out is printed as
such: it is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from refbench.bench.console import count_text, interval_text
from refbench.bench.scores.aggregate import group_records
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.comparison import Comparison, Difference, compare_records
from refbench.bench.scores.protocol import Protocol
from refbench.bench.scores.record import Record, RunKey
from refbench.mini.contest import CEILING, CONTROLS, GENERATORS, OURS, TEXT_ONLY

TOTAL = "TotalScore"
SHUFFLED, SHUFFLED_SCORING = f"{OURS}, other references", f"{OURS}, scored against others"
LAST = ("noise", "black")

# above: the interval lies above 0; no higher: it does not; below: it lies below 0; same: equal to the last
# digit; shown: no direction is asked for.
Wanted = Literal["above", "no higher", "below", "same", "shown"]


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A minus B in one component (by its name) or in TotalScore, and what it should be."""

    number: str
    a: str
    b: str
    component: str
    wanted: Wanted


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A direction with what was measured; `came_out` is None where nothing was asked for or measured."""

    direction: Direction
    measured: Difference | None

    @property
    def came_out(self) -> bool | None:
        """Whether the difference has the direction."""
        wanted, measured = self.direction.wanted, self.measured
        if wanted == "shown" or measured is None or measured.difference is None:
            return None
        if wanted == "same":
            return measured.a == measured.b
        if measured.interval is None:
            return None
        low, high = measured.interval
        return {"above": low > 0, "below": high < 0, "no higher": low <= 0}[wanted]


def directions() -> list[Direction]:
    """All lines of the table."""
    others = (*GENERATORS, SHUFFLED, *CONTROLS)
    lines: list[tuple[str, str, str, str, Wanted]] = []
    lines += [("1a", CEILING, other, TOTAL, "above") for other in others]
    lines += [("1b", OURS, other, TOTAL, "above") for other in (TEXT_ONLY, SHUFFLED)]
    lines += [("1c", other, last, TOTAL, "above") for other in others if other not in LAST for last in LAST]
    for component in ("facesim", "nexusscore"):
        lines += [
            ("2a", OURS, SHUFFLED, component, "above"),
            ("2a", SHUFFLED, TEXT_ONLY, component, "no higher"),
        ]
    lines += [
        ("2b", OURS, SHUFFLED_SCORING, name, "same")
        for name in COMPONENTS
        if name not in ("facesim", "nexusscore")
    ]
    lines += [("3", "static-reference", OURS, name, "above") for name in ("facesim", "nexusscore")]
    lines += [("3", "static-reference", OURS, name, "below") for name in ("naturalscore", "gmescore")]
    lines += [("4", "flash-frame", other, "nexusscore", "shown") for other in (CEILING, OURS)]
    return [
        Direction(number=number, a=a, b=b, component=component, wanted=wanted)
        for number, a, b, component, wanted in lines
    ]


def row_of(run: RunKey) -> str:
    """What a run is called in the table: its method, and what was done to its references."""
    if "scored-shuffled" in run.variant:
        return f"{run.method}, scored against others"
    return f"{run.method}, other references" if "generated-shuffled" in run.variant else run.method


def measured_directions(records: Iterable[Record], protocol: Protocol) -> list[Outcome]:
    """The table over the records of a contest; lines whose runs are not there have no measurement."""
    rows = {row_of(key): group for key, group in group_records(records).items()}
    compared: dict[tuple[str, str], Comparison] = {}
    outcomes = []
    for direction in directions():
        pair = (direction.a, direction.b)
        if pair not in compared and all(name in rows for name in pair):
            compared[pair] = compare_records(rows[pair[0]], rows[pair[1]], protocol, pair)
        measured = _difference(compared[pair], direction.component) if pair in compared else None
        outcomes.append(Outcome(direction=direction, measured=measured))
    return outcomes


def _difference(comparison: Comparison, component: str) -> Difference:
    if component == TOTAL:
        return comparison.total
    return next(one for one in comparison.components if one.name == component)


HEADINGS = ("line", "A", "B", "component", "A - B", "95 % interval", "n", "wanted", "came out")


def outcome_row(outcome: Outcome) -> list[str]:
    """The cells under `HEADINGS`."""
    direction, measured = outcome.direction, outcome.measured
    difference = None if measured is None else measured.difference
    answer = outcome.came_out
    return [
        direction.number,
        direction.a,
        direction.b,
        direction.component,
        "–" if difference is None else f"{100 * difference:+.2f}",
        interval_text(None if measured is None else measured.interval),
        "–" if measured is None else str(measured.n),
        direction.wanted,
        "–" if answer is None else "yes" if answer else "NO",
    ]


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON-serialisable data, on the scale 0..1, unrounded."""
    measured = outcome.measured
    return {
        **asdict(outcome.direction),
        "difference": None if measured is None else measured.difference,
        "interval": None if measured is None else measured.interval,
        "n": None if measured is None else measured.n,
        "came_out": outcome.came_out,
    }


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many directions came out, in one line."""
    counts: Mapping[bool | None, int] = {
        answer: sum(outcome.came_out is answer for outcome in outcomes) for answer in (True, False)
    }
    asked = counts[True] + counts[False]
    return f"{counts[True]} of {count_text(asked, 'direction')} came out"
