"""`refbench --help`, a whole process: claimed to take at most 0.5 s. Beside it an empty Python."""

from __future__ import annotations

import subprocess
import sys

from machine import alternating, describe

RUNS = 9


def main() -> None:
    print(describe("typer"))
    command = [sys.executable, "-m", "refbench", "--help"]

    def run(arguments: list[str]) -> None:
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)

    run(command)
    ours, bare, _ = alternating(lambda: run(command), lambda: run([sys.executable, "-c", "pass"]), RUNS)
    print(
        f"refbench --help: {ours:.2f} s, of which an empty Python takes {bare:.2f} s "
        f"(median of {RUNS}; claim ≤ 0.5)"
    )


if __name__ == "__main__":
    main()
