"""What a Wan generator costs: tokens, operations and memory, from its spec and settings alone. No torch here.

Operations of a transformer call: 2·P·L + 4·L²·d·n for P parameters, L tokens, d channels and n blocks, VACE's
side branch included. Projections of CLIP tokens are left out of P: they see 257 tokens an image, not L. All
other parameters count as if they saw every token; torch's own counter finds 3 % (1.3B) to 8 % (14B) fewer
operations at 81 frames of 832×480, because text keys and values and modulations do not. References that keep
a size of their own count as pictures of 16 by 9 whose longer side is the most that is allowed, and for memory
as squares of that side, the largest.

Memory: weights, plus the working memory of the part that runs. The working memory's coefficients were
measured by following every live tensor of the networks of this project in torch 2.14 and diffusers 0.42.1
(attention without a score matrix); on an H200 the transformer's peak was within 3 % of it. `RUNTIME_GIB` is
what that GPU needed beside it (docs/measured-gpu.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from refbench.baselines.wan.experts import PARTS, is_high_noise, low_noise_scales
from refbench.baselines.wan.guidance import RULES, Pass
from refbench.baselines.wan.latents import WAN21_LATENTS, WAN22_5B_LATENTS
from refbench.baselines.wan.spec import (
    Offload,
    WanNetwork,
    WanOptions,
    WanSettings,
    WanSpec,
)
from refbench.baselines.wan.step_cache import KEPT_STATES, NO_CACHE, StepCache
from refbench.bench.errors import UserError

OFFLOADS: tuple[Offload, ...] = ("none", "model", "group")
GIB = 2.0**30
# The benchmark's samples have one to three references.
MOST_BENCHMARK_REFERENCES = 3
# Rows to columns that references of their own size are counted with: 480×848 at Bernini-R's limit.
USUAL_ASPECT = 9 / 16

# What all Wan networks share (`config.json` of Wan-AI/Wan2.1-T2V-14B-Diffusers and its kin).
TEXT_WIDTH = 4096
TIME_WIDTH = 256
CLIP_WIDTH = 1280
VACE_CHANNELS = 96

# Parameters of the encoder of google/umt5-xxl and of CLIP ViT-H/14's image encoder.
TEXT_ENCODER_PARAMETERS = 5_680_910_336
TEXT_EMBEDDING_PARAMETERS = 256_384 * 4096
IMAGE_ENCODER_PARAMETERS = 630_766_080
FLOAT32_BYTES = 4

# Bytes for each token and channel of a block at its two fullest moments, in a 16-bit network: attention, and
# the feed-forward with an inner width of r channels for each channel: 11 + 4·r.
ATTENTION_BYTES = 27
FEED_FORWARD_BYTES = 11
# The finished video is there twice at the end of decoding.
TILE_PX = 256
# The CUDA context took 0.7 to 0.9 GiB, and cuDNN's workspaces or the text encoder's activations up to 0.9.
RUNTIME_GIB = 1.8


@dataclass(frozen=True, kw_only=True)
class VaeSize:
    """Parameters of a VAE, and the bytes that it holds for each pixel of a frame while it decodes."""

    parameters: int
    decode_bytes: int


# Wan2.1's, and that of Wan2.2-TI2V-5B.
VAES = {
    WAN21_LATENTS: VaeSize(parameters=126_892_531, decode_bytes=19_500),
    WAN22_5B_LATENTS: VaeSize(parameters=704_688_668, decode_bytes=21_600),
}


@dataclass(frozen=True, kw_only=True)
class VideoCost:
    """The cost of one video: its number of references, tokens of its largest calls, calls of the transformer,
    and floating point operations in all.
    """

    references: int
    tokens: int
    calls: int
    flops: float


def parameter_count(network: WanNetwork) -> int:
    """Parameters of a released transformer of these sizes."""
    return _base_parameters(network) + _image_parameters(network)


def _base_parameters(network: WanNetwork) -> int:
    """All but the image branch."""
    d = network.width
    square = d * d + d
    feed_forward = 2 * d * network.ffn_width + network.ffn_width + d
    # Two attentions (four projections, two norms of queries and keys), a norm, the modulation table.
    block = 2 * (4 * square + 2 * d) + feed_forward + 2 * d + 6 * d
    outer = (
        (network.in_channels * network.patch**2 * d + d)
        + (TEXT_WIDTH * d + d + square)
        + (TIME_WIDTH * d + d + square + 6 * square)
        + (2 * d + (d + 1) * network.latents.channels * network.patch**2)
    )
    # A projection behind each block of VACE's branch, one before the first, and its patch embedding.
    extra = network.extra_blocks * (block + square)
    extra += square + VACE_CHANNELS * network.patch**2 * d + d if network.extra_blocks else 0
    return network.layers * block + outer + extra


def _image_parameters(network: WanNetwork) -> int:
    """Keys and values of CLIP tokens in each block, and their projection."""
    if not network.image_branch:
        return 0
    d = network.width
    projector = 2 * CLIP_WIDTH + (CLIP_WIDTH + 1) * CLIP_WIDTH + (CLIP_WIDTH + 1) * d + 2 * d
    return network.layers * (2 * (d * d + d) + d) + projector


def tokens_per_call(
    spec: WanSpec, settings: WanSettings, references: int, *, largest_references: bool = False
) -> int:
    """Tokens of the video and of its references in one call for one pass that has them.

    References of their own size are usual ones, or with `largest_references` the largest that there are.
    """
    network = spec.network
    frames, rows, columns = network.latents.shape(settings.width, settings.height, settings.num_frames)
    per_frame = (rows // network.patch) * (columns // network.patch)
    each = reference_tokens(spec, settings, largest=largest_references)
    return (frames + spec.reference_slots) * per_frame + references * each


def reference_tokens(spec: WanSpec, settings: WanSettings, *, largest: bool = False) -> int:
    """Tokens that each reference adds; of one of its own size a usual number, or that of the largest."""
    side_px = spec.network.size_multiple_px
    if settings.reference_limit_px is None:
        return spec.reference_frames * (settings.height // side_px) * (settings.width // side_px)
    columns = settings.reference_limit_px // side_px
    return columns * (columns if largest else max(1, round(columns * USUAL_ASPECT)))


def pass_tokens(spec: WanSpec, settings: WanSettings, references: int, one: Pass) -> int:
    """Tokens of one call for this pass."""
    return tokens_per_call(spec, settings, 0 if one.references == "none" else references)


def active_passes(
    spec: WanSpec, settings: WanSettings, references: int = 1
) -> tuple[tuple[Pass, ...], tuple[Pass, ...]]:
    """Guidance passes of a step of a sample with so many references, under the method's scales: with the
    high-noise expert (or the one network), and with the low-noise one.
    """
    rule = RULES[spec.rule_name(references)]
    high, low = settings.guidance, low_noise_scales(settings.guidance)
    return rule.active_passes(high), rule.active_passes(low)


def most_passes(spec: WanSpec, settings: WanSettings) -> tuple[Pass, ...]:
    """The guidance passes of those steps that have the most of them."""
    high, low = active_passes(spec, settings)
    return high if spec.boundary is None else max(high, low, key=len)


def passes_per_step(spec: WanSpec, settings: WanSettings) -> int:
    """The most guidance passes of a step under the method's scales."""
    return len(most_passes(spec, settings))


