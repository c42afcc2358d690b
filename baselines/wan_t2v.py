"""wan-t2v-1.3b, wan-t2v-14b (Wan2.1), wan2.2-t2v-a14b and wan2.2-ti2v-5b (Wan2.2): text to video, the control
that never looks at the references.

It shows which scores the prompt alone can give. A method whose FaceSim is not clearly above this row's has
not used its references.

Source: Wan-Video/Wan2.1@9737cba, `generate.py`: 50 UniPC steps, shift 5.0, guidance 5.0, 81 frames at 16 fps
(shift 3.0 at 480p is its default for image-to-video alone). Its README advises guidance 6 and shift 8 to 12
for the 1.3B network: `--set guidance=text=6 --set shift=8`.

Wan2.2's first control is for methods built on it (vace-fun-14b, bernini-r-14b): two experts that take turns
at timestep 875, 40 UniPC steps, shift 12.0, guidance 4.0 with the high-noise expert and 3.0 with the
low-noise one (`--set guidance=text=4,text_low_noise=3`). Source: Wan-Video/Wan2.2,
`wan/configs/wan_t2v_A14B.py` and `wan/text2video.py`.

Its second one is for networks trained on Wan2.2-TI2V-5B, on a VAE of its own: 50 UniPC steps, shift 5.0,
guidance 5.0, 121 frames of 1280×704 at 24 fps. Its network takes a timestep for each token, which is how a
given first frame stays clean; from text alone all of them are equal, so one for the sample is the same
function. Source: Wan-Video/Wan2.2, `wan/configs/wan_ti2v_5B.py` and `wan/textimage2video.py`; diffusers'
`expand_timesteps`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.prompts import WAN_NEGATIVE
from refbench.baselines.wan.spec import (
    WAN22_5B,
    WAN22_T2V_BOUNDARY,
    WAN_1_3B,
    WAN_14B,
    TwoExpertOptions,
    WanSettings,
    WanSpec,
    WanWeights,
)
from refbench.baselines.wan.weights import (
    HIGH_NOISE_FILES,
    LOW_NOISE_FILES,
    WAN21_T2V_1_3B,
    WAN21_T2V_14B,
    WAN22_T2V_A14B,
    WAN22_TI2V_5B,
)
from refbench.bench.registry import methods
from refbench.bench.sample import Reference, Sample

if TYPE_CHECKING:
    from refbench.baselines.wan.conditioning import NoReferences

NATIVE = WanSettings(guidance={"text": 5.0}, negative_prompt=WAN_NEGATIVE)


class TextToVideoMethod(WanMethod):
    """What all of them share."""

    def conditioner(self, sample: Sample, seed: int) -> NoReferences:
        """The text alone."""
        from refbench.baselines.wan.conditioning import NoReferences

        return NoReferences()

    def network_class(self) -> Any:
        """The family's network, here without references."""
        from refbench.baselines.wan.nets.transformer import ReferenceWanTransformer3DModel

        return ReferenceWanTransformer3DModel

    def references(self, sample: Sample) -> tuple[Reference, ...]:
        """None: they are not even opened, so that a missing image does not matter to this control."""
        return ()


def _spec(native: WanSettings = NATIVE, **facts: Any) -> WanSpec:
    return WanSpec(
        licence="Apache-2.0",
        native=native,
        guidance_rule="text",
        max_references=None,
        needs_references=False,
        reference_preparation="references are not looked at",
        reference_frames=0,
        **facts,
    )


@methods.register
class TextToVideo13B(TextToVideoMethod):
    """Wan2.1-T2V-1.3B."""

    spec = _spec(
        name="wan-t2v-1.3b",
        summary="control: Wan2.1 text to video 1.3B, references unused",
        base_model="Wan2.1-T2V-1.3B",
        weights=WanWeights(transformer=WAN21_T2V_1_3B, base=WAN21_T2V_1_3B),
        network=WAN_1_3B,
    )


@methods.register
class TextToVideo14B(TextToVideoMethod):
    """Wan2.1-T2V-14B."""

    spec = _spec(
        name="wan-t2v-14b",
        summary="control: Wan2.1 text to video 14B, references unused",
        base_model="Wan2.1-T2V-14B",
        weights=WanWeights(transformer=WAN21_T2V_14B, base=WAN21_T2V_14B),
        network=WAN_14B,
        deviations=("832×480 as the other methods; the script's default size is 1280×720",),
    )


@methods.register
class TextToVideo22A14B(TextToVideoMethod):
    """Wan2.2-T2V-A14B."""

    Options = TwoExpertOptions
    spec = _spec(
        name="wan2.2-t2v-a14b",
        summary="control: Wan2.2 text to video, two experts that change at timestep 875, references unused",
        base_model="Wan2.2-T2V-A14B",
        weights=WanWeights(
            transformer=WAN22_T2V_A14B,
            transformer_files=HIGH_NOISE_FILES,
            low_noise_files=LOW_NOISE_FILES,
            base=WAN22_T2V_A14B,
        ),
        network=WAN_14B,
        boundary=WAN22_T2V_BOUNDARY,
        native=replace(NATIVE, steps=40, shift=12.0, guidance={"text": 4.0, "text_low_noise": 3.0}),
        deviations=("832×480 as the other methods; the script's default size is 1280×720",),
    )


@methods.register
class TextToVideo22Ti2v5B(TextToVideoMethod):
    """Wan2.2-TI2V-5B."""

    spec = _spec(
        name="wan2.2-ti2v-5b",
        summary="control: Wan2.2 TI2V-5B from text alone, on a VAE of 48 channels, references unused",
        base_model="Wan2.2-TI2V-5B",
        weights=WanWeights(transformer=WAN22_TI2V_5B, base=WAN22_TI2V_5B),
        network=WAN22_5B,
        native=replace(NATIVE, width=1280, height=704, num_frames=121, fps=24.0),
    )
