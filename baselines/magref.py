"""magref-480p: MAGREF on Wan2.1-I2V-14B-480P, all references on one canvas that stands as the first frame.

The references are pasted on a white canvas in a grid of 1, 2, 3, 4, 6 or 8 cells, in shuffled order. The
network gets noise, the mask of the pasted regions in the first latent frame, and the latents of the canvas
before mid-grey frames; CLIP sees the whole canvas. Both guidance passes see the same: v = u + 5.0·(c - u),
40 steps of UniPC at shift 3. The first 4 of 81 frames are dropped.

Source: MAGREF-Video/MAGREF@e3c71b2 (`generate.py`, `magref/subject2video.py`), goldens `baselines/magref.npz`
and `baselines/i2v.npz`. Differences: the layout is a function of seed and sample (there nothing seeds it, so
that no published layout can be recovered); EXIF is applied and transparency composited on white (the script
drops both).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.prompts import MAGREF_NEGATIVE
from refbench.baselines.wan.spec import WAN_14B, WanSettings, WanSpec, WanWeights
from refbench.baselines.wan.weights import WAN21_I2V_14B_480P
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import WeightEntry

if TYPE_CHECKING:
    from refbench.baselines.wan.nets.magref import CollageReferences

MAGREF = WeightEntry(
    name="magref",
    repository="MAGREF-Video/MAGREF",
    holds="MAGREF-480P in original format",
    kind="generator",
    memory_gib=30.5,
    required=("diffusion_pytorch_model*.safetensors",),
    licence="apache-2.0",
)


@methods.register
class Magref480P(WanMethod):
    """MAGREF-480P."""

    spec = WanSpec(
        name="magref-480p",
        summary="MAGREF 480P: references on one canvas as the first frame, with a mask of their regions",
        base_model="Wan2.1-I2V-14B-480P",
        licence="Apache-2.0",
        weights=WanWeights(
            transformer=MAGREF,
            transformer_files=("diffusion_pytorch_model*.safetensors",),
            base=WAN21_I2V_14B_480P,
        ),
        network=replace(WAN_14B, in_channels=36, image_branch=True),
        native=WanSettings(
            dropped_frames=4,
            fps=15.0,
            steps=40,
            shift=3.0,
            guidance={"text": 5.0},
            negative_prompt=MAGREF_NEGATIVE,
        ),
        guidance_rule="text",
        max_references=8,
        reference_preparation=(
            "EXIF applied, transparency on white, Lanczos fit into the cells of a grid on one white canvas"
        ),
        reference_frames=0,
        deviations=(
            "the canvas's layout is drawn from seed and sample id, by the original code from an unseeded "
            "generator",
        ),
    )

    def conditioner(self, sample: Sample, seed: int) -> CollageReferences:
        """References on one canvas, laid out for this seed and sample."""
        from refbench.baselines.wan.nets.magref import CollageReferences

        return CollageReferences(layout_seed=f"{seed}-{sample.id}")

    def network_class(self) -> Any:
        """Wan's image-to-video network."""
        from refbench.baselines.wan.nets.image_branch import ImageWanTransformer3DModel

        return ImageWanTransformer3DModel

    def notes(self, sample: Sample, seed: int) -> tuple[str, ...]:
        """Where there are several references, how they were laid out."""
        count = len(self.references(sample))
        if count < 2:
            return ()
        layout = self.conditioner(sample, seed).layout(count, self.settings.width, self.settings.height)
        return (layout.description(),)
