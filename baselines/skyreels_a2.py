"""skyreels-a2-p14b: SkyReels-A2 14B (preview), references as the first latent frames of a clip.

The network gets noise, a mask of the references' latent frames, and the latents of a clip that begins with
the references; CLIP's tokens of every reference stand before the text. Both guidance passes see the same: v =
u + 5.0·(c - u), 50 steps of UniPC at shift 8. The first 12 of 81 frames, which show the references, are
dropped.

Source: SkyworkAI/SkyReels-A2@7c14e2e (`infer.py`, `models/pipeline_a2.py`), goldens
`baselines/skyreels_a2.npz` and `baselines/i2v.npz`. Differences: one reference, for which that code fails,
stands in latent frame 0 with mask 1; EXIF is applied and transparency composited on white. The third
reference is always taken for a background and cropped, as there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.prompts import SKYREELS_A2_NEGATIVE
from refbench.baselines.wan.spec import WAN_14B, WanSettings, WanSpec, WanWeights
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import BASE_FILES, IMAGE_FILES, TRANSFORMER_FILES, WeightEntry

if TYPE_CHECKING:
    from refbench.baselines.wan.nets.skyreels_a2 import FrameReferences

SKYREELS_A2 = WeightEntry(
    name="skyreels-a2",
    repository="Skywork/SkyReels-A2",
    holds="SkyReels-A2-P14B (30.5 GiB) with VAE, text and image encoder",
    kind="generator",
    memory_gib=44.0,
    required=(*TRANSFORMER_FILES, *BASE_FILES, *IMAGE_FILES),
    licence="Skywork Community License",
)


@methods.register
class SkyReelsA2P14B(WanMethod):
    """SkyReels-A2-P14B."""

    spec = WanSpec(
        name="skyreels-a2-p14b",
        summary="SkyReels-A2 14B preview: references as the first latent frames, CLIP tokens of each",
        base_model="Wan2.1-14B",
        licence=SKYREELS_A2.licence,
        weights=WanWeights(transformer=SKYREELS_A2, base=SKYREELS_A2),
        network=replace(WAN_14B, in_channels=36, image_branch=True),
        native=WanSettings(
            dropped_frames=12,
            fps=15.0,
            shift=8.0,
            guidance={"text": 5.0},
            negative_prompt=SKYREELS_A2_NEGATIVE,
        ),
        guidance_rule="text",
        max_references=3,
        reference_preparation=(
            "EXIF applied, transparency on white; first and second padded with white, then resized; the "
            "third, taken for a background, cropped to fill; for CLIP all padded to 512×512"
        ),
        reference_frames=0,
        deviations=(
            "a single reference stands in latent frame 0 with mask 1; the original code fails on it",
        ),
    )

    def conditioner(self, sample: Sample, seed: int) -> FrameReferences:
        """References as the clip's first frames."""
        from refbench.baselines.wan.nets.skyreels_a2 import FrameReferences

        return FrameReferences()

    def network_class(self) -> Any:
        """Wan's image-to-video network as diffusers has it, which the authors' code builds on: with a time
        sinusoid in float32.
        """
        from diffusers import WanTransformer3DModel

        return WanTransformer3DModel
