"""`refbench plan --evaluate`: device hours, memory and time limits of scoring the methods' videos.

Metrics declare what one video was measured to take (`ScoringCost`); here that becomes hours of the assumed
card, and of processors where there is no card. Nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from refbench.bench.environment import MOST_THREADS_PER_JOB
from refbench.bench.gpus import AssumedGpu, get_gpu
from refbench.bench.metric import Metric, ScoringCost
from refbench.bench.runner.scoring import make_metric
from refbench.bench.runner.turns import WORKING_GIB, needed_gib, turns

if TYPE_CHECKING:
    from refbench.bench.sample import Sample

# 0.20 and 0.36 s of one thread of an Intel Xeon for the two real videos of 69 frames, 832×480.
DECODING_S = 0.3
# One thread of that Xeon sustained 0.14 TFLOP/s in float32 with CLIP ViT-L/14; what threads lose is assumed.
TFLOPS_PER_THREAD = 0.1
SECONDS_PER_HOUR = 3600.0
# Of methods whose card does not say how many frames they make.
USUAL_FRAMES = 81

MEASURED, SCALED, PARTLY = "measured", "scaled", "part assumed"
NONE_USED, UNKNOWN = "no GPU used", "not measured"
HEADINGS = (
    "metric", "videos", "GPU s a video", "GPU hours", "peak GiB", "CPU s a video", "CPU hours", "CPU GiB",
    "limit s", "GPU time is",
)  # fmt: skip
SHORT_HEADINGS = {
    "GPU s a video": "GPU s\na video", "CPU s a video": "CPU s\na video", "peak GiB": "peak\nGiB",
    "GPU hours": "GPU\nhours", "CPU hours": "CPU\nhours", "CPU GiB": "CPU\nGiB", "limit s": "limit\ns",
}  # fmt: skip
DROPPED_FIRST = ("CPU GiB", "CPU hours", "CPU s a video")


@dataclass(frozen=True, kw_only=True)
class Videos:
    """The videos of one method that are to be scored: their samples (each for every seed) and frames."""

    method: str
    samples: Sequence[Sample]
    seeds: int
    frames: int


@dataclass(frozen=True, kw_only=True)
class MetricForecast:
    """One metric's share: seconds of an average video and hours on the assumed GPU and without one, GiB.

    `basis` says what the GPU's time rests on; None stands for what is not known.
    """

    metric: str
    videos: int
    not_applicable: int
    gpu_s: float | None = None
    gpu_hours: float | None = None
    peak_gib: float
    peak_is_measured: bool = False
    cpu_s: float | None = None
    cpu_hours: float | None = None
    cpu_gib: float
    weights_gib: float
    job_limit_s: float
    basis: str = UNKNOWN
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlannedTurn:
    """Metrics that are loaded together, and the GiB of their weights, shared ones once."""

    metrics: tuple[str, ...]
    weights_gib: float


@dataclass(frozen=True, kw_only=True)
class ScoringPlan:
    """The forecast of an evaluation: each metric, what is loaded together on the card, and outside costs."""

    metrics: tuple[MetricForecast, ...]
    turns: tuple[PlannedTurn, ...]
    devices: int
    outside: tuple[str, ...]
    applies_to_all: bool
    generation_limits_s: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def gpu_hours(self) -> float:
        """Of all metrics that were measured."""
        return sum(one.gpu_hours or 0.0 for one in self.metrics)

    @property
    def cpu_hours(self) -> float:
        """The same without a GPU."""
        return sum(one.cpu_hours or 0.0 for one in self.metrics)

    def json(self) -> dict[str, Any]:
        """Everything as JSON."""
        return {
            **asdict(self),
            "assumed": {
                "decoding_s": DECODING_S,
                "threads": MOST_THREADS_PER_JOB,
                "tflops_per_thread": TFLOPS_PER_THREAD,
            },
            "total": {
                "scores": sum(one.videos for one in self.metrics),
                "gpu_hours": self.gpu_hours,
                "elapsed_hours": self.gpu_hours / self.devices,
                "cpu_hours": self.cpu_hours,
            },
        }


def scoring_plan(
    chosen: Sequence[Metric],
    videos: Sequence[Videos],
    assumed: AssumedGpu,
    *,
    devices: int,
    placeholders: bool,
    generation_limits_s: Mapping[str, Mapping[str, float]],
) -> ScoringPlan:
    """The forecast for these metrics and videos, with one worker on each of `devices` cards.

    `placeholders`: of the samples only the numbers of references are known, so that every metric is counted
    for every video.
    """
    samples = [sample for one in videos for sample in one.samples]
    busy = [metric for metric in chosen if any(_applies(metric, one, placeholders) for one in samples)]
    planned = tuple(
        PlannedTurn(metrics=tuple(metric.declaration.name for metric in turn), weights_gib=needed_gib(turn))
        for turn in turns(busy, assumed.memory_gib)
    )
    made = tuple(
        _forecast(
            metric,
            videos,
            assumed,
            beside=next((turn.metrics for turn in planned if metric.declaration.name in turn.metrics), ()),
            placeholders=placeholders,
        )
        for metric in chosen
    )
    return ScoringPlan(
        metrics=made,
        turns=planned,
        devices=devices,
        outside=tuple(
            text
            for metric, one in zip(chosen, made, strict=True)
            if one.videos and (text := metric.forecast(one.videos))
        ),
        applies_to_all=placeholders,
        generation_limits_s=generation_limits_s,
    )


def _applies(metric: Metric, sample: Sample, placeholders: bool) -> bool:
    return placeholders or metric.not_applicable(sample) is None


def _forecast(
    metric: Metric,
    videos: Sequence[Videos],
    assumed: AssumedGpu,
    *,
    beside: Collection[str],
    placeholders: bool,
) -> MetricForecast:
    """A metric's share; `beside` are the metrics of its turn."""
    declaration, cost = metric.declaration, metric.cost()
    parts = [
        part
        for part in (map(make_metric, cost.shares) if cost is not None else ())
        if part.declaration.name not in beside
    ]
    scored, left_out, gpu_total, cpu_total = 0, 0, 0.0, 0.0
    for one in videos:
        for sample in one.samples:
            if not _applies(metric, sample, placeholders):
                left_out += one.seeds
                continue
            scored += one.seeds
            if cost is not None:
                shared = [part for part in parts if _applies(part, sample, placeholders)]
                gpu_total += one.seeds * _shared_s(cost, shared, sample, one.frames, assumed)
                cpu_total += one.seeds * _shared_s(cost, shared, sample, one.frames, None)
    weights_gib = needed_gib([metric])
    common: dict[str, Any] = {
        "metric": declaration.name,
        "videos": scored,
        "not_applicable": left_out,
        "weights_gib": weights_gib,
        "job_limit_s": declaration.job_limit_s,
    }
    if cost is None:
        working = weights_gib + WORKING_GIB
        return MetricForecast(**common, peak_gib=working, cpu_gib=working)
    is_card = assumed.gpu.name == cost.gpu and assumed.given_tflops is None
    runs_network = bool(cost.tflop)
    return MetricForecast(
        **common,
        gpu_s=gpu_total / scored if scored else 0.0,
        gpu_hours=gpu_total / SECONDS_PER_HOUR,
        peak_gib=cost.peak_gib,
        peak_is_measured=runs_network and not cost.assumed_gpu_s,
        cpu_s=cpu_total / scored if scored else 0.0,
        cpu_hours=cpu_total / SECONDS_PER_HOUR,
        # Half precision on a GPU is float32 on a processor.
        cpu_gib=weights_gib * (4 / cost.parameter_bytes) + WORKING_GIB if runs_network else 0.0,
        basis=_basis(cost, is_card=is_card),
        remarks=cost.remarks,
    )


