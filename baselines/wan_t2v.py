"""wan-t2v-1.3b, wan-t2v-14b: Wan2.1 text to video, the control that never looks at the references.

It shows which scores the prompt alone can give. A method whose FaceSim is not clearly above this row's has
not used its references.

Source: Wan-Video/Wan2.1@9737cba, `generate.py`: 50 UniPC steps, shift 5.0, guidance 5.0, 81 frames at 16 fps
(shift 3.0 at 480p is its default for image-to-video alone). Its README advises guidance 6 and shift 8 to 12
for the 1.3B network: `--set guidance=text=6 --set shift=8`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.prompts import WAN_NEGATIVE
from refbench.baselines.wan.spec import WAN_1_3B, WAN_14B, WanSettings, WanSpec, WanWeights
from refbench.baselines.wan.weights import WAN21_T2V_1_3B, WAN21_T2V_14B
from refbench.bench.registry import methods
from refbench.bench.sample import Reference, Sample

if TYPE_CHECKING:
    from refbench.baselines.wan.conditioning import NoReferences

NATIVE = WanSettings(guidance={"text": 5.0}, negative_prompt=WAN_NEGATIVE)


class TextToVideoMethod(WanMethod):
    """What both sizes share."""

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


def _spec(**facts: Any) -> WanSpec:
    return WanSpec(
        licence="Apache-2.0",
        native=NATIVE,
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
