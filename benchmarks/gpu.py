"""Every large network of the project on a GPU at full size: time, memory against the plan, and equality with
the CPU.

    python benchmarks/gpu.py --out results [--seconds 440] [--rows video,train] [--device cpu --tiny] [--list]

Weights are random and made on the device, inputs are noise: nothing is read from disk. One row is one
measurement; rows come in order of importance, each builds what it needs and gives it back, and one that fails
or runs out of memory says so. Rows that are left when `--seconds` are spent are named as not run. With
`--tiny` the same code runs on small networks, on a CPU in well under a minute.

Seconds are medians of wall time between two moments at which the device is idle. Operations are counted by
torch while the first run, which is not timed, goes through (training: 3 × the forward pass). `plan GiB` is
what `refbench plan` (`baselines/wan/cost.py`) counts for what the row holds, without its allowance for the
CUDA context. Rows `equal-…` run the same random weights on the CPU in float32 and on the device in float32
and in half precision; of the 7B models two layers of each part, at full width. Their limits are those that
the goldens' tests have for the CPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gpu_networks as networks
import numpy as np
import torch
from accelerate.state import AcceleratorState
from gpu_rows import Clock, Fact, Measured, Outcome, Row, run_rows, table, write_results
from machine import describe
from nexusscore import drawn_sample, drawn_video
from PIL import Image
from training_step import TRAINING_PASSES, DrawnSource, draw_clip, forward_flops, peak_flops

from refbench.baselines.wan import cost
from refbench.baselines.wan.checkpoint import WanCheckpoint, stays_float32
from refbench.baselines.wan.conditioning import Geometry, ReferenceLatents
from refbench.baselines.wan.execution import chosen_dtype, place_models
from refbench.baselines.wan.guidance import RULES, Pass
from refbench.baselines.wan.loading import models_of, set_attention_backend
from refbench.baselines.wan.sampler import BatchPasses, WanSampler
from refbench.baselines.wan.schedules import make_scheduler
from refbench.baselines.wan.spec import Offload, WanSettings, WanSpec
from refbench.bench.environment import Environment
from refbench.bench.metric import Metric
from refbench.metrics.clip_i import ClipImage
from refbench.metrics.clip_t import ClipText
from refbench.metrics.dino_i import DinoImage
from refbench.metrics.gmescore import GmeScore
from refbench.metrics.motion_smoothness import MotionSmoothness, prepared
from refbench.metrics.naturalscore import NaturalScore, NaturalScoreOptions
from refbench.metrics.nets.clip import ClipImageTower
from refbench.metrics.nets.curricularface import FACE_SIDE_PX, face_embeddings
from refbench.metrics.nets.gme import TEXT_INSTRUCTION
from refbench.metrics.nets.yolo_world.boxes import INPUT_SIZE_PX, Letterbox
from refbench.metrics.nexusscore import NexusScore
from refbench.metrics.small import gmescore as small_gme
from refbench.metrics.small import motion_smoothness as small_motion
from refbench.metrics.small import naturalscore as small_judge
from refbench.metrics.small import nexusscore as small_nexus
from refbench.metrics.small import similarity as small_similarity
from refbench.refalign.alignment import AlignmentProjectors
from refbench.refalign.flow_matching import FlowSchedule
from refbench.refalign.method import RefAlignTiny
from refbench.refalign.sampler import CONDITIONER
from refbench.refalign.training.assembly import StartingPoint, plain_config
from refbench.refalign.training.batch import Example, collate
from refbench.refalign.training.model import TrainingModel
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.recipes import TrainingConfig, build_config
from refbench.refalign.training.run import TrainingPaths
from refbench.refalign.training.run import prepare as prepare_training
from refbench.refalign.training.run import train as run_training
from refbench.refalign.training.trainer import Trainer

REFERENCES = 3
RUNS = 3
LISTED_KERNELS = 8
GIB = 2**30
PROMPT = "A woman in a green raincoat walks a spotted dog along a harbour at dusk and laughs."
WITH_ALL = Pass(name="image_text", text="prompt", references="own")
ATTENTION_BACKENDS = ("native", "_native_cudnn", "_native_flash", "_native_efficient")

# Largest differences that the goldens' tests allow: tests/refalign/test_transformer.py and
# test_training_golden.py, tests/metrics/test_gmescore.py, test_motion_smoothness.py, test_yolo_world.py (root
# mean square and largest of logits, of distances), test_facesim.py, test_aesthetics.py.
LIMITS: Mapping[str, float] = {
    "refalign": 5e-5,
    "loss": 1e-5,
    "gme": 2e-6,
    "gme half": 2e-3,
    "motion": 2e-6,
    "motion half": 5e-3,
    "logits rms": 1e-3,
    "logits largest": 1e-2,
    "distances rms": 3e-3,
    "distances largest": 0.05,
    "face": 2e-6,
    "aesthetics": 1e-5,
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The device, the sizes of everything, and a folder that vanishes."""

    device: torch.device
    sizes: networks.Sizes
    clock: Clock
    folder: Path

    @property
    def dtype(self) -> torch.dtype:
        """The generators' dtype: bfloat16 on a GPU, float32 on a CPU."""
        return chosen_dtype("auto", self.device.type)

    @property
    def half(self) -> torch.dtype:
        """The 7B metrics' dtype on this device: float16 on a GPU, float32 on a CPU."""
        return torch.float16 if self.clock.on_gpu else torch.float32

    def noise(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The same noise at each call."""
        generator = torch.Generator(self.device).manual_seed(1)
        return torch.randn(shape, generator=generator, device=self.device, dtype=torch.float32).to(dtype)

    def subfolder(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))


# ---------------------------------------------------------------------------------------- the machine


def ceilings(bench: Bench) -> Measured:
    """What a large matrix product and a large copy reach."""
    side = 8192 if bench.clock.on_gpu else 256
    left, right = bench.noise(side, side, dtype=bench.dtype), bench.noise(side, side, dtype=bench.dtype)
    source = bench.noise(2**30 if bench.clock.on_gpu else 2**20)
    target = torch.empty_like(source)
    copied = bench.clock.measure(lambda: target.copy_(source), counted=False)
    assert copied.seconds is not None
    found = bench.clock.measure(lambda: left @ right, tflop=2 * side**3 / 1e12)
    return replace(found, facts={"copy TB/s": 2 * source.nbytes / copied.seconds / 1e12})


# ---------------------------------------------------------------------------------------- the generator


def one_step(spec: WanSpec) -> WanSettings:
    """The spec's own settings with one step."""
    return replace(spec.native, steps=1)


def transformer_gib(
    spec: WanSpec, settings: WanSettings, *, calls_at_once: int = 1, dtype: torch.dtype
) -> float:
    """What the plan counts for the transformer's weights and a call of it, in GiB."""
    width = int(dtype.itemsize)
    tokens = cost.tokens_per_call(spec, settings, REFERENCES) * calls_at_once
    working = tokens * spec.network.width * cost.block_working_bytes(spec.network) * (width / 2) / GIB
    return cost.weights_gib(spec, parameter_bytes=width)["transformer"] + working


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a denoising step takes: state, text features by name, encoded references."""

    latents: torch.Tensor
    texts: Mapping[str, torch.Tensor]
    condition: ReferenceLatents

    @classmethod
    def of(cls, bench: Bench, geometry: Geometry, references: int) -> Inputs:
        """Noise of a geometry."""
        frames, rows, columns = geometry.latent_shape
        width, dtype = bench.sizes.text_width, bench.dtype
        return cls(
            latents=bench.noise(1, 16, frames, rows, columns, dtype=dtype),
            texts={name: bench.noise(1, 512, width, dtype=dtype) for name in ("prompt", "negative")},
            condition=ReferenceLatents(latents_BCNHW=bench.noise(1, 16, references, rows, columns)),
        )


def bare_sampler(bench: Bench, spec: WanSpec) -> WanSampler:
    """A sampler with the transformer alone."""
    arguments = networks.architecture(spec, bench.sizes.text_width)
    network = networks.transformer(arguments, bench.device, bench.dtype)
    scheduler = make_scheduler(spec.native.solver, spec.native.shift)
    codec = networks.bare_codec(bench.device, bench.dtype)
    return WanSampler(codec=codec, transformer=network, scheduler=scheduler)


def guided_step(
    sampler: WanSampler, spec: WanSpec, inputs: Inputs, device: torch.device, batch_passes: BatchPasses
) -> torch.Tensor:
    """One step with all its passes, from the first timestep."""
    with torch.no_grad():
        sampler.scheduler.set_timesteps(1, device=device)
        return sampler.denoise(
            inputs.latents,
            inputs.texts,
            inputs.condition,
            RULES[spec.guidance_rule],
            spec.native.guidance,
            batch_passes=batch_passes,
            round_timestep=spec.round_timestep,
        )


def denoise(
    bench: Bench, *, batch_passes: BatchPasses = "no", larger: bool = False, small_video: bool = False
) -> Measured:
    """A guided step with three references."""
    sizes = bench.sizes
    spec = sizes.larger_spec if larger else sizes.spec
    geometry = sizes.compared if small_video else sizes.geometry
    inputs = Inputs.of(bench, geometry, REFERENCES)
    sampler = bare_sampler(bench, spec)
    passes = cost.passes_per_step(spec, spec.native)
    settings = replace(
        one_step(spec), width=geometry.width, height=geometry.height, num_frames=geometry.num_frames
    )
    planned_tflop = cost.video_cost(spec, settings, REFERENCES).flops / 1e12
    found = bench.clock.measure(
        partial(guided_step, sampler, spec, inputs, bench.device, batch_passes),
        planned_gib=transformer_gib(
            spec, settings, calls_at_once=passes if batch_passes == "yes" else 1, dtype=bench.dtype
        ),
        facts={"passes": float(passes), "plan TFLOP": planned_tflop},
    )
    return replace(found, facts={**found.facts, "counted TFLOP": found.tflop or 0.0})


def one_pass(bench: Bench, *, backend: str | None = None, compiled: bool = False) -> Measured:
    """One pass of a step; with an attention back-end of diffusers, or with compiled blocks."""
    spec = bench.sizes.spec
    inputs = Inputs.of(bench, bench.sizes.geometry, REFERENCES)
    sampler = bare_sampler(bench, spec)
    plain = only_pass(sampler, inputs, bench)
    reference = plain()
    facts: dict[str, Fact] = {}
    if backend is not None:
        set_attention_backend(sampler.transformer, backend)
    if compiled:
        sampler.transformer.compile_repeated_blocks()
        facts["first call s"] = bench.clock.seconds(plain)
    facts["relative difference from plain"] = relative(plain(), reference)
    tflop = cost.video_cost(spec, one_step(spec), REFERENCES).flops / 1e12
    tflop /= cost.passes_per_step(spec, spec.native)
    return bench.clock.measure(
        plain, tflop=tflop, planned_gib=transformer_gib(spec, spec.native, dtype=bench.dtype), facts=facts
    )


def only_pass(sampler: WanSampler, inputs: Inputs, bench: Bench) -> Callable[[], torch.Tensor]:
    """The pass with prompt and references at timestep 700."""
    timestep = torch.tensor(700.0, device=bench.device)

    def run() -> torch.Tensor:
        with torch.no_grad():
            made = sampler.predict(inputs.latents, timestep, inputs.texts, inputs.condition, [WITH_ALL], "no")
        return made[WITH_ALL.name]

    return run


def references_as_pictures(geometry: Geometry) -> list[Image.Image]:
    """Pictures of noise of the video's size."""
    return [
        Image.fromarray(frame) for frame in networks.noise_frames(REFERENCES, geometry.height, geometry.width)
    ]


class Phases:
    """Seconds and peaks of the parts of one video."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.facts: dict[str, Fact] = {}
        self.peaks: list[float] = []
        self.step_times: list[float] = []
        self._started = 0.0
        self._begin()

    def on_step(self, done: int, total: int) -> None:
        """Called by the sampler: encoding ends at step 0."""
        if done == 0:
            self.end("encode")
            return
        self._clock.synchronise()
        self.step_times.append(time.perf_counter() - self._started)
        self._started = time.perf_counter()
        if done == total:
            self._note_peak("steps")
            self._begin()

    def end(self, name: str) -> None:
        """Note the seconds and the peak of a part and begin the next."""
        self._clock.synchronise()
        self.facts[f"{name} s"] = time.perf_counter() - self._started
        self._note_peak(name)
        self._begin()

    def _note_peak(self, name: str) -> None:
        peak = self._clock.peak_gib()
        if peak is not None:
            self.facts[f"{name} peak GiB"] = peak
            self.peaks.append(peak)

    def _begin(self) -> None:
        self._clock.synchronise()
        self._clock.reset_peak()
        self._started = time.perf_counter()


def video(bench: Bench, *, offload: Offload = "none", steps: int = 2, tiling: bool = False) -> Measured:
    """A whole video with few steps: text, references, steps, decoding."""
    sizes, spec = bench.sizes, bench.sizes.spec
    sampler = networks.whole_sampler(sizes, bench.device, bench.dtype, bench.subfolder())
    models = models_of(sampler)
    if offload != "none":
        # The models wait in the main memory.
        models.to("cpu")
        torch.cuda.empty_cache()
    place_models(models, str(bench.device), offload)
    pictures = references_as_pictures(sizes.geometry)
    phases: list[Phases] = []

    def run(steps: int) -> None:
        phases.append(Phases(bench.clock))
        made = sampler(
            prompt=PROMPT,
            negative_prompt=spec.native.negative_prompt,
            references=pictures,
            conditioner=CONDITIONER,
            rule=RULES[spec.guidance_rule],
            scales=spec.native.guidance,
            geometry=sizes.geometry,
            steps=steps,
            generator=torch.Generator("cpu").manual_seed(0),
            batch_passes="no",
            state_dtype=bench.dtype,
            round_timestep=spec.round_timestep,
            on_step=phases[-1].on_step,
        )
        frames = list(sampler.codec.decode(made.latents, tiling=tiling))
        models.maybe_free_model_hooks()
        assert len(frames) == sizes.geometry.num_frames
        phases[-1].end("decode")

    # The first video loads kernels; of the second the parts are told.
    run(1)
    seconds = bench.clock.seconds(lambda: run(steps))
    # The first step also waits for a network that is moved to the device.
    first_s, step_s = phases[-1].step_times[0], phases[-1].step_times[-1]
    facts: dict[str, Fact] = {"steps": float(steps), "first step s": first_s, "step s": step_s}
    facts |= phases[-1].facts
    facts["s a video at the native steps"] = seconds + (spec.native.steps - steps) * step_s
    facts["plan s at 450 TFLOP/s"] = cost.video_cost(spec, spec.native, REFERENCES).flops / 450e12
    if bench.clock.on_gpu:
        facts |= outside_of_torch(bench.device)
    # Peaks were reset between the parts.
    peak_gib = max(phases[-1].peaks, default=None)
    planned = cost.peak_gib(
        spec, spec.native, REFERENCES, parameter_bytes=bench.dtype.itemsize, vae_tiling=tiling
    )
    return Measured(
        seconds=seconds,
        runs=1,
        peak_gib=peak_gib,
        planned_gib=planned[offload] - cost.RUNTIME_GIB,
        facts=facts,
    )


def outside_of_torch(device: torch.device) -> dict[str, Fact]:
    """GiB that the CUDA context takes, and that torch holds beyond what it hands out at most."""
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    return {"context GiB": (total - free - reserved) / GIB, "reserved GiB": reserved / GIB}


def decode_alone(bench: Bench, *, tiling: bool) -> Measured:
    """The VAE's decoding of a whole video, nothing else on the device."""
    spec = bench.sizes.spec
    vae = networks.vae(bench.sizes, bench.device)
    codec = networks.bare_codec(bench.device, bench.dtype, vae=vae)
    frames, rows, columns = bench.sizes.geometry.latent_shape
    latents = bench.noise(1, 16, frames, rows, columns)
    planned = cost.weights_gib(spec)["vae"] + cost.decode_working_bytes(spec.native, tiled=tiling) / GIB
    return bench.clock.measure(
        lambda: list(codec.decode(latents, tiling=tiling)), counted=False, planned_gib=planned
    )


# ---------------------------------------------------------------------------------------- training


def training_config(sizes: networks.Sizes, *overrides: str) -> TrainingConfig:
    """The recipe with one sample an update and without files of curves."""
    quiet = ("log.tensorboard=false", "log.every=1000000", "run.samples_per_step=1")
    return build_config(sizes.recipe, [*quiet, *overrides])


def drawn_features(sizes: networks.Sizes, config: TrainingConfig) -> DrawnSource:
    """Random features of the recipe's geometry, with three references."""
    return DrawnSource(config, text_width=sizes.text_width)


def drawn_trainer(bench: Bench, config: TrainingConfig) -> tuple[Trainer, Iterator[Example]]:
    """The project's trainer around a random network, and its examples."""
    sizes = bench.sizes
    arguments = networks.architecture(sizes.spec, sizes.text_width)
    # A network that is not trained itself is read in the run's precision.
    half = config.lora.enabled and config.run.precision == "bfloat16"
    network = networks.transformer(arguments, bench.device, torch.bfloat16 if half else torch.float32)
    start = StartingPoint(
        architecture=plain_config(network),
        network=WanCheckpoint(
            tensors=dict(network.state_dict()),
            config=plain_config(network),
            projectors={},
            source=Path("random weights"),
        ),
        projectors=None,
    )
    folder = bench.subfolder()
    source = drawn_features(sizes, config)
    AcceleratorState._reset_state(reset_partial_state=True)
    trainer = Trainer(config, Parallel(config, folder), source, folder, start=start)
    return trainer, source.examples(start=0, rank=0, world_size=1)


def train(bench: Bench, *overrides: str) -> Measured:
    """An update with batch 1 on prepared features: forward, backward, AdamW."""
    config = training_config(bench.sizes, *overrides)
    trainer, examples = drawn_trainer(bench, config)
    arguments = networks.architecture(bench.sizes.spec, bench.sizes.text_width)
    # Frozen weights need no gradient of their own.
    passes = TRAINING_PASSES - (1 if config.lora.enabled else 0)
    tflop = passes * forward_flops(arguments, config, REFERENCES) / 1e12
    found = bench.clock.measure(lambda: trainer.update(examples), tflop=tflop)
    assert found.seconds is not None
    tokens = collate([next(examples)], FlowSchedule(), seed=0).tokens
    return replace(found, facts={"tokens": float(tokens), "tokens/s": tokens / found.seconds})


# ---------------------------------------------------------------------------------------- kernels

# Parts of kernels' names: attention, and matrix products of cuBLAS, CUTLASS and cuDNN.
ATTENTION_KERNELS = ("flash", "fmha", "sdpa", "attention")
PRODUCT_KERNELS = ("gemm", "nvjet", "cutlass", "xmma", "conv")


def kernel_shares(clock: Clock, work: Callable[[], object]) -> dict[str, Fact]:
    """Milliseconds of a run's kernels: attention, matrix products, all others, and the longest of these."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    work()
    clock.synchronise()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        work()
        clock.synchronise()
    shares = dict.fromkeys(("attention ms", "products ms", "other ms"), 0.0)
    others: list[tuple[float, str]] = []
    for event in profiled.key_averages():
        # Ranges that torch names itself span kernels that are counted already.
        if event.device_type != DeviceType.CUDA or event.is_user_annotation:
            continue
        milliseconds, name = event.self_device_time_total / 1e3, event.key.lower()
        if any(part in name for part in ATTENTION_KERNELS):
            shares["attention ms"] += milliseconds
        elif any(part in name for part in PRODUCT_KERNELS):
            shares["products ms"] += milliseconds
        else:
            shares["other ms"] += milliseconds
            others.append((milliseconds, f"{event.count} × {event.key[:90]}"))
    longest = sorted(others, reverse=True)[:LISTED_KERNELS]
    return {**shares, **{f"other {rank}": f"{ms:.1f} ms, {name}" for rank, (ms, name) in enumerate(longest)}}


def profile_pass(bench: Bench) -> Measured:
    """One pass of the generator's network."""
    sampler = bare_sampler(bench, bench.sizes.spec)
    inputs = Inputs.of(bench, bench.sizes.geometry, REFERENCES)
    return Measured(facts=kernel_shares(bench.clock, only_pass(sampler, inputs, bench)))


def profile_update(bench: Bench) -> Measured:
    """One update with RA, blocks recomputed."""
    config = training_config(bench.sizes, "run.gradient_checkpointing=true")
    trainer, examples = drawn_trainer(bench, config)
    return Measured(facts=kernel_shares(bench.clock, lambda: trainer.update(examples)))


# ---------------------------------------------------------------------------------------- equality


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """float32 convolutions without TensorFloat-32, which torch allows on a GPU unless told otherwise."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def relative(found: Any, reference: Any) -> float:
    """Length of the difference over the length of the reference."""
    one, other = (torch.as_tensor(each).detach().cpu().double() for each in (found, reference))
    return float((one - other).norm() / other.norm())


def largest(found: Any, reference: Any) -> float:
    """The largest absolute difference."""
    one, other = (torch.as_tensor(each).detach().cpu().double() for each in (found, reference))
    return float((one - other).abs().max())


def judged(facts: dict[str, Fact], *pairs: tuple[float, float]) -> Measured:
    """Facts with whether each difference is within its limit; a difference that is no number is not."""
    return Measured(
        facts={**facts, "within": "yes" if all(found <= limit for found, limit in pairs) else "NO"}
    )


def equal_refalign(bench: Bench) -> Measured:
    """The whole network at full depth on a small video."""
    sizes = bench.sizes
    frames, rows, columns = sizes.compared.latent_shape
    arguments = networks.architecture(sizes.spec, sizes.text_width)
    network = networks.transformer(arguments, bench.device, torch.float32)
    inputs = {
        "hidden_states": bench.noise(1, 16, frames, rows, columns),
        "timestep": torch.tensor([700.0], device=bench.device),
        "encoder_hidden_states": bench.noise(1, 512, sizes.text_width),
        "reference_hidden_states": bench.noise(1, 16, 2, rows, columns),
    }

    def predicted(model: Any, place: str | torch.device, dtype: torch.dtype) -> torch.Tensor:
        moved = {
            name: value.to(place, torch.float32 if name == "timestep" else dtype)
            for name, value in inputs.items()
        }
        with torch.no_grad():
            sample: torch.Tensor = model(**moved).sample
        return sample.float().cpu()

    def predicted_by_the_sampler() -> torch.Tensor:
        codec = networks.bare_codec(bench.device, torch.float32)
        sampler = WanSampler(codec=codec, transformer=network, scheduler=None)
        texts = {"prompt": inputs["encoder_hidden_states"]}
        condition = ReferenceLatents(latents_BCNHW=inputs["reference_hidden_states"])
        with torch.no_grad():
            made = sampler.predict(
                inputs["hidden_states"], inputs["timestep"], texts, condition, [WITH_ALL], "no"
            )
        return made[WITH_ALL.name].float().cpu()

    expected = predicted(networks.on(network, "cpu"), "cpu", torch.float32)
    scale = float(expected.abs().max())
    tensor_float = predicted(network, bench.device, torch.float32)
    sampled = predicted_by_the_sampler()
    with exact_convolutions():
        exact = predicted(network, bench.device, torch.float32)
    half = networks.cast(network, torch.bfloat16, stays_float32)
    rounded = predicted(half, bench.device, torch.bfloat16)
    error, limit = largest(sampled, expected) / scale, LIMITS["refalign"]
    facts: dict[str, Fact] = {
        "float32 as sampled, largest / largest output": error,
        "limit": limit,
        "float32 with torch's defaults": largest(tensor_float, expected) / scale,
        "float32 without TF32": largest(exact, expected) / scale,
        "bfloat16 relative": relative(rounded, expected),
    }
    return judged(facts, (error, limit))


def equal_vae(bench: Bench) -> Measured:
    """The autoencoder on a small clip, there and back; differences in grey levels of the decoded frames."""
    sizes = bench.sizes
    network = networks.vae(sizes, bench.device)
    video = sizes.compared
    pixels = bench.noise(1, 3, video.num_frames, video.height // 2, video.width // 2).clamp(-1, 1)

    def there_and_back(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        codec = networks.bare_codec(model.device, torch.float32, vae=model)
        with torch.no_grad():
            latents = codec.encode(pixels)
            decoded = model.decode(encoded.to(model.device)).sample
        return latents.cpu(), decoded.cpu()

    with torch.no_grad():
        encoded = network.encode(pixels).latent_dist.mode()
    expected_latents, expected = there_and_back(networks.on(network, "cpu"))
    latents, decoded = there_and_back(network)
    with exact_convolutions():
        exact_latents, exact = there_and_back(network)
    facts: dict[str, Fact] = {
        "latents relative": relative(exact_latents, expected_latents),
        "frames relative": relative(exact, expected),
        "latents relative with torch's defaults": relative(latents, expected_latents),
        "frames relative with torch's defaults": relative(decoded, expected),
        "largest grey level with torch's defaults": 127.5
        * largest(decoded.clamp(-1, 1), expected.clamp(-1, 1)),
    }
    return Measured(facts=facts)


def equal_gme(bench: Bench) -> Measured:
    """Embeddings of a text and of a picture, two layers of 28 and two blocks of 32."""
    model = networks.gme_model(bench.sizes.short_gme, bench.device, torch.float32)
    pictures = [Image.fromarray(frame) for frame in networks.noise_frames(2, 448, 448)]

    def embedded(one: Any, device: torch.device) -> torch.Tensor:
        embedder = networks.gme_embedder(one, bench.subfolder(), device)
        with exact_convolutions():
            found = [embedder.embed_texts([PROMPT], TEXT_INSTRUCTION), embedder.embed_images(pictures)]
        return torch.cat(found).float()

    cpu = torch.device("cpu")
    expected = embedded(networks.on(model, cpu), cpu)
    errors = {"float32": largest(embedded(model, bench.device), expected)}
    for dtype in (torch.float16, torch.bfloat16):
        one = networks.on(model, bench.device, dtype)
        errors[str(dtype).removeprefix("torch.")] = largest(embedded(one, bench.device), expected)
    limits = LIMITS["gme"], LIMITS["gme half"]
    facts: dict[str, Fact] = {**errors, "limits": f"{limits[0]:g}, half {limits[1]:g}"}
    return judged(facts, (errors["float32"], limits[0]), (errors["float16"], limits[1]))


def equal_motion(bench: Bench) -> Measured:
    """Scores of four frames, two layers of each part."""
    sizes = bench.sizes
    network = networks.owl_network(sizes.short_owl, bench.device, torch.float32)
    pixels = normal_pixels(4, sizes.short_owl.vision.image_size)

    def scores(one: Any) -> list[float]:
        with exact_convolutions():
            return networks.window_rater(one, sizes.prompt).frame_scores(pixels)

    expected = scores(networks.on(network, "cpu"))
    errors = {"float32": largest(scores(network), expected)}
    for dtype in (torch.float16, torch.bfloat16):
        one = networks.on(network, bench.device, dtype)
        errors[str(dtype).removeprefix("torch.")] = largest(scores(one), expected)
    limits = LIMITS["motion"], LIMITS["motion half"]
    facts: dict[str, Fact] = {
        **errors,
        "limits": f"{limits[0]:g}, half {limits[1]:g}",
        "spread of the scores": float(np.ptp(expected)),
    }
    return judged(facts, (errors["float32"], limits[0]), (errors["float16"], limits[1]))


def equal_detector(bench: Bench) -> Measured:
    """Logits and distances of one frame and two prompts at full size.

    Random contrast gives logits in the hundreds, the golden's are around one: they are divided by their
    deviation.
    """
    network = networks.detector(bench.sizes, bench.device).network
    image = bench.noise(1, 3, INPUT_SIZE_PX, INPUT_SIZE_PX).abs().clamp(max=1)
    prompts = torch.nn.functional.normalize(bench.noise(2, 1, bench.sizes.detector.prompt), dim=-1)

    def outputs(one: Any, place: str | torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        with torch.inference_mode(), exact_convolutions():
            maps = one.features(image.to(place, dtype))
            logits, distances = one.predict(maps, prompts.to(place, dtype))
        return [
            torch.cat([level.flatten().cpu().double() for level in levels]) for levels in (logits, distances)
        ]

    expected = outputs(networks.on(network, "cpu"), "cpu", torch.float32)
    exact = outputs(networks.on(network, "cpu", torch.float64), "cpu", torch.float64)
    found = outputs(network, bench.device, torch.float32)
    facts: dict[str, Fact] = {}
    pairs: list[tuple[float, float]] = []
    for position, name in enumerate(("logits", "distances")):
        scale = float(expected[position].std()) if name == "logits" else 1.0
        difference = (found[position] - expected[position]) / scale
        errors = {
            f"{name} rms": float(difference.square().mean().sqrt()),
            f"{name} largest": float(difference.abs().max()),
        }
        pairs += [(error, LIMITS[key]) for key, error in errors.items()]
        facts |= {**errors, f"{name} limits": ", ".join(f"{LIMITS[key]:g}" for key in errors)}
        for side, values in (("device", found), ("CPU", expected)):
            facts[f"{name}, {side} from float64, relative"] = relative(values[position], exact[position])
    return judged(facts, *pairs)


def equal_faces(bench: Bench) -> Measured:
    """Unit embeddings of four faces."""
    network = networks.face_network(bench.sizes, bench.device)
    faces = np.stack(networks.noise_frames(4, FACE_SIDE_PX, FACE_SIDE_PX))
    error = largest(face_embeddings(network, faces), face_embeddings(networks.on(network, "cpu"), faces))
    limit = LIMITS["face"]
    return judged({"float32": error, "limit": limit}, (error, limit))


def equal_aesthetics(bench: Bench) -> Measured:
    """Scores of four frames."""
    scorer = networks.aesthetic_scorer(bench.sizes, bench.device)
    tower = ClipImageTower(model=networks.on(scorer.tower.model, "cpu"))
    on_cpu = replace(scorer, tower=tower, head=networks.on(scorer.head, "cpu"))
    pixels = np.stack(normal_pixels(4, scorer.crop.crop_px))
    error = largest(scorer.frame_scores(pixels), on_cpu.frame_scores(pixels))
    limit = LIMITS["aesthetics"]
    facts: dict[str, Fact] = {
        "float32": error,
        "limit": limit,
        "embedding relative": relative(
            scorer.tower.embed(torch.from_numpy(pixels)), tower.embed(torch.from_numpy(pixels))
        ),
    }
    return judged(facts, (error, limit))


def equal_training(bench: Bench) -> Measured:
    """Losses and gradients of ten blocks at full width, RA at the recipe's blocks."""
    sizes = bench.sizes
    video = sizes.compared
    overrides = [f"data.clip.{name}={getattr(video, name)}" for name in ("width", "height", "num_frames")]
    config = training_config(sizes, *overrides)
    source = drawn_features(sizes, config)
    layers = min(config.alignment.blocks[-1] + 2, sizes.spec.network.layers)
    arguments = networks.architecture(sizes.spec, sizes.text_width, layers=layers)
    network = networks.transformer(arguments, bench.device, torch.float32)
    projectors = networks.made(
        lambda: AlignmentProjectors(
            config.alignment, width=sizes.spec.network.width, teacher_widths=source.teacher_widths
        ),
        bench.device,
    )
    model = TrainingModel(network, projectors, config.alignment).requires_grad_(True)
    batch = collate([next(source.examples(start=0, rank=0, world_size=1))], FlowSchedule(), seed=0)

    def step(one: Any, place: str | torch.device, *, half: bool = False) -> dict[str, torch.Tensor]:
        with exact_convolutions(), torch.autocast(torch.device(place).type, torch.bfloat16, enabled=half):
            losses = one(batch.to(place))
        one.zero_grad()
        losses.total.mean().backward()
        gradients = {
            "query gradient": one.transformer.blocks[0].attn1.to_q.weight.grad,
            "projector gradient": one.projectors.by_teacher[0][0][0].weight.grad,
        }
        terms = {"flow": losses.flow, "RA": losses.ra, **gradients}
        return {name: value.detach().float().cpu().clone() for name, value in terms.items()}

    expected = step(networks.on(model, "cpu"), "cpu")
    exact = step(model, bench.device)
    rounded = step(model, bench.device, half=True)
    facts: dict[str, Fact] = {}
    for name, value in expected.items():
        facts[f"{name}, float32"] = relative(exact[name], value)
        facts[f"{name}, bfloat16"] = relative(rounded[name], value)
    limit = LIMITS["loss"]
    facts["limit of float32 losses"] = limit
    return judged(facts, *((relative(exact[name], expected[name]), limit) for name in ("flow", "RA")))


# ---------------------------------------------------------------------------------------- metrics


def normal_pixels(count: int, side: int) -> list[np.ndarray]:
    """Normalised float32 pixels (3, side, side) of frames of noise."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal((3, side, side), np.float32) for _ in range(count)]


def motion_video(bench: Bench) -> Callable[[], list[float]]:
    """The scores of one prepared video by the whole of OneAlign."""
    sizes = bench.sizes
    network = networks.owl_network(sizes.owl, bench.device, bench.half)
    rater = networks.window_rater(network, sizes.prompt)
    pixels = normal_pixels(sizes.video_frames, sizes.owl.vision.image_size)
    return lambda: rater.frame_scores(pixels)


def motion_smoothness(bench: Bench) -> Measured:
    """All frames of a video, prepared; and the time to prepare them."""
    sizes = bench.sizes
    score = motion_video(bench)
    facts: dict[str, Fact] = {"scores finite": "yes" if np.isfinite(score()).all() else "NO"}
    frames = networks.noise_frames(sizes.video_frames, sizes.geometry.height, sizes.geometry.width)
    for threads in (1, 8):

        def prepare(threads: int = threads) -> None:
            for _ in prepared(frames, sizes.owl.vision.image_size, threads):
                pass

        facts[f"preparing s, {threads} threads"] = bench.clock.seconds(prepare)
    return bench.clock.measure(score, facts=facts)


def gmescore(bench: Bench) -> Measured:
    """A prompt and the frames of a video, Pillow's resizes included."""
    geometry = bench.sizes.geometry
    model = networks.gme_model(bench.sizes.gme, bench.device, bench.half)
    embedder = networks.gme_embedder(model, bench.subfolder(), bench.device)
    frames = networks.noise_frames(bench.sizes.scored_frames, geometry.height, geometry.width)
    pictures = [Image.fromarray(frame) for frame in frames]

    def score() -> torch.Tensor:
        text = embedder.embed_texts([PROMPT], TEXT_INSTRUCTION)
        return embedder.embed_images(pictures) @ text[0]

    finite = bool(score().isfinite().all())
    resizing = bench.clock.seconds(lambda: embedder.patches(pictures))
    facts: dict[str, Fact] = {"of them resizing s": resizing, "scores finite": "yes" if finite else "NO"}
    # torch's counter does not know attention with fewer heads of keys than of queries.
    return bench.clock.measure(score, counted=False, facts=facts)


def nexus_detector(bench: Bench) -> Measured:
    """The frames of a video against three references, with letterboxes and suppressions; no embeddings."""
    detector = networks.detector(bench.sizes, bench.device)
    geometry = bench.sizes.geometry
    frames = networks.noise_frames(bench.sizes.scored_frames, geometry.height, geometry.width)
    pictures = references_as_pictures(geometry)
    at_once = max(detector.pairs_per_pass // REFERENCES, 1)
    boxes = 0

    def detect() -> None:
        nonlocal boxes
        prompts = detector.prompts(pictures)
        found = [
            detector.detect(frames[start : start + at_once], prompts)
            for start in range(0, len(frames), at_once)
        ]
        boxes = sum(len(one.scores) for part in found for frame in part for one in frame)

    letterbox = Letterbox.of(geometry.height, geometry.width)
    resizing = bench.clock.seconds(lambda: [letterbox.apply(frame) for frame in frames])
    measured = bench.clock.measure(detect)
    facts: dict[str, Fact] = {
        "of them letterboxes s": resizing,
        "boxes": float(boxes),
        "pairs a pass": float(detector.pairs_per_pass),
    }
    return replace(measured, facts=facts)


def face_video(bench: Bench) -> Measured:
    """The aligned faces of a video; finding them is ONNX Runtime's work and not measured."""
    network = networks.face_network(bench.sizes, bench.device)
    faces = np.stack(networks.noise_frames(bench.sizes.scored_frames, FACE_SIDE_PX, FACE_SIDE_PX))
    return bench.clock.measure(lambda: face_embeddings(network, faces))


def aesthetics_video(bench: Bench) -> Measured:
    """The prepared frames of a video."""
    scorer = networks.aesthetic_scorer(bench.sizes, bench.device)
    pixels = np.stack(normal_pixels(bench.sizes.scored_frames, scorer.crop.crop_px))
    return bench.clock.measure(lambda: scorer.frame_scores(pixels))


# ---------------------------------------------------------------------------------------- from files


def from_files(bench: Bench, metric_class: type[Metric], small: Any, options: Any = None) -> Measured:
    """A metric as it is used: tiny weights from disk, a video file, on the CPU and on the device."""
    folder = bench.subfolder()
    small.write_tiny(folder)
    clip = drawn_video(folder / "clip.mp4", 9)
    sample = replace(drawn_sample(folder, 2), prompt=PROMPT)
    facts: dict[str, Fact] = {}
    values = []
    for name in ("cpu", str(bench.device)):
        scorer = metric_class(options).load(Environment(device=name, threads=2, weights=folder))
        values.append(scorer.score(sample, clip).value)
        facts[f"score on {name}"] = values[-1]
        facts["dtype"] = str(scorer.provenance().get("dtype", ""))
        scorer.close()
    return Measured(facts={**facts, "difference": abs(values[1] - values[0])})


def method_from_files(bench: Bench) -> Measured:
    """refalign-tiny as it is used, float32, against the CPU, under every offload that the device has.

    Its random VAE and four steps at scales of 5 and 7.5 enlarge what TensorFloat-32 rounds.
    """
    folder = bench.subfolder()
    sample = replace(drawn_sample(folder, 2), prompt=PROMPT)

    def frames(device: str, **options: Any) -> np.ndarray:
        method = RefAlignTiny(RefAlignTiny.Options(dtype="float32", **options))
        generator = method.load(Environment(device=device))
        made = np.stack(list(generator.generate(sample, 0).images)).astype(np.float64)
        generator.close()
        return made

    expected = frames("cpu")
    ways: dict[str, dict[str, Any]] = {"resident": {}, "separate passes": {"batch_passes": "no"}}
    if bench.clock.on_gpu:
        ways |= {f"offload {name}": {"offload": name} for name in ("model", "group")}
        ways["tiled"] = {"vae_tiling": True}
    facts: dict[str, Fact] = {}
    for name, options in ways.items():
        with exact_convolutions():
            exact = frames(str(bench.device), **options)
        facts[f"{name}, grey levels"] = largest(exact, expected)
        plain = frames(str(bench.device), **options)
        facts[f"{name} with torch's defaults"] = largest(plain, expected)
    return Measured(facts=facts)


def train_from_files(bench: Bench) -> Measured:
    """The tiny recipe as it is used: on clips, from prepared features, interrupted and resumed."""
    folder = bench.subfolder()
    sample = drawn_sample(folder, 1)
    line = {"id": sample.id, "prompt": PROMPT, "references": [one.path for one in sample.references]}
    (folder / "suite.jsonl").write_text(json.dumps(line) + "\n")
    settings = [
        "log.tensorboard=false", "log.every=1000000", "run.max_steps=4", "checkpoints.every=2",
        "validation.every=4", f"validation.dataset={folder / 'suite.jsonl'}",
        f"validation.samples={sample.id}",
    ]  # fmt: skip
    config = build_config("tiny", settings)
    clips = draw_clip(folder, config)

    def losses(name: str, *configs: TrainingConfig, features: Path | None = None) -> np.ndarray:
        for number, one in enumerate(configs):
            # accelerate keeps the precision of a process's first run.
            AcceleratorState._reset_state(reset_partial_state=True)
            paths = TrainingPaths(
                out=folder / name, data=clips if features is None else None, features=features
            )
            run_training(one, paths, resume=number > 0)
        lines = (folder / name / "log.jsonl").read_text().splitlines()
        return np.array([json.loads(one)["loss"] for one in lines])

    whole = losses("whole", config)
    halved = build_config("tiny", [*settings, "run.max_steps=2"])
    prepare_training(config, clips, folder / "features", None, epochs=8)
    ways = {
        "repeated": losses("repeated", config),
        "resumed": losses("resumed", halved, config),
        "from prepared features": losses("prepared", config, features=folder / "features"),
        "in bfloat16": losses("half", build_config("tiny", [*settings, "run.precision=bfloat16"])),
    }
    facts: dict[str, Fact] = {"loss of step 4": float(whole[-1])}
    facts |= {f"{name}, largest relative": float(np.abs(one / whole - 1).max()) for name, one in ways.items()}
    videos = list((folder / "whole" / "validation").rglob("*.mp4"))
    return Measured(facts={**facts, "validation videos": float(len(videos))})


# ---------------------------------------------------------------------------------------- two workers


def two_workers(bench: Bench) -> Measured:
    """MotionSmoothness in one and in two processes on the same device."""
    context = multiprocessing.get_context("spawn")
    barrier, lock, results = context.Barrier(2), context.Lock(), context.Queue()
    tiny = bench.sizes is networks.TINY
    workers = [
        context.Process(target=work_in_turns, args=(number, str(bench.device), tiny, barrier, lock, results))
        for number in range(2)
    ]
    for worker in workers:
        worker.start()
    try:
        found = dict(results.get(timeout=180) for _ in range(3))
    finally:
        for worker in workers:
            worker.join(timeout=30)
            if worker.is_alive():
                worker.terminate()
    alone, together = found["alone"], max(found["first"], found["second"])
    facts: dict[str, Fact] = {
        "s a video, one worker": alone,
        "s a video of each of two": together,
        "throughput of two / one": 2 * alone / together,
    }
    return Measured(facts=facts)


def work_in_turns(number: int, device: str, tiny: bool, barrier: Any, lock: Any, results: Any) -> None:
    """One worker: the first works alone, then both at once."""
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(torch.device(device), tiny=tiny, folder=Path(folder))
        # Weights are made in float32 first, which two of them at once would not find room for.
        with lock:
            score = motion_video(bench)
        score()
        barrier.wait(timeout=120)
        if number == 0:
            results.put(("alone", bench.clock.seconds(lambda: [score() for _ in range(RUNS)]) / RUNS))
        barrier.wait(timeout=120)
        seconds = bench.clock.seconds(lambda: [score() for _ in range(RUNS)]) / RUNS
        results.put((("first", "second")[number], seconds))


# ---------------------------------------------------------------------------------------- all rows


def all_rows(sizes: networks.Sizes) -> list[Row]:
    """In order of importance."""
    checkpointing, whole = "run.gradient_checkpointing=true", "run.gradient_checkpointing=false"
    fewer = f"data.clip.num_frames={sizes.fewer_frames}"
    plain = "alignment.enabled=false"
    spec, larger = sizes.spec.name, sizes.larger_spec.name
    frames, most = f"{sizes.fewer_frames} frames", f"{sizes.geometry.num_frames} frames"
    judge, scored = NaturalScoreOptions(backend="local"), sizes.scored_frames
    return [
        Row(name="ceilings", what="matrix product in the generator's dtype; copy", measure=ceilings),
        Row(name="denoise", what=f"{spec}: guided step, passes apart", measure=denoise),
        Row(
            name="denoise-joined",
            what=f"{spec}: guided step, passes in one call",
            measure=partial(denoise, batch_passes="yes"),
        ),
        Row(
            name="denoise-small",
            what=f"{spec}: guided step of a small video, passes apart",
            measure=partial(denoise, small_video=True),
        ),
        Row(
            name="denoise-small-joined",
            what="the same, passes in one call",
            measure=partial(denoise, small_video=True, batch_passes="yes"),
        ),
        Row(name="video", what=f"{spec}: a video, all models resident", measure=video),
        Row(
            name="train",
            what=f"{spec}: update with RA, blocks recomputed, {most}",
            measure=lambda bench: train(bench, checkpointing),
        ),
        Row(
            name="train-plain",
            what=f"{spec}: update without RA, blocks recomputed, {most}",
            measure=lambda bench: train(bench, checkpointing, plain),
        ),
        Row(name="equal-refalign", what=f"{spec}: device against CPU", measure=equal_refalign),
        Row(name="equal-training", what=f"{spec}: losses and gradients", measure=equal_training),
        Row(name="equal-gme", what="GME, two layers: device against CPU", measure=equal_gme),
        Row(name="equal-motion", what="OneAlign, two layers: device against CPU", measure=equal_motion),
        Row(name="equal-detector", what="YOLO-World: device against CPU", measure=equal_detector),
        Row(name="equal-faces", what="CurricularFace: device against CPU", measure=equal_faces),
        Row(name="equal-aesthetics", what="CLIP and head: device against CPU", measure=equal_aesthetics),
        Row(name="equal-vae", what="Wan's VAE: device against CPU", measure=equal_vae),
        Row(
            name="motion-smoothness",
            what=f"OneAlign, {sizes.video_frames} prepared frames",
            measure=motion_smoothness,
        ),
        Row(name="gmescore", what=f"GME, prompt and {scored} frames", measure=gmescore),
        Row(
            name="nexus-detector",
            what=f"YOLO-World, {scored} frames, {REFERENCES} references",
            measure=nexus_detector,
        ),
        Row(name="facesim", what=f"CurricularFace, {scored} aligned faces", measure=face_video),
        Row(name="aesthetics", what=f"CLIP and head, {scored} prepared frames", measure=aesthetics_video),
        *(
            Row(
                name=f"attention-{backend}",
                what=f"{spec}: one pass, attention_backend={backend}",
                measure=partial(one_pass, backend=backend),
                gpu_only=True,
            )
            for backend in ATTENTION_BACKENDS
        ),
        Row(name="profile", what=f"{spec}: kernels of one pass", measure=profile_pass, gpu_only=True),
        Row(
            name="profile-train",
            what=f"{spec}: kernels of an update with RA",
            measure=profile_update,
            gpu_only=True,
        ),
        Row(
            name="train-short",
            what=f"{spec}: update with RA, blocks recomputed, {frames}",
            measure=lambda bench: train(bench, checkpointing, fewer),
        ),
        Row(
            name="train-short-whole",
            what=f"{spec}: update with RA, nothing recomputed, {frames}",
            measure=lambda bench: train(bench, whole, fewer),
        ),
        Row(
            name="train-whole",
            what=f"{spec}: update with RA, nothing recomputed, {most}",
            measure=lambda bench: train(bench, whole),
        ),
        Row(
            name="train-lora",
            what=f"{spec}: update of adapters with RA, blocks recomputed, {most}",
            measure=lambda bench: train(bench, checkpointing, "lora.enabled=true"),
        ),
        Row(name="decode", what="Wan's VAE: decoding a video", measure=partial(decode_alone, tiling=False)),
        Row(name="decode-tiled", what="the same, tiled", measure=partial(decode_alone, tiling=True)),
        Row(name="files-method", what="refalign-tiny as used: device against CPU", measure=method_from_files),
        Row(name="files-train", what="the tiny recipe as used", measure=train_from_files),
        *(
            Row(
                name=f"files-{metric.declaration.name}",
                what="the metric as used, tiny weights: device against CPU",
                measure=partial(from_files, metric_class=metric, small=small, options=options),
            )
            for metric, small, options in (
                (GmeScore, small_gme, None),
                (NexusScore, Together(small_nexus, small_gme), None),
                (MotionSmoothness, small_motion, None),
                (ClipText, small_similarity, None),
                (ClipImage, small_similarity, None),
                (DinoImage, small_similarity, None),
                (NaturalScore, small_judge, judge),
            )
        ),
        Row(
            name="compile",
            what=f"{spec}: one pass, compiled blocks",
            measure=partial(one_pass, compiled=True),
            gpu_only=True,
        ),
        Row(
            name="denoise-larger",
            what=f"{larger}: guided step, passes apart",
            measure=partial(denoise, larger=True),
        ),
        Row(
            name="offload-model",
            what=f"{spec}: a video, offload=model",
            measure=partial(video, offload="model"),
            gpu_only=True,
        ),
        Row(
            name="offload-group",
            what=f"{spec}: a video, offload=group",
            measure=partial(video, offload="group"),
            gpu_only=True,
        ),
        Row(
            name="two-workers",
            what="OneAlign in two processes on one device",
            measure=two_workers,
            gpu_only=True,
        ),
    ]


class Together:
    """Several writers of tiny weights as one."""

    def __init__(self, *writers: Any) -> None:
        self._writers = writers

    def write_tiny(self, folder: Path) -> None:
        """Write all of them."""
        for writer in self._writers:
            writer.write_tiny(folder)


def make_bench(device: torch.device, *, tiny: bool, folder: Path) -> Bench:
    """The bench of a device."""
    return Bench(
        device=device,
        sizes=networks.TINY if tiny else networks.FULL,
        clock=Clock(device, RUNS),
        folder=folder,
    )


def machine_facts(device: torch.device) -> dict[str, str]:
    """What the figures belong to."""
    packages = ("torch", "torchvision", "transformers", "diffusers", "accelerate", "open_clip_torch")
    facts = {"machine": describe(*packages), "threads": str(torch.get_num_threads())}
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / GIB
        facts["GPU"] = f"{torch.cuda.get_device_name(device)}, {total:.1f} GiB, CUDA {torch.version.cuda}"
    return facts


def main(arguments: Sequence[str] | None = None) -> list[Outcome]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="small networks; always so on a CPU")
    parser.add_argument("--seconds", type=float, default=3600.0, help="no row is begun after so many")
    parser.add_argument("--rows", help="only these, by name, separated by commas")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(device, tiny=given.tiny or device.type == "cpu", folder=Path(folder))
        rows = all_rows(bench.sizes)
        if given.rows:
            wanted = given.rows.split(",")
            if unknown := set(wanted) - {row.name for row in rows}:
                parser.error(f"no row is named {', '.join(sorted(unknown))}")
            rows = [row for row in rows if row.name in wanted]
        if given.list:
            print("\n".join(f"{row.name:22} {row.what}" for row in rows))
            return []
        facts = machine_facts(device)
        peak = peak_flops(None) if device.type == "cuda" else None
        peak_tflops = None if peak is None else peak / 1e12
        print("\n".join(facts.values()), flush=True)

        def told(outcomes: list[Outcome]) -> None:
            last = outcomes[-1]
            line = table([last], peak_tflops).splitlines()[-1]
            print(f"{line} [{last.took_s:.1f} s]", flush=True)
            if given.out is not None:
                write_results(given.out, facts, outcomes, peak_tflops)

        return run_rows(rows, bench, given.seconds, told)


if __name__ == "__main__":
    main()
