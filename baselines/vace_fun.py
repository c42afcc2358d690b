"""vace-fun-14b: VACE-Fun on Wan2.2, VACE's network as two experts.

References enter as in VACE: each encoded alone, a leading frame of a context that a side branch reads, in
both guidance passes. Different are: two networks, the high-noise one down to timestep 875 and then the
low-noise one, at one guidance scale, v = u + 5.0·(c - u); the canvas (8-bit images, Pillow's bicubic, fitted
on white or, as the authors' code can too, stretched: `--set canvas=stretched`); and the solver, diffusers'
own Euler at shift 12, which shifts twice.

Source: aigc-apps/VideoX-Fun@804a425 (`examples/wan2.2_vace_fun/predict_s2v.py`,
`videox_fun/pipeline/pipeline_wan2_2_vace_fun.py`, `videox_fun/utils/utils.py`), goldens
`baselines/vace_fun.npz`. Differences: transparency is composited on white and EXIF applied; what else differs
stands in the spec. The stock diffusers pipeline takes both experts but is not used: it reverses the order of
references, resizes them twice, and a converted folder brings another solver. No results on OpenS2V-Eval were
published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from refbench.baselines.vace import VACE_14B, VaceMethod
from refbench.baselines.wan.prompts import WAN_NEGATIVE
from refbench.baselines.wan.spec import (
    WAN22_T2V_BOUNDARY,
    TwoExpertOptions,
    WanSettings,
    WanSpec,
    WanWeights,
)
from refbench.baselines.wan.weights import HIGH_NOISE_FILES, LOW_NOISE_FILES, WAN21_T2V_14B
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import WeightEntry

if TYPE_CHECKING:
    from refbench.baselines.wan.nets.vace import VaceReferences

VACE_FUN = WeightEntry(
    name="wan2.2-vace-fun-a14b",
    repository="alibaba-pai/Wan2.2-VACE-Fun-A14B",
    holds="Wan2.2-VACE-Fun-A14B in original format: two experts of 32.3 GiB",
    kind="generator",
    memory_gib=64.6,
    required=("high_noise_model/*.safetensors", "low_noise_model/*.safetensors"),
    only=("*.json", "README.md", "LICENSE*", "high_noise_model/*", "low_noise_model/*"),
)
PADDED = "bicubic fit on white at the video's size"
PREPARATION = "EXIF applied, transparency on white, {}, 8 bits"
STRETCHED = "stretched to the video's size with bicubic, aspect ratio not kept"


@dataclass(frozen=True, kw_only=True)
class VaceFunOptions(TwoExpertOptions):
    """Those of two experts, and the canvas."""

    canvas: Literal["padded", "stretched"] = "padded"
    """Fit references on white at the video's size (padded), or stretch them to it (stretched)."""


@methods.register
class VaceFun14B(VaceMethod):
    """Wan2.2-VACE-Fun-A14B. The code has no limit of references."""

    Options = VaceFunOptions
    spec = WanSpec(
        name="vace-fun-14b",
        summary="VACE-Fun on Wan2.2: VACE's network as two experts that change at timestep 875",
        base_model="Wan2.2-T2V-A14B",
        # The code's; the hub states none that was verified.
        licence="Apache-2.0",
        weights=WanWeights(
            transformer=VACE_FUN,
            transformer_files=HIGH_NOISE_FILES,
            low_noise_files=LOW_NOISE_FILES,
            base=WAN21_T2V_14B,
        ),
        network=VACE_14B,
        boundary=WAN22_T2V_BOUNDARY,
        native=WanSettings(
            solver="euler-diffusers", shift=12.0, guidance={"text": 5.0}, negative_prompt=WAN_NEGATIVE
        ),
        guidance_rule="text",
        max_references=None,
        needs_references=False,
        reference_preparation=PREPARATION.format(PADDED),
        cleans_prompts=False,
        state_in_network_dtype=True,
        deviations=(
            "no TeaCache; the authors' example skips steps with it (threshold 0.10, the first 5 whole)",
            "VAE in float32 and noise drawn in float32; the authors' example has both in bfloat16",
        ),
    )

    def __init__(self, options: VaceFunOptions | None = None) -> None:
        super().__init__(options)
        if self.options.canvas == "stretched":
            self.spec = replace(self.spec, reference_preparation=PREPARATION.format(STRETCHED))

    def conditioner(self, sample: Sample, seed: int) -> VaceReferences:
        """References as leading context frames, on the bicubic canvas."""
        from refbench.baselines.wan.nets.vace import VaceReferences

        return VaceReferences(canvas=self.options.canvas)
