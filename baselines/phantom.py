"""phantom-1.3b, phantom-14b: Phantom-Wan, references behind the video's latents in the sequence.

Each reference (RGB on white, Lanczos fit, white padding) is encoded alone and stands as a further latent
frame behind the video; three passes per step with two guidance scales, v = null + 5.0·(image - null) +
7.5·(image_text - image), the null pass with zero latents in the references' place.

Source: Phantom-video/Phantom (April 2025 code as kept in svjack/Phantom@51ef427), goldens
`baselines/phantom.npz`. Differences: transparency is composited on white (the script drops it); checkpoints
load strictly.

The 14B README asks for 121 frames at 24 fps. Which setting the leaderboard's row used is not known; its
MotionAmplitude (33.4 % against 14.3 % for 1.3B) hints at these. `--set num_frames=81 --set fps=16` is the
other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.prompts import WAN_NEGATIVE
from refbench.baselines.wan.spec import WAN_1_3B, WAN_14B, WanSettings, WanSpec, WanWeights
from refbench.baselines.wan.weights import WAN21_T2V_1_3B, WAN21_T2V_14B
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import WeightEntry

if TYPE_CHECKING:
    from refbench.baselines.wan.conditioning import ConcatenatedReferences

PHANTOM = WeightEntry(
    name="phantom",
    repository="bytedance-research/Phantom",
    holds="Phantom-Wan 1.3B (2.6 GiB) and 14B in original format",
    kind="generator",
    memory_gib=26.6,
    required=("Phantom-Wan-1.3B.pth|Phantom_Wan_14B*.safetensors",),
    licence="apache-2.0",
)
PREPARATION = "EXIF applied, transparency on white, Lanczos fit on white at the video's size"
MAX_REFERENCES = 4
GUIDANCE = {"image": 5.0, "text": 7.5}
ADVICE = "prompts that describe the references accurately"


class PhantomMethod(WanMethod):
    """What both sizes share."""

    def conditioner(self, sample: Sample, seed: int) -> ConcatenatedReferences:
        """References concatenated; noise is drawn for their frames too, as the original does."""
        from refbench.baselines.wan.conditioning import ConcatenatedReferences

        return ConcatenatedReferences(trailing_noise=True)

    def network_class(self) -> Any:
        """Phantom's network."""
        from refbench.baselines.wan.nets.phantom import PhantomTransformer3DModel

        return PhantomTransformer3DModel


@methods.register
class Phantom13B(PhantomMethod):
    """Phantom-Wan-1.3B."""

    spec = WanSpec(
        name="phantom-1.3b",
        summary="Phantom-Wan 1.3B: references as frames behind the video, two guidance scales",
        base_model="Wan2.1-T2V-1.3B",
        licence="Apache-2.0",
        weights=WanWeights(
            transformer=PHANTOM, transformer_files=("Phantom-Wan-1.3B.pth",), base=WAN21_T2V_1_3B
        ),
        network=WAN_1_3B,
        native=WanSettings(guidance=GUIDANCE, negative_prompt=WAN_NEGATIVE),
        guidance_rule="image-and-text",
        max_references=MAX_REFERENCES,
        reference_preparation=PREPARATION,
        prompt_advice=ADVICE,
    )


@methods.register
class Phantom14B(PhantomMethod):
    """Phantom-Wan-14B."""

    spec = replace(
        Phantom13B.spec,
        name="phantom-14b",
        summary="Phantom-Wan 14B: as phantom-1.3b, 121 frames at 24 fps",
        base_model="Wan2.1-T2V-14B",
        weights=WanWeights(
            transformer=PHANTOM, transformer_files=("Phantom_Wan_14B*.safetensors",), base=WAN21_T2V_14B
        ),
        network=WAN_14B,
        native=replace(Phantom13B.spec.native, num_frames=121, fps=24.0),
    )
