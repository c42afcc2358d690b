"""10,000 records appended one by one and read back: claimed to take at most 2 s."""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path

from machine import describe, seconds

from refbench.bench.scores.record import Provenance, Record
from refbench.bench.scores.store import StoreWriter, read_records, store_path

RECORDS = 10_000
RUNS = 5


def record(number: int) -> Record:
    provenance = Provenance(
        metric_version="1",
        video="0" * 64,
        sample="1" * 64,
        settings="2" * 64,
        packages={"refalign-bench": "0.1.0", "av": "18.1.0", "opencv-python": "5.0.0.93"},
    )
    return Record(
        method="m",
        track="open-domain",
        sample=f"faceobj_{number}",
        category="faceobj",
        metric="motion-amplitude",
        value=number / RECORDS,
        details={"pairs": 68, "mean_flow_magnitude": 1.3211883584261963},
        provenance=provenance,
    )


def append_and_reload(path: Path, records: list[Record]) -> None:
    with StoreWriter(path) as writer:
        for one in records:
            writer.append([one])
    assert len(read_records(path)) == len(records)


def main() -> None:
    print(describe("pydantic"))
    records = [record(number) for number in range(RECORDS)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [store_path(Path(folder), f"run-{run}", "t") for run in range(RUNS)]
        times = [seconds(partial(append_and_reload, path, records)) for path in paths]
    median = statistics.median(times)
    print(f"{RECORDS:,} records appended and reloaded: {median:.2f} s (median of {RUNS}; claim ≤ 2)")


if __name__ == "__main__":
    main()
