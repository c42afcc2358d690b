"""Recipes: complete training configurations as plain functions, and overrides `section.field=value`.

What is public of RefAlign's training: AdamW with torch's defaults, learning rate 5e-5 in stage 1 and 1e-5
in stage 2, no gradient clipping, batch 1 per process, 81 frames of 832×480 at every third source frame, RA of
weight 1 at blocks 0 to 8 with the gate (t/1000)³, DINOv3 ViT-B/16 as the teacher of 1.3B and ViT-L/16 of
14B; stage 2 starts from the network that stage 1 made. The paper (read in secondary text) adds: 128 samples
an update, 3,000 iterations, weight decay 0.01; stage 1 on regular pairs of OpenS2V-5M, stage 2 on those and
cross pairs of Phantom-Data, 6 to 4; references of regular pairs augmented; ablations of 1,800 iterations.

Ours, since they are not public: 3,000 iterations for each stage rather than for both, the strengths of the
augmentation, and the intervals. The byte code draws a linked clip's references with probability 0.23, which
the paper does not name; stage 1 keeps it, stage 2 has its cross pairs from the second data set.

Source: arXiv 2603.25743; gudaochangsheng/RefAlign@6f91526 (byte code of its trainer).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from refbench.baselines.wan.prompts import MAX_TEXT_TOKENS
from refbench.baselines.wan.spec import WAN22_T2V_BOUNDARY
from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.registry import Registry, unknown_name
from refbench.refalign.alignment import AlignmentConfig, ReferenceAlignment
from refbench.refalign.bases import ExpertName, check_clip, check_expert, expert_timesteps, latent_space
from refbench.refalign.data.augmentation import ReferenceAugmentation
from refbench.refalign.data.buckets import parse_bucket
from refbench.refalign.data.dataset import OPEN_SHARDS
from refbench.refalign.data.sample import ClipRule, DropoutRates
from refbench.refalign.data.source import ReferenceRates
from refbench.refalign.flow_matching import LEVELS, FlowSchedule, Sampling, SamplingKind
from refbench.refalign.losses import losses as known_losses
from refbench.refalign.losses import own_code, place_of
from refbench.refalign.reference_inputs import reference_inputs as known_inputs

Precision = Literal["float32", "bfloat16"]
Strategy = Literal["ddp", "fsdp2", "hsdp"]
Recomputation = Literal["blocks", "without_attention"]
EncoderPlace = Literal["resident", "offloaded"]
RateSchedule = Literal["constant", "linear", "cosine"]
DecayedParameters = Literal["all", "matrices"]
OptimizerKernel = Literal["auto", "loop", "foreach", "fused"]
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
# What other trainers call our settings.
OTHER_NAMES = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "eps": "optimizer.epsilon",
    "betas": "optimizer.beta1",
    "max_grad_norm": "optimizer.max_gradient_norm",
    "grad_clip": "optimizer.max_gradient_norm",
    "clip_grad_norm": "optimizer.max_gradient_norm",
    "lr_warmup_steps": "optimizer.warmup_steps",
    "lr_scheduler": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "min_lr": "optimizer.final_rate",
    "weighting_scheme": "flow.sampling",
    "torch_compile": "run.compile",
    "batch_size": "run.samples_per_step",
    "micro_batch_size": "run.samples_per_call",
    "steps": "run.max_steps",
    "max_train_steps": "run.max_steps",
    "mixed_precision": "run.precision",
    "num_workers": "data.workers",
    "save_every": "checkpoints.every",
    "save_steps": "checkpoints.every",
}
# Of the paper; whether the iterations are those of one stage or of both it does not say.
PAPER_ITERATIONS = 3000
PAPER_SAMPLES_PER_STEP = 128
# Regular pairs to cross pairs in stage 2, in the order of --data.
PAPER_MIXTURE = (6, 4)
# The kinds are the paper's, the strengths are ours.
AUGMENTATION = ReferenceAugmentation(
    rotation_degrees=15.0, scale=0.1, flip=0.5, shear_degrees=5.0, blur_px=1.0, colour=0.1
)
# Beyond it sigmoid(logit) is 0 or 1 in float32.
MOST_LOGIT = 20
# The one loss whose settings are a section of their own, `alignment`.
RA = ReferenceAlignment.declaration.name
# The sections that plugins fill, by what stands in them.
PLUGIN_SECTIONS: dict[str, Registry[Any]] = {"losses": known_losses, "reference_inputs": known_inputs}
# A token of all released networks stands for 2×2 latents of one frame.
RELEASED_PATCH = 2
# What settings that older files do not name stood for.
SETTINGS_OF_BEFORE: dict[str, Any] = {
    "data.open_shards": 1,
    "data.mixture": [],
    "data.buckets": [],
    "data.references.augmentation.rotation_degrees": 0.0,
    "data.references.augmentation.scale": 0.0,
    "data.references.augmentation.flip": 0.0,
    "data.references.augmentation.shear_degrees": 0.0,
    "data.references.augmentation.blur_px": 0.0,
    "data.references.augmentation.colour": 0.0,
    "model.expert": None,
    "model.boundary": WAN22_T2V_BOUNDARY,
    "lora.rslora": False,
    "lora.dora": False,
    "model.text_rows": MAX_TEXT_TOKENS,
    "model.patch": RELEASED_PATCH,
    "flow.sampling": "bell",
    "flow.logit_mean": 0.0,
    "flow.logit_scale": 1.0,
    "flow.lowest_timestep": 0.0,
    "flow.highest_timestep": 1000.0,
    "optimizer.schedule": "constant",
    "optimizer.final_rate": 0.0,
    "optimizer.schedule_steps": None,
    "optimizer.weight_decay_on": "all",
}
# Where the settings are that stood directly in `data` in version 1 of the files that store a configuration.
MOVED_DATA_SETTINGS = {
    "width": "clip.width",
    "height": "clip.height",
    "num_frames": "clip.num_frames",
    "stride": "clip.stride",
    "max_references": "clip.max_references",
    "cross_pair_probability": "references.cross_pair",
    "gpt_probability": "references.gpt",
    "no_text": "dropout.text",
    "no_references": "dropout.references",
    "neither": "dropout.both",
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is trained.

    `base`: catalogue name of the repository with VAE, text encoder and the network to start from.
    `transformer`: another network to start from, a file or folder of either naming, with or without
    projectors. `random`: no network is read but one of the base's configuration, freshly initialised from the
    seed, is trained. `needs_transformer`: `transformer` has to be given (stage 2). `text_rows`: rows of text
    that the network attends to, of which those after the prompt's end are zero. `patch`: rows and columns of
    latents of which the network makes a token. `expert`: of a base with two experts the one that is trained,
    at timesteps from 1000·`boundary` up (high) or below it (low), to which `flow` is then bounded.
    """

    base: str
    transformer: Path | None = None
    random: bool = False
    needs_transformer: bool = False
    text_rows: int = MAX_TEXT_TOKENS
    patch: int = RELEASED_PATCH
    expert: ExpertName | None = None
    boundary: float = WAN22_T2V_BOUNDARY

    def __post_init__(self) -> None:
        if not 0 < self.boundary < 1:
            raise ValueError(f"boundary must lie between 0 and 1, {self.boundary} does not")

    @property
    def timestep_bounds(self) -> tuple[float, float]:
        """The lowest and the highest timestep that the network is asked at."""
        return expert_timesteps(self.expert, self.boundary)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How clips are cut (`clip`), how often references come from elsewhere (`references`), and how often the
    text, the references or both are dropped (`dropout`). `workers`: decoding processes. `skip`: clips to
    leave out, by the names that error lines and the log give them; a resumed run keeps those that it had.
    `open_shards`: files whose clips are shuffled together; `mixture`: shares of several data sets. `buckets`:
    sizes and lengths, `832x480x81`, to the nearest of which each clip is cut instead of to `clip`'s
    (`refalign.data.buckets`).
    """

    clip: ClipRule = field(default_factory=ClipRule)
    references: ReferenceRates = field(default_factory=ReferenceRates)
    dropout: DropoutRates = field(default_factory=DropoutRates)
    workers: int = 2
    skip: tuple[str, ...] = ()
    open_shards: int = OPEN_SHARDS
    mixture: tuple[int, ...] = ()
    buckets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _at_least(self, 0, "workers")
        _at_least(self, 1, "open_shards")
        if len(set(self.bucket_rules)) != len(self.buckets):
            raise ValueError(f"buckets names one twice: {', '.join(self.buckets)}")

    @property
    def bucket_rules(self) -> tuple[ClipRule, ...]:
        """The rules of the buckets. Raises ValueError."""
        return tuple(parse_bucket(text, self.clip) for text in self.buckets)


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """`shift` of the noise schedule; `round_timesteps` to bfloat16 before everything, as the authors do.

    `sampling`: how timesteps are drawn and weighted (`refalign.flow_matching`), within `lowest_timestep` and
    `highest_timestep` (0..1000); `logit_mean` and `logit_scale` belong to logit-normal.
    """

    shift: float = 5.0
    round_timesteps: bool = False
    sampling: SamplingKind = "bell"
    logit_mean: float = 0.0
    logit_scale: float = 1.0
    lowest_timestep: float = 0.0
    highest_timestep: float = 1000.0

    def __post_init__(self) -> None:
        if not 0 < self.shift <= 1000:
            raise ValueError(f"shift must be above 0 and at most 1000, {self.shift} is not")
        if not (abs(self.logit_mean) <= MOST_LOGIT and 0 < self.logit_scale <= MOST_LOGIT):
            raise ValueError(
                f"logit_mean must lie in -{MOST_LOGIT}..{MOST_LOGIT} and logit_scale in 0..{MOST_LOGIT}, "
                f"{self.logit_mean} and {self.logit_scale} do not"
            )
        if self.sampling != "logit-normal" and (self.logit_mean, self.logit_scale) != (0, 1):
            raise ValueError("logit_mean and logit_scale belong to sampling=logit-normal")
        if not 0 <= self.lowest_timestep < self.highest_timestep <= LEVELS:
            raise ValueError(
                f"lowest_timestep must be below highest_timestep, both in 0..{LEVELS}, "
                f"{self.lowest_timestep:g} and {self.highest_timestep:g} are not"
            )
        self.make_schedule()

    def make_schedule(self) -> FlowSchedule:
        """The tables of the schedule. Raises ValueError where no timestep can be drawn."""
        return FlowSchedule(
            self.shift,
            round_timesteps=self.round_timesteps,
            sampling=Sampling(
                kind=self.sampling,
                logit_mean=self.logit_mean,
                logit_scale=self.logit_scale,
                lowest=self.lowest_timestep,
                highest=self.highest_timestep,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with torch's defaults.

    `max_gradient_norm` None: no clipping. `warmup_steps`: updates over which the rate rises linearly.
    `authors_warmup`: a third of the rate until 5 scheduler steps are done, of which each update makes as many
    as there are processes (accelerate's way): with 5 or more only the first update is reduced.
    `schedule`: after the warm-up the rate stays, or falls to `final_rate` up to update `schedule_steps`
    (None: the `run.max_steps` that the run begins with, which it keeps). `weight_decay_on`: all parameters,
    as the authors do, or `matrices`: no norms, biases and modulation tables. `kernel`: torch's implementation
    of AdamW; auto: fused on a GPU, the plain loop on a CPU.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    max_gradient_norm: float | None = None
    warmup_steps: int = 0
    authors_warmup: bool = False
    schedule: RateSchedule = "constant"
    final_rate: float = 0.0
    schedule_steps: int | None = None
    weight_decay_on: DecayedParameters = "all"
    kernel: OptimizerKernel = "auto"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive, {getattr(self, name)} is not")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0..1, {getattr(self, name)} does not")
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0:
            raise ValueError(f"max_gradient_norm must be positive, {self.max_gradient_norm} is not")
        _at_least(self, 0, "weight_decay", "warmup_steps")
        if not 0 <= self.final_rate <= self.learning_rate:
            raise ValueError(f"final_rate must lie in 0..learning_rate, {self.final_rate} does not")
        if self.schedule == "constant" and (self.schedule_steps is not None or self.final_rate):
            raise ValueError("schedule_steps and final_rate belong to schedule=linear or cosine")
        if self.schedule_steps is not None and self.schedule_steps <= self.warmup_steps:
            raise ValueError(
                f"schedule_steps must be above warmup_steps={self.warmup_steps}, {self.schedule_steps} is not"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length, batch and machine.

    `samples_per_step` make one update, whatever the number of processes: it is divided into calls of
    `samples_per_call` on each, and the rest is accumulated. `precision` bfloat16: float32 weights under
    autocast. `strategy`: how several processes share the work (`ddp`: each has everything; `fsdp2`: each has
    a shard; `hsdp`: shards within groups of `shard_size` processes, None: of one machine); one process needs
    none. `gradient_checkpointing` computes again in backward what `recompute` names: whole `blocks`, or
    blocks `without_attention`, which for 33,000 tokens is most of the work and whose results are then kept.
    `encoders`: text encoder, VAE and teachers stay on the card, or are `offloaded` to the CPU while the
    network trains. `timeout_s`: how long a process waits for the others before the run ends. `attention`: a
    back-end of diffusers by its name (None: torch's own choice), `compile`: blocks by torch.compile; both as
    in sampling.
    """

    seed: int = 0
    max_steps: int = 10_000
    samples_per_step: int = 8
    samples_per_call: int = 1
    precision: Precision = "bfloat16"
    gradient_checkpointing: bool = True
    strategy: Strategy = "ddp"
    shard_size: int | None = None
    recompute: Recomputation = "blocks"
    encoders: EncoderPlace = "resident"
    timeout_s: int = 3600
    attention: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        _at_least(self, 1, "max_steps", "samples_per_step", "samples_per_call", "timeout_s")
        if self.shard_size is not None:
            _at_least(self, 1, "shard_size")
        if self.compile and self.gradient_checkpointing and self.recompute != "blocks":
            raise ValueError(
                f"compile=true does not go together with recompute={self.recompute}: of a compiled block "
                "nothing is seen that could be kept; take recompute=blocks"
            )
        if self.samples_per_step % self.samples_per_call:
            raise ValueError(
                f"samples_per_step {self.samples_per_step} is no multiple of "
                f"samples_per_call {self.samples_per_call}"
            )


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """A moving average of the trained weights, saved beside them and used for validation.

    The factor grows to `decay` as (1 + n)/(10 + n) after n updates (diffusers' `EMAModel`).
    """

    enabled: bool = False
    decay: float = 0.9999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in 0..1, {self.decay} does not")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Train low-rank adapters instead of the network; the projectors of RA are trained whole.

    A weight W becomes W + (alpha/rank)·B·A. `rslora`: alpha/sqrt(rank) in its place (arXiv 2312.03732).
    `dora`: the rows of that sum get lengths of their own, which are trained too (arXiv 2402.09353).
    """

    enabled: bool = False
    rank: int = 64
    alpha: float = 64.0
    targets: tuple[str, ...] = LORA_TARGETS
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        _at_least(self, 1, "rank")
        if not self.targets or not self.alpha > 0:
            raise ValueError("lora needs targets and a positive alpha")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Videos of benchmark samples, made every `every` steps; 0: none.

    `dataset`: an OpenS2V-Eval folder (None: where it is looked for always) or suite file; `samples` of its
    `track` by id. `metrics`: names of the harness' metrics (or `components`, `all`) that score them.
    """

    every: int = 0
    dataset: Path | None = None
    track: str = "open-domain"
    samples: tuple[str, ...] = ("singleobj_1", "singlehuman_1", "faceobj_1")
    steps: int = 20
    seed: int = 0
    image_scale: float = 5.0
    text_scale: float = 7.5
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _at_least(self, 0, "every")
        _at_least(self, 1, "steps")
        if self.metrics and not self.every:
            raise ValueError("metrics score the validation videos: give every, too")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """A checkpoint is written every `every` steps and at the end; the newest `keep` of them stay.

    `sharded`: each process writes its own part (`refbench convert` makes one network of them), else the main
    process gathers and writes everything, ready for inference. `background`: a sharded one is written while
    training goes on. A run that is told to stop gives up an update that would take longer than `grace_s`
    seconds more: its checkpoint is that of the last whole one.
    """

    every: int = 500
    keep: int = 3
    sharded: bool = False
    background: bool = True
    grace_s: int = 30

    def __post_init__(self) -> None:
        _at_least(self, 1, "every", "keep")
        _at_least(self, 0, "grace_s")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """A console line every `every` steps; curves and validation videos for TensorBoard, and for W&B and
    trackio under `project`. `profile`: how many updates of a process are traced by torch.profiler.
    """

    every: int = 10
    tensorboard: bool = True
    wandb: bool = False
    trackio: bool = False
    project: str = "refalign"
    profile: int = 0

    def __post_init__(self) -> None:
        _at_least(self, 1, "every")
        _at_least(self, 0, "profile")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The whole configuration of a training run, except for the folders of data, weights and output.

    `losses` and `reference_inputs`: the options of those that plugins registered, by name.
    """

    recipe: str
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    losses: Mapping[str, Any] = field(default_factory=dict)
    reference_inputs: Mapping[str, Any] = field(default_factory=dict)
    flow: FlowConfig = field(default_factory=FlowConfig)
    optimizer: OptimizerConfig
    run: RunConfig = field(default_factory=RunConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def plain(self) -> dict[str, Any]:
        """The configuration as JSON-serialisable data."""
        plain: dict[str, Any] = TypeAdapter(dict[str, Any]).dump_python(asdict(self), mode="json")
        return plain


def stage1_1_3b() -> TrainingConfig:
    """RefAlign 1.3B, stage 1: from Wan2.1-T2V-1.3B, on regular pairs; whole network in every process."""
    return TrainingConfig(
        recipe="stage1_1_3b",
        model=ModelConfig(base="wan2.1-t2v-1.3b"),
        data=DataConfig(references=ReferenceRates(augmentation=AUGMENTATION)),
        alignment=AlignmentConfig(teachers=("dinov3-vitb16",)),
        optimizer=OptimizerConfig(learning_rate=5e-5),
        run=RunConfig(max_steps=PAPER_ITERATIONS, samples_per_step=PAPER_SAMPLES_PER_STEP),
    )


def stage2_1_3b() -> TrainingConfig:
    """RefAlign 1.3B, stage 2: a fifth of the learning rate, from the network that stage 1 made.

    `model.transformer` has to name it. The data are two sets, first of regular pairs, then of cross pairs,
    of which 6 and 4 are taken in turn.
    """
    return _second_stage(stage1_1_3b(), "stage2_1_3b")


def stage1_14b() -> TrainingConfig:
    """RefAlign 14B, stage 1: from Wan2.1-T2V-14B, sharded over all processes (FSDP2), checkpoints too, blocks
    recomputed, encoders off the card while the network trains.
    """
    return TrainingConfig(
        recipe="stage1_14b",
        model=ModelConfig(base="wan2.1-t2v-14b"),
        data=DataConfig(references=ReferenceRates(augmentation=AUGMENTATION)),
        alignment=AlignmentConfig(teachers=("dinov3-vitl16",)),
        optimizer=OptimizerConfig(learning_rate=5e-5),
        run=RunConfig(
            max_steps=PAPER_ITERATIONS,
            samples_per_step=PAPER_SAMPLES_PER_STEP,
            strategy="fsdp2",
            encoders="offloaded",
        ),
        checkpoints=CheckpointConfig(sharded=True),
    )


def stage2_14b() -> TrainingConfig:
    """RefAlign 14B, stage 2: as `stage2_1_3b`, sharded like stage 1."""
    return _second_stage(stage1_14b(), "stage2_14b")


def tiny() -> TrainingConfig:
    """A network of 4 blocks of 96 channels on clips of 96×64 and 9 frames, with random VAE, text encoder and
    teacher made on the spot: the whole trainer on a laptop's CPU in a minute or two, without any weights.
    """
    return TrainingConfig(
        recipe="tiny",
        model=ModelConfig(base="wan2.1-t2v-1.3b", random=True),
        data=DataConfig(clip=ClipRule(width=96, height=64, num_frames=9), workers=0),
        alignment=AlignmentConfig(blocks=(0, 1, 2)),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        run=RunConfig(max_steps=300, samples_per_step=2, precision="float32", gradient_checkpointing=False),
        validation=ValidationConfig(steps=4),
        checkpoints=CheckpointConfig(every=100),
    )


def mini_stage1() -> TrainingConfig:
    """RefAlign in the drawn world of the track `mini`, stage 1: from its text-to-video base of 3 million
    parameters, on clips of 64×64 and 9 frames, with its own small teacher in DINOv3's place.

    RA at a third of the blocks, as in the paper (9 of 30); regular and cross pairs 6 to 4. The rest is ours.
    """
    return TrainingConfig(
        recipe="mini_stage1",
        model=ModelConfig(base="mini-base", text_rows=64, patch=1),
        data=DataConfig(
            clip=ClipRule(width=64, height=64, num_frames=9, stride=1),
            references=ReferenceRates(cross_pair=0.4),
            workers=0,
        ),
        alignment=AlignmentConfig(blocks=(0, 1), teachers=("dinov3-vitb16",)),
        flow=FlowConfig(shift=3.0),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=100, max_gradient_norm=1.0),
        run=RunConfig(
            max_steps=1500,
            samples_per_step=8,
            samples_per_call=8,
            precision="float32",
            gradient_checkpointing=False,
        ),
        ema=EmaConfig(enabled=True, decay=0.999),
        checkpoints=CheckpointConfig(every=200, keep=1),
        log=LogConfig(every=50, tensorboard=False),
    )


def mini_stage2() -> TrainingConfig:
    """RefAlign in the drawn world, stage 2: a fifth of the learning rate, from the network of stage 1."""
    first = mini_stage1()
    return replace(
        first,
        recipe="mini_stage2",
        model=replace(first.model, needs_transformer=True),
        optimizer=replace(first.optimizer, learning_rate=first.optimizer.learning_rate / 5),
        run=replace(first.run, max_steps=375),
    )


def _second_stage(first: TrainingConfig, name: str) -> TrainingConfig:
    return replace(
        first,
        recipe=name,
        model=replace(first.model, needs_transformer=True),
        data=replace(
            first.data,
            references=replace(first.data.references, cross_pair=0.0),
            mixture=PAPER_MIXTURE,
        ),
        optimizer=replace(first.optimizer, learning_rate=1e-5),
    )


RECIPES: dict[str, Callable[[], TrainingConfig]] = {
    recipe.__name__: recipe
    for recipe in (stage1_1_3b, stage2_1_3b, stage1_14b, stage2_14b, mini_stage1, mini_stage2, tiny)
}


def register_recipe(recipe: Callable[[], TrainingConfig]) -> Callable[[], TrainingConfig]:
    """Decorator: make a recipe known by its function's name. Raises UserError for a name that is taken."""
    existing = RECIPES.setdefault(recipe.__name__, recipe)
    if existing is not recipe:
        raise UserError(
            f"two recipes are called {recipe.__name__!r}: {place_of(existing)} and {place_of(recipe)}"
        )
    return recipe


