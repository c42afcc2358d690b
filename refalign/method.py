"""refalign-1.3b, refalign-14b, refalign-tiny: RefAlign as registered methods.

The sampling is the authors' (`refalign.sampler`), the network Wan's with reference tokens behind the video's
(`refalign.transformer`). `refalign-tiny` has random weights made on the spot, in the real formats: it
exercises the whole path on a CPU in seconds, its videos are noise; `--set transformer=PATH` gives it a
network that the `tiny` recipe trained.

Source: RefAlign, arXiv 2603.25743; gudaochangsheng/RefAlign@6f91526. Differences: transparency is composited
on white and EXIF applied; a sample without references is refused (the authors' pipeline takes a grey
picture). For the leaderboard the authors used rewritten prompts (`--prompts FILE`) and removed the
backgrounds of persons and objects (`--set segmenter=FILE.onnx`); neither is public.

A network of one's own may stand on another base model (`--set base=wan2.2-ti2v-5b`): its VAE, its text
encoder and the boundary of its experts are then that one's, all else stays RefAlign's. That is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.adapter_option import ChosenAdapter
from refbench.baselines.wan.experts import EXPERTS
from refbench.baselines.wan.method import WanGenerator, WanMethod, checkpoint_digest
from refbench.baselines.wan.prompts import REFALIGN_14B_NEGATIVE, WAN_NEGATIVE
from refbench.baselines.wan.spec import (
    WAN_1_3B,
    WAN_14B,
    TwoExpertOptions,
    WanNetwork,
    WanSettings,
    WanSpec,
    WanWeights,
)
from refbench.baselines.wan.weights import WAN21_T2V_1_3B, WAN21_T2V_14B
from refbench.bench.environment import Environment
from refbench.bench.errors import UserError
from refbench.bench.files import scratch_folder
from refbench.bench.method import MethodCard
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import WeightEntry
from refbench.bench.weights.kind import TINY_PREFIX
from refbench.refalign.bases import has_experts, spec_on_base

if TYPE_CHECKING:
    from refbench.baselines.wan.conditioning import ConcatenatedReferences

REFALIGN_1_3B = WeightEntry(
    name="refalign-1.3b",
    repository="gudaochangsheng/RefAlign-1.3B",
    holds="RefAlign-1.3B, the transformer",
    kind="generator",
    memory_gib=2.6,
    required=("*.safetensors",),
)
REFALIGN_14B = WeightEntry(
    name="refalign-14b",
    repository="gudaochangsheng/RefAlign-14B",
    holds="RefAlign-14B, the transformer",
    kind="generator",
    memory_gib=26.6,
    required=("*.safetensors",),
)

GUIDANCE = {"image": 5.0, "text": 7.5}
MAX_REFERENCES = 3
PREPARATION = "EXIF applied, transparency on white, Lanczos fit on white at the video's size"
DEVIATIONS = (
    "backgrounds are kept unless --set segmenter names a network that removes them",
    "the VAE runs in float32 on whole frames, in the authors' scripts in bfloat16 and tiled",
)


@dataclass(frozen=True, kw_only=True)
class RefAlignOptions(TwoExpertOptions):
    """RefAlign's options; `transformer_2` and `adapter_2` are the low-noise expert's of a base with two."""

    base: str | None = None
    """Another base model, which transformer (or adapter) was trained on: wan2.2-ti2v-5b, wan2.2-t2v-a14b, or
    one of Wan2.1's.
    """

    @property
    def transformers(self) -> tuple[Path | None, ...]:
        """The user's own checkpoint for each of the base's networks."""
        return super().transformers[: self._networks]

    @property
    def adapters(self) -> tuple[tuple[ChosenAdapter, ...], ...]:
        """The adapters for each of the base's networks."""
        return super().adapters[: self._networks]

    @property
    def _networks(self) -> int:
        return 2 if self.base is not None and has_experts(self.base) else 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._networks == 1 and (self.transformer_2 is not None or self.adapter_2 is not None):
            raise ValueError("transformer_2 and adapter_2 need a base with two experts: base=wan2.2-t2v-a14b")


