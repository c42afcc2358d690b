"""GmeScore: how well a video's frames agree with its prompt.

    score = mean over 32 frames of  < text(prompt), picture(frame) >

The product of two unit vectors of GME-Qwen2-VL-7B (`metrics/nets/gme.py`): a cosine. Range -1 to 1; the
protocol caps it at 1, which rounding can pass.

Source: `eval/get_gmescore.py` of PKU-YuanGroup/OpenS2V-Nexus v1.1 (commit 210eb08), key `gme_score`. Kept on
purpose: the prompt carries an instruction and the frames do not; on half precision products, sums and the
mean are rounded to float16, so that scores between 0.5 and 1 are multiples of 1/2048. Different: the prompt
is embedded once and not once per frame, and a frame that a short video repeats is embedded once; both give
the same score. The details hold the score of each frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer, ScoringCost
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.video import Video, uniform_frames
from refbench.bench.weights.store import require_file
from refbench.metrics.nets.pixels import distinct_frames
from refbench.metrics.weights import GME_QWEN2_VL

if TYPE_CHECKING:
    import torch

    from refbench.metrics.nets.gme import GmeEmbedder

FRAMES = 32
# Frames held at a time; the embedder cuts them into batches by their tokens.
FRAMES_HELD = 8


@metrics.register
class GmeScore(Metric):
    """Needs GME, which it shares with NexusScore."""

    declaration = MetricDeclaration(
        name="gmescore",
        version="1",
        component="gmescore",
        summary="agreement of prompt and frames (GME-Qwen2-VL-7B, 32 frames)",
        source="OpenS2V-Nexus@210eb08 eval/get_gmescore.py",
        uses=frozenset({"video", "prompt"}),
        weights=(GME_QWEN2_VL,),
        # On a processor; a GPU takes seconds.
        job_limit_s=7200.0,
        # docs/measured-gpu.md, `gmescore`: 1.524 s, of them 0.57 of resizing. Operations: twice the 0.68 and
        # 6.5 billion parameters of tower and language model for each of 2,006 patches and 531 tokens a frame.
        cost=ScoringCost(gpu_s=0.954, serial_s=0.57, tflop=308.0, parameter_bytes=2, peak_gib=16.85),
        packages=("torch", "transformers", "pillow", "numpy"),
    )
    modules = ("torch", "transformers")

    def find_weights(self, environment: Environment) -> Path:
        """GME's configuration. Raises MissingWeights."""
        return require_file(GME_QWEN2_VL, ("config.json",), environment.weights)

    def load(self, environment: Environment) -> GmeScorer:
        """A scorer with GME, or with NexusScore's where that holds it.

        Raises MissingWeights, and UserError for damaged files.
        """
        self.find_weights(environment)
        from refbench.metrics.nets.gme import shared_embedder

        return GmeScorer(embedder=shared_embedder(environment))


@dataclass(frozen=True, kw_only=True)
class GmeScorer(Scorer):
    """Streams over the frames."""

    embedder: GmeEmbedder

    def score(self, sample: Sample, video: Video) -> Score:
        """The raw value of one video, -1 to 1.

        Raises SampleError for a video that cannot be decoded and for numbers that are not finite.
        """
        import torch

        from refbench.metrics.nets.gme import TEXT_INSTRUCTION

        text_D = self.embedder.embed_texts([sample.prompt], TEXT_INSTRUCTION)[0]
        scores: list[torch.Tensor] = []
        for frames, repeats in frame_groups(video):
            images_BD = self.embedder.embed_images(frames)
            scores.append(frame_scores(text_D, images_BD).repeat_interleave(torch.tensor(repeats)))
        scores_F = torch.cat(scores)
        if not bool(torch.isfinite(scores_F).all()):
            raise SampleError("GME returned a number that is not finite")
        return Score(value=float(scores_F.mean()), details={"frame_scores": scores_F.tolist()})

    def provenance(self) -> dict[str, Any]:
        """Precision, frames held at a time, and the digests of GME's files."""
        return {
            "dtype": str(self.embedder.dtype).removeprefix("torch."),
            "batch_size": FRAMES_HELD,
            "weights": dict(self.embedder.weight_digests),
        }

    def close(self) -> None:
        """Let go of GME; its memory is given back unless NexusScore holds it."""
        from refbench.metrics.nets.gme import release_embedder

        release_embedder(self.embedder)


def frame_scores(text_D: torch.Tensor, images_BD: torch.Tensor) -> torch.Tensor:
    """The products (B,) of a text's unit vector (D,) with those of pictures (B, D).

    Rounded to the precision of the vectors at each step.
    """
    return (text_D * images_BD).sum(dim=-1)


def frame_groups(video: Video) -> Iterator[tuple[list[Any], list[int]]]:
    """The 32 frames as groups of at most `FRAMES_HELD` distinct RGB pictures with the times each is repeated.

    Raises SampleError for a video that cannot be decoded.
    """
    from PIL import Image

    distinct = distinct_frames(video, uniform_frames(FRAMES))
    while group := list(islice(distinct, FRAMES_HELD)):
        yield [Image.fromarray(frame_HWC) for frame_HWC, _ in group], [times for _, times in group]
