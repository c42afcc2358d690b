"""A Wan generator as data: its networks, weights, settings and rules, and the options a user has. No torch
here.

The card that is printed, stored in `run.json` and compared is a function of a spec and options alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from refbench.bench.method import MethodCard

Solver = Literal["unipc", "euler"]
Overflow = Literal["refuse", "first"]
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
    after decoding; `guidance` are the scales of the method's rule by name.
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


@dataclass(frozen=True, kw_only=True)
class WanNetwork:
    """Sizes of the transformer, for planning: what a call costs and what its weights take.

    `width` channels, `layers` blocks, `extra_blocks` of VACE's side branch, `image_branch` whether CLIP
    tokens are attended to, `in_channels` of the patch embedding.
    """

    width: int
    ffn_width: int
    layers: int
    heads: int
    in_channels: int = 16
    extra_blocks: int = 0
    image_branch: bool = False


WAN_1_3B = WanNetwork(width=1536, ffn_width=8960, layers=30, heads=12)
WAN_14B = WanNetwork(width=5120, ffn_width=13824, layers=40, heads=40)


@dataclass(frozen=True, kw_only=True)
class WanWeights:
    """Where a method's networks are: names in the weight catalogue.

    `transformer` with the files below its folder that hold the network (`transformer_files`, glob patterns; a
    diffusers folder is `transformer/*`); `base` has the VAE, text encoder and tokenizer, and for networks
    with an image branch the image encoder, as diffusers folders.
    """

    transformer: str
    transformer_files: tuple[str, ...] = ("transformer/*.safetensors",)
    base: str


@dataclass(frozen=True, kw_only=True)
class WanSpec:
    """All facts of one method.

    `max_references` is what the released network was made for; `reference_frames` how many latent frames of
    tokens each reference adds, `reference_slots` how many every video has before it whatever the references,
    `joins_passes` whether guidance passes can share a call (for planning); `prompt_advice` what kind of
    prompts the authors use; `guidance_rule` a name in `baselines.wan.guidance`; `deviations` what differs
    from the authors' code under native settings, `matched_deviations` what the matched ones cannot match.
    `round_timestep`, `state_in_network_dtype`: code that runs everything in bfloat16 (RefAlign's).
    `draws_on_cpu`: the authors draw noise with a CPU generator.
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
    deviations: tuple[str, ...] = ()
    matched_deviations: tuple[str, ...] = ()

    def matched(self) -> WanSettings:
        """The settings that all methods can be compared at: 832×480, 81 generated frames, own trimming
        kept.
        """
        width, height = MATCHED_SIZE
        return replace(self.native, width=width, height=height, num_frames=MATCHED_FRAMES)


@dataclass(frozen=True, kw_only=True)
class WanOptions:
    """What a user may set; None is the method's own value.

    `settings`: `native` (the authors' defaults) or `matched` (832×480, 81 frames for every method).
    `guidance` overrides scales (`image=5,text=7.5`). `noise_key`: draw noise from the seed alone, as the
    authors do, or from seed and sample. `noise_device`: `cpu` gives the same noise on every machine;
    original Wan code draws on the GPU. `overflow`: what happens to references beyond the maximum.
    `transformer`: another checkpoint (a file or folder, original or diffusers naming); `adapter`: a LoRA
    folder. `segmenter`: an ONNX network that removes backgrounds. `dtype` auto: bfloat16 on a GPU, float32
    on a CPU. `batch_passes` joins the guidance passes of a step into one call. `vae_tiling` tiles decoding
    only. Raises ValueError for what no network can do.
    """

    settings: Literal["native", "matched"] = "native"
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    shift: float | None = None
    guidance: str | None = None
    negative_prompt: str | None = None
    noise_key: Literal["seed", "sample"] = "seed"
    noise_device: Literal["cpu", "model"] = "cpu"
    overflow: Overflow = "refuse"
    transformer: Path | None = None
    adapter: Path | None = None
    segmenter: Path | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    batch_passes: Literal["auto", "yes", "no"] = "auto"
    offload: Literal["none", "model", "group"] = "none"
    vae_tiling: bool = False
    attention_backend: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None and not (0 < side <= LARGEST_SIDE_PX and side % SIZE_MULTIPLE_PX == 0):
                near = max(SIZE_MULTIPLE_PX, round(side / SIZE_MULTIPLE_PX) * SIZE_MULTIPLE_PX)
                raise ValueError(
                    f"{name} must be a multiple of {SIZE_MULTIPLE_PX} pixels up to {LARGEST_SIDE_PX}, "
                    f"{side} is not; {min(near, LARGEST_SIDE_PX)} is the nearest"
                )
        frames = self.num_frames
        if frames is not None and not (0 < frames <= LARGEST_FRAME_COUNT and frames % 4 == 1):
            raise ValueError(f"num_frames must be 4k + 1 (5, 81, …), {frames} is not")
        for name, value in (("steps", self.steps), ("fps", self.fps), ("shift", self.shift)):
            if value is not None and not 0 < value <= 1000:
                raise ValueError(f"{name} must be above 0 and at most 1000, {value} is not")
        if self.settings == "matched" and self.segmenter is not None:
            raise ValueError("matched settings take raw references: leave segmenter out")
        parse_scales(self.guidance)


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
    """The settings that a run uses: native or matched, with the options that are set.

    Raises ValueError for a guidance scale that the method's rule has not, and when trimming would leave
    nothing.
    """
    settings = spec.native if options.settings == "native" else spec.matched()
    shared = {item.name for item in fields(WanSettings)} & {item.name for item in fields(WanOptions)}
    given = {name: getattr(options, name) for name in shared if getattr(options, name) is not None}
    scales = parse_scales(given.pop("guidance", None))
    unknown = sorted(scales.keys() - settings.guidance.keys())
    if unknown:
        raise ValueError(
            f"{spec.name} has no guidance scale {unknown[0]!r}; it has {', '.join(settings.guidance)}"
        )
    settings = replace(settings, **given, guidance={**settings.guidance, **scales})
    if settings.num_frames <= settings.dropped_frames:
        raise ValueError(
            f"{spec.name} drops the first {settings.dropped_frames} frames; num_frames must be more than that"
        )
    return settings


def wan_card(spec: WanSpec, options: WanOptions, weights: Mapping[str, str]) -> MethodCard:
    """The method card of a spec under options; `weights` are repositories or digests by role."""
    settings = resolved_settings(spec, options)
    deviations = list(spec.deviations)
    if spec.prompt_advice is not None:
        deviations.append(f"the authors use {spec.prompt_advice}; here the prompt set's prompts as they are")
    if options.settings == "matched":
        native = asdict(spec.native)
        deviations += [
            f"matched: {name} {value} instead of {native[name]}"
            for name, value in asdict(spec.matched()).items()
            if native[name] != value
        ]
        deviations += spec.matched_deviations
    if options.noise_device == "cpu" and not spec.draws_on_cpu:
        deviations.append("noise is drawn on the CPU, by the original code on the GPU")
    values: dict[str, Any] = {
        key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()
    }
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