def _basis(cost: ScoringCost, *, is_card: bool) -> str:
    if not cost.tflop:
        return NONE_USED
    if cost.assumed_gpu_s:
        return PARTLY
    return MEASURED if is_card else SCALED


def video_s(cost: ScoringCost, sample: Sample, frames: int, assumed: AssumedGpu | None) -> float:
    """Seconds of scoring one video of that many frames, decoded for this metric: with the assumed card, or
    (None) by the threads of a processor alone.
    """
    measured = _cpu_s(cost) if assumed is None else _gpu_s(cost, assumed)
    return measured * _amount(cost, sample, frames) + DECODING_S


def _shared_s(
    cost: ScoringCost, shared: Sequence[Metric], sample: Sample, frames: int, assumed: AssumedGpu | None
) -> float:
    """The same, of a cost that takes in the work of `shared` metrics, where it takes in any: what finds
    everything done decodes nothing.
    """
    own_s = video_s(cost, sample, frames, assumed) - (DECODING_S if cost.shares else 0.0)
    costs = [found for metric in shared if (found := metric.cost()) is not None]
    return own_s + sum(video_s(one, sample, frames, assumed) for one in costs)


def _amount(cost: ScoringCost, sample: Sample, frames: int) -> float:
    """How often the cost of a measured video this one has: by its frames, or its sample's references."""
    if cost.grows_with is None:
        return 1.0
    return (frames if cost.grows_with == "frames" else len(sample.references)) / cost.measured_at


