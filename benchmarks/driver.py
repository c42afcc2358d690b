"""What the driver of many workers costs: workers that only sleep, and a simulated cluster of 256 devices.

Claims: eight workers do at least 0.95 of what eight can do, as processes and as Ray actors of one machine;
with 64 workers the driver needs at most 2 ms of processor time for a job, its record and its line in the
store; of 256 devices and 10,000 jobs whose service times are the plan's own estimates, at most 5 % of the
devices' time is idle until no job waits any more.

All workers begin together, when the last of them is there (what starting takes is said beside it).
Efficiency is seconds slept over workers × seconds from then to the end of the last job. Driver time is the
processor time of the driver's process, Ray's threads in it included, so that a busy machine tells nearly the
same; sleeping workers share few cores well.

The simulation hands jobs out in the runner's own order (`in_turns` for scoring, seeds of samples for
generating) to whichever device is free, by a driver that does one thing at a time and takes the measured time
for each. Service times are those of `refbench plan` for an H100, times a factor between 0.8 and 1.25, drawn
from a fixed seed. It is no measurement of 256 devices: network, disks and failures are left out.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe

from refbench.baselines.planning import plan_method, planned_samples
from refbench.baselines.scoring_plan import USUAL_FRAMES, video_s
from refbench.bench.devices import Place
from refbench.bench.gpus import AssumedGpu, get_gpu
from refbench.bench.method import OnStep
from refbench.bench.runner.executors import Executor, ProcessPoolExecutor, Watcher, WorkerDied
from refbench.bench.runner.plan import Plan, in_turns, selected_metrics
from refbench.bench.runner.scoring import ScoringJob, ScoringOutcome
from refbench.bench.runner.turns import needed_gib, turns
from refbench.bench.sample import Reference, Sample
from refbench.bench.scores.record import Provenance, Record, RunKey
from refbench.bench.scores.store import StoreWriter, store_path

PARTS = ("processes", "ray", "driver", "simulation")
CARD = "h100"
SLOWEST, FASTEST = 1.25, 0.8
BETWEEN_LOOKS_S = 0.1
# Reading weights from a disk or a network was not measured.
ASSUMED_GIB_PER_S = 1.0
GENERATOR = "refalign-1.3b"


@dataclass(frozen=True, kw_only=True)
class SleepingWorkers:
    """Makes workers that sleep `seconds` for each job and say when; it can be pickled.

    None begins before `workers` of them have left their names in the `meeting` folder.
    """

    seconds: float
    workers: int
    meeting: Path

    def __call__(self, place: Place) -> SleepingWorker:
        return SleepingWorker(self)


class SleepingWorker:
    """Does nothing, for so long."""

    def __init__(self, made_by: SleepingWorkers) -> None:
        self._made_by = made_by
        self._has_met = False

    def prepare(self, job: ScoringJob) -> None:
        """Wait for the others instead of loading something."""
        if self._has_met:
            return
        (self._made_by.meeting / str(os.getpid())).touch()
        while sum(1 for _ in self._made_by.meeting.iterdir()) < self._made_by.workers:
            time.sleep(BETWEEN_LOOKS_S)
        self._has_met = True

    def work(self, job: ScoringJob, on_step: OnStep) -> ScoringOutcome:
        """A score that says who slept from when to when, by the machine's one monotonic clock."""
        begun = time.monotonic()
        time.sleep(self._made_by.seconds)
        return ScoringOutcome(
            value=0.5, details={"worker": os.getpid(), "begun": begun, "done": time.monotonic()}
        )

    def close(self) -> None:
        """There is nothing to close."""


def sleeping_jobs(count: int) -> list[ScoringJob]:
    """Jobs as an evaluation hands them out, each of its own sample with three references."""
    reference = Reference(path="reference.png", root=Path(), label="woman", kind="person")
    return [
        ScoringJob(
            turn=0,
            metric="motion-amplitude",
            sample=Sample(
                id=f"singleobj_{number}",
                category="singleobj",
                prompt="A woman with a hat walks along the sea." * 8,
                references=(reference,) * 3,
            ),
            seed=0,
            video=Path(f"singleobj_{number}.mp4"),
            limit_s=600.0,
        )
        for number in range(count)
    ]


@dataclass(frozen=True, kw_only=True)
class Slept:
    """What sleeping workers show: their share of what they could have done, the seconds until all were there,
    and the driver's processor seconds for a job from then on.
    """

    efficiency: float
    starting_s: float
    driver_s: float


class FirstBegin(Watcher[ScoringJob]):
    """Reads the driver's processor time when the first job begins, before which nothing was done."""

    driver_s: float | None = None

    def begun(self, job: ScoringJob) -> None:
        """See Watcher.begun."""
        if self.driver_s is None:
            self.driver_s = time.process_time()