def joinable_passes(spec: WanSpec, settings: WanSettings) -> int:
    """How many passes of a step share a call at most: one without references is shorter than the others."""
    without = sum(one.references == "none" for one in most_passes(spec, settings))
    return max(without, passes_per_step(spec, settings) - without)


def high_noise_steps(spec: WanSpec, settings: WanSettings) -> int:
    """Steps that the high-noise expert makes, or the one network: all."""
    if spec.boundary is None:
        return settings.steps
    return sum(is_high_noise(timestep, spec.boundary) for timestep in timesteps_of(settings))


def timesteps_of(settings: WanSettings) -> list[float]:
    """The solver's timesteps, 1000 down to 0, as `baselines.wan.schedules` makes them."""
    shift, steps = settings.shift, settings.steps

    def shifted(point: float) -> float:
        return shift * point / (1 + (shift - 1) * point)

    def points(first: float, last: float, count: int) -> list[float]:
        return [first + (last - first) * index / max(count - 1, 1) for index in range(count)]

    if settings.solver == "unipc":
        return [float(int(1000 * shifted(point))) for point in points(0.999, 0, steps + 1)[:-1]]
    if settings.solver == "euler":
        return [1000 * shifted(point) for point in points(1, 0, steps + 1)[:-1]]
    return [1000 * shifted(point) for point in points(1, shifted(0.001), steps)]