class RefAlignMethod(WanMethod):
    """What all sizes share."""

    Options = RefAlignOptions

    def __init__(self, options: Any = None) -> None:
        options = self.Options() if options is None else options
        # The family's plain options have no base.
        self.base: str | None = getattr(options, "base", None)
        if self.base is not None:
            self.spec = self.spec_on(self.base)
        super().__init__(options)
        own = (*options.transformers, *(one.path for chosen in options.adapters for one in chosen))
        if self.base is not None and self.weights and not any(own):
            raise UserError(
                f"the method {self.name}: there is no released RefAlign on {self.base}; name your own "
                "network with --set transformer=PATH or --set adapter=PATH"
            )

    def spec_on(self, base: str) -> WanSpec:
        """The method's facts on another base model. Raises UserError for an unknown one."""
        return spec_on_base(type(self).spec, base)

    def card(self) -> MethodCard:
        """The method card; on the method's own base it is that of before the option `base`."""
        card = super().card()
        unused = set() if self.spec.boundary is not None else {"transformer_2", "adapter_2"}
        unused |= {"base"} if self.base is None else set()
        options = {name: value for name, value in card.options.items() if name not in unused}
        deviations = (*card.deviations, *self._untrained_experts())
        return card.model_copy(update={"options": options, "deviations": deviations})

    def _untrained_experts(self) -> list[str]:
        """What the card says of experts that are the base's own."""
        if self.spec.boundary is None:
            return []
        given = zip(EXPERTS, self.options.transformers, self.options.adapters, strict=True)
        return [
            f"the {expert} expert is the base's own, never trained with references"
            for expert, transformer, adapters in given
            if transformer is None and not adapters
        ]

    def conditioner(self, sample: Sample, seed: int) -> ConcatenatedReferences:
        """References beside the state."""
        from refbench.refalign.sampler import CONDITIONER

        return CONDITIONER

    def network_class(self) -> Any:
        """RefAlign's network."""
        from refbench.refalign.transformer import RefAlignTransformer3DModel

        return RefAlignTransformer3DModel


@methods.register
class RefAlign13B(RefAlignMethod):
    """RefAlign-1.3B."""

    spec = WanSpec(
        name="refalign-1.3b",
        summary="RefAlign 1.3B: reference tokens aligned to a vision foundation model in training",
        base_model="Wan2.1-T2V-1.3B",
        licence=None,
        weights=WanWeights(
            transformer=REFALIGN_1_3B, transformer_files=("*.safetensors",), base=WAN21_T2V_1_3B
        ),
        network=WAN_1_3B,
        native=WanSettings(solver="euler", guidance=GUIDANCE, negative_prompt=WAN_NEGATIVE),
        guidance_rule="image-and-text",
        max_references=MAX_REFERENCES,
        reference_preparation=PREPARATION,
        prompt_advice="rewritten prompts",
        round_timestep=True,
        state_in_network_dtype=True,
        draws_on_cpu=True,
        deviations=DEVIATIONS,
    )


@methods.register
class RefAlign14B(RefAlignMethod):
    """RefAlign-14B."""

    spec = replace(
        RefAlign13B.spec,
        name="refalign-14b",
        summary="RefAlign 14B: as refalign-1.3b, with an extended negative prompt",
        base_model="Wan2.1-T2V-14B",
        weights=WanWeights(
            transformer=REFALIGN_14B, transformer_files=("*.safetensors",), base=WAN21_T2V_14B
        ),
        network=WAN_14B,
        native=replace(RefAlign13B.spec.native, negative_prompt=REFALIGN_14B_NEGATIVE),
    )


@methods.register
class RefAlignTiny(RefAlignMethod):
    """A small RefAlign with random weights, for tests and first steps."""

    spec = replace(
        RefAlign13B.spec,
        name="refalign-tiny",
        summary="RefAlign with tiny random weights: tries the whole path on a CPU; its videos are noise",
        base_model="none (random weights)",
        licence="Apache-2.0",
        network=WanNetwork(width=96, ffn_width=192, layers=4, heads=4),
        native=replace(RefAlign13B.spec.native, width=96, height=64, num_frames=9, steps=4),
        prompt_advice=None,
        deviations=(),
    )
    # Nothing is looked for on disk.
    weights = ()

    def spec_on(self, base: str) -> WanSpec:
        """On another base model's VAE, with a small network."""
        spec, own = super().spec_on(base), type(self).spec.network
        network = replace(own, in_channels=spec.network.in_channels, latents=spec.network.latents)
        return replace(spec, network=network)

    def find_weights(self, environment: Environment) -> dict[str, str]:
        """Only the user's own networks and adapters are looked for; the other weights are random, a function
        of their names.
        """
        *transformer_names, base_name = self.spec.weights.names
        made = f"{TINY_PREFIX}random weights by name"
        own = zip(transformer_names, self.options.transformers, strict=True)
        return {
            **{name: made if path is None else checkpoint_digest(path) for name, path in own},
            base_name: made,
            **self.added_weights(),
        }

    def load(self, environment: Environment) -> WanGenerator:
        """A generator of tiny networks, written to a temporary folder and read from there."""
        from refbench.baselines.small.refalign import write_tiny as write_network
        from refbench.baselines.small.wan_base import write_small as write_base

        with scratch_folder("tiny") as name:
            folder = Path(name)
            write_base(folder, self.spec.weights.base.name)
            write_network(folder)
            return super().load(replace(environment, weights=folder))
