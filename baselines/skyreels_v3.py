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
960×960 for a square); a run here has one size, 1280×720, as the benchmark's other methods have, unless
`--set size_by_reference=720p` asks for the original's rule. Transparency is composited on white.

Not seen: the released `config.json`, and whether Skywork/SkyReels-V3-Reference2Video, which the code asks for
by default, is the repository of the README's name. A file with an image branch, which the code could have and
its pipeline never uses, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.spec import WAN_14B, WanOptions, WanSettings, WanSpec, WanWeights
from refbench.bench.method import MethodCard
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import BASE_FILES, TRANSFORMER_FILES, WeightEntry

if TYPE_CHECKING:
    from PIL import Image

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
ONE_SIZE = (
    "all videos of a run have one size; the original takes each video's from the aspect ratio of its first "
    "reference"
)
# `skyreels_v3/config.py`: by class and by rows over columns of the first reference, the video's (height,
# width), already cut to multiples of 16.
SIZES_HW: dict[str, dict[float, tuple[int, int]]] = {
    "480p": {
        0.38: (384, 1040), 0.43: (416, 976), 0.48: (432, 912), 0.50: (448, 896), 0.53: (464, 880),
        0.54: (464, 864), 0.56: (480, 848), 0.62: (496, 800), 0.67: (512, 784), 0.75: (544, 736),
        1.00: (640, 640), 1.33: (736, 544), 1.50: (784, 512), 1.78: (848, 480), 1.89: (880, 464),
        2.00: (896, 448), 2.08: (912, 432),
    },
    "540p": {
        0.34: (416, 1216), 0.38: (464, 1216), 0.40: (464, 1152), 0.43: (496, 1152), 0.48: (496, 1024),
        0.50: (512, 1024), 0.53: (512, 960), 0.57: (544, 960), 0.60: (544, 912), 0.63: (576, 912),
        0.67: (576, 864), 0.72: (624, 864), 0.75: (624, 832), 0.79: (656, 832), 0.84: (656, 784),
        0.92: (720, 784), 1.00: (720, 720), 1.09: (784, 720), 1.26: (784, 624), 1.33: (832, 624),
        1.40: (832, 592), 1.49: (880, 592), 1.62: (880, 544), 1.78: (960, 544), 1.88: (960, 512),
        2.00: (1024, 512), 2.13: (1024, 480),
    },
    "720p": {
        0.38: (576, 1568), 0.43: (624, 1456), 0.48: (656, 1376), 0.50: (672, 1344), 0.53: (688, 1312),
        0.54: (704, 1296), 0.56: (720, 1280), 0.62: (752, 1200), 0.67: (784, 1168), 0.75: (832, 1104),
        1.00: (960, 960), 1.33: (1104, 832), 1.50: (1168, 784), 1.78: (1280, 720), 1.89: (1312, 688),
        2.00: (1344, 672), 2.08: (1376, 656),
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SkyReelsV3Options(WanOptions):
    """Those of a Wan generator, and where the video's size comes from."""

    size_by_reference: Literal["no", "480p", "540p", "720p"] = "no"
    """Give each video the aspect ratio of its first reference, in the authors' sizes of this class; no is one
    size for all videos.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        own_size = self.width is not None or self.height is not None or self.settings == "matched"
        if self.size_by_reference != "no" and own_size:
            raise ValueError(
                "size_by_reference gives each video a size of its own: leave width, height and matched "
                "settings out"
            )


def size_by_aspect(size_class: str, width: int, height: int) -> tuple[int, int]:
    """The (width, height) of the video for a first reference of this size: that of the nearest aspect ratio
    of the class, the first in the table where two are as near.
    """
    sizes = SIZES_HW[size_class]
    rows, columns = sizes[min(sizes, key=lambda ratio: abs(ratio - height / width))]
    return columns, rows


@methods.register
class SkyReelsV314B(WanMethod):
    """SkyReels-V3-R2V-14B."""

    Options = SkyReelsV3Options
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
        deviations=(ONE_SIZE,),
    )

    def __init__(self, options: SkyReelsV3Options | None = None) -> None:
        super().__init__(options)
        if self.options.size_by_reference != "no":
            # What plans and memory are counted with: no video of the class is larger.
            sizes = SIZES_HW[self.options.size_by_reference].values()
            rows, columns = max(sizes, key=lambda size: size[0] * size[1])
            self.settings = replace(self.settings, width=columns, height=rows)
            self.spec = replace(self.spec, deviations=())

    def card(self) -> MethodCard:
        """The method card; without a size where each video has its own."""
        card = super().card()
        if self.options.size_by_reference == "no":
            return card
        return card.model_copy(update={"width": None, "height": None})

    def video_size(self, references: Sequence[Image.Image]) -> tuple[int, int]:
        """The run's size, or that of the first reference's aspect ratio."""
        if self.options.size_by_reference == "no":
            return super().video_size(references)
        return size_by_aspect(self.options.size_by_reference, *references[0].size)

    def plan_notes(self) -> list[str]:
        """With which size videos that differ are counted."""
        if self.options.size_by_reference == "no":
            return super().plan_notes()
        width, height = self.settings.width, self.settings.height
        return [f"videos differ in size; all are counted as the largest, {width}×{height}"]

    def conditioner(self, sample: Sample, seed: int) -> ConcatenatedReferences:
        """References in four slots, each a draw from the VAE's posterior."""
        from refbench.baselines.wan.conditioning import ConcatenatedReferences

        return ConcatenatedReferences(slots=SLOTS, draws_posterior=True)

    def network_class(self) -> Any:
        """Phantom's network: Wan's with references behind the video as further frames."""
        from refbench.baselines.wan.nets.phantom import PhantomTransformer3DModel

        return PhantomTransformer3DModel