def slept(executor: Executor[ScoringJob, ScoringOutcome], workers: int, jobs: int, seconds: float) -> Slept:
    """Run so many jobs and write their records into a store, as an evaluation does."""
    todo = sleeping_jobs(jobs)
    run = RunKey("m", "open-domain")
    plan = Plan(run_key=run, blanks={(job.metric, job.sample.id, job.seed): blank(job, run) for job in todo})
    spans: list[tuple[float, float]] = []
    first: dict[int, float] = {}
    watcher = FirstBegin()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as meeting,
        StoreWriter(store_path(Path(folder), *run[:2])) as writer,
    ):
        factory = SleepingWorkers(seconds=seconds, workers=workers, meeting=Path(meeting))
        for job, result in executor.run(factory, todo, watcher):
            assert not isinstance(result, WorkerDied), result.reason
            writer.append([plan.record(job, result)])
            spans.append((result.details["begun"], result.details["done"]))
            first.setdefault(result.details["worker"], result.details["begun"])
            driver_s = time.process_time()
    assert watcher.driver_s is not None and len(first) == workers, "each worker has a job before any begins"
    began, ended = max(first.values()), max(end for _, end in spans)
    busy = sum(max(end - max(begin, began), 0.0) for begin, end in spans)
    return Slept(
        efficiency=busy / (workers * (ended - began)),
        starting_s=began - started,
        driver_s=(driver_s - watcher.driver_s) / jobs,
    )


def blank(job: ScoringJob, run: RunKey) -> Record:
    """The record of a job as far as it is known before scoring."""
    return Record(
        method=run.method,
        track=run.track,
        sample=job.sample.id,
        category=job.sample.category,
        metric=job.metric,
        reason="failed",
        provenance=Provenance(metric_version="1", video="0" * 64, sample="1" * 64, settings="2" * 64),
    )


def processes(workers: int) -> Executor[ScoringJob, ScoringOutcome]:
    """The executor of one machine."""
    return ProcessPoolExecutor([Place(device="cpu", alone=True)] * workers)


def nothing_to_find() -> str:
    """What a node of the Ray cluster says of itself here."""
    return "ready"


