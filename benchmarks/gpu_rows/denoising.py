"""Rows of the generator: guided steps, one pass of the network, a whole video, its decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from gpu_rows import networks
from gpu_rows.bench import GIB, PROMPT, REFERENCES, Bench, kernel_shares, relative
from gpu_rows.rows import Clock, Fact, Measured
from refbench.baselines.wan import cost
from refbench.baselines.wan.conditioning import Geometry, ReferenceLatents
from refbench.baselines.wan.execution import place_models
from refbench.baselines.wan.guidance import RULES, Pass
from refbench.baselines.wan.loading import models_of, set_attention_backend
from refbench.baselines.wan.sampler import BatchPasses, WanSampler
from refbench.baselines.wan.schedules import make_scheduler
from refbench.baselines.wan.spec import Offload, WanSettings, WanSpec
from refbench.refalign.sampler import CONDITIONER

IMAGE_TEXT_PASS = Pass(name="image_text", text="prompt", references="own")


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
            made = sampler.predict(
                inputs.latents, timestep, inputs.texts, inputs.condition, [IMAGE_TEXT_PASS], "no"
            )
        return made[IMAGE_TEXT_PASS.name]

    return run


def profile_pass(bench: Bench) -> Measured:
    """One pass of the generator's network."""
    sampler = bare_sampler(bench, bench.sizes.spec)
    inputs = Inputs.of(bench, bench.sizes.geometry, REFERENCES)
    return Measured(facts=kernel_shares(bench.clock, only_pass(sampler, inputs, bench)))


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
    pictures = networks.noise_pictures(REFERENCES, sizes.geometry.height, sizes.geometry.width)
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
    working = cost.decode_working_bytes(spec.network, spec.native, tiled=tiling)
    planned = cost.weights_gib(spec)["vae"] + working / GIB
    return bench.clock.measure(
        lambda: list(codec.decode(latents, tiling=tiling)), counted=False, planned_gib=planned
    )
