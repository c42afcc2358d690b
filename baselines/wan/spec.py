"""A Wan generator as data: its networks, weights, settings and rules, and the options a user has. No torch
here.

The card that is printed, stored in `run.json` and compared is a function of a spec and options alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from refbench.baselines.wan.adapter_option import ChosenAdapter, chosen_adapters
from refbench.baselines.wan.experts import ADAPTERS, swapped_fault
from refbench.baselines.wan.latents import WAN21_LATENTS, WAN22_5B_LATENTS, LatentSpace
from refbench.baselines.wan.prompts import cleaned_prompt
from refbench.baselines.wan.step_cache import NO_CACHE, StepCache, cache_sentence, parse_ratios
from refbench.bench.leaderboard_settings import PAPER, required_leaderboard_settings
from refbench.bench.method import MethodCard
from refbench.bench.weights.entry import WeightEntry

Solver = Literal["unipc", "euler", "euler-diffusers"]
Offload = Literal["none", "model", "group"]
# Patches of 2 latent cells of 8 pixels.
SIZE_MULTIPLE_PX = 16
LARGEST_SIDE_PX = 4096
LARGEST_FRAME_COUNT = 2001
MATCHED_SIZE = (832, 480)
MATCHED_FRAMES = 81


@dataclass(frozen=True, kw_only=True)
class WanSettings:
    """One complete set of sampling settings.

    Sizes in pixels; `num_frames` generated (4k + 1), of which the first `dropped_frames` are thrown away
    after decoding; `guidance` are the scales of the method's rule by name. `reference_limit_px` is the most
    of a reference's longer side where references keep a size of their own; None where they get the video's.
    """

    width: int = 832
    height: int = 480
    num_frames: int = 81
    dropped_frames: int = 0
    fps: float = 16.0
    steps: int = 50
    solver: Solver = "unipc"
    shift: float = 5.0
    guidance: Mapping[str, float] = field(default_factory=dict)
    negative_prompt: str = ""
    reference_limit_px: int | None = None


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """How the authors' code makes a video of a prompt without references: its guidance rule and what stands
    before the prompt.
    """

    guidance_rule: str
    prompt_prefix: str


@dataclass(frozen=True, kw_only=True)
class WanNetwork:
    """Sizes of the transformer, from which the cost of a call and the memory of its weights follow.

    `width` channels, `layers` blocks, `extra_blocks` of VACE's side branch, `image_branch` whether CLIP
    tokens are attended to, `in_channels` of the patch embedding. A token is `patch` × `patch` latents of a
    frame in the VAE's space `latents`, whose channels are predicted.
    """

    width: int
    ffn_width: int
    layers: int
    heads: int
    in_channels: int = 16
    extra_blocks: int = 0
    image_branch: bool = False
    patch: int = 2
    latents: LatentSpace = WAN21_LATENTS

    @property
    def size_multiple_px(self) -> int:
        """What the sides of a video must be multiples of, in pixels."""
        return self.latents.stride_px * self.patch


WAN_1_3B = WanNetwork(width=1536, ffn_width=8960, layers=30, heads=12)
WAN_14B = WanNetwork(width=5120, ffn_width=13824, layers=40, heads=40)
# `wan/configs/wan_ti2v_5B.py` of Wan-Video/Wan2.2.
WAN22_5B = WanNetwork(
    width=3072, ffn_width=14336, layers=30, heads=24, in_channels=48, latents=WAN22_5B_LATENTS
)
# `wan/configs/wan_t2v_A14B.py` of Wan-Video/Wan2.2: where its text-to-video experts take turns.
WAN22_T2V_BOUNDARY = 0.875


@dataclass(frozen=True, kw_only=True)
class WanWeights:
    """The repositories of a method's networks.

    `transformer` with the files below its folder that hold the network (`transformer_files`, glob patterns; a
    diffusers folder is `transformer/*`); of a method with two experts these are the high-noise one's, and
    `low_noise_files` has for each of the patterns that of the low-noise one. `base` has the VAE, text encoder
    and tokenizer, and for networks with an image branch the image encoder, as diffusers folders.
    """

    transformer: WeightEntry
    transformer_files: tuple[str, ...] = ("transformer/*.safetensors",)
    low_noise_files: tuple[str, ...] = ()
    base: WeightEntry

    @property
    def names(self) -> tuple[str, ...]:
        """What transformer (or both experts, high noise first) and base are called on a card: one repository
        may be all.
        """
        name, base = self.transformer.name, f"{self.base.name} (base)"
        if self.low_noise_files:
            return f"{name} (high noise)", f"{name} (low noise)", base
        return name, base

    @property
    def repositories(self) -> dict[str, str]:
        """The repository of each of the `names`."""
        *networks, base = self.names
        return dict.fromkeys(networks, self.transformer.repository) | {base: self.base.repository}


@dataclass(frozen=True, kw_only=True)
class WanSpec:
    """All facts of one method.

    `max_references` is what the released network was made for; `reference_frames` how many latent frames of
    tokens each reference adds, `reference_slots` how many every video has before it for any references,
    `joins_passes` whether guidance passes can share a call (for planning); `prompt_advice` what kind of
    prompts the authors use; `guidance_rule` a name in `baselines.wan.guidance`; `deviations` what differs
    from the authors' code under native settings, `matched_deviations` what the matched ones cannot match.
    `round_timestep`, `state_in_network_dtype`: code that runs everything in bfloat16 (RefAlign's).
    `draws_on_cpu`: the authors draw noise with a CPU generator. `boundary`: of two experts the high-noise one
    makes the steps from timestep 1000·boundary up (`baselines.wan.experts`); None for one network.
    `cleans_prompts`: the authors' code cleans prompts before the tokenizer (`prompts.cleaned_prompt`).
    `prompt_prefix`: a sentence that the authors' code puts before the prompt, which it cleans alone.
    `text_task`: what holds for a sample without references, where that is something else.
    """

    name: str
    summary: str
    base_model: str
    licence: str | None
    weights: WanWeights
    network: WanNetwork
    native: WanSettings
    guidance_rule: str
    max_references: int | None
    needs_references: bool = True
    reference_preparation: str
    reference_frames: int = 1
    reference_slots: int = 0
    joins_passes: bool = True
    prompt_advice: str | None = None
    round_timestep: bool = False
    state_in_network_dtype: bool = False
    draws_on_cpu: bool = False
    boundary: float | None = None
    cleans_prompts: bool = True
    prompt_prefix: str = ""
    text_task: TextTask | None = None
    deviations: tuple[str, ...] = ()
    matched_deviations: tuple[str, ...] = ()

    @property
    def network_count(self) -> int:
        """Transformers that take turns: two experts, or one."""
        return 1 if self.boundary is None else 2

    def rule_name(self, references: int) -> str:
        """The guidance rule of a sample with so many references, a name in `baselines.wan.guidance`."""
        return self.text_task.guidance_rule if self.text_task and not references else self.guidance_rule

    def full_prompt(self, prompt: str, references: int) -> str:
        """The text that is encoded for a sample's prompt."""
        prefix = self.text_task.prompt_prefix if self.text_task and not references else self.prompt_prefix
        return prefix + cleaned_prompt(prompt) if prefix else prompt

    def matched(self) -> WanSettings:
        """The settings that all methods can be compared at: 832×480, 81 generated frames, own trimming
        kept.
        """
        width, height = MATCHED_SIZE
        return replace(self.native, width=width, height=height, num_frames=MATCHED_FRAMES)

    def leaderboard(self) -> WanSettings:
        """The settings behind the method's row of the OpenS2V leaderboard: its size, frames and rate, all
        else native. Raises ValueError for a method that the paper does not name.
        """
        published = required_leaderboard_settings(self.name)
        return replace(
            self.native,
            width=published.width,
            height=published.height,
            num_frames=published.num_frames,
            dropped_frames=0,
            fps=published.fps,
        )


@dataclass(frozen=True, kw_only=True)
class WanOptions:
    """What a user may set; None is the method's own value. Raises ValueError for what no network can do."""

    settings: Literal["native", "matched", "leaderboard"] = "native"
    """The authors' defaults (native), 832×480 and 81 frames for every method (matched), or the size, frames
    and rate behind the method's row of the OpenS2V leaderboard (leaderboard).
    """
    width: int | None = None
    """Width of the video in pixels, a multiple of 16 up to 4096."""
    height: int | None = None
    """Height of the video in pixels, a multiple of 16 up to 4096."""
    num_frames: int | None = None
    """Number of generated frames, 4k + 1 up to 2001."""
    fps: float | None = None
    """Frames per second of the written video, above 0 and at most 1000."""
    steps: int | None = None
    """Number of solver steps, 1 to 1000."""
    shift: float | None = None
    """Shift of the noise schedule, above 0 and at most 1000; larger values spend more steps on noise."""
    guidance: str | None = None
    """Guidance scales that replace the method's own, as name=number,… (image=5,text=7.5)."""
    negative_prompt: str | None = None
    """Text to steer away from; an empty one is allowed."""
    noise_key: Literal["seed", "sample"] = "seed"
    """Draw noise from the seed alone, as the authors do, or from seed and sample."""
    noise_device: Literal["cpu", "model"] = "cpu"
    """Draw noise on the CPU, equal on every machine, or where the model runs, as original Wan code does."""
    overflow: Literal["refuse", "first"] = "refuse"
    """What happens to a sample with more references than the network takes: refuse it, or use the first."""
    transformer: Path | None = None
    """Another checkpoint of the same kind: a file or folder, original or diffusers naming."""
    adapter: Path | None = None
    """LoRA adapters to put onto the transformer: files or folders, each with its strength where that is not 1
    (FILE:0.8,FILE).
    """
    adapter_base: Literal["same", "any"] = "same"
    """Refuse an adapter whose file says that it was trained on another network (same), or take it (any)."""
    segmenter: Path | None = None
    """ONNX network that removes the backgrounds of persons and objects."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number type of transformer and text encoder; auto is bfloat16 on a GPU and float32 on a CPU."""
    batch_passes: Literal["auto", "yes", "no"] = "auto"
    """Join the guidance passes of a step into one call; auto does so on a GPU while memory allows."""
    offload: Literal["none", "model", "group"] = "none"
    """Keep on the GPU all models (none), one model at a time (model), or one layer at a time (group)."""
    vae_tiling: bool = False
    """Decode in tiles, which saves memory; references are always encoded whole."""
    attention_backend: str | None = None
    """Attention kernel by the name that diffusers gives it, flash for example."""
    compile: bool = False
    """Compile the transformer's repeated blocks with torch.compile."""
    cache: StepCache = "none"
    """Step cache of diffusers, which saves time and changes the video: first-block, mag or taylorseer."""
    cache_ratios: str | None = None
    """MagCache's magnitude ratios of this network, number,number,…, one for each step they were taken at."""

    @property
    def transformers(self) -> tuple[Path | None, ...]:
        """The user's own checkpoint for each of the method's networks."""
        return (self.transformer,)

    @property
    def adapters(self) -> tuple[tuple[ChosenAdapter, ...], ...]:
        """The adapters for each of the method's networks."""
        return (chosen_adapters(self.adapter),)

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            _check_side(name, side)
        frames = self.num_frames
        if frames is not None and not (0 < frames <= LARGEST_FRAME_COUNT and frames % 4 == 1):
            raise ValueError(f"num_frames must be 4k + 1 (5, 81, …), {frames} is not")
        for name, value in (("steps", self.steps), ("fps", self.fps), ("shift", self.shift)):
            if value is not None and not 0 < value <= 1000:
                raise ValueError(f"{name} must be above 0 and at most 1000, {value} is not")
        if self.settings == "matched" and self.segmenter is not None:
            raise ValueError("matched settings take raw references: leave segmenter out")
        parse_scales(self.guidance)
        # Raises for what cannot be read.
        _ = self.adapters
        self._check_cache()

    def _check_cache(self) -> None:
        """Raises ValueError for what does not go together with a step cache."""
        ratios = parse_ratios(self.cache_ratios)
        if (self.cache == "mag") != bool(ratios):
            raise ValueError(
                "cache=mag needs cache_ratios=number,number,…, which were measured on this network"
                if self.cache == "mag"
                else "cache_ratios goes with cache=mag"
            )
        if self.cache == NO_CACHE:
            return
        if self.compile:
            raise ValueError(f"cache={self.cache} does not go together with compile=true")
        if self.offload == "group":
            raise ValueError(
                f"cache={self.cache} skips layers, which offload=group fetches in a fixed order; "
                "offload=model goes with it"
            )


@dataclass(frozen=True, kw_only=True)
class TwoExpertOptions(WanOptions):
    """The options of a method with two experts: `transformer` and `adapter` are the high-noise one's."""

    transformer_2: Path | None = None
    """Another checkpoint of the low-noise expert; transformer is the high-noise one's, as in diffusers."""
    adapter_2: Path | None = None
    """LoRA adapters to put onto the low-noise expert, as in adapter, which has the high-noise one's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        adapters = self.adapters
        for number, chosen in enumerate(adapters if len(adapters) == len(ADAPTERS) else ()):
            for one in chosen:
                fault = swapped_fault(one.path, number, ADAPTERS)
                if fault is not None:
                    raise ValueError(fault)

    @property
    def transformers(self) -> tuple[Path | None, ...]:
        """High noise, low noise."""
        return (self.transformer, self.transformer_2)

    @property
    def adapters(self) -> tuple[tuple[ChosenAdapter, ...], ...]:
        """High noise, low noise."""
        return (chosen_adapters(self.adapter), chosen_adapters(self.adapter_2))


@dataclass(frozen=True, kw_only=True)
class OwnSizeOptions(WanOptions):
    """The options of a method whose references keep a size of their own."""

    reference_limit_px: int | None = None
    """Most of a reference's longer side in pixels, a multiple of 16 up to 4096; larger ones are shrunk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_side("reference_limit_px", self.reference_limit_px)


@dataclass(frozen=True, kw_only=True)
class OwnSizeTwoExpertOptions(OwnSizeOptions, TwoExpertOptions):
    """Those of such a method with two experts."""


def _check_side(name: str, side: int | None) -> None:
    """Raises ValueError for a side in pixels that does not divide into patches, or is too long."""
    if side is None or (0 < side <= LARGEST_SIDE_PX and side % SIZE_MULTIPLE_PX == 0):
        return
    near = max(SIZE_MULTIPLE_PX, round(side / SIZE_MULTIPLE_PX) * SIZE_MULTIPLE_PX)
    raise ValueError(
        f"{name} must be a multiple of {SIZE_MULTIPLE_PX} pixels up to {LARGEST_SIDE_PX}, {side} is not; "
        f"{min(near, LARGEST_SIDE_PX)} is the nearest"
    )


def parse_scales(text: str | None) -> dict[str, float]:
    """`image=5,text=7.5` as numbers by name; raises ValueError for anything else."""
    scales = {}
    for part in (text or "").split(","):
        name, equals, value = part.partition("=")
        if not part:
            continue
        try:
            scales[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"guidance is name=number,…, not {text!r}")
    return scales


def resolved_settings(spec: WanSpec, options: WanOptions) -> WanSettings:
    """The settings that a run uses: native, matched or the leaderboard's, with the options that are set.

    Raises ValueError for a guidance scale that the method's rule has not, when trimming would leave nothing,
    for a step cache on a method that cannot have one, and for the leaderboard's settings of a method that it
    does not name.
    """
    if options.cache != NO_CACHE and spec.network.extra_blocks:
        # Its hints are added between the blocks, also between those that a cache skips.
        raise ValueError(f"{spec.name} has a side branch, with which diffusers' step caches do not work")
    if options.cache != NO_CACHE and spec.boundary is not None:
        raise ValueError(f"{spec.name} has two experts, with which step caches were not tried")
    settings = _named_settings(spec, options)
    shared = {item.name for item in fields(WanSettings)} & {item.name for item in fields(options)}
    given = {name: getattr(options, name) for name in shared if getattr(options, name) is not None}
    scales = parse_scales(given.pop("guidance", None))
    unknown = sorted(scales.keys() - settings.guidance.keys())
    if unknown:
        raise ValueError(
            f"{spec.name} has no guidance scale {unknown[0]!r}; it has {', '.join(settings.guidance)}"
        )
    settings = replace(settings, **given, guidance={**settings.guidance, **scales})
    _check_size(spec, settings)
    if settings.num_frames <= settings.dropped_frames:
        raise ValueError(
            f"{spec.name} drops the first {settings.dropped_frames} frames; num_frames must be more than that"
        )
    return settings


def _check_size(spec: WanSpec, settings: WanSettings) -> None:
    """Raises ValueError for a size whose latents do not divide into tokens."""
    multiple = spec.network.size_multiple_px
    for name, side in (("width", settings.width), ("height", settings.height)):
        if side % multiple:
            near = max(multiple, round(side / multiple) * multiple)
            raise ValueError(
                f"on {spec.base_model} {name} must be a multiple of {multiple} pixels, {side} is not; {near} "
                "is the nearest"
            )


def _named_settings(spec: WanSpec, options: WanOptions) -> WanSettings:
    if options.settings == "leaderboard":
        return spec.leaderboard()
    return spec.native if options.settings == "native" else spec.matched()


def wan_card(spec: WanSpec, options: WanOptions, weights: Mapping[str, str]) -> MethodCard:
    """The method card of a spec under options; `weights` are repositories or digests by role."""
    settings = resolved_settings(spec, options)
    deviations = list(spec.deviations)
    if spec.prompt_advice is not None:
        deviations.append(f"the authors use {spec.prompt_advice}; here the prompt set's prompts as they are")
    if options.settings != "native":
        native = asdict(spec.native)
        deviations += [
            f"{options.settings}: {name} {value} instead of {native[name]}"
            for name, value in asdict(_named_settings(spec, options)).items()
            if native[name] != value
        ]
    if options.settings == "matched":
        deviations += spec.matched_deviations
    if options.settings == "leaderboard":
        doubt = required_leaderboard_settings(spec.name).doubt
        deviations.append(f"leaderboard: size, frames and rate of {PAPER}{f'; {doubt}' if doubt else ''}")
    if options.noise_device == "cpu" and not spec.draws_on_cpu:
        deviations.append("noise is drawn on the CPU, by the original code on the GPU")
    if options.cache != NO_CACHE:
        deviations.append(cache_sentence(options.cache))
    values: dict[str, Any] = {
        key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()
    }
    if not any(options.adapters):
        # It says nothing then, and cards of before had no such option.
        del values["adapter_base"]
    if options.cache == NO_CACHE:
        # As cards of before, whose runs go on.
        del values["cache"], values["cache_ratios"]
    shared = {item.name for item in fields(TwoExpertOptions)}
    for item in fields(options):
        # A method's own options say something when they are set; cards of before did not have them.
        if item.name not in shared and values[item.name] == item.default:
            del values[item.name]
    if spec.prompt_prefix:
        # No option, but part of what the network is told.
        values["prompt_prefix"] = spec.prompt_prefix
    return MethodCard(
        name=spec.name,
        summary=spec.summary,
        base_model=spec.base_model,
        licence=spec.licence,
        weights=dict(weights),
        max_references=spec.max_references,
        reference_overflow=_overflow_text(spec, options),
        reference_preparation=spec.reference_preparation
        + ("; background removed" if options.segmenter is not None else ""),
        width=settings.width,
        height=settings.height,
        num_frames=settings.num_frames - settings.dropped_frames,
        generated_frames=settings.num_frames,
        fps=settings.fps,
        steps=settings.steps,
        solver=settings.solver,
        shift=settings.shift,
        guidance=dict(settings.guidance),
        negative_prompt=settings.negative_prompt,
        settings=options.settings,
        deviations=tuple(deviations),
        options=values,
    )


def _overflow_text(spec: WanSpec, options: WanOptions) -> str | None:
    if spec.max_references is None:
        return None
    if options.overflow == "refuse":
        return f"a sample with more than {spec.max_references} is refused"
    return f"the first {spec.max_references} are used"