def _gpu_s(cost: ScoringCost, assumed: AssumedGpu) -> float:
    """Seconds of a measured video on the assumed card, where processors prepare what it works on."""
    measured_on = get_gpu(cost.gpu).sustained_tflops(cost.parameter_bytes)
    slower = measured_on / assumed.tflops(cost.parameter_bytes)
    return (cost.gpu_s + cost.assumed_gpu_s) * slower + _prepared_s(cost)


def _cpu_s(cost: ScoringCost) -> float:
    """The same on a worker's processor threads alone."""
    return cost.tflop / (TFLOPS_PER_THREAD * MOST_THREADS_PER_JOB) + _prepared_s(cost)


def _prepared_s(cost: ScoringCost) -> float:
    return cost.parallel_s / MOST_THREADS_PER_JOB + cost.serial_s


def print_scoring_plan(plan: ScoringPlan, title: str, assumed: AssumedGpu, *, named: bool) -> None:
    """The table and the lines below it."""
    from refbench.bench.console import print_lines, print_table

    print_table(
        title, HEADINGS, [_row(one) for one in plan.metrics], short=SHORT_HEADINGS, drop=DROPPED_FIRST
    )
    print_lines(_lines(plan, assumed, named=named))


def _row(one: MetricForecast) -> list[str]:
    return [
        one.metric,
        str(one.videos),
        _number(one.gpu_s, 2),
        _number(one.gpu_hours, 2),
        f"{one.peak_gib:.1f}",
        _number(one.cpu_s, 1),
        _number(one.cpu_hours, 1),
        f"{one.cpu_gib:.1f}",
        f"{one.job_limit_s:,.0f}",
        one.basis,
    ]


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _lines(plan: ScoringPlan, assumed: AssumedGpu, *, named: bool) -> list[str]:
    lines = [
        assumed.sentence(named=named),
        "measured: seconds and peak memory of the networks at full size with random weights on an NVIDIA "
        "H200 (docs/measured-gpu.md), frames prepared by its machine's processor; decoding, "
        f"{DECODING_S:g} s for each metric, by one thread of an Intel Xeon",
        "assumed: another card is slower by its share of the H200's sustained TFLOP/s; without a card a "
        f"worker's {MOST_THREADS_PER_JOB} threads do {TFLOPS_PER_THREAD * MOST_THREADS_PER_JOB:g} TFLOP/s in "
        "float32 (one thread of an Intel Xeon did 0.14); memory of a processor, and of what was not "
        f"measured, is that of the weights and {WORKING_GIB:g} GiB",
        "left out: starting workers, and reading the weights, once for each worker and turn",
    ]
    lines += [f"{one.metric}: {text}" for one in plan.metrics for text in one.remarks]
    unknown = [one.metric for one in plan.metrics if one.gpu_s is None and one.videos]
    if unknown:
        lines.append(f"not measured, and in no sum: {', '.join(unknown)}")
    if plan.applies_to_all:
        lines.append("every metric is counted for every video; with a data set (--dataset), where it applies")
    lines += plan.outside
    for number, turn in enumerate(plan.turns, start=1):
        needed = turn.weights_gib + WORKING_GIB if turn.weights_gib else 0.0
        misfit = "" if needed <= assumed.memory_gib else f": more than {assumed.memory_gib:.1f}"
        lines.append(
            f"turn {number}, loaded together: {', '.join(turn.metrics)} ({turn.weights_gib:.1f} GiB of "
            f"weights, about {needed:.1f} with what they work in{misfit})"
        )
    lines.append(
        f"workers: one on each of {plan.devices} GPUs"
        if plan.devices > 1
        else "workers: one on one GPU (--devices N plans for more)"
    )
    lines[-1] += "; a second one on the same card gained nothing where it was measured"
    lines.append(
        "limit s: the longest time of a job where workers have processes of their own; --job-timeout "
        "replaces it"
    )
    lines += limit_lines(plan.generation_limits_s)
    scores = sum(one.videos for one in plan.metrics)
    lines.append(
        f"in all: {scores:,} scores, {plan.gpu_hours:,.2f} GPU hours"
        + (f" ({plan.gpu_hours / plan.devices:,.2f} on {plan.devices} GPUs)" if plan.devices > 1 else "")
        + f"; without a GPU {plan.cpu_hours:,.1f} hours of one worker"
    )
    return lines


def limit_lines(limits_s: Mapping[str, Mapping[str, float]]) -> list[str]:
    """How long one video of each method may take to generate, by kind of device; equal ones in one line."""
    methods_by_limit: dict[str, list[str]] = {}
    for name, limits in limits_s.items():
        text = ", ".join(f"{limit:,.0f} s on a {kind}" for kind, limit in limits.items())
        methods_by_limit.setdefault(text, []).append(name)
    return [
        f"{', '.join(names)}: generating one video may take {text} (--job-timeout)"
        for text, names in methods_by_limit.items()
    ]
