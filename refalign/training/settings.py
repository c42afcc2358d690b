"""The settings of a training run: sections of a configuration, with what each field means and may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from refbench.baselines.wan.prompts import MAX_TEXT_TOKENS
from refbench.baselines.wan.spec import WAN22_T2V_BOUNDARY
from refbench.refalign.alignment import AlignmentConfig
from refbench.refalign.bases import ExpertName, expert_timesteps
from refbench.refalign.data.buckets import parse_bucket
from refbench.refalign.data.dataset import OPEN_SHARDS
from refbench.refalign.data.sample import ClipRule, DropoutRates
from refbench.refalign.data.source import ReferenceRates
from refbench.refalign.flow_matching import LEVELS, FlowSchedule, Sampling, SamplingKind

Precision = Literal["float32", "bfloat16"]
Strategy = Literal["ddp", "fsdp2", "hsdp"]
Recomputation = Literal["blocks", "without_attention"]
EncoderPlace = Literal["resident", "offloaded"]
RateSchedule = Literal["constant", "linear", "cosine"]
DecayedParameters = Literal["all", "matrices"]
OptimizerKernel = Literal["auto", "loop", "foreach", "fused"]
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
# Beyond it sigmoid(logit) is 0 or 1 in float32.
MOST_LOGIT = 20
# A token of all released networks stands for 2×2 latents of one frame.
RELEASED_PATCH = 2


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
        _at_least(self, 1, "text_rows", "patch")
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


def _at_least(config: Any, smallest: float, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= smallest:
            raise ValueError(f"{name} must be at least {smallest}, {getattr(config, name)} is not")
