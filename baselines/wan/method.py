"""What all Wan generators have in common as registered methods; a method's file adds its spec and its
networks.

No torch until `load`.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from refbench.baselines.wan.spec import WanOptions, WanSettings, WanSpec, resolved_settings, wan_card
from refbench.bench.errors import UserError
from refbench.bench.method import Frames, Method, MethodCard
from refbench.bench.metric import Environment
from refbench.bench.sample import Sample
from refbench.bench.weights.store import CATALOGUE, is_tiny, weights_fingerprint

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from refbench.baselines.wan.conditioning import Conditioner
    from refbench.baselines.wan.references import Segmenter
    from refbench.baselines.wan.sampler import WanSampler


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a method's networks were found: the transformer's file or folder, of which only `files` where
    they are named, and the folder of the base models.
    """

    transformer: Path
    files: tuple[Path, ...] | None
    base: Path


class WanMethod(Method):
    """A generator of the Wan family. Subclasses name their `spec`, conditioner and network class."""

    spec: ClassVar[WanSpec]
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
        self._sampler: WanSampler | None = None
        self._segmenter: Segmenter | None = None

    @abstractmethod
    def conditioner(self, sample: Sample, seed: int) -> Conditioner:
        """What this method does with a sample's references."""

    @abstractmethod
    def network_class(self) -> Any:
        """The transformer's class."""

    def card(self) -> MethodCard:
        """The method card; weights are named by repository until `find_weights` has seen them."""
        places = {
            self.spec.weights.transformer: self.spec.weights.transformer,
            self._base_role: self.spec.weights.base,
        }
        return wan_card(
            self.spec, self.options, {role: CATALOGUE[name].repository for role, name in places.items()}
        )

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
        """Digests of the transformer and the base models. Raises MissingWeights for what is not on disk."""
        places = self.places(environment)
        parts = sorted(places.base.glob("*/*.safetensors"))
        base = tuple(path for path in parts if path.parent.name != "transformer")
        found = {
            self.spec.weights.transformer: self._digest(places.transformer, places.files),
            self._base_role: self._digest(places.base, base),
        }
        for role in ("adapter", "segmenter"):
            path: Path | None = getattr(self.options, role)
            if path is not None:
                found[role] = self._digest(path, None)
        return found

    def places(self, environment: Environment) -> Places:
        """Where everything is; MissingWeights and UserError say what is not."""
        from refbench.baselines.wan.components import find_base, find_network

        weights = self.spec.weights
        base = find_base(weights.base, environment.weights, image_branch=self.spec.network.image_branch)
        if self.options.transformer is not None:
            if not self.options.transformer.exists():
                raise UserError(f"the checkpoint {self.options.transformer} does not exist")
            return Places(transformer=self.options.transformer, files=None, base=base)
        files = find_network(weights.transformer, weights.transformer_files, environment.weights)
        return Places(transformer=files[0].parent, files=tuple(files), base=base)

    def load(self, environment: Environment) -> None:
        """Read all networks and put them onto the device.

        Raises UserError before that for a GPU with too little memory, with the offload that would do.
        """
        import torch

        from refbench.baselines.wan.components import load_sampler, place_models
        from refbench.baselines.wan.cost import check_memory
        from refbench.baselines.wan.references import OnnxSegmenter

        places = self.places(environment)
        made_up = self.options.transformer is not None or is_tiny(places.base)
        if environment.device.startswith("cuda") and not made_up:
            free_bytes, _ = torch.cuda.mem_get_info(environment.device)
            check_memory(self.spec, self.settings, self.options, free_bytes / 2**30)
        if self.options.segmenter is not None:
            self._segmenter = OnnxSegmenter(self.options.segmenter)
        self._sampler = load_sampler(
            self.spec,
            self.settings,
            self.options,
            network_class=self.network_class(),
            transformer=places.transformer,
            files=list(places.files) if places.files is not None else None,
            base=places.base,
            dtype=self._dtype(environment.device),
            any_size=made_up,
        )
        place_models(self._sampler, environment.device, self.options.offload)

    def generate(self, sample: Sample, seed: int) -> Frames:
        """One video; SampleError for a reference that cannot be read."""
        from refbench.baselines.wan.conditioning import Geometry
        from refbench.baselines.wan.guidance import RULES

        sampler, settings = self._loaded(), self.settings
        geometry = Geometry(width=settings.width, height=settings.height, num_frames=settings.num_frames)
        made = sampler(
            prompt=sample.prompt,
            negative_prompt=settings.negative_prompt,
            references=self._references(sample),
            conditioner=self.conditioner(sample, seed),
            rule=RULES[self.spec.guidance_rule],
            scales=settings.guidance,
            geometry=geometry,
            steps=settings.steps,
            generator=self._generator(sample, seed),
            batch_passes=self.options.batch_passes,
            state_dtype=self._state_dtype(),
            round_timestep=self.spec.round_timestep,
            on_step=self.on_step,
        )
        frames = sampler.decode(made.latents, tiling=self.options.vae_tiling)
        kept = itertools.islice(frames, settings.dropped_frames, None)
        return Frames(images=self._freed(kept), fps=settings.fps, notes=made.notes)

    def close(self) -> None:
        """Give the models' memory back."""
        self._sampler = self._segmenter = None
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def _base_role(self) -> str:
        return f"{self.spec.weights.base} (base)"

    def _references(self, sample: Sample) -> list[Image.Image]:
        from refbench.baselines.wan.references import on_white

        chosen = sample.references[: self.spec.max_references]
        images = [reference.open_on_white() for reference in chosen]
        segmenter = self._segmenter
        # A scene is its own subject: RefAlign's script removes backgrounds of persons and objects alone.
        return [
            image if segmenter is None or reference.kind == "scene" else on_white(image, segmenter)
            for reference, image in zip(chosen, images, strict=True)
        ]

    def _generator(self, sample: Sample, seed: int) -> torch.Generator:
        from refbench.baselines.wan.components import noise_generator

        device = "cpu" if self.options.noise_device == "cpu" else self._loaded()._execution_device
        return noise_generator(seed, sample.id, key=self.options.noise_key, device=device)

    def _freed(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The frames; offloaded models leave the GPU when the last one is out."""
        yield from frames
        self._loaded().maybe_free_model_hooks()

    def _dtype(self, device: str) -> torch.dtype:
        from refbench.baselines.wan.components import chosen_dtype

        return chosen_dtype(self.options.dtype, device)

    def _state_dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = self._loaded().transformer.dtype
        return dtype if self.spec.state_in_network_dtype else torch.float32

    def _loaded(self) -> WanSampler:
        if self._sampler is None:
            raise UserError(f"{self.name} was not loaded")
        return self._sampler

    def _digest(self, place: Path, files: tuple[Path, ...] | None) -> str:
        from refbench.baselines.wan.checkpoint import checkpoint_files

        if files is None:
            files = tuple(checkpoint_files(place))
        folder = place if place.is_dir() else place.parent
        return weights_fingerprint(folder.resolve(), [file.resolve() for file in files])