def video_cost(spec: WanSpec, settings: WanSettings, references: int) -> VideoCost:
    """Cost of one video in the transformer; text encoder and VAE are not counted."""
    high_steps = high_noise_steps(spec, settings)
    tokens, calls, flops = 0, 0, 0
    by_expert = zip(
        (high_steps, settings.steps - high_steps), active_passes(spec, settings, references), strict=True
    )
    for steps, passes in by_expert:
        for one in passes if steps else ():
            length = pass_tokens(spec, settings, references, one)
            tokens = max(tokens, length)
            calls += steps
            flops += steps * call_flops(spec.network, length)
    return VideoCost(references=references, tokens=tokens, calls=calls, flops=float(flops))


def call_flops(network: WanNetwork, tokens: int) -> int:
    """Floating point operations of one call of the transformer."""
    attention = 4 * tokens**2 * network.width * (network.layers + network.extra_blocks)
    return 2 * _base_parameters(network) * tokens + attention


def weights_gib(spec: WanSpec, *, parameter_bytes: int = 2) -> dict[str, float]:
    """Weights of each part in GiB, of both experts where there are two; VAE and image encoder always run in
    float32.
    """
    parts = {
        **dict.fromkeys(PARTS[: spec.network_count], parameter_count(spec.network) * parameter_bytes),
        "text_encoder": TEXT_ENCODER_PARAMETERS * parameter_bytes,
        "vae": VAES[spec.network.latents].parameters * FLOAT32_BYTES,
    }
    if spec.network.image_branch:
        parts["image_encoder"] = IMAGE_ENCODER_PARAMETERS * FLOAT32_BYTES
    return {name: size / GIB for name, size in parts.items()}


def peak_gib(
    spec: WanSpec,
    settings: WanSettings,
    references: int,
    *,
    parameter_bytes: int = 2,
    joined_passes: int = 1,
    vae_tiling: bool = False,
    step_cache: StepCache = NO_CACHE,
) -> dict[Offload, float]:
    """Estimated peak of GPU memory with all models resident, one at a time, and one layer at a time.

    `joined_passes` of a step share one call; a step cache keeps states for all passes. Group offload keeps a
    layer and its successor on the GPU; the text encoder's largest layer is its embedding.
    """
    network, weights = spec.network, weights_gib(spec, parameter_bytes=parameter_bytes)
    each = tokens_per_call(spec, settings, references, largest_references=True)
    tokens, kept = each * joined_passes, each * passes_per_step(spec, settings)
    call_gib = tokens * network.width * block_working_bytes(network) * (parameter_bytes / 2) / GIB
    call_gib += kept * network.width * parameter_bytes * KEPT_STATES[step_cache] / GIB
    transformers = PARTS[: spec.network_count]
    working = {
        **dict.fromkeys(transformers, call_gib),
        "vae": decode_working_bytes(network, settings, tiled=vae_tiling) / GIB,
    }
    layer = {
        **dict.fromkeys(transformers, network.width * network.ffn_width * parameter_bytes / GIB),
        "text_encoder": TEXT_EMBEDDING_PARAMETERS * parameter_bytes / GIB / 2,
    }
    peaks: dict[Offload, float] = {
        "none": sum(weights.values()) + max(working.values()),
        "model": max(size + working.get(part, 0.0) for part, size in weights.items()),
        "group": max(2 * layer.get(part, 0.0) + working.get(part, 0.0) for part in weights),
    }
    return {offload: peak + RUNTIME_GIB for offload, peak in peaks.items()}


