"""clip-t: how well the frames agree with the prompt, by CLIP.

    score = mean over 32 frames of cos(CLIP(frame), CLIP(prompt))

Range: -1 to 1; raw, not scaled by 100 or 2.5. Supplementary: no protocol's total contains it.

Source: the CLIP-T (CLIPScore) column of subject-driven generation since DreamBooth (arXiv:2208.12242), taken
over by R2V papers. They differ in backbone (ViT-L/14 here, ViT-B/32 as an option), frames (32 evenly spread
here, as OpenS2V-Eval samples) and scale, so numbers compare only within one table. CLIP reads 77 tokens: the
rest of a longer prompt is not seen, which the details say.
"""

from __future__ import annotations

from refbench.bench.metric import MetricDeclaration, Score
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.video import Video
from refbench.metrics.nets.similarity import FRAMES, ClipBacked


@metrics.register
class ClipText(ClipBacked):
    """Encodes the prompt once and the frames in one batch."""

    declaration = MetricDeclaration(
        name="clip-t",
        version="1",
        summary="supplementary: agreement of prompt and frames (CLIP cosine)",
        source="CLIP-T of DreamBooth, arXiv:2208.12242; openai/clip-vit-large-patch14",
        uses=frozenset({"video", "prompt"}),
        weights=("clip-vit-large-patch14",),
        packages=("torch", "transformers", "pillow", "numpy"),
    )

    def score(self, sample: Sample, video: Video) -> Score:
        """The mean cosine of one video, -1 to 1; SampleError for a video that cannot be decoded."""
        from refbench.metrics.nets.embedders import frame_embeddings

        prompt_D, cut_off = self._encoder.embed_text(sample.prompt)
        cosines_F = frame_embeddings(self._encoder, video, FRAMES) @ prompt_D
        return Score(
            value=float(cosines_F.mean(dtype="float64")),
            details={"frame_scores": cosines_F.tolist(), "prompt_cut_off": cut_off},
        )
