"""refalign-1.3b, refalign-14b, refalign-tiny: RefAlign as registered methods.

The sampling is the authors' (`refalign.sampler`), the network Wan's with reference tokens behind the video's
(`refalign.transformer`). `refalign-tiny` has random weights made on the spot, in the real formats: it
exercises the whole path on a CPU in seconds, its videos are noise; `--set transformer=PATH` gives it a
network that the `tiny` recipe trained.

Source: RefAlign, arXiv 2603.25743; gudaochangsheng/RefAlign@6f91526. Differences: transparency is composited
on white and EXIF applied; a sample without references is refused (the authors' pipeline takes a grey
picture). For the leaderboard the authors used rewritten prompts (`--prompts FILE`) and removed the
backgrounds of persons and objects (`--set segmenter=FILE.onnx`); neither is public.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import Places, WanMethod
from refbench.baselines.wan.prompts import REFALIGN_14B_NEGATIVE, WAN_NEGATIVE
from refbench.baselines.wan.spec import WAN_1_3B, WAN_14B, WanNetwork, WanSettings, WanSpec, WanWeights
from refbench.bench.metric import Environment
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.scores.record import TINY_PREFIX

if TYPE_CHECKING:
    from refbench.baselines.wan.conditioning import Conditioner

GUIDANCE = {"image": 5.0, "text": 7.5}
MAX_REFERENCES = 3
PREPARATION = "EXIF applied, transparency on white, Lanczos fit on white at the video's size"
DEVIATIONS = (
    "backgrounds are kept unless --set segmenter names a network that removes them",
    "the VAE runs in float32 on whole frames, in the authors' scripts in bfloat16 and tiled",
)


class RefAlignMethod(WanMethod):
    """What all sizes share."""

    def conditioner(self, sample: Sample, seed: int) -> Conditioner:
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
            transformer="refalign-1.3b", transformer_files=("*.safetensors",), base="wan2.1-t2v-1.3b"
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
            transformer="refalign-14b", transformer_files=("*.safetensors",), base="wan2.1-t2v-14b"
        ),
        network=WAN_14B,
        native=replace(RefAlign13B.spec.native, negative_prompt=REFALIGN_14B_NEGATIVE),
    )


@methods.register
class RefAlignTiny(RefAlignMethod):
    """A made-up small RefAlign for tests and first steps."""

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

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._made: tempfile.TemporaryDirectory[str] | None = None

    def find_weights(self, environment: Environment) -> dict[str, str]:
        """Nothing is looked for but a network of the user's: the rest is made by name."""
        own: Path | None = self.options.transformer
        found = dict.fromkeys(
            (self.spec.weights.transformer, self._base_role), f"{TINY_PREFIX}random weights by name"
        )
        if own is not None:
            found[self.spec.weights.transformer] = self._digest(own, None)
        return found

    def places(self, environment: Environment) -> Places:
        """Tiny weights in a temporary folder, which `close` removes."""
        from refbench.baselines.small.refalign import write_tiny as write_network
        from refbench.baselines.small.wan_base import write_small as write_base

        self._made = tempfile.TemporaryDirectory(prefix="refalign-tiny-")
        folder = Path(self._made.name)
        write_base(folder)
        write_network(folder)
        return super().places(Environment(device=environment.device, weights=folder))

    def close(self) -> None:
        """Give memory and disk back."""
        super().close()
        if self._made is not None:
            self._made.cleanup()
            self._made = None
