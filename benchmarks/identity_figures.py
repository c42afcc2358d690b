"""The tables of docs/identity.md: what lies outside the totals, a row for each run below a folder of stores.

    python benchmarks/identity_figures.py results mini-text-only

Prints Markdown: each figure's mean over samples in percent, its 95 % bootstrap interval and the number of
samples; then what each run has over the method that the second argument names as the control, in points.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from refbench.bench.console import interval_text
from refbench.bench.scores.aggregate import group_records
from refbench.bench.scores.bootstrap import interval, resampled_means
from refbench.bench.scores.comparison import figure_differences
from refbench.bench.scores.identity import FIGURES, GAIN_FIGURES, Figure
from refbench.bench.scores.record import Record
from refbench.bench.scores.store import read_records


def figure_cell(figure: Figure, records: Sequence[Record]) -> str:
    """A figure's mean, interval and number of samples."""
    values_S = np.array(list(figure.per_sample(records).values()))
    if not len(values_S):
        return "–"
    (draws_R1,) = resampled_means([values_S[:, None]])
    around = interval_text(interval(draws_R1[:, 0]) if len(values_S) > 1 else None)
    return f"{100 * values_S.mean():.1f} {around}, {len(values_S)}"


def gain_cells(records: Sequence[Record], control: Sequence[Record]) -> list[str]:
    """What a run has over the control, by figure."""
    found = {one.name: one for one in figure_differences(records, control, GAIN_FIGURES)}
    cells = []
    for figure in GAIN_FIGURES:
        one = found.get(figure.name)
        cells.append(
            "–"
            if one is None or one.difference is None
            else f"{100 * one.difference:+.1f} {interval_text(one.interval)}, {one.n}"
        )
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stores", type=Path, help="folder of score stores")
    parser.add_argument("control", help="name of the method that sees no reference")
    arguments = parser.parse_args()
    runs = {
        run: records
        for path in sorted(arguments.stores.rglob("*.jsonl"))
        for run, records in group_records(read_records(path)).items()
    }
    control = next((records for run, records in runs.items() if run.method == arguments.control), None)
    if control is None:
        raise SystemExit(f"{arguments.stores} holds no run of {arguments.control}")
    headings = ["row", *(figure.label for figure in FIGURES), *(figure.label for figure in GAIN_FIGURES)]
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for run, records in runs.items():
        cells = [figure_cell(figure, records) for figure in FIGURES]
        print(f"| {' | '.join([run.label, *cells, *gain_cells(records, control)])} |")


if __name__ == "__main__":
    main()