def ray_actors(workers: int) -> Executor[ScoringJob, ScoringOutcome]:
    """Ray's, to be used within `connected`: all of a machine's actors on one core, since they only sleep."""
    from refbench.bench.runner.ray_cluster import Cluster, Demand
    from refbench.bench.runner.ray_executor import RayExecutor

    demand = Demand(gpus=False, devices=1, workers=workers, threads=1)
    cluster: Cluster[Any] = Cluster(demand, nothing_to_find, ())
    cluster.look(wait=True)
    cluster.require_a_node()
    return RayExecutor(cluster)


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A simulated run, in seconds: until no job waited any more, and after that to the end (`tail_s`); the
    share of the devices' time before that in which they had no job, and in which they loaded.
    """

    jobs: int
    work_s: float
    empty_s: float
    idle_share: float
    loading_share: float
    tail_s: float


def simulated(
    services_s: Sequence[float], devices: int, *, driver_s: float, loading_s: float = 0.0
) -> Simulated:
    """Hand jobs out in their order: the driver takes results and gives jobs one by one, `driver_s` for both
    together; each device first loads. A device is idle from its job's end until it has the next.
    """
    waiting = deque(services_s)
    # When a device is free for a job, and for how long it was at work before.
    free = [(0.0, device) for device in range(devices)]
    heapq.heapify(free)
    loading: dict[int, float] = {}
    driver_free = idle_s = empty_s = last_end = 0.0
    while waiting:
        asked, device = heapq.heappop(free)
        given = driver_free = max(asked, driver_free) + driver_s
        idle_s += given - asked
        begin = given
        if device not in loading:
            loading[device] = given
            begin += loading_s
        end = begin + waiting.popleft()
        heapq.heappush(free, (end, device))
        empty_s, last_end = given, max(last_end, end)
    # Devices that were done while the last jobs were being given had no job either.
    idle_s += sum(max(empty_s - asked, 0.0) for asked, _ in free)
    loading_before = sum(min(loading_s, empty_s - begin) for begin in loading.values())
    whole = devices * empty_s
    return Simulated(
        jobs=len(services_s),
        work_s=sum(services_s),
        empty_s=empty_s,
        idle_share=idle_s / whole,
        loading_share=loading_before / whole,
        tail_s=last_end - empty_s,
    )


def scoring_services(count: int, draw: random.Random) -> tuple[list[float], float]:
    """Seconds of at least `count` scoring jobs in the runner's order, and the GiB that a worker loads."""
    assumed = AssumedGpu(gpu=get_gpu(CARD))
    # A judge's answers are waited for, not computed.
    metrics = [metric for metric in selected_metrics(None, {}) if metric.declaration.name != "naturalscore"]
    costs = {metric.declaration.name: metric.cost() for metric in metrics}
    samples, _ = planned_samples(None, None, None)
    seeds = -(-count // (len(samples) * len(metrics)))
    jobs = [
        ScoringJob(turn=0, metric=name, sample=sample, seed=seed, video=Path(f"{seed}/{number}.mp4"))
        for name in costs
        for number, sample in enumerate(samples)
        for seed in range(seeds)
    ]
    loaded_together = turns(metrics, assumed.memory_gib)
    assert len(loaded_together) == 1, "all metrics fit into this card"
    ordered = in_turns(jobs, [[metric.declaration.name for metric in turn] for turn in loaded_together])
    services = []
    for job in ordered:
        cost = costs[job.metric]
        assert cost is not None, f"{job.metric} was not measured"
        services.append(video_s(cost, job.sample, USUAL_FRAMES, assumed) * drawn(draw))
    return services, needed_gib(metrics)


def generation_services(count: int, draw: random.Random) -> tuple[list[float], float]:
    """The same of generating: all samples of a seed, then of the next."""
    samples, _ = planned_samples(None, None, None)
    assumed = AssumedGpu(gpu=get_gpu(CARD))
    planned = plan_method(GENERATOR, {}, samples, settings="native", seeds=1, assumed=assumed)
    assert planned.tflops is not None
    seconds = {one["references"]: one["pflop"] * 1e3 / planned.tflops for one in planned.by_references}
    seeds = -(-count // len(samples))
    services = [seconds[len(sample.references)] * drawn(draw) for _ in range(seeds) for sample in samples]
    return services, sum(planned.weights_gib.values())


def drawn(draw: random.Random) -> float:
    """A factor between the fastest and the slowest, as likely above 1 as below."""
    return float(FASTEST * (SLOWEST / FASTEST) ** draw.random())


def simulation_table(devices: int, count: int, driver_s: float) -> list[str]:
    """The table of the simulated runs, as lines."""
    lines = [
        f"{devices} simulated devices, service times of the plan for {CARD} × {FASTEST:g} to {SLOWEST:g}, "
        f"{1000 * driver_s:.2f} ms of the driver for a job",
        "",
        "| run | jobs | mean s a job | s until no job waits | idle until then | loading until then | tail s "
        "| ends after the least possible |",
        "|---|---|---|---|---|---|---|---|",
    ]
    makers = (
        ("scoring, six metrics, video by video", scoring_services),
        (f"generating, {GENERATOR}", generation_services),
    )
    for name, make in makers:
        services, gib = make(count, random.Random(0))
        for loading_s in (0.0, gib / ASSUMED_GIB_PER_S):
            found = simulated(services, devices, driver_s=driver_s, loading_s=loading_s)
            what = (
                f"{name}; each device loads {gib:.0f} GiB at {ASSUMED_GIB_PER_S:g} GiB/s"
                if loading_s
                else name
            )
            least_s = found.work_s / devices + loading_s
            lines.append(
                f"| {what} | {found.jobs:,} | {found.work_s / found.jobs:.2f} | {found.empty_s:,.1f} "
                f"| {found.idle_share:.2%} | {found.loading_share:.1%} | {found.tail_s:,.1f} "
                f"| {(found.empty_s + found.tail_s) / least_s:.3f} × |"
            )
    return lines


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="which to run, separated by commas")
    parser.add_argument("--workers", type=int, default=8, help="workers of the efficiency parts")
    parser.add_argument("--many", type=int, default=64, help="workers of the driver part")
    parser.add_argument("--sleep", type=float, default=0.5, metavar="S", help="seconds that a job sleeps")
    parser.add_argument("--jobs-each", type=int, default=20, help="jobs for each worker")
    parser.add_argument("--devices", type=int, default=256, help="simulated devices")
    parser.add_argument("--simulated-jobs", type=int, default=10_000, help="least number of simulated jobs")
    parser.add_argument(
        "--driver-ms",
        type=float,
        default=2.0,
        help="driver's time for a simulated job where it is not measured",
    )
    given = parser.parse_args(None if arguments is None else list(arguments))
    parts = [part.strip() for part in given.parts.split(",")]
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        parser.error(f"--parts takes {', '.join(PARTS)}, not {unknown[0]!r}")
    print(describe("refalign-bench", "ray"))
    driver_s = given.driver_ms / 1000
    rows = []
    for part, workers in (("processes", given.workers), ("ray", given.workers), ("driver", given.many)):
        if part not in parts:
            continue
        if part == "ray":
            from refbench.bench.runner.ray_connection import connected

            around: Any = connected("local", 1)
        else:
            around = nullcontext()
        with around:
            executor = ray_actors(workers) if part == "ray" else processes(workers)
            found = slept(executor, workers, workers * given.jobs_each, given.sleep)
        if part == "driver":
            driver_s = found.driver_s
        kind = "Ray actors" if part == "ray" else "processes"
        rows.append(
            f"| {kind} | {workers} | {workers * given.jobs_each} × {given.sleep:g} s "
            f"| {found.efficiency:.3f} | {1000 * found.driver_s:.2f} | {found.starting_s:.1f} |"
        )
    if rows:
        print("\n| workers that sleep | number | jobs | efficiency | driver ms a job | starting s |")
        print("|---|---|---|---|---|---|")
        print("\n".join(rows))
    if "simulation" in parts:
        print()
        print("\n".join(simulation_table(given.devices, given.simulated_jobs, driver_s)))


if __name__ == "__main__":
    main()
