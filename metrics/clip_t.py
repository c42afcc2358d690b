"""clip-t: how well the frames agree with the prompt, by CLIP.

    score = mean over 32 frames of cos(CLIP(frame), CLIP(prompt))

Range: -1 to 1; raw, not scaled by 100 or 2.5. Supplementary: no protocol's total contains it.

Source: the CLIP-T (CLIPScore) column of subject-driven generation since DreamBooth (arXiv:2208.12242), taken
over by R2V papers. They differ in backbone (ViT-L/14 here, ViT-B/32 and any CLIP of open_clip as options),
frames (32 evenly spread here, as OpenS2V-Eval samples) and scale, so numbers compare only within one table.
CLIP reads 77 tokens: the rest of a longer prompt is not seen, which the details say.
"""

from __future__ import annotations

from dataclasses import dataclass

from refbench.bench.metric import MetricDeclaration, Score
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.video import Video
from refbench.bench.weights.common import CLIP_VIT_L14
from refbench.metrics.similarity import FRAMES, ClipBacked, SimilarityScorer
from refbench.metrics.weights import CLIP_VIT_B32


@dataclass(frozen=True, kw_only=True)
class PromptScorer(SimilarityScorer):
    """Encodes the prompt once and the frames in one batch."""

    def score(self, sample: Sample, video: Video) -> Score:
        """The mean cosine of one video, -1 to 1; SampleError for a video that cannot be decoded."""
        from refbench.metrics.nets.embedders import frame_embeddings

        prompt_D, cut_off = self.encoder.embed_text(sample.prompt)
        cosines_F = frame_embeddings(self.encoder, video, FRAMES) @ prompt_D
        return Score(
            value=float(cosines_F.mean(dtype="float64")),
            details={"frame_scores": cosines_F.tolist(), "prompt_cut_off": cut_off},
        )


@metrics.register
class ClipText(ClipBacked):
    """Agreement of prompt and frames."""

    declaration = MetricDeclaration(
        name="clip-t",
        version="1",
        summary="supplementary: agreement of prompt and frames (CLIP cosine)",
        source="CLIP-T of DreamBooth, arXiv:2208.12242; openai/clip-vit-large-patch14",
        uses=frozenset({"video", "prompt"}),
        weights=(CLIP_VIT_L14,),
        optional_weights=(CLIP_VIT_B32,),
        packages=("torch", "transformers", "pillow", "numpy"),
    )
    scorer_class = PromptScorer
