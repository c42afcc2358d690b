"""`refbench plan train`: memory, disk, operations and hours of a training run, before its first step.

Found by the CLI through `refbench.commands`. Sizes and formulas are in `refalign.training.cost`, moments of
an update and advice in `refalign.training.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refbench.bench.cli import options as o
from refbench.bench.gpus import DEFAULT_GPU, AssumedGpu, get_gpu, plain
from refbench.refalign.commands import PluginOption, check_packages

if TYPE_CHECKING:
    from refbench.refalign.training.plan import Change, TrainingPlan
    from refbench.refalign.training.settings import TrainingConfig

GIB, MIB = 2.0**30, 2.0**20
# Units of a text, the largest first.
MEMORY_UNITS = (("GiB", GIB), ("MiB", MIB))
DISK_UNITS = (("GB", 1e9), ("MB", 1e6))
OPERATION_UNITS = (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9))
# What training RefAlign-1.3B sustained of an H200's bfloat16 peak, blocks computed again included
# (docs/measured-gpu.md). No other network, card or number of GPUs was measured.
TRAINING_SHARE = 0.39
CONTEXT = "CUDA context, libraries"
ASSUMED = (
    "an assumption: what training RefAlign-1.3B had on an H200, blocks computed again included "
    "(docs/measured-gpu.md)"
)
NOT_COUNTED = (
    "not counted: pieces of memory that torch holds and does not use, buffers of communication "
    "(PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True keeps the pieces few)"
)


def plan_train(
    recipe: Annotated[str, typer.Argument(help="A recipe, as for refbench train.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.FIELD=VALUE]...", help="Changes to the recipe, as for refbench train."
        ),
    ] = None,
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, metavar="N", help="How many GPUs, a process on each.")
    ] = 1,
    gpu: o.GpuOption = None,
    gpu_memory: o.GpuMemoryOption = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            "--tflops",
            min=0.001,
            help="Sustained throughput of one GPU in TFLOP/s. Default: 39 % of its peak.",
        ),
    ] = None,
    gpus_per_node: Annotated[
        int, typer.Option("--gpus-per-node", min=1, metavar="N", help="GPUs of one machine.")
    ] = 8,
    features: Annotated[
        bool, typer.Option("--features", help="With features that refbench prepare made.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="DIR", help="Where a base lies whose sizes are not known here."),
    ] = None,
    plugin: PluginOption = None,
    json: o.JsonOption = False,
) -> None:
    """Plan a training run: memory of each GPU by part, memory and disk of the machine, operations, hours.

    Analytic, from the configuration alone; no weights are needed and nothing is loaded. Where the run does
    not fit, the plan says what to change, in the order of what costs least. Examples:

    refbench plan train stage1_14b --gpus 8

    refbench plan train stage1_1_3b run.strategy=fsdp2 --gpus 4 --gpu 4090 --features
    """
    card = replace(get_gpu(gpu or DEFAULT_GPU), sustained_share=TRAINING_SHARE)
    assumed = AssumedGpu(gpu=card, given_gib=gpu_memory, given_tflops=tflops)
    check_packages()
    from refbench.bench.console import print_json
    from refbench.bench.registry import load_plugins
    from refbench.refalign.training.plan import advice, make_training_plan
    from refbench.refalign.training.recipes import build_config

    load_plugins(plugin or [])
    config = build_config(recipe, overrides or [])
    plan = make_training_plan(config, gpus, per_node=gpus_per_node, features=features, weights=weights)
    sustained = assumed.tflops(_parameter_bytes(config))
    memory_gib = assumed.memory_gib
    changes = [] if plan.fits(memory_gib) else advice(plan, memory_gib)
    if json:
        print_json(
            {
                "gpu": asdict(assumed.gpu),
                "gpu_named": gpu is not None,
                "gpu_memory_gib": memory_gib,
                "tflops": sustained,
                **plan_facts(plan, sustained),
                "fits": plan.fits(memory_gib),
                "changes": [_change_facts(change, plan, memory_gib) for change in changes],
            }
        )
        return
    _print_plan(plan, changes, assumed, sustained, named=gpu is not None)


def _parameter_bytes(config: TrainingConfig) -> int:
    """Bytes of a parameter in the run's matrix products."""
    return 2 if config.run.precision == "bfloat16" else 4


