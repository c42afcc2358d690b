"""What became of a case, and the table of all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from attacks.child import SWOLLEN_GIB, Done
from refbench.bench.errors import UserError, one_line
from refbench.bench.scores.store import read_records


class Verdict(Enum):
    """Only the last is a fault."""

    RIGHT = "right"
    FAILURE = "recorded failure"
    REFUSED = "refused in one line"
    WRONG = "WRONG"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A case by name and seed, and what became of it; `why` says what was wrong."""

    kind: str
    case: str
    verdict: Verdict
    why: str = ""


@dataclass
class Tally:
    """Outcomes, counted by kind."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def wrong(self) -> list[Outcome]:
        """The cases that went wrong."""
        return [one for one in self.outcomes if one.verdict is Verdict.WRONG]

    def count(self, kind: str, verdict: Verdict | None = None) -> int:
        """How many of a kind were tried, or ended so."""
        return sum(one.kind == kind and verdict in (None, one.verdict) for one in self.outcomes)

    def lines(self) -> list[str]:
        """The table, then a line for each wrong case."""
        headings = ["kind", "tried", *(verdict.value for verdict in Verdict)]
        kinds = list(dict.fromkeys(one.kind for one in self.outcomes))
        rows = [
            [kind, str(self.count(kind)), *(str(self.count(kind, verdict)) for verdict in Verdict)]
            for kind in kinds
        ]
        total = Counter(one.verdict for one in self.outcomes)
        rows.append(["in all", str(len(self.outcomes)), *(str(total[verdict]) for verdict in Verdict)])
        widths = [max(len(row[index]) for row in [headings, *rows]) for index in range(len(headings))]
        text = ["  ".join(cell.rjust(width) if index else cell.ljust(width)
                          for index, (cell, width) in enumerate(zip(row, widths, strict=True)))
                for row in [headings, *rows]]  # fmt: skip
        return text + [f"WRONG {one.kind}: {one.case}: {one.why}" for one in self.wrong]


def fault(done: Done) -> str | None:
    """What no command may do, whatever it was given: hang, crash, swell, or write what a terminal obeys."""
    if done.timed_out:
        return f"no end within {done.seconds:.0f} s"
    if done.exit_code < 0:
        return f"ended by signal {-done.exit_code}"
    if "Traceback" in done.err:
        return f"a traceback: {one_line(done.err.strip().splitlines()[-1], 200)}"
    if done.swollen_gib > SWOLLEN_GIB:
        return f"took {done.swollen_gib:.1f} GiB"
    obeyed = [one for one in done.out + done.err if not (one.isprintable() or one in "\n\t\u2028")]
    if obeyed:
        return f"wrote {obeyed[0]!r} to the terminal"
    if done.exit_code not in (0, 1, 2):
        return f"exit code {done.exit_code}: {one_line(done.err, 200)}"
    return None


def judged(done: Done, results: Path | None = None) -> tuple[Verdict, str]:
    """The verdict on a command, and on the records that it left in the folder `results`."""
    if (found := fault(done)) is not None:
        return Verdict.WRONG, found
    if done.exit_code == 2:
        last = (done.err.strip().splitlines() or [""])[-1]
        return (Verdict.REFUSED, last) if last.startswith("refbench: ") else (Verdict.WRONG, f"said {last!r}")
    if results is None:
        return (Verdict.RIGHT if done.exit_code == 0 else Verdict.FAILURE), ""
    try:
        records = [record for store in results.glob("*.jsonl") for record in read_records(store)]
    except UserError as error:
        return Verdict.WRONG, f"left a store that cannot be read: {error}"
    for record in records:
        if record.value is not None and not math.isfinite(record.value):
            return Verdict.WRONG, f"recorded {record.value}"
    if done.exit_code == 0 and all(record.value is not None for record in records):
        return Verdict.RIGHT, ""
    return Verdict.FAILURE, ""


def tree(folder: Path, names: Iterable[str] = ("*",)) -> dict[str, bytes]:
    """All files below a folder, hidden and half-written ones included: path → content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in names
        for path in sorted(folder.rglob(name))
        if path.is_file()
    }
