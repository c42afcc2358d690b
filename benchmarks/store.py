"""The score store at scale: opening, compacting, reporting and comparing beside what they did before.

10,000 records appended one by one and read back (claim: at most 2 s), and a store of a million records, which
a stand-in writes: seven metrics of 14,286 samples in several seeds, with a digest of its own for every video
(claims: opened in at most 20 s of processor time and 1 KiB of memory a record). `report` and `compare` over
100,000 such records (claim: at most 5 s). Times are of the processor, so that a busy machine tells the same.

The ratio is against each line shown to the model and kept as the model makes it, the file read once more to
find a torn line: what opening was before. `python benchmarks/store.py 100000` takes a smaller store.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from machine import describe, peak_mib, seconds

from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.record import Provenance, Record, latest
from refbench.bench.scores.store import StoreWriter, compact_store, read_records, store_path

APPENDED = 10_000
RUNS = 5
MILLION = 1_000_000
SAMPLES = 14_286
REPORTED = 100_000


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
        value=number / APPENDED,
        details={"pairs": 68, "mean_flow_magnitude": 1.3211883584261963},
        provenance=provenance,
    )


def append_and_reload(path: Path, records: list[Record]) -> None:
    with StoreWriter(path) as writer:
        for one in records:
            writer.append([one])
    assert len(read_records(path)) == len(records)


def write_stand_in(path: Path, count: int, method: str = "m") -> None:
    """A store of so many records, written without the model."""
    path.parent.mkdir(parents=True)
    generator = random.Random(method)
    template = json.loads(record(1).model_dump_json())
    components = list(COMPONENTS.values())
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            video, metric = divmod(number, len(components))
            seed, sample = divmod(video, SAMPLES)
            component = components[metric]
            uses_weights = "motion" not in component.name
            provenance = template["provenance"] | {
                "video": _digest(method, video),
                "sample": _digest("sample", sample),
                "references": _digest("references", sample) if uses_weights else None,
                "weights": {"checkpoint": _digest(component.name)} if uses_weights else {},
                "device": "cuda",
                "dtype": "bfloat16",
            }
            line = template | {
                "method": method,
                "sample": f"faceobj_{sample}",
                "seed": seed,
                "metric": component.metric,
                "value": generator.uniform(component.worst, component.best),
                "details": {"pairs": 68, "mean_flow_magnitude": generator.random()},
                "provenance": provenance,
            }
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def open_now(path: Path) -> dict[Any, Record]:
    with StoreWriter(path) as writer:
        return writer.records


def open_as_before(path: Path) -> dict[Any, Record]:
    records = latest(
        Record.model_validate_json(line) for line in path.read_bytes().removesuffix(b"\n").split(b"\n")
    )
    path.read_bytes().rfind(b"\n")
    return records


def make_report(path: Path) -> None:
    from refbench.reports.report import report

    report(path, out=path.parent / "report")


def make_comparison(a: Path, b: Path) -> None:
    from refbench.reports.compared import compare

    compare(a, b)


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds and MiB at the peak of one call, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (work,))


def _measure(work: Callable[[], object]) -> tuple[float, float]:
    gc.collect()
    start, before_mib = time.process_time(), peak_mib()
    result = work()
    spent = time.process_time() - start
    del result
    return spent, peak_mib() - before_mib


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", nargs="?", type=int, default=MILLION, help="how many (default: a million)")
    count = parser.parse_args().records
    print(describe("pydantic", "numpy"))
    records = [record(number) for number in range(APPENDED)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = [store_path(root, f"run-{run}", "t") for run in range(RUNS)]
        times = [seconds(partial(append_and_reload, path, records)) for path in paths]
        median = statistics.median(times)
        print(f"{APPENDED:,} records appended and reloaded: {median:.2f} s (median of {RUNS}; claim ≤ 2)")

        path = store_path(root, "large", "open-domain")
        write_stand_in(path, count)
        now, now_mib = measured(partial(open_now, path))
        before, before_mib = measured(partial(open_as_before, path))
        print(
            f"{count:,} records opened: {now:.1f} s of processor time ({now / before:.2f} of the former "
            f"{before:.1f} s), {now_mib * 2**20 / count:.0f} bytes a record at the peak "
            f"({now_mib / before_mib:.2f} of the former {before_mib * 2**20 / count:.0f}); "
            f"claims for a million ≤ 20 s, ≤ 1024 bytes"
        )
        with path.open("ab") as file:
            file.write(path.read_bytes()[: 10 * 2**20].rpartition(b"\n")[0] + b"\n")
        spent, mib = measured(partial(compact_store, path))
        print(f"the same with 10 MiB superseded, compacted: {spent:.1f} s, {mib:.0f} MiB")

        a, b = (store_path(root, name, "open-domain") for name in "ab")
        write_stand_in(a, REPORTED, "a")
        write_stand_in(b, REPORTED, "b")
        spent, _ = measured(partial(make_report, a))
        print(f"report over {REPORTED:,} records: {spent:.1f} s (claim ≤ 5)")
        halves = [store_path(root, f"half-{name}", "open-domain") for name in "ab"]
        for half in halves:
            write_stand_in(half, REPORTED // 2, half.parent.name)
        spent, _ = measured(partial(make_comparison, *halves))
        print(f"compare over {REPORTED:,} records (two runs of half as many): {spent:.1f} s (claim ≤ 5)")
        spent, _ = measured(partial(make_comparison, a, b))
        print(f"compare over two runs of {REPORTED:,} records each: {spent:.1f} s")


if __name__ == "__main__":
    main()
