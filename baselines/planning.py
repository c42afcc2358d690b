"""`refbench plan`: what generating a track would cost, before anything is downloaded or loaded.

Found by the CLI through `refbench.commands`. Sizes and formulas are in `baselines.wan.cost`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refbench.bench import DEFAULT_TRACK
from refbench.bench.cli import options as o
from refbench.bench.errors import UserError
from refbench.bench.gpus import DEFAULT_GPU, AssumedGpu, get_gpu, plain

if TYPE_CHECKING:
    from refbench.baselines.scoring_plan import Videos
    from refbench.baselines.wan.method import WanMethod
    from refbench.bench.method import Method
    from refbench.bench.sample import Sample

# Samples by number of references in OpenS2V-Eval's lists, for planning without the data set: half of
# Open-Domain_Eval.json has one, 40 have two, 50 three; the other tracks' samples have one each.
OFFICIAL_REFERENCES = {
    "open-domain": {1: 90, 2: 40, 3: 50},
    "human-domain": {1: 60},
    "single-domain": {1: 90},
}
PUBLISHED_COUNTS = "OpenS2V-Eval's published counts"
NATIVE = "native"
PETA = 1e15
SECONDS_PER_HOUR = 3600
WITH_CACHE = "operations and hours are those without the step cache: what it skips depends on the video"
WEIGHTS = "weights GiB"
# Headings of the table; those dropped where a screen is narrow are the ones that the sums were made of.
PLAN_HEADINGS = (
    "method", "videos", "refs × videos", "tokens a call", "calls a video", WEIGHTS,
    "peak GiB resident", "model offload", "group offload", "PFLOP a video", "PFLOP", "hours",
)  # fmt: skip
SHORT_HEADINGS = {
    "refs × videos": "refs\n× videos", "tokens a call": "tokens\na call", "calls a video": "calls\na video",
    "peak GiB resident": "peak\nGiB", "model offload": "model\noffl.", "group offload": "group\noffl.",
    "PFLOP a video": "PFLOP\na video",
}  # fmt: skip
DROPPED_FIRST = (WEIGHTS, "calls a video", "tokens a call", "PFLOP a video", "refs × videos")


@dataclass(frozen=True, kw_only=True)
class MethodPlan:
    """One method's share of a plan.

    `by_references` are costs of one video for each number of references that occurs (as used by the method)
    with how many videos have it; `weights_gib` are the sizes of the method's parts, or of its repositories
    where its parts are not known here. A method whose work is not counted has zeros, no `peak_gib`, and a
    `note` that says so; another's `note` says what the count leaves out. `tflops` is the throughput that its
    hours were counted with. `job_limits_s` are the seconds that a video may take, by kind of device.
    """

    method: str
    videos: int = 0
    refused: int = 0
    by_references: tuple[dict[str, float], ...] = ()
    weights_gib: Mapping[str, float]
    peak_gib: Mapping[str, float]
    fits_with: str | None = None
    joined_passes_fit: bool | None = None
    pflop: float = 0.0
    tflops: float | None = None
    hours: float = 0.0
    note: str = ""
    job_limits_s: Mapping[str, float] = field(default_factory=dict)


def plan(
    names: Annotated[list[str], typer.Argument(metavar="METHOD...", help="Registered methods.")],
    track: o.TrackOption = None,
    dataset: o.DatasetOption = None,
    suite: o.SuiteOption = None,
    settings: o.SettingsOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.KEY=VALUE", help="An option of a method."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Videos for each sample.")] = 1,
    gpu: o.GpuOption = None,
    gpu_memory: o.GpuMemoryOption = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            "--tflops",
            min=0.001,
            help="Sustained throughput of one GPU in TFLOP/s. Default: 45.5 % of its peak.",
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Plan the scoring of the videos instead of generating them.")
    ] = False,
    metrics: o.MetricsOption = None,
    devices: Annotated[
        int, typer.Option("--devices", min=1, metavar="N", help="With --evaluate: how many such GPUs score.")
    ] = 1,
    plugin: o.PluginOption = None,
    json: o.JsonOption = False,
) -> None:
    """Estimate tokens, operations, hours and memory of generating a track, or of scoring its videos.

    Analytic, from the sizes of the networks, and for scoring from what each metric was measured to take;
    nothing is loaded, and the plan says what it assumes. Without a data set (--dataset, --suite or
    $REFBENCH_DATASET) the official numbers of references are taken. Hours and memory are those of one --gpu;
    where a method does not fit, the plan says so. refbench plan train RECIPE plans a training. Examples:

    refbench plan phantom-14b vace-14b --track open-domain --gpu a100

    refbench plan phantom-14b --evaluate --gpu l40s --devices 4
    """
    from refbench.bench.console import print_json
    from refbench.bench.registry import load_plugins, methods

    assumed = AssumedGpu(gpu=get_gpu(gpu or DEFAULT_GPU), given_gib=gpu_memory, given_tflops=tflops)
    load_plugins(plugin or [])
    # The name on the command line may be spelt in another case.
    chosen = list(dict.fromkeys(methods.get(name).name for name in names))
    samples, source = planned_samples(track, dataset, suite)
    if not evaluate and (metrics is not None or devices != 1):
        raise UserError("--metrics and --devices go with --evaluate")
    options, metric_options = _options_by_owner(set_ or [], chosen, with_metrics=evaluate)
    common = {
        "track": track or (suite.stem if suite is not None else DEFAULT_TRACK),
        "references_from": source,
        "samples": len(samples),
        "seeds": seeds,
        "settings": settings or NATIVE,
        "gpu": asdict(assumed.gpu),
        "gpu_named": gpu is not None,
        "gpu_memory_gib": assumed.memory_gib,
        "tflops": assumed.tflops(2),
    }
    title = f"{len(samples)} samples, references from {source}"
    if evaluate:
        from refbench.baselines.scoring_plan import print_scoring_plan, scoring_plan
        from refbench.bench.runner.plan import selected_metrics

        made = {name: planned_method(name, options.get(name, {}), settings or NATIVE) for name in chosen}
        scoring = scoring_plan(
            selected_metrics(metrics, metric_options),
            [planned_videos(name, method, samples, seeds) for name, method in made.items()],
            assumed,
            devices=devices,
            placeholders=source == PUBLISHED_COUNTS,
            generation_limits_s={
                name: job_limits_s(method) for name, method in made.items() if method is not None
            },
        )
        if json:
            print_json({**common, "methods": chosen, **scoring.json()})
        else:
            print_scoring_plan(scoring, f"Scoring: {title}", assumed, named=gpu is not None)
        return
    plans = [
        plan_method(
            name, options.get(name, {}), samples, settings=settings or NATIVE, seeds=seeds, assumed=assumed
        )
        for name in chosen
    ]
    if json:
        print_json(
            {
                **common,
                "methods": [asdict(one) for one in plans],
                "total": {
                    "videos": sum(one.videos for one in plans),
                    "pflop": sum(one.pflop for one in plans),
                    "hours": sum(one.hours for one in plans),
                },
            }
        )
        return
    _print_plans(plans, title, assumed, named=gpu is not None)


def planned_samples(
    track: str | None, dataset: str | None, suite: Path | None
) -> tuple[Sequence[Sample], str]:
    """The samples to plan for, and where their numbers of references come from.

    Without a data set, placeholders with the official numbers. Raises UserError as reading the data set does.
    """
    import os

    from refbench.bench.dataset import DATASET_VARIABLE, OFFICIAL_TRACKS

    if suite is not None:
        return o.chosen_track(track, suite, dataset).samples, str(suite)
    name = track or DEFAULT_TRACK
    if dataset is not None or os.environ.get(DATASET_VARIABLE) or name not in OFFICIAL_TRACKS:
        return o.chosen_track(name, None, dataset).samples, "the data set"
    counts = OFFICIAL_REFERENCES[name]
    placeholders = [_placeholder(count) for count, samples in counts.items() for _ in range(samples)]
    return placeholders, PUBLISHED_COUNTS


def _placeholder(references: int) -> Sample:
    """A sample of which only the number of references is known."""
    from refbench.bench.sample import Reference, Sample

    one = Reference(path="reference.png", root=Path(), label="", kind="object")
    return Sample(id="placeholder", category="placeholder", prompt="", references=(one,) * references)


def _options_by_owner(
    assignments: list[str], names: Sequence[str], *, with_metrics: bool
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """`--set` as options by method, and `with_metrics` also by metric."""
    from refbench.bench.options import assignments_by_owner
    from refbench.bench.registry import methods, metrics

    result: dict[str, dict[str, str]] = {}
    of_metrics: dict[str, dict[str, str]] = {}
    owners = "method's or metric's" if with_metrics else "method's"
    for owner, options in assignments_by_owner(assignments, owners).items():
        if with_metrics and owner in metrics.names():
            of_metrics[owner] = options
            continue
        name = methods.get(owner).name
        if name not in names:
            raise UserError(f"--set {owner}.{next(iter(options))}: {name} is not among the methods to plan")
        result[name] = {**result.get(name, {}), **options}
    return result, of_metrics


def planned_method(name: str, assignments: Mapping[str, str], settings: str) -> Method | None:
    """The method with its options; None where it has required ones and none was given.

    Raises UserError for options that the method does not have.
    """
    from dataclasses import fields

    from refbench.bench.options import build_options, describe_options
    from refbench.bench.registry import methods

    method_class = methods.get(name)
    if not assignments and any(option.required for option in describe_options(method_class.Options)):
        return None
    has_settings = any(field.name == "settings" for field in fields(method_class.Options))
    values = {**({"settings": settings} if has_settings else {}), **assignments}
    return method_class(build_options(method_class.Options, values, f"the method {name}"))


def planned_videos(name: str, method: Method | None, samples: Sequence[Sample], seeds: int) -> Videos:
    """The videos that a method makes of these samples; all, of the usual length, where it is not known."""
    from refbench.baselines.scoring_plan import USUAL_FRAMES, Videos

    kept = samples if method is None else [one for one in samples if method.refuses(one) is None]
    frames = None if method is None else method.card().num_frames
    return Videos(method=name, samples=kept, seeds=seeds, frames=frames or USUAL_FRAMES)


def job_limits_s(method: Method) -> dict[str, float]:
    """How many seconds a video may take to generate, by kind of device."""
    return {kind: method.job_limit_s(device) for kind, device in (("GPU", "cuda"), ("CPU", "cpu"))}


def plan_method(
    name: str,
    assignments: Mapping[str, str],
    samples: Sequence[Sample],
    *,
    settings: str,
    seeds: int,
    assumed: AssumedGpu,
) -> MethodPlan:
    """One method's plan. Raises UserError for options that the method does not have."""
    from refbench.baselines.wan.method import WanMethod
    from refbench.bench.registry import methods

    method = planned_method(name, assignments, settings)
    if isinstance(method, WanMethod):
        return _plan_wan(method, samples, seeds=seeds, assumed=assumed)
    method_class = methods.get(name)
    return MethodPlan(
        method=name,
        videos=len(samples) * seeds,
        weights_gib={entry.name: entry.memory_gib for entry in method_class.weights},
        peak_gib={},
        note="not of the Wan family: not counted"
        if method_class.needs_torch
        else "runs no network of this project: nothing to count",
        job_limits_s={} if method is None else job_limits_s(method),
    )


