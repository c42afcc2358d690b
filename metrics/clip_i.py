"""clip-i: likeness of whole frames to the reference pictures, by CLIP.

    score = mean over references and 32 frames of cos(CLIP(frame), CLIP(reference))

Range: -1 to 1. Supplementary: no protocol's total contains it.

Source: the CLIP-I column of subject-driven generation since DreamBooth (arXiv:2208.12242), taken over by R2V
papers. They differ in backbone (ViT-L/14 here, ViT-B/32 and any CLIP of open_clip as options), frames (32
evenly spread here), crop (whole frames and whole references here; some cut the subject out first) and in how
several references are joined (a plain mean here, scenes included), so numbers compare only within one table.
"""

from __future__ import annotations

from refbench.bench.metric import MetricDeclaration
from refbench.bench.registry import metrics
from refbench.bench.weights.common import CLIP_VIT_L14
from refbench.metrics.similarity import ClipBacked, ReferenceSimilarity
from refbench.metrics.weights import CLIP_VIT_B32


@metrics.register
class ClipImage(ClipBacked, ReferenceSimilarity):
    """Likeness to references by CLIP."""

    declaration = MetricDeclaration(
        name="clip-i",
        version="1",
        summary="supplementary: likeness of frames to references (CLIP cosine)",
        source="CLIP-I of DreamBooth, arXiv:2208.12242; openai/clip-vit-large-patch14",
        uses=frozenset({"video", "references"}),
        weights=(CLIP_VIT_L14,),
        optional_weights=(CLIP_VIT_B32,),
        packages=("torch", "transformers", "pillow", "numpy"),
    )
