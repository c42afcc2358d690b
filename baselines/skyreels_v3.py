"""skyreels-v3-14b: SkyReels-V3 reference to video, four slots of references behind the video's latents.

Each reference (RGB, Lanczos fit on white) is encoded alone, a draw from the VAE's posterior that follows the
noise, and stands as a further latent frame behind the video. There are always four such frames; those without
a reference are zero, and are attended to like the others. As released, one pass in each of eight UniPC steps
at shift 5, no guidance. With scales above 1 the rule is Phantom's, v = null + 5.0·(image - null) +
7.5·(image_text - image), the null pass with four zero slots; a text scale of at most 1 makes one pass,
whatever the image scale is. That eight steps do without guidance points to distilled weights; the authors do
not say so.

Source: SkyworkAI/SkyReels-V3@28c771e (`skyreels_v3/pipelines/reference_to_video_pipeline.py`,
`modules/reference_to_video/transformer.py`, `config.py`), goldens `baselines2/skyreels_v3.npz`. Differences:
the original takes the video's size from the first reference's aspect ratio (720×1280 for a portrait of 9:16,
960×960 for a square), and a run here has one size, 1280×720; transparency is composited on white.

Not seen: the released `config.json`, and whether Skywork/SkyReels-V3-Reference2Video, which the code asks for
by default, is the repository of the README's name. A file with an image branch, which the code could have and
its pipeline never uses, is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.spec import WAN_14B, WanSettings, WanSpec, WanWeights
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import BASE_FILES, TRANSFORMER_FILES, WeightEntry

if TYPE_CHECKING:
    from refbench.baselines.wan.conditioning import ConcatenatedReferences

SKYREELS_V3 = WeightEntry(
    name="skyreels-v3",
    repository="Skywork/SkyReels-V3-R2V-14B",
    holds="SkyReels-V3 R2V 14B (26.6 GiB in bfloat16) with VAE and text encoder",
    kind="generator",
    memory_gib=37.7,
    required=(*TRANSFORMER_FILES, *BASE_FILES),
    licence="Skywork's own (LICENSE.txt)",
)
SLOTS = 4


@methods.register
class SkyReelsV314B(WanMethod):
    """SkyReels-V3-R2V-14B."""

    spec = WanSpec(
        name="skyreels-v3-14b",
        summary="SkyReels-V3 14B: four slots of references behind the video, eight steps without guidance",
        base_model="Wan2.1-T2V-14B by its shape, not stated",
        licence=SKYREELS_V3.licence,
        weights=WanWeights(transformer=SKYREELS_V3, base=SKYREELS_V3),
        network=WAN_14B,
        native=WanSettings(
            width=1280,
            height=720,
            num_frames=121,
            fps=24.0,
            steps=8,
            guidance={"image": 1.0, "text": 1.0},
        ),
        guidance_rule="image-and-text-unless-text-is-one",
        max_references=SLOTS,
        reference_preparation="EXIF applied, transparency on white, Lanczos fit on white at the video's size",
        reference_frames=0,
        reference_slots=SLOTS,
        deviations=(
            "all videos of a run have one size; the original takes each video's from the aspect ratio of its "
            "first reference",
        ),
    )

    def conditioner(self, sample: Sample, seed: int) -> ConcatenatedReferences:
        """References in four slots, each a draw from the VAE's posterior."""
        from refbench.baselines.wan.conditioning import ConcatenatedReferences

        return ConcatenatedReferences(slots=SLOTS, draws_posterior=True)

    def network_class(self) -> Any:
        """Phantom's network: Wan's with references behind the video as further frames."""
        from refbench.baselines.wan.nets.phantom import PhantomTransformer3DModel

        return PhantomTransformer3DModel
