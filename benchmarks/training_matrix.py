"""Whether every way of sharing a training out gives the same losses: the whole product, in one table.

    python benchmarks/training_matrix.py [--processes 1 2 4]

1, 2 and 4 processes × DDP, FSDP2, HSDP × moving average × validation × accumulation × LoRA: 112 trainings of
two updates of a network of three blocks, over gloo. Losses are compared with those of one process. The tests
take eight of them, in which every pair of choices occurs. Exit code 1 where one differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from machine import describe

from kit.training_cases import Case, all_cases, entry, launch  # type: ignore[import-not-found]

TOLERANCE = 1e-5


def losses(folder: Path) -> list[float]:
    """The loss of each update."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "step" in row]


def main() -> int:
    """Train all of them and print the largest relative difference of each group."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    chosen = parser.parse_args()
    print(describe("torch", "accelerate", "peft"))
    references = [Case(processes=1, lora=lora) for lora in (False, True)]
    cases = [case for case in all_cases() if case.processes in chosen.processes]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for processes in (1, 2, 4):
            wanted = [case for case in cases if case.processes == processes]
            if processes == 1:
                wanted += [case for case in references if case not in wanted]
            if wanted:
                launch(folder, processes, map(entry, wanted))
        expected = {case.lora: losses(folder / case.name) for case in references}
        worst: dict[tuple[int, str], float] = {}
        for case in cases:
            pairs = zip(losses(folder / case.name), expected[case.lora], strict=True)
            difference = max(abs(found - right) / abs(right) for found, right in pairs)
            group = (case.processes, case.strategy)
            worst[group] = max(worst.get(group, 0.0), difference)
    print(f"{len(cases)} trainings; largest relative difference of a loss from one process")
    for (processes, strategy), difference in worst.items():
        print(f"  {processes} processes, {strategy if processes > 1 else 'alone'}: {difference:.1e}")
    return int(max(worst.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
