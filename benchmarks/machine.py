"""What every benchmark prints first: the machine and the versions that its figures belong to."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from refbench.bench.environment import usable_cores
from refbench.bench.provenance import package_versions, python_version


def describe(*distributions: str) -> str:
    """Processor, cores, memory, Python and package versions in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in package_versions(distributions).items())
    return f"{_processor()}, {usable_cores()} cores, {_memory_gib():.0f} GiB; {python_version()}; {versions}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {named[0] if named else platform.processor()}".strip()


def _memory_gib() -> float:
    info = Path("/proc/meminfo")
    if not info.exists():
        return float("nan")
    return int(info.read_text().split()[1]) / 2**20


def peak_mib() -> float:
    """Peak resident memory of this process so far, in MiB.

    From /proc where there is one: `ru_maxrss` of a started process includes its parent's memory.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternating(a: Callable[[], object], b: Callable[[], object], runs: int) -> tuple[float, float, float]:
    """Median seconds of A and of B, run in turn, and the median of the pairwise ratios A/B."""
    pairs = [(seconds(a), seconds(b)) for _ in range(runs)]
    times_a, times_b = ([pair[side] for pair in pairs] for side in (0, 1))
    ratio = statistics.median(one / other for one, other in pairs)
    return statistics.median(times_a), statistics.median(times_b), ratio