def block_working_bytes(network: WanNetwork) -> float:
    """Working memory of a 16-bit transformer in bytes for each token and channel.

    VACE's side branch keeps a result for each of its blocks, and its state.
    """
    block = max(ATTENTION_BYTES, FEED_FORWARD_BYTES + 4 * network.ffn_width / network.width)
    return block + (2 * (network.extra_blocks + 1) if network.extra_blocks else 0)


def decode_working_bytes(network: WanNetwork, settings: WanSettings, *, tiled: bool) -> float:
    """Working memory of a network's VAE while it decodes a video, in bytes."""
    pixels = settings.width * settings.height
    video = 2 * 3 * FLOAT32_BYTES * settings.num_frames * pixels
    return VAES[network.latents].decode_bytes * (min(pixels, TILE_PX**2) if tiled else pixels) + video


def fits(
    spec: WanSpec,
    settings: WanSettings,
    memory_gib: float,
    *,
    references: int = MOST_BENCHMARK_REFERENCES,
    parameter_bytes: int = 2,
    joined_passes: int = 1,
    vae_tiling: bool = False,
    step_cache: StepCache = NO_CACHE,
) -> Offload | None:
    """The first of no, model and group offload whose estimated peak is within `memory_gib`; None when none
    is.
    """
    peaks = peak_gib(
        spec,
        settings,
        references_used(spec, references),
        parameter_bytes=parameter_bytes,
        joined_passes=joined_passes,
        vae_tiling=vae_tiling,
        step_cache=step_cache,
    )
    return next((offload for offload in _offloads(step_cache) if peaks[offload] <= memory_gib), None)


def _offloads(step_cache: StepCache) -> tuple[Offload, ...]:
    """The kinds of offload that go together with a step cache."""
    return OFFLOADS if step_cache == NO_CACHE else tuple(one for one in OFFLOADS if one != "group")


def references_used(spec: WanSpec, references: int) -> int:
    """How many of a sample's references the network takes."""
    return references if spec.max_references is None else min(references, spec.max_references)


def parameter_bytes_of(options: WanOptions) -> int:
    """Bytes of a parameter on a GPU under these options: 4 in float32, else 2."""
    return FLOAT32_BYTES if options.dtype == "float32" else 2


def needed_passes(spec: WanSpec, settings: WanSettings, options: WanOptions) -> int:
    """Passes that must share a call: all that can with `batch_passes=yes`, else one, to which `auto` falls
    back.
    """
    return joinable_passes(spec, settings) if options.batch_passes == "yes" else 1


def _peaks_under(
    spec: WanSpec, settings: WanSettings, options: WanOptions, parameter_bytes: int
) -> dict[Offload, float]:
    """By offload the estimated peak of the largest sample under these options."""
    return peak_gib(
        spec,
        settings,
        references_used(spec, MOST_BENCHMARK_REFERENCES),
        parameter_bytes=parameter_bytes,
        joined_passes=needed_passes(spec, settings, options),
        vae_tiling=options.vae_tiling,
        step_cache=options.cache,
    )


def needed_gib(spec: WanSpec, settings: WanSettings, options: WanOptions, *, parameter_bytes: int) -> float:
    """The estimated peak in GiB of a generator under these options."""
    return _peaks_under(spec, settings, options, parameter_bytes)[options.offload]


def check_memory(spec: WanSpec, settings: WanSettings, options: WanOptions, memory_gib: float) -> None:
    """Raises UserError where a GPU with `memory_gib` free cannot run a method as its options say: how much is
    needed, and which offload would do.
    """
    peaks = _peaks_under(spec, settings, options, parameter_bytes_of(options))
    if peaks[options.offload] <= memory_gib:
        return
    others = [offload for offload in _offloads(options.cache) if peaks[offload] <= memory_gib]
    advice = (
        f"--set offload={others[0]} needs about {peaks[others[0]]:.0f} GiB"
        if others
        else "no offload makes it fit; lower width, height or num_frames"
    )
    raise UserError(
        f"{spec.name} at {settings.width}×{settings.height}, {settings.num_frames} frames, needs about "
        f"{peaks[options.offload]:.0f} GiB of GPU memory (offload={options.offload}), "
        f"{memory_gib:.1f} are free; {advice}"
    )
