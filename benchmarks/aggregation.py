"""Scoreboards with 10,000 bootstrap resamples for 20 methods of 180 samples: claimed to take at most 2 s."""

from __future__ import annotations

import random
import statistics

from machine import describe, seconds

from refbench.bench.dataset import OFFICIAL_TRACKS
from refbench.bench.scores import bootstrap
from refbench.bench.scores.aggregate import scoreboards
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.record import Provenance, Record

METHODS = 20
RUNS = 5


def records() -> list[Record]:
    generator = random.Random(0)
    return [
        Record(
            method=f"method-{number}",
            track="open-domain",
            sample=sample,
            category=sample.rpartition("_")[0],
            metric=component.metric,
            value=generator.uniform(component.worst, component.best),
            provenance=Provenance(metric_version="1"),
        )
        for number in range(METHODS)
        for sample in OFFICIAL_TRACKS["open-domain"].sample_ids
        for component in COMPONENTS.values()
    ]


def main() -> None:
    print(describe("numpy", "pydantic"))
    made = records()
    times = []
    for _ in range(RUNS):
        # Without this the resamples drawn in the first run would be reused by the others.
        bootstrap._counts.cache_clear()
        times.append(seconds(lambda: scoreboards(made)))
    print(
        f"{METHODS} methods × 180 samples × 7 components, {bootstrap.RESAMPLES:,} resamples: "
        f"{statistics.median(times):.2f} s (median of {RUNS}; claim ≤ 2)"
    )


if __name__ == "__main__":
    main()