def _made(recipe: str) -> TrainingConfig:
    """A recipe's configuration, with the options of all known losses and inputs: idle where it names none."""
    make = RECIPES[recipe]
    with own_code(f"the recipe {recipe!r}", make):
        config = make()
    if not isinstance(config, TrainingConfig) or config.recipe != recipe:
        found = config.recipe if isinstance(config, TrainingConfig) else type(config).__name__
        raise UserError(
            f"the recipe {recipe!r} ({place_of(make)}) returns {found!r}, not a TrainingConfig with "
            f"recipe={recipe!r}"
        )
    return replace(
        config,
        losses=_with_idle(known_losses, config.losses),
        reference_inputs=_with_idle(known_inputs, config.reference_inputs),
    )


def _with_idle(registry: Registry[Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen options, and the default ones of everything else that has settings of its own."""
    for name, options in chosen.items():
        if not isinstance(options, registry.get(name).Options):
            raise UserError(f"the options of the {registry.kind} {name!r} are a {type(options).__name__}")
    others = [name for name in registry.names() if name != RA]
    return {name: chosen.get(name) or registry.get(name).Options() for name in others}


def build_config(recipe: str, overrides: Iterable[str] = ()) -> TrainingConfig:
    """A recipe with overrides `section.field=value` (`none` for None, `0,1,2` for several values).

    Raises UserError for an unknown recipe, section or field, with the nearest known name, for a value of the
    wrong type or out of range, and for a recipe that lacks the network it starts from.
    """
    if recipe not in RECIPES:
        raise UserError(unknown_name("recipe", recipe, RECIPES))
    config = _made(recipe)
    changes: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or "." not in key:
            meant = OTHER_NAMES.get(key.lower())
            hint = f"; did you mean {meant}?" if meant is not None and equals else ""
            raise UserError(f"an override is section.field=value, not {one_line(override, 80)!r}{hint}")
        changes[key] = _parsed(key, text, _setting_type(config, key))
    changed: TrainingConfig = _changed(config, changes)
    if changed.model.needs_transformer and changed.model.transformer is None:
        raise UserError(
            f"{changed.recipe} starts from the network that stage 1 made; name it: "
            "model.transformer=OUT/checkpoints/step-N/transformer"
        )
    check_clip(changed.data.clip, latent_space(changed.model.base), changed.model.patch)
    check_expert(changed.model.base, changed.model.expert)
    if changed.model.expert is not None and changed.validation.every:
        raise UserError(
            f"validation.every={changed.validation.every}: videos need both experts, a run trains one; make "
            f"them with refbench generate refalign-14b --set base={changed.model.base}"
        )
    return _bounded_to_expert(changed)


def _bounded_to_expert(config: TrainingConfig) -> TrainingConfig:
    """The configuration with the timesteps of the expert that is trained. Raises UserError where none is
    left.
    """
    lowest, highest = config.model.timestep_bounds
    try:
        flow = replace(
            config.flow,
            lowest_timestep=max(config.flow.lowest_timestep, lowest),
            highest_timestep=min(config.flow.highest_timestep, highest),
        )
    except ValueError as error:
        raise UserError(f"model.expert={config.model.expert}: {one_line(error, 200)}") from None
    return replace(config, flow=flow)


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by their dotted names: `{"data": {"workers": 2}}` is `{"data.workers": 2}`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": each for key, each in flat_settings(value).items()}
        else:
            flat[name] = value
    return flat


def without_idle(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings without those of losses and inputs of plugins that are not enabled: they change nothing,
    and are there only while the plugin is.
    """

    def idle(key: str) -> bool:
        section, _, rest = key.partition(".")
        owner = f"{section}.{rest.partition('.')[0]}"
        return section in PLUGIN_SECTIONS and flat.get(f"{owner}.enabled") is not True

    return {key: value for key, value in flat.items() if not idle(key)}


def in_stored_order(config: TrainingConfig, stored: Mapping[str, Any]) -> TrainingConfig:
    """The configuration, going through one shard after the other where stored settings are from before
    `data.open_shards` was one: that was the order then.
    """
    data = stored.get("data")
    if isinstance(data, Mapping) and "open_shards" in data:
        return config
    return replace(config, data=replace(config.data, open_shards=1))


def nested_data_settings(settings: Any) -> Any:
    """Stored settings of version 1, whose `data` was flat, in the layout of `TrainingConfig`.

    What is no such mapping is returned as it is, for the reader of the file to refuse.
    """
    if not isinstance(settings, Mapping) or not isinstance(settings.get("data"), Mapping):
        return settings
    data = {name: value for name, value in settings["data"].items() if name not in MOVED_DATA_SETTINGS}
    sections: dict[str, dict[str, Any]] = {}
    for name, new_name in MOVED_DATA_SETTINGS.items():
        if name in settings["data"]:
            section, _, field_name = new_name.partition(".")
            sections.setdefault(section, {})[field_name] = settings["data"][name]
    return {**settings, "data": data | sections}


def _setting_type(config: TrainingConfig, key: str) -> Any:
    """The type of a setting by its dotted name. Raises UserError for a name that is none."""
    known = [name for name in flat_settings(asdict(config)) if "." in name]
    if key not in known:
        section, _, name = key.partition(".")
        if section == "data" and name in MOVED_DATA_SETTINGS:
            raise UserError(f"the setting {key} is called data.{MOVED_DATA_SETTINGS[name]} now")
        meant = OTHER_NAMES.get(name.lower())
        if meant is not None:
            raise UserError(f"unknown setting {one_line(key, 60)!r}; did you mean {meant}?")
        if section in PLUGIN_SECTIONS:
            _check_plugin_name(PLUGIN_SECTIONS[section], name.partition(".")[0])
        in_section = [each for each in known if each.startswith(f"{section}.")]
        if not in_section:
            sections = dict.fromkeys(each.partition(".")[0] for each in known)
            raise UserError(unknown_name("section", section, sections))
        within = [each for each in known if each.startswith(f"{key}.")]
        raise UserError(unknown_name("setting", key, within or in_section))
    owner: Any = config
    *sections_of_key, field_name = key.split(".")
    for section in sections_of_key:
        owner = owner[section] if isinstance(owner, Mapping) else getattr(owner, section)
    return typing.get_type_hints(type(owner))[field_name]


def _check_plugin_name(registry: Registry[Any], name: str) -> None:
    """Raises UserError for a loss or input that nothing registered."""
    known = [each for each in registry.names() if each != RA]
    if name not in known:
        told = unknown_name(registry.kind, name, known, registry.problems)
        raise UserError(f"{told}; --plugin FILE.py registers one")


def _changed(config: Any, changes: Mapping[str, Any], name: str = "") -> Any:
    """The configuration, or its section `name`, with new values by their dotted names in it."""
    values: dict[str, Any] = {}
    of_sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, dot, rest = key.partition(".")
        if dot:
            of_sections.setdefault(section, {})[rest] = value
        else:
            values[key] = value
    for section, inner in of_sections.items():
        owner = config[section] if isinstance(config, Mapping) else getattr(config, section)
        values[section] = _changed(owner, inner, f"{name}.{section}".lstrip("."))
    if isinstance(config, Mapping):
        return {**config, **values}
    try:
        return replace(config, **values)
    except ValueError as error:
        raise UserError(f"{name}: {one_line(error, 200)}") from None


def _parsed(key: str, text: str, hint: Any) -> Any:
    """The text as the field's type; several values are separated by commas."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if types.NoneType in options and text.lower() == "none":
        return None
    several = any(typing.get_origin(option) is tuple for option in options)
    value = [part.strip() for part in text.split(",") if part.strip()] if several else text
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{key}={one_line(text, 60)}: {first_fault(error)}") from None


def _at_least(config: Any, smallest: float, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= smallest:
            raise ValueError(f"{name} must be at least {smallest}, {getattr(config, name)} is not")