def plan_facts(plan: TrainingPlan, tflops: float) -> dict[str, Any]:
    """A plan as plain data: bytes, operations, seconds and hours at so many TFLOP/s of each GPU."""
    from refbench.refalign.training.cost import RECOMPUTED

    return {
        "recipe": plan.config.recipe,
        "gpus": plan.gpus,
        "gpus_per_node": plan.machine,
        "strategy": plan.config.run.strategy if plan.gpus > 1 else "single",
        "shards": plan.layout.shards,
        "features": plan.features,
        "samples_per_step": plan.config.run.samples_per_step,
        "calls_per_step": plan.accumulation,
        "tokens_per_call": plan.call.tokens,
        "parameters": {**asdict(plan.counts), "total": plan.counts.total},
        "gpu_bytes": {moment.name: dict(moment.parts) for moment in plan.moments},
        "fullest": plan.fullest.name,
        "peak_gib": plan.peak_gib,
        "recomputed": plan.recomputed,
        "activation_bytes": {name: plan.activations(name) for name in RECOMPUTED},
        "host_bytes": {
            "load": plan.host_load_bytes,
            "save": plan.host_save_bytes,
            "encoders": plan.host_encoder_bytes,
        },
        "checkpoint_bytes": plan.checkpoint_bytes,
        "kept_bytes": plan.kept_bytes,
        "model_flops": plan.model_flops,
        "step_flops": plan.step_flops,
        "step_seconds": plan.step_seconds(tflops),
        "steps": plan.config.run.max_steps,
        "hours": plan.hours(tflops),
    }


def _change_facts(change: Change, plan: TrainingPlan, memory_gib: float) -> dict[str, Any]:
    together = change.together
    return {
        "change": change.name,
        "how": change.how,
        "peak_gib": change.alone.peak_gib,
        "saves_gib": plan.peak_gib - change.alone.peak_gib,
        "fits": change.alone.fits(memory_gib),
        "together_peak_gib": None if together is None else together.peak_gib,
        "together_fits": None if together is None else together.fits(memory_gib),
    }


def _print_plan(
    plan: TrainingPlan, changes: Sequence[Change], assumed: AssumedGpu, tflops: float, *, named: bool
) -> None:
    from refbench.bench.console import print_lines, print_table

    run = plan.config.run
    strategy = run.strategy if plan.gpus > 1 else "one process"
    unit, _ = _table_unit(plan)
    title = (
        f"{plan.config.recipe} on {plan.gpus} {assumed.gpu.title} ({strategy}), {unit} of each: "
        f"{run.samples_per_step} samples an update, {plan.accumulation} calls of {plan.call.tokens:,} tokens"
    )
    print_table(title, ["part", *(moment.name for moment in plan.moments)], _rows(plan))
    lines = [_verdict(plan, assumed), *_lines(plan, assumed, tflops, named=named)]
    print_lines(lines)
    if not changes:
        return
    memory_gib = assumed.memory_gib
    rows = [
        [
            change.name,
            f"{plan.peak_gib - change.alone.peak_gib:.1f}",
            _fit_text(change.alone, memory_gib),
            _fit_text(change.together, memory_gib),
            change.how,
        ]
        for change in changes
    ]
    headings = ["change", "saves GiB", "then needs", "with those above", "how"]
    print_table("What would make it fit, the cheapest first", headings, rows, words=True, texts=("how",))


def _fit_text(plan: TrainingPlan | None, memory_gib: float) -> str:
    if plan is None:
        return "–"
    return f"{plan.peak_gib:.1f}{', fits' if plan.fits(memory_gib) else ''}"


def _table_unit(plan: TrainingPlan) -> tuple[str, float]:
    """GiB, or MiB for a network so small that it would be all zeros."""
    return MEMORY_UNITS[0] if plan.fullest.total >= GIB else MEMORY_UNITS[1]


def _rows(plan: TrainingPlan) -> list[list[str]]:
    """A row for each part that any moment has, then the context and the sums."""
    from refbench.baselines.wan.cost import RUNTIME_GIB

    _, unit = _table_unit(plan)
    parts = dict.fromkeys(name for moment in plan.moments for name in moment.parts)
    table = {name: [moment.parts.get(name, 0.0) for moment in plan.moments] for name in parts}
    context = RUNTIME_GIB * GIB
    table[CONTEXT] = [context] * len(plan.moments)
    table["in all"] = [moment.total + context for moment in plan.moments]
    return [
        [name, *(f"{size / unit:,.1f}" if size else "–" for size in sizes)]
        for name, sizes in table.items()
        if any(sizes)
    ]


