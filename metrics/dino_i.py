"""dino-i: likeness of whole frames to the reference pictures, by DINOv2 or DINOv3.

    score = mean over references and 32 frames of cos(DINO(frame), DINO(reference))

DINO(x) is the class token after the final norm. Range: -1 to 1. Stricter on identity than clip-i, since DINO
was not trained to call two things of one class alike. Supplementary: no protocol's total contains it.

Source: the DINO column of subject-driven generation since DreamBooth (arXiv:2208.12242; there DINO ViT-S/16),
taken over by R2V papers. They differ in backbone (DINOv2 ViT-B/14 here, any DINOv2 or DINOv3 ViT as an
option), frames (32 evenly spread here), crop (whole frames and references here) and in how several references
are joined (a plain mean here, scenes included), so numbers compare only within one table.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from refbench.bench.environment import Environment
from refbench.bench.metric import MetricDeclaration
from refbench.bench.registry import metrics
from refbench.bench.weights.common import DINOV2_BASE, DINOV3_BASE
from refbench.bench.weights.store import require_model_folder
from refbench.metrics.similarity import DinoOptions, ReferenceSimilarity

if TYPE_CHECKING:
    from refbench.metrics.nets.embedders import PictureEncoder


@metrics.register
class DinoImage(ReferenceSimilarity):
    """Likeness to references by DINO."""

    declaration = MetricDeclaration(
        name="dino-i",
        version="1",
        summary="supplementary: likeness of frames to references (DINO cosine)",
        source="DINO score of DreamBooth, arXiv:2208.12242; facebook/dinov2-base",
        uses=frozenset({"video", "references"}),
        weights=(DINOV2_BASE,),
        optional_weights=(DINOV3_BASE,),
        packages=("torch", "transformers", "pillow", "numpy"),
    )
    Options = DinoOptions

    @property
    def model(self) -> str:
        """The repository of the chosen backbone."""
        backbone: str = self.options.backbone
        return backbone

    def find_weights(self, environment: Environment) -> Path:
        """The model's folder. Raises MissingWeights."""
        return require_model_folder(self.model, environment.weights)

    def load_encoder(self, folder: Path, device: str) -> PictureEncoder:
        """The DINO of that folder. Raises UserError for files that do not fit."""
        from refbench.metrics.nets.embedders import DinoEncoder

        return DinoEncoder.load(folder, device)