def _plan_wan(method: WanMethod, samples: Sequence[Sample], *, seeds: int, assumed: AssumedGpu) -> MethodPlan:
    from refbench.baselines.wan import cost
    from refbench.baselines.wan.step_cache import NO_CACHE

    spec, settings, options = method.spec, method.settings, method.options
    kept = [sample for sample in samples if method.refuses(sample) is None]
    counts = Counter(cost.references_used(spec, len(sample.references)) for sample in kept)
    costs = {count: cost.video_cost(spec, settings, count) for count in sorted(counts)}
    pflop = sum(counts[count] * one.flops for count, one in costs.items()) * seeds / PETA
    most = max(counts, default=0)
    passes = cost.needed_passes(spec, settings, options)
    joined = cost.joinable_passes(spec, settings)
    parameter_bytes = cost.parameter_bytes_of(options)
    tflops = assumed.tflops(parameter_bytes)
    memory_facts: dict[str, Any] = {
        "parameter_bytes": parameter_bytes,
        "vae_tiling": options.vae_tiling,
        "step_cache": options.cache,
    }
    peaks = cost.peak_gib(spec, settings, most, joined_passes=passes, **memory_facts)
    memory = assumed.memory_gib
    fits_with = cost.fits(spec, settings, memory, references=most, joined_passes=passes, **memory_facts)
    joined_fit = None
    if fits_with is not None:
        together = cost.peak_gib(spec, settings, most, joined_passes=joined, **memory_facts)
        may_join = options.cache == NO_CACHE or options.batch_passes == "yes"
        joined_fit = spec.joins_passes and may_join and together[fits_with] <= memory
    return MethodPlan(
        method=spec.name,
        videos=len(kept) * seeds,
        refused=(len(samples) - len(kept)) * seeds,
        by_references=tuple(
            {
                "references": count,
                "videos": counts[count] * seeds,
                "tokens": one.tokens,
                "calls": one.calls,
                "pflop": one.flops / PETA,
            }
            for count, one in costs.items()
        ),
        weights_gib=cost.weights_gib(spec, parameter_bytes=parameter_bytes),
        peak_gib={str(offload): peak for offload, peak in peaks.items()},
        fits_with=fits_with,
        joined_passes_fit=joined_fit,
        pflop=pflop,
        tflops=tflops,
        hours=pflop * PETA / (tflops * 1e12) / SECONDS_PER_HOUR,
        note="; ".join([*([] if options.cache == NO_CACHE else [WITH_CACHE]), *method.plan_notes()]),
        job_limits_s=job_limits_s(method),
    )


