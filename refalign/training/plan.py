"""The plan of a training run: does it fit on so many GPUs, what does it take, and what to change if not.

The arithmetic is in `refalign.training.cost`; here it becomes the moments of an update, a peak, and advice.
Every sample counts with the most references that a clip may have, and of several buckets the largest counts:
the largest call, and the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from refbench.baselines.small.wan_base import TEXT_BASES
from refbench.baselines.wan.cost import FLOAT32_BYTES, GIB, RUNTIME_GIB
from refbench.baselines.wan.latents import LatentSpace
from refbench.bench.errors import MissingWeights, UserError, one_line
from refbench.bench.weights.catalogue import get_entry
from refbench.bench.weights.hf_folder import read_config
from refbench.bench.weights.store import require
from refbench.refalign.bases import known_base, latent_space
from refbench.refalign.data.sample import ClipRule
from refbench.refalign.teacher import get_teacher_spec
from refbench.refalign.training import cost
from refbench.refalign.training.encoder import latent_shape
from refbench.refalign.training.parts import check_blocks
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.sharded import FILE_BYTES

GPUS_PER_NODE = 8
SECONDS_PER_HOUR = 3600
# What `tiny` reads its widths of teachers from (refalign.small_teacher).
TINY_TEACHER_WIDTH = 40
ENCODERS = ("text encoder", "VAE", "teachers")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A moment of an update and what a GPU holds in it, in bytes by part."""

    name: str
    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a configuration takes on `gpus` GPUs, `per_node` of them in a machine.

    `features`: prepared ones are read, so the frozen networks stay away unless validation needs them.
    `on_gpu` False: the network's kernels are those of a CPU, for comparison with what one measures there.
    """

    config: TrainingConfig
    architecture: Mapping[str, Any]
    gpus: int
    per_node: int = GPUS_PER_NODE
    features: bool = False
    on_gpu: bool = True

    @cached_property
    def sizes(self) -> cost.NetworkSizes:
        """The network's sizes."""
        return cost.NetworkSizes.of(self.architecture)

    @cached_property
    def layout(self) -> cost.Layout:
        """How the run lies on its processes."""
        return cost.layout_of(self.config, self.gpus, self.per_node, on_gpu=self.on_gpu)

    @cached_property
    def space(self) -> LatentSpace:
        """The space of the VAE's latents."""
        return latent_space(self.config.model.base)

    @cached_property
    def is_small(self) -> bool:
        """Whether the frozen networks are tiny ones, made on the spot."""
        return self.config.recipe == "tiny"

    @cached_property
    def teacher_widths(self) -> tuple[int, ...]:
        """Channels of the teachers' tokens."""
        if not self.config.alignment.enabled:
            return ()
        names = self.config.alignment.teachers
        return tuple(TINY_TEACHER_WIDTH if self.is_small else get_teacher_spec(name).width for name in names)

    @cached_property
    def counts(self) -> cost.Parameters:
        """Parameters of the training model."""
        return cost.count_parameters(self.config, self.sizes, self.teacher_widths)

    @cached_property
    def clip(self) -> ClipRule:
        """The clip that a run is planned for: of several buckets the one with the most pixels."""
        buckets = self.config.data.bucket_rules or (self.config.data.clip,)
        return max(buckets, key=lambda one: one.width * one.height * one.num_frames)

    @cached_property
    def call(self) -> cost.Call:
        """The tokens of a call on one process."""
        samples, clip = self.config.run.samples_per_call, self.clip
        channels, frames, rows, columns = latent_shape(clip, self.space)
        patch = self.config.model.patch
        tokens = (rows // patch) * (columns // patch)
        # A sample without references takes one of zeros.
        references = max(clip.max_references, 1)
        return cost.Call(
            samples=samples,
            video_tokens=samples * frames * tokens,
            reference_tokens=samples * references * tokens,
            text_rows=samples * self.config.model.text_rows,
            latents=samples * channels * frames * rows * columns,
        )

    @cached_property
    def accumulation(self) -> int:
        """Calls of a process that make one update."""
        return self.config.run.samples_per_step // (self.gpus * self.config.run.samples_per_call)

    @cached_property
    def recomputed(self) -> cost.Recomputed:
        """What backward computes again."""
        return self.config.run.recompute if self.config.run.gradient_checkpointing else "nothing"

    @cached_property
    def has_encoders(self) -> bool:
        """Whether the frozen networks are loaded at all."""
        return not self.is_small and (not self.features or self.config.validation.every > 0)

    @cached_property
    def encoders(self) -> dict[str, float]:
        """Bytes of the frozen networks, on the GPU while they work there."""
        if not self.has_encoders:
            return {}
        names = self.config.alignment.teachers if self.config.alignment.enabled else ()
        found = (
            cost.text_encoder_bytes(self.layout),
            cost.vae_bytes(self.space),
            cost.teacher_bytes(names, self.layout),
        )
        return dict(zip(ENCODERS, found, strict=True))

    @cached_property
    def standing(self) -> dict[str, float]:
        """What stays on a GPU through an update, gradients left out."""
        counts, layout = self.counts, self.layout
        parts = {
            "weights": cost.weight_bytes(counts, layout),
            "AdamW's moments": cost.moment_bytes(counts, layout),
            "moving average": cost.average_bytes(counts, layout),
            "DDP buckets": cost.bucket_bytes(counts, layout),
        }
        return parts | (self.encoders if self.config.run.encoders == "resident" else {})

    def activations(self, recomputed: cost.Recomputed) -> float:
        """Activations at the fullest moment of a call, with so much computed again."""
        return max(
            moment.parts["activations"] for moment in self._call_moments(recomputed, self._casts(recomputed))
        )

    def _casts(self, recomputed: cost.Recomputed) -> tuple[float, float]:
        """Bytes of autocast's copies in forward and in a block's backward."""
        whole = cost.cast_bytes(self.counts, self.layout, self.sizes, blocks=self.sizes.layers)
        one = cost.cast_bytes(self.counts, self.layout, self.sizes, blocks=1)
        return whole, whole if recomputed == "nothing" else one

    def _call_moments(self, recomputed: cost.Recomputed, casts: tuple[float, float]) -> list[Moment]:
        """Forward and backward of a call: at its first block (the last one of the network) and at its end."""
        config, sizes, call, layout = self.config, self.sizes, self.call, self.layout
        saved = cost.saved_block_bytes(config, sizes, call, layout)
        kept = cost.kept_block_bytes(config, sizes, call, layout, recomputed)
        backward = cost.block_backward_bytes(config, sizes, call, layout)
        outer = cost.outer_activation_bytes(sizes, call, layout)
        alignment = cost.alignment_activation_bytes(config, sizes, call, layout, self.teacher_widths)
        waiting = cost.alignment_gradient_bytes(config, sizes, call, layout)
        again = 0.0 if recomputed == "nothing" else saved - (kept if not layout.half else 0.0)
        if recomputed == "without_attention":
            again -= cost.attention_result_bytes(sizes, call, layout)
        working = (
            cost.GATE_BACKWARD_BYTES * call.tokens * sizes.width
            if recomputed == "nothing"
            else cost.forward_working_bytes(sizes, call, layout)
        )
        forward = sizes.layers * kept + max(working + outer, outer + alignment)
        first = sizes.layers * kept + again + backward + waiting
        last = (kept if recomputed == "nothing" else kept + again) + backward
        full = cost.gradient_bytes(self.counts, layout)
        earlier = full if self.accumulation > 1 else 0.0
        whole_casts, block_casts = casts
        gathered = cost.gathered_bytes(self.counts, layout, sizes)
        batch = cost.batch_bytes(sizes, call, layout, self.teacher_widths)

        def moment(name: str, gradients: float, copies: float, activations: float) -> Moment:
            return Moment(
                name=name,
                parts={
                    **self.standing,
                    "gradients": gradients,
                    "gathered blocks": gathered + copies,
                    "activations": activations,
                    "batch": batch,
                },
            )

        found = [
            moment("forward", earlier, whole_casts, forward),
            moment("backward", earlier, block_casts, first),
        ]
        if self.accumulation == 1:
            # Gradients come as activations go.
            found.append(moment("end of backward", full, block_casts, last))
        return found

    @cached_property
    def moments(self) -> list[Moment]:
        """The moments of an update, and of encoding and validation where the run has them."""
        layout, clip = self.layout, self.clip
        gradients = cost.gradient_bytes(self.counts, layout)
        found = self._call_moments(self.recomputed, self._casts(self.recomputed))
        update = {
            **self.standing,
            "gradients": gradients,
            "AdamW at work": cost.update_working_bytes(self.config, self.counts, layout),
            "batch": cost.batch_bytes(self.sizes, self.call, layout, self.teacher_widths),
        }
        found.append(Moment(name="update", parts=update))
        if not self.has_encoders:
            return found
        visiting = self.standing | self.encoders
        if not self.features:
            # Encoders that stay away otherwise come once for all samples of an update, before its first call.
            resident = self.config.run.encoders == "resident" and self.accumulation > 1
            working = cost.encoding_bytes(self.space, clip.width, clip.height, clip.num_frames)
            parts = {**visiting, "gradients": gradients if resident else 0.0, "VAE at work": working}
            found.append(Moment(name="encoding", parts=parts))
        if self.config.validation.every:
            decoding = {"VAE at work": cost.decoding_bytes(self.space, clip.width, clip.height)}
            found.append(Moment(name="validation", parts=visiting | decoding))
        return found

    @cached_property
    def fullest(self) -> Moment:
        """The moment that holds the most."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def peak_gib(self) -> float:
        """The most that a GPU holds, with the CUDA context, in GiB."""
        return self.fullest.total / GIB + RUNTIME_GIB

    def fits(self, memory_gib: float) -> bool:
        """Whether the peak is within the memory of a GPU."""
        return self.peak_gib <= memory_gib

    @cached_property
    def machine(self) -> int:
        """Processes in one machine."""
        return min(self.per_node, self.gpus)

    @cached_property
    def checkpoint_bytes(self) -> float:
        """A checkpoint on disk in bytes: weights, moments and average in float32.

        With LoRA the frozen network is left out, and the averages have a file beside the averaged adapter; a
        gathered average has the projectors with it.
        """
        counts, adapts = self.counts, self.config.lora.enabled
        weights = counts.adapters + counts.projectors if adapts else counts.total
        average = counts.averaged
        if average and not self.writes_shards:
            average += counts.projectors + (counts.averaged if adapts else 0)
        return float(FLOAT32_BYTES * (weights + cost.MOMENTS * counts.trained + average))

    @cached_property
    def host_load_bytes(self) -> float:
        """Memory of a machine while networks are read: float32 weights in every process, or in the main one
        alone where they are sharded; and the frozen networks in every process.
        """
        counts = self.counts
        network = FLOAT32_BYTES * counts.trained + counts.frozen * counts.frozen_bytes
        readers = 1 if self.layout.shards > 1 else self.machine
        return network * readers + self.host_encoder_bytes

    @cached_property
    def host_encoder_bytes(self) -> float:
        """Memory of a machine for the frozen networks, one copy in each of its processes."""
        return sum(self.encoders.values()) * self.machine

    @cached_property
    def host_save_bytes(self) -> float:
        """Memory of a machine while a checkpoint is written.

        Gathered: all of it in the main process. Sharded: a copy of what each process holds where it is
        written in the background, and the file that each puts together; the main one alone where all hold
        everything.
        """
        if not self.writes_shards:
            return self.checkpoint_bytes
        staged = self.checkpoint_bytes / self.layout.shards if self.config.checkpoints.background else 0.0
        writers = self.machine if self.layout.shards > 1 else 1
        return writers * (staged + min(FILE_BYTES, self.checkpoint_bytes))

    @property
    def kept_bytes(self) -> float:
        """All checkpoints on disk at most: those that are kept, and one that is being written."""
        return self.checkpoint_bytes * (self.config.checkpoints.keep + 1)

    @property
    def keeps_encoders(self) -> bool:
        """Whether the frozen networks stay in the machine's memory through the run."""
        return self.has_encoders and self.config.run.encoders == "offloaded"

    @property
    def writes_shards(self) -> bool:
        """Whether each process writes its part of a checkpoint."""
        return self.config.checkpoints.sharded and not self.config.lora.enabled

    @cached_property
    def forward(self) -> cost.Operations:
        """Operations of one sample's forward pass."""
        return cost.operations(self.config, self.sizes, self.call, self.teacher_widths)

    @cached_property
    def model_flops(self) -> float:
        """Operations of an update that training needs."""
        return self.config.run.samples_per_step * cost.model_operations(self.config, self.forward)

    @cached_property
    def step_flops(self) -> float:
        """Operations of an update that the GPUs do, blocks computed again included."""
        done = cost.done_operations(self.config, self.forward, self.recomputed)
        return self.config.run.samples_per_step * done

    def step_seconds(self, tflops: float) -> float:
        """Seconds of an update where each GPU sustains so many TFLOP/s and nothing else takes time."""
        return self.step_flops / (self.gpus * tflops * 1e12)

    def hours(self, tflops: float) -> float:
        """Hours of the whole run, all GPUs side by side."""
        return self.step_seconds(tflops) * self.config.run.max_steps / SECONDS_PER_HOUR


def make_training_plan(
    config: TrainingConfig,
    gpus: int,
    *,
    per_node: int = GPUS_PER_NODE,
    features: bool = False,
    weights: Path | None = None,
) -> TrainingPlan:
    """The plan of a configuration.

    Raises UserError for a number of GPUs that its samples do not divide into, for blocks that the network
    does not have, and for a network whose sizes are not known.
    """
    check_processes(config, gpus, per_node)
    architecture = planned_architecture(config, weights)
    check_blocks(config, architecture["num_layers"])
    return TrainingPlan(
        config=config, architecture=architecture, gpus=gpus, per_node=per_node, features=features
    )


def fitting_processes(config: TrainingConfig) -> list[int]:
    """The numbers of processes that an update divides into, ascending."""
    calls = config.run.samples_per_step // config.run.samples_per_call
    return [count for count in range(1, calls + 1) if calls % count == 0]


def check_processes(config: TrainingConfig, gpus: int, per_node: int) -> None:
    """Raises UserError where an update does not divide into so many processes, with the nearest that do."""
    run = config.run
    possible = fitting_processes(config)
    if gpus not in possible:
        below = [count for count in possible if count < gpus][-1:]
        above = [count for count in possible if count > gpus][:1]
        near = " and ".join(str(count) for count in (*below, *above))
        raise UserError(
            f"--gpus {gpus}: run.samples_per_step={run.samples_per_step} with run.samples_per_call="
            f"{run.samples_per_call} does not divide into {gpus} processes; nearest: {near}"
        )
    if run.strategy != "hsdp" or gpus == 1:
        return
    group = run.shard_size or min(per_node, gpus)
    if gpus % group:
        fitting = [count for count in possible if count % group == 0]
        nearest = min(fitting, key=lambda count: abs(count - gpus), default=None)
        raise UserError(
            f"--gpus {gpus} does not divide into groups of run.shard_size={group}"
            + (f"; the nearest that does: {nearest}" if nearest is not None else "")
        )


def planned_architecture(config: TrainingConfig, weights: Path | None) -> dict[str, Any]:
    """The configuration of the network that training starts from: that of `model.transformer` where it is on
    disk in diffusers' terms, else that of the base, as released or as it is on disk.

    Raises UserError where neither is known.
    """
    if config.model.transformer is not None:
        stored = config.model.transformer / "config.json"
        found = read_config(config.model.transformer) if stored.is_file() else {}
        if "num_attention_heads" in found:
            return found
    name = config.model.base
    if config.recipe == "tiny":
        _, network, _ = TEXT_BASES.get(name) or next(iter(TEXT_BASES.values()))
        return dict(network)
    base = known_base(name)
    if base is not None:
        released = base.network
        return {
            "num_attention_heads": released.heads,
            "attention_head_dim": released.width // released.heads,
            "in_channels": released.in_channels,
            "out_channels": released.latents.channels,
            "ffn_dim": released.ffn_width,
            "num_layers": released.layers,
        }
    try:
        return read_config(require(get_entry(name), weights) / "transformer")
    except MissingWeights as missing:
        raise UserError(f"the sizes of {one_line(name, 60)} are not known: {missing}") from None


@dataclass(frozen=True, kw_only=True)
class Change:
    """A way to need less memory: what it is, how it is set, the plan with it alone, and with all before it
    as well; None where those before it are enough.
    """

    name: str
    how: str
    alone: TrainingPlan
    together: TrainingPlan | None


def advice(plan: TrainingPlan, memory_gib: float) -> list[Change]:
    """What would lower the peak of a plan, in the order of what costs least; nothing that would not.

    More GPUs are as few as make it fit, or the most that an update divides into.
    """
    found: list[Change] = []
    together = plan
    for name, how, change in CHANGES:
        enough = together.fits(memory_gib)
        alone = change(plan, memory_gib)
        joined = together if enough else change(together, memory_gib)
        if alone.peak_gib >= plan.peak_gib and joined.peak_gib >= together.peak_gib:
            continue
        together = joined
        if name == MORE_GPUS:
            counts = sorted({one.gpus for one in (alone, joined)} - {plan.gpus})
            how = " or ".join(f"--gpus {count}" for count in counts)
        found.append(Change(name=name, how=how, alone=alone, together=None if enough else together))
    return found


def _prepared(plan: TrainingPlan, memory_gib: float) -> TrainingPlan:
    return replace(plan, features=True)


def _offloaded(plan: TrainingPlan, memory_gib: float) -> TrainingPlan:
    return _with(plan, "run", encoders="offloaded")


def _sharded(plan: TrainingPlan, memory_gib: float) -> TrainingPlan:
    return _with(plan, "run", strategy="fsdp2")


def _single(plan: TrainingPlan, memory_gib: float) -> TrainingPlan:
    return _with(plan, "run", samples_per_call=1)


def _recomputed(plan: TrainingPlan, memory_gib: float) -> TrainingPlan:
    return _with(plan, "run", gradient_checkpointing=True, recompute="blocks")


def _not_averaged(plan: TrainingPlan, memory_gib: float) -> TrainingPlan:
    return _with(plan, "ema", enabled=False)


def _larger(plan: TrainingPlan, memory_gib: float) -> TrainingPlan:
    """On the fewest GPUs on which it fits, or on the most; without shards each would hold as much."""
    if plan.config.run.strategy != "fsdp2":
        return plan
    more = [replace(plan, gpus=count) for count in fitting_processes(plan.config) if count > plan.gpus]
    return next((one for one in more if one.fits(memory_gib)), more[-1] if more else plan)


def _adapted(plan: TrainingPlan, memory_gib: float) -> TrainingPlan:
    return _with(plan, "lora", enabled=True)


def _with(plan: TrainingPlan, section: str, **values: Any) -> TrainingPlan:
    changed = replace(getattr(plan.config, section), **values)
    return replace(plan, config=replace(plan.config, **{section: changed}))


MORE_GPUS = "more GPUs"
# Name, how it is set, and the plan with it; one that has it already stays as it is.
CHANGES: tuple[tuple[str, str, Callable[[TrainingPlan, float], TrainingPlan]], ...] = (
    ("features prepared", "refbench prepare, then train --features", _prepared),
    ("encoders off the GPU", "run.encoders=offloaded", _offloaded),
    ("weights sharded", "run.strategy=fsdp2", _sharded),
    ("one sample a call", "run.samples_per_call=1", _single),
    ("blocks computed again", "run.gradient_checkpointing=true run.recompute=blocks", _recomputed),
    ("no moving average", "ema.enabled=false", _not_averaged),
    (MORE_GPUS, "", _larger),
    ("adapters", "lora.enabled=true", _adapted),
)