def _text(value: float, units: Sequence[tuple[str, float]]) -> str:
    """A value in the largest unit of which it has one, else in the smallest."""
    name, unit = next((one for one in units if value >= one[1]), units[-1])
    return f"{value / unit:,.1f} {name}"


def _verdict(plan: TrainingPlan, assumed: AssumedGpu) -> str:
    memory = assumed.memory_gib
    does = "fits into" if plan.fits(memory) else "does not fit into"
    return (
        f"{does} {plain(memory)} GiB: needs about {plan.peak_gib:.1f} on each GPU, the most at "
        f"{plan.fullest.name}"
    )


def _lines(plan: TrainingPlan, assumed: AssumedGpu, tflops: float, *, named: bool) -> list[str]:
    from refbench.refalign.training.cost import uncounted_targets
    from refbench.refalign.training.parts import active_inputs, other_losses

    config, counts = plan.config, plan.counts
    copies = config.checkpoints.keep + 1
    lines = [
        _activations_text(plan),
        f"parameters: {counts.trained:,} trained of {counts.total:,}",
        _machine_text(plan),
        f"disk: {_text(plan.checkpoint_bytes, DISK_UNITS)} a checkpoint, up to "
        f"{_text(plan.kept_bytes, DISK_UNITS)} for {copies} (checkpoints.keep={config.checkpoints.keep}, and "
        "one that is being written)",
        f"an update: {_text(plan.model_flops, OPERATION_UNITS)}, "
        f"{_text(plan.step_flops, OPERATION_UNITS)} with what is computed again; at least "
        f"{plan.step_seconds(tflops):,.3g} s; {config.run.max_steps:,} updates: {plan.hours(tflops):,.1f} "
        f"hours, {plan.hours(tflops) * plan.gpus:,.1f} GPU hours",
        _assumption(plan, assumed, tflops, named=named),
        "every sample counts with the most references of a clip "
        f"({config.data.clip.max_references}); communication"
        + (" comes on top" if plan.features else ", encoding and reading of clips come on top"),
        NOT_COUNTED,
    ]
    if config.run.compile:
        lines.append("run.compile=true: compiled blocks keep less; they are counted as if they were not")
    if uncounted := uncounted_targets(config, plan.sizes):
        lines.append(f"lora.targets outside of the blocks are not counted: {', '.join(uncounted)}")
    own = [*other_losses(config), *active_inputs(config)]
    if own:
        names = ", ".join(one.declaration.name for one in own)
        lines.append(f"not counted: modules, tokens and teachers of a plugin's {names}")
    if plan.is_small:
        lines.append("the tiny encoders, made on the spot, are not counted")
    return lines


def _activations_text(plan: TrainingPlan) -> str:
    whole, again, attention = (
        _text(plan.activations(name), MEMORY_UNITS) for name in ("nothing", "blocks", "without_attention")
    )
    return (
        f"activations: {again} where blocks are computed again, {attention} where their attention is kept "
        f"(run.recompute=without_attention), {whole} where everything is (run.gradient_checkpointing=false); "
        f"this run computes {plan.recomputed.replace('_', ' ')} again"
    )


def _machine_text(plan: TrainingPlan) -> str:
    encoders = plan.host_encoder_bytes if plan.keeps_encoders else 0.0
    kept = f", of which {_text(encoders, MEMORY_UNITS)} the encoders, which stay there" if encoders else ""
    return (
        f"memory of a machine with {plan.machine} of the GPUs: {_text(plan.host_load_bytes, MEMORY_UNITS)} "
        f"while networks are read, {_text(plan.host_save_bytes + encoders, MEMORY_UNITS)} while a checkpoint "
        f"is written{kept}"
    )


def _assumption(plan: TrainingPlan, assumed: AssumedGpu, tflops: float, *, named: bool) -> str:
    precision = plan.config.run.precision
    peak = assumed.gpu.peak_tflops(_parameter_bytes(plan.config))
    share = "--tflops" if assumed.given_tflops is not None else f"{100 * tflops / peak:.0f} %, {ASSUMED}"
    return (
        f"{assumed.opening(named=named)}, {plain(tflops)} TFLOP/s of a peak of {peak:g} in {precision} "
        f"({share}); source: {assumed.gpu.source}"
    )
