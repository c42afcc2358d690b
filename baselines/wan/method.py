"""What all Wan generators have in common as registered methods; a method's file adds its spec, its networks
and how its references are encoded.

No torch until `load`.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.experts import ADAPTERS, PARTS
from refbench.baselines.wan.spec import WanOptions, WanSettings, WanSpec, resolved_settings, wan_card
from refbench.bench.environment import Environment
from refbench.bench.errors import UserError
from refbench.bench.method import Frames, Generator, Method, MethodCard, OnStep, silent
from refbench.bench.sample import Reference, Sample
from refbench.bench.weights.store import is_small, weights_fingerprint

# What a job's time limit is counted with: far below any device of its kind that works.
SLOW_GPU_FLOPS = 1e13
SLOW_CPU_FLOPS = 1e11

if TYPE_CHECKING:
    from PIL import Image

    from refbench.baselines.wan.codec import WanCodec
    from refbench.baselines.wan.conditioning import Conditioner
    from refbench.baselines.wan.loading import WanModels
    from refbench.baselines.wan.sampler import WanSampler


class WanMethod(Method):
    """A generator of the Wan family. Subclasses name their `spec`, conditioner and network class."""

    # An instance may have another one than its class: a network on another base, for example.
    spec: WanSpec
    needs_torch = True
    modules = ("torch", "transformers", "diffusers", "accelerate", "ftfy", "safetensors")
    Options = WanOptions

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "spec" in cls.__dict__:
            cls.name, cls.summary = cls.spec.name, cls.spec.summary
        if "spec" in cls.__dict__ and "weights" not in cls.__dict__:
            cls.weights = tuple(dict.fromkeys((cls.spec.weights.transformer, cls.spec.weights.base)))

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        try:
            self.settings: WanSettings = resolved_settings(self.spec, self.options)
        except ValueError as error:
            raise UserError(f"the method {self.name}: {error}") from None

    @abstractmethod
    def conditioner(self, sample: Sample, seed: int) -> Conditioner[Any]:
        """How this sample's references are encoded."""

    @abstractmethod
    def network_class(self) -> Any:
        """The transformer's class."""

    def references(self, sample: Sample) -> tuple[Reference, ...]:
        """The sample's references that are used: the first ones, up to the maximum."""
        return sample.references[: self.spec.max_references]

    def video_size(self, references: Sequence[Image.Image]) -> tuple[int, int]:
        """Width and height in pixels of the video that these references make: those of the settings."""
        return self.settings.width, self.settings.height

    def plan_notes(self) -> list[str]:
        """What a plan of this method assumes, each in a sentence."""
        from refbench.baselines.wan.cost import joinable_passes, passes_per_step, reference_tokens

        notes = []
        if self.settings.reference_limit_px is not None:
            usual = reference_tokens(self.spec, self.settings)
            largest = reference_tokens(self.spec, self.settings, largest=True)
            notes.append(
                f"references keep their own sizes: one counts as {usual:,} tokens (16 by 9), for memory as "
                f"the at most {largest:,} that it may have"
            )
        if joinable_passes(self.spec, self.settings) < passes_per_step(self.spec, self.settings):
            notes.append("the pass without references has the video's tokens alone and a call of its own")
        return notes

    def notes(self, sample: Sample, seed: int) -> tuple[str, ...]:
        """Remarks on the video of this sample and seed, beside those on its prompts."""
        return ()

    def card(self) -> MethodCard:
        """The method card; weights are named by repository until `find_weights` has seen them."""
        return wan_card(self.spec, self.options, self.spec.weights.repositories)

    def refuses(self, sample: Sample) -> str | None:
        """More references than the released network takes, or none where it needs some."""
        count, most = len(sample.references), self.spec.max_references
        if count == 0 and self.spec.needs_references:
            return "the sample has no reference"
        if most is not None and count > most and self.options.overflow == "refuse":
            return (
                f"{count} references, {self.name} takes {most} (--set overflow=first uses the first {most})"
            )
        return None

    def find_weights(self, environment: Environment) -> dict[str, str]:
        """Digests of the transformers and the base models. Raises MissingWeights for what is not on disk."""
        from refbench.baselines.wan.loading import find_networks

        files = find_networks(self.spec, environment.weights, own_transformers=self.options.transformers)
        parts = sorted(files.base.glob("*/*.safetensors"))
        base = [path for path in parts if path.parent.name not in PARTS]
        *names, base_name = self.spec.weights.names
        found = {
            name: checkpoint_digest(one.path, one.files)
            for name, one in zip(names, files.transformers, strict=True)
        }
        return found | {base_name: checkpoint_digest(files.base, base)} | self.added_weights()

    def added_weights(self) -> dict[str, str]:
        """Digests of what the options add: adapters, with what each does, and a segmenter."""
        from refbench.baselines.wan.adapters import adapter_digest

        found = {}
        for name, chosen in zip(ADAPTERS, self.options.adapters, strict=False):
            for number, one in enumerate(chosen, start=1):
                place = name if len(chosen) == 1 else f"{name} ({number} of {len(chosen)})"
                found[place] = adapter_digest(one.path, one.strength)
        if self.options.segmenter is not None:
            found["segmenter"] = checkpoint_digest(self.options.segmenter)
        return found

    def run_variant(self) -> str | None:
        """Videos that were made with a step cache are another variant."""
        from refbench.baselines.wan.step_cache import cache_variant

        return cache_variant(self.options.cache)

    def memory_gib(self, device: str) -> float | None:
        """The plan's estimate for the options, in float32 on a processor; None for one's own transformer."""
        from refbench.baselines.wan.cost import FLOAT32_BYTES, needed_gib, parameter_bytes_of

        if any(self.options.transformers):
            return None
        on_gpu = device.startswith("cuda")
        size = parameter_bytes_of(self.options) if on_gpu else FLOAT32_BYTES
        return needed_gib(self.spec, self.settings, self.options, parameter_bytes=size)

    def job_limit_s(self, device: str) -> float:
        """One hour, or what the transformer's operations take on a tenth of a current GPU's throughput."""
        from refbench.baselines.wan.cost import MOST_BENCHMARK_REFERENCES, references_used, video_cost

        references = references_used(self.spec, MOST_BENCHMARK_REFERENCES)
        flops = video_cost(self.spec, self.settings, references).flops
        return max(3600.0, flops / (SLOW_GPU_FLOPS if device.startswith("cuda") else SLOW_CPU_FLOPS))

    def load(self, environment: Environment) -> WanGenerator:
        """A generator with all networks on the device.

        Raises UserError before they are read for a GPU with too little memory, with the offload that would
        do.
        """
        from refbench.baselines.wan.codec import ImageCodec, WanCodec

        codec_class = ImageCodec if self.spec.network.image_branch else WanCodec
        return self.load_with(environment, network_class=self.network_class(), codec_class=codec_class)

    def load_with(
        self, environment: Environment, *, network_class: Any, codec_class: Callable[..., WanCodec]
    ) -> WanGenerator:
        """As `load`, with this class of the transformer and of the networks around it."""
        import torch

        from refbench.baselines.wan.cost import GIB, check_memory
        from refbench.baselines.wan.execution import chosen_dtype, place_models
        from refbench.baselines.wan.loading import find_networks, load_sampler, models_of
        from refbench.baselines.wan.references import OnnxSegmenter, open_without_background

        files = find_networks(self.spec, environment.weights, own_transformers=self.options.transformers)
        made_up = any(self.options.transformers) or is_small(files.base)
        if environment.device.startswith("cuda") and not made_up:
            free_bytes, _ = torch.cuda.mem_get_info(environment.device)
            check_memory(self.spec, self.settings, self.options, free_bytes / GIB)
        open_reference: Callable[[Reference], Image.Image] = Reference.open_on_white
        if self.options.segmenter is not None:
            open_reference = partial(open_without_background, segmenter=OnnxSegmenter(self.options.segmenter))
        sampler = load_sampler(
            self.spec,
            self.settings,
            self.options,
            files,
            network_class=network_class,
            codec_class=codec_class,
            device=torch.device(environment.device),
            dtype=chosen_dtype(self.options.dtype, environment.device),
            any_size=made_up,
        )
        models = models_of(sampler)
        place_models(models, environment.device, self.options.offload)
        return WanGenerator(method=self, sampler=sampler, models=models, open_reference=open_reference)