def _print_plans(plans: Sequence[MethodPlan], title: str, assumed: AssumedGpu, *, named: bool) -> None:
    from refbench.baselines.scoring_plan import limit_lines
    from refbench.bench.console import print_lines, print_table

    left_out = print_table(title, PLAN_HEADINGS, _rows(plans), short=SHORT_HEADINGS, drop=DROPPED_FIRST)
    lines = [assumed.sentence(named=named)]
    if WEIGHTS not in left_out and any(one.peak_gib for one in plans):
        lines.append("weights: network (two experts: both) + text encoder + VAE (+ image encoder)")
    for one in plans:
        lines += [f"{one.method}: {line}" for line in _remarks(one, assumed)]
    lines += limit_lines({one.method: one.job_limits_s for one in plans if one.job_limits_s})
    videos, pflop, hours = (sum(getattr(one, name) for one in plans) for name in ("videos", "pflop", "hours"))
    lines.append(
        f"in all: {videos} videos, {pflop:,.0f} PFLOP, {hours:,.1f} GPU hours (the transformer; text, VAE "
        "and writing come on top)"
    )
    print_lines(lines)


def _rows(plans: Sequence[MethodPlan]) -> list[list[str]]:
    rows = []
    for one in plans:
        weights = " + ".join(f"{size:.1f}" for size in one.weights_gib.values()) or "–"
        if not one.peak_gib:
            rows.append([one.method, str(one.videos), *["–"] * 3, weights, *["–"] * 4, "0", "0.0"])
            continue
        kinds = one.by_references
        rows.append(
            [
                one.method,
                str(one.videos),
                _each(f"{kind['references']}×{kind['videos']}" for kind in kinds),
                _each(f"{kind['tokens']:,}" for kind in kinds),
                _each(str(kind["calls"]) for kind in kinds[:1]),
                weights,
                *(f"{peak:.1f}" for peak in one.peak_gib.values()),
                _each(f"{kind['pflop']:,.1f}" for kind in kinds),
                f"{one.pflop:,.0f}",
                f"{one.hours:,.1f}",
            ]
        )
    return rows


def _each(texts: Any) -> str:
    return "\n".join(dict.fromkeys(texts)) or "–"


def _remarks(one: MethodPlan, assumed: AssumedGpu) -> list[str]:
    """Lines below the table: refusals, whether the method fits into the memory, and another throughput."""
    memory = assumed.memory_gib
    lines = [one.note] if one.note else []
    if one.refused:
        lines.append(f"{one.refused} videos are refused for their number of references and not counted")
    if not one.peak_gib:
        return lines
    if one.tflops is not None and one.tflops != assumed.tflops(2):
        lines.append(f"float32: {plain(one.tflops)} TFLOP/s of a peak of {assumed.gpu.peak_tflops(4):g}")
    if one.fits_with is None:
        least = min(one.peak_gib.values())
        lines.append(f"does not fit into {plain(memory)} GiB, with no offload (at least {least:.1f} GiB)")
    else:
        how = "resident" if one.fits_with == "none" else f"with --set offload={one.fits_with}"
        passes = "joined in one call" if one.joined_passes_fit else "in separate calls"
        lines.append(f"fits into {plain(memory)} GiB {how}, guidance passes {passes}")
    return lines
