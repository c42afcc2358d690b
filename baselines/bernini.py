"""bernini-r-1.3b, bernini-r-14b: Bernini-R, the renderer of Bernini without its planner.

Each reference keeps its own aspect ratio and size (longer side at most 848 pixels, sides to multiples of 16,
no canvas), is encoded alone, and stands before the video in the sequence, at rotary positions of its own with
a phase that tells sources apart. The text is a fixed sentence and the cleaned prompt, without a space between
them; the negative prompt is not cleaned. Three passes per step: without reference tokens, with them, and with
them and the prompt. Guidance is adaptive and projected, in the space of clean latents X = x - sigma·v: of the
differences d1 = X_image - X_none and d2 = X_image_text - X_image each latent frame is shortened to the norm
50, its part along the prediction counts half, and X = X_none + 4.5·d1 + 4.0·d2 (`image`, `text`, `eta`,
`image_limit`, `text_limit`, `momentum` of `--set guidance=…`; a limit of 0 is none). The 14B network is two
experts that change at timestep 875; from there on both scales are multiplied by 0.8 (`low_noise_factor`).

A sample without references is the same authors' text-to-video task (`t2v_apg`): its own fixed sentence, two
passes, the text's difference alone.

Source: bytedance/Bernini@ed504e3 (`bernini/pipeline.py`, `data_utils.py`, `cli.py`,
`models/wan_diffusion.py`, `models/transformer_wan.py`; `scripts/bernini_r/run_r2v.sh` for the guidance mode,
which the command line does not choose by itself), goldens `baselines2/bernini_r.npz`. Differences: EXIF is
applied and transparency composited on white (the original drops both); no prompt is rewritten. More than five
references, the most that were trained, share the phases of five, as there. The published totals (62.18 and
62.94) do not say with which settings and prompts they were made.

Not seen: the hub's file lists, its scheduler file (Wan's is assumed) and its licence tags. `ByteDance/
Bernini-R`, the two experts alone under other names, is not read. The sentence of the text task stands in
copies of the authors' table by others, not in the commit above.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.prompts import WAN_NEGATIVE
from refbench.baselines.wan.spec import (
    WAN22_T2V_BOUNDARY,
    WAN_1_3B,
    WAN_14B,
    OwnSizeOptions,
    OwnSizeTwoExpertOptions,
    TextTask,
    WanSettings,
    WanSpec,
    WanWeights,
)
from refbench.baselines.wan.weights import HIGH_NOISE_FILES, LOW_NOISE_FILES
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import BASE_FILES, TRANSFORMER_FILES, WeightEntry

if TYPE_CHECKING:
    from refbench.baselines.wan.conditioning import OwnSizeReferences

BERNINI_R_1_3B = WeightEntry(
    name="bernini-r-1.3b",
    repository="ByteDance/Bernini-R-1.3B-Diffusers",
    holds="Bernini-R 1.3B (2.6 GiB) with VAE and text encoder",
    kind="generator",
    memory_gib=13.7,
    required=(*TRANSFORMER_FILES, *BASE_FILES),
)
BERNINI_R_14B = WeightEntry(
    name="bernini-r-14b",
    repository="ByteDance/Bernini-R-Diffusers",
    holds="Bernini-R 14B (two experts of 26.6 GiB) with VAE and text encoder",
    kind="generator",
    memory_gib=64.3,
    required=(*TRANSFORMER_FILES, "transformer_2/config.json", "transformer_2/*.safetensors", *BASE_FILES),
)
# `bernini/prompt_enhancer.py`: the sentence of each task.
SUBJECT_PREFIX = "You are a helpful assistant specialized in subject-to-video generation."
TEXT_PREFIX = "You are a helpful assistant specialized in text-to-video generation."


class BerniniMethod(WanMethod):
    """What both sizes share."""

    Options = OwnSizeOptions

    def conditioner(self, sample: Sample, seed: int) -> OwnSizeReferences:
        """References of their own sizes."""
        from refbench.baselines.wan.conditioning import OwnSizeReferences

        limit_px = self.settings.reference_limit_px
        assert limit_px is not None
        return OwnSizeReferences(limit_px=limit_px)

    def network_class(self) -> Any:
        """Bernini-R's network."""
        from refbench.baselines.wan.nets.bernini import BerniniTransformer3DModel

        return BerniniTransformer3DModel

    def notes(self, sample: Sample, seed: int) -> tuple[str, ...]:
        """What numbers of references the network was not made for."""
        from refbench.baselines.wan.nets.bernini import TRAINED_SOURCES

        count = len(self.references(sample))
        if count > TRAINED_SOURCES:
            return (f"{count} references share the phases of the {TRAINED_SOURCES} that were trained",)
        return () if count else ("no references: the authors' text-to-video task",)


@methods.register
class BerniniR13B(BerniniMethod):
    """Bernini-R 1.3B."""

    spec = WanSpec(
        name="bernini-r-1.3b",
        summary="Bernini-R 1.3B: references of their own sizes before the video, projected guidance",
        base_model="Wan2.1-T2V-1.3B",
        # The code's; the hub's was not verified.
        licence="Apache-2.0",
        weights=WanWeights(transformer=BERNINI_R_1_3B, base=BERNINI_R_1_3B),
        network=WAN_1_3B,
        native=WanSettings(
            width=848,
            steps=40,
            guidance={
                "image": 4.5,
                "text": 4.0,
                "eta": 0.5,
                "image_limit": 50.0,
                "text_limit": 50.0,
                "momentum": 0.0,
            },
            negative_prompt=WAN_NEGATIVE,
            reference_limit_px=848,
        ),
        guidance_rule="projected-image-and-text",
        max_references=None,
        needs_references=False,
        reference_preparation=(
            "EXIF applied, transparency on white, own aspect ratio and size: longer side at most 848 pixels "
            "(or reference_limit_px), sides to multiples of 16, bicubic, 8 bits"
        ),
        prompt_advice="prompts that call the references image0, image1, … and advise to have them rewritten",
        draws_on_cpu=True,
        cleans_prompts=False,
        prompt_prefix=SUBJECT_PREFIX,
        text_task=TextTask(guidance_rule="projected-text", prompt_prefix=TEXT_PREFIX),
        deviations=(
            "predictions are float32 before guidance; the authors' code rounds sigma times them to bfloat16",
        ),
    )


@methods.register
class BerniniR14B(BerniniMethod):
    """Bernini-R 14B, two experts."""

    Options = OwnSizeTwoExpertOptions
    spec = replace(
        BerniniR13B.spec,
        name="bernini-r-14b",
        summary="Bernini-R 14B: as bernini-r-1.3b, two experts that change at timestep 875",
        base_model="Wan2.2-T2V-A14B",
        weights=WanWeights(
            transformer=BERNINI_R_14B,
            transformer_files=HIGH_NOISE_FILES,
            low_noise_files=LOW_NOISE_FILES,
            base=BERNINI_R_14B,
        ),
        network=WAN_14B,
        boundary=WAN22_T2V_BOUNDARY,
        native=replace(
            BerniniR13B.spec.native,
            guidance={**BerniniR13B.spec.native.guidance, "low_noise_factor": 0.8},
        ),
    )