@dataclass(kw_only=True)
class WanGenerator(Generator):
    """A loaded Wan method: its sampling loop, and the loop's models for offloading."""

    method: WanMethod
    sampler: WanSampler
    models: WanModels
    open_reference: Callable[[Reference], Image.Image]

    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Frames:
        """One video; SampleError for a reference that cannot be read."""
        import torch

        from refbench.baselines.wan.conditioning import Geometry
        from refbench.baselines.wan.execution import noise_generator
        from refbench.baselines.wan.guidance import RULES

        method, sampler = self.method, self.sampler
        spec, settings, options = method.spec, method.settings, method.options
        noise_device = "cpu" if options.noise_device == "cpu" else sampler.codec.device
        references = [self.open_reference(reference) for reference in method.references(sample)]
        width, height = method.video_size(references)
        made = sampler(
            prompt=spec.full_prompt(sample.prompt, len(references)),
            negative_prompt=settings.negative_prompt,
            references=references,
            conditioner=method.conditioner(sample, seed),
            rule=RULES[spec.rule_name(len(references))],
            scales=settings.guidance,
            geometry=Geometry(
                width=width,
                height=height,
                num_frames=settings.num_frames,
                latents=sampler.codec.latents,
            ),
            steps=settings.steps,
            generator=noise_generator(seed, sample.id, key=options.noise_key, device=noise_device),
            batch_passes=options.batch_passes,
            state_dtype=sampler.transformer.dtype if spec.state_in_network_dtype else torch.float32,
            round_timestep=spec.round_timestep,
            on_step=on_step,
        )
        frames = sampler.codec.decode(made.latents, tiling=options.vae_tiling)
        kept = itertools.islice(frames, settings.dropped_frames, None)
        return Frames(
            images=self._offloaded_after(kept),
            fps=settings.fps,
            notes=(*made.notes, *method.notes(sample, seed)),
        )

    def close(self) -> None:
        """Give the models' memory back."""
        from refbench.baselines.wan.execution import free_gpu_memory

        del self.sampler, self.models
        free_gpu_memory()

    def _offloaded_after(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The frames; offloaded models leave the GPU when the last one is out."""
        yield from frames
        self.models.maybe_free_model_hooks()


def checkpoint_digest(path: Path, files: Iterable[Path] | None = None) -> str:
    """A digest of weights: of these files below the folder `path`, or (None) of all weights in `path`."""
    from refbench.baselines.wan.checkpoint import checkpoint_files

    folder = path if path.is_dir() else path.parent
    chosen = checkpoint_files(path) if files is None else files
    return weights_fingerprint(folder.resolve(), [file.resolve() for file in chosen])
