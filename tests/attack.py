"""Attack the command line in small, and count what became of it.

    python tests/attack.py [--kills 30] [--mutants 300] [--specials N] [--judges N] [--tables N] [--seed 0]
        [--only KIND]

KIND is kill, mutant, special, judge or table, or one of their cases: `kill:generate`, `mutant:png`,
`judge:html`, `table:nan.csv`.
Every mutant is a function of its seed: `--only mutant --seed N --mutants 1` repeats the one that is named.
All commands run in forked children, one at a time. Exit code 1 where anything went wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: a forked child cannot use its parent's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from attacks import judges, kills, mutants, specials, tables
from attacks.ground import make_ground
from attacks.verdict import Outcome, Tally

KINDS = (kills.KIND, mutants.KIND, specials.KIND, judges.KIND, tables.KIND)


def outcomes(
    folder: Path,
    *,
    seed: int = 0,
    kill_count: int = 0,
    mutant_count: int = 0,
    special_count: int | None = 0,
    judge_count: int | None = 0,
    table_count: int | None = 0,
    only: str | None = None,
) -> Iterator[Outcome]:
    """The chosen attacks below an empty folder; None for a count is all there are."""
    kind, _, case = (only or "").partition(":")
    chosen, case_or_none = ({kind} if kind else set(KINDS)), case or None
    ground, scratch = make_ground(folder / "ground"), folder / "cases"
    scratch.mkdir()
    yield from mutants.unharmed(ground, scratch)
    if kills.KIND in chosen:
        yield from kills.attack(ground, scratch, range(seed, seed + kill_count), case_or_none)
    if mutants.KIND in chosen:
        yield from mutants.attack(ground, scratch, range(seed, seed + mutant_count), case_or_none)
    if specials.KIND in chosen:
        yield from specials.attack(ground, scratch, seed, special_count, case_or_none)
    if judges.KIND in chosen:
        yield from judges.attack(ground, scratch, judge_count, case_or_none)
    if tables.KIND in chosen:
        yield from tables.attack(scratch, table_count, case_or_none)


def main() -> int:
    """Attack and print."""
    parser = argparse.ArgumentParser(description="Attack the command line in small.")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--mutants", type=int, default=300)
    parser.add_argument("--specials", type=int, help="so many of them; default: all")
    parser.add_argument("--judges", type=int, help="so many of them; default: all")
    parser.add_argument("--tables", type=int, help="so many of them; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND[:CASE]")
    given = parser.parse_args()
    if given.only and given.only.partition(":")[0] not in KINDS:
        parser.error(f"--only is one of {', '.join(KINDS)}")
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for one in outcomes(
            Path(folder),
            seed=given.seed,
            kill_count=given.kills,
            mutant_count=given.mutants,
            special_count=given.specials,
            judge_count=given.judges,
            table_count=given.tables,
            only=given.only,
        ):
            tally.outcomes.append(one)
            sys.stderr.write(f"\r{len(tally.outcomes)} tried, {len(tally.wrong)} wrong")
            sys.stderr.flush()
    sys.stderr.write("\n")
    sys.stdout.write("\n".join(tally.lines()) + "\n")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
