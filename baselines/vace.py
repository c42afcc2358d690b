"""vace-1.3b, vace-p1.3b (the preview), vace-14b: VACE on Wan2.1, references through a side branch.

Each reference is encoded alone and becomes a leading frame of a context beside the noise; blocks of a side
branch (every second layer of the 1.3B networks, every fifth of the 14B) read it and add to the main stream.
The source video is empty. Both guidance passes see the same context: v = u + 5.0·(c - u), UniPC at shift 16.

Source: ali-vilab/VACE@48eb44f (`vace/vace_wan_inference.py`, `vace/models/wan/wan_vace.py`), goldens
`baselines/vace.npz`. Differences: transparency is composited on white and EXIF applied (the script drops
both); 832×480 is landscape, as the script's `832*480` (its `480p` is 480×832 when there is no source video).
The stock diffusers pipeline is not used: it puts references in reversed order, resizes them twice and moved
away from the original UniPC grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.prompts import WAN_NEGATIVE
from refbench.baselines.wan.spec import WAN_1_3B, WAN_14B, WanSettings, WanSpec, WanWeights
from refbench.baselines.wan.weights import WAN21_T2V_1_3B
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import BASE_FILES, TRANSFORMER_FILES, WeightEntry

if TYPE_CHECKING:
    from refbench.baselines.wan.nets.vace import VaceReferences

VACE_SMALL_WEIGHTS = WeightEntry(
    name="wan2.1-vace-1.3b",
    repository="Wan-AI/Wan2.1-VACE-1.3B-diffusers",
    holds="Wan2.1-VACE-1.3B (4.0 GiB) with VAE and text encoder",
    kind="generator",
    memory_gib=15.1,
    required=(*TRANSFORMER_FILES, *BASE_FILES),
    licence="apache-2.0",
)
VACE_LARGE_WEIGHTS = WeightEntry(
    name="wan2.1-vace-14b",
    repository="Wan-AI/Wan2.1-VACE-14B-diffusers",
    holds="Wan2.1-VACE-14B (32.3 GiB) with VAE and text encoder",
    kind="generator",
    memory_gib=43.4,
    required=(*TRANSFORMER_FILES, *BASE_FILES),
    licence="apache-2.0",
)
VACE_PREVIEW_WEIGHTS = WeightEntry(
    name="vace-wan2.1-1.3b-preview",
    repository="ali-vilab/VACE-Wan2.1-1.3B-Preview",
    holds="VACE-Wan2.1-1.3B-Preview in original format, the leaderboard's VACE-P1.3B",
    kind="generator",
    memory_gib=4.0,
    required=("*.safetensors",),
    licence="apache-2.0",
)
# Blocks of the side branch: layers 0, 2, …, 28 and 0, 5, …, 35.
VACE_1_3B = replace(WAN_1_3B, extra_blocks=15)
VACE_14B = replace(WAN_14B, extra_blocks=8)
NATIVE = WanSettings(shift=16.0, guidance={"text": 5.0}, negative_prompt=WAN_NEGATIVE)
PREPARATION = (
    "EXIF applied, transparency on white, bilinear fit without antialiasing on white at the video's size"
)
ADVICE = "prompts extended by a language model (the script's wan_en or wan_zh; off by default)"


class VaceMethod(WanMethod):
    """What the three networks share."""

    def conditioner(self, sample: Sample, seed: int) -> VaceReferences:
        """References as leading context frames."""
        from refbench.baselines.wan.nets.vace import VaceReferences

        return VaceReferences()

    def network_class(self) -> Any:
        """Wan with VACE's side branch."""
        from refbench.baselines.wan.nets.vace import VaceTransformer3DModel

        return VaceTransformer3DModel


def _spec(**facts: Any) -> WanSpec:
    """The code has no limit of references and takes none at all; what the weights were trained with is not
    stated.
    """
    return WanSpec(
        licence="Apache-2.0",
        native=NATIVE,
        guidance_rule="text",
        max_references=None,
        needs_references=False,
        reference_preparation=PREPARATION,
        prompt_advice=ADVICE,
        **facts,
    )


@methods.register
class Vace13B(VaceMethod):
    """Wan2.1-VACE-1.3B."""

    spec = _spec(
        name="vace-1.3b",
        summary="VACE 1.3B: references as context frames of a side branch",
        base_model="Wan2.1-T2V-1.3B",
        weights=WanWeights(transformer=VACE_SMALL_WEIGHTS, base=VACE_SMALL_WEIGHTS),
        network=VACE_1_3B,
    )


@methods.register
class VacePreview13B(VaceMethod):
    """VACE-Wan2.1-1.3B-Preview, the leaderboard's VACE-P1.3B; released in original format only."""

    spec = _spec(
        name="vace-p1.3b",
        summary="VACE 1.3B preview weights, otherwise as vace-1.3b",
        base_model="Wan2.1-T2V-1.3B",
        weights=WanWeights(
            transformer=VACE_PREVIEW_WEIGHTS,
            transformer_files=("*.safetensors",),
            base=WAN21_T2V_1_3B,
        ),
        network=VACE_1_3B,
    )


@methods.register
class Vace14B(VaceMethod):
    """Wan2.1-VACE-14B."""

    spec = _spec(
        name="vace-14b",
        summary="VACE 14B: as vace-1.3b, the larger network",
        base_model="Wan2.1-T2V-14B",
        weights=WanWeights(transformer=VACE_LARGE_WEIGHTS, base=VACE_LARGE_WEIGHTS),
        network=VACE_14B,
    )
