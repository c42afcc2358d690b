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
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.bench.errors import SampleError
from refbench.bench.metric import Environment, Metric, MetricDeclaration, Score
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.video import Video, uniform_frames
from refbench.bench.weights.store import require_file

if TYPE_CHECKING:
    import torch

    from refbench.metrics.nets.gme import GmeEmbedder

WEIGHTS = "gme-qwen2-vl-7b"
FRAMES = 32
TEXT_INSTRUCTION = "Find an image that matches the given text."
# Frames held at a time; the embedder cuts them into batches by their tokens.
FRAMES_HELD = 8


@metrics.register
class GmeScore(Metric):
    """Streams over the frames; shares the embedder with NexusScore."""

    declaration = MetricDeclaration(
        name="gmescore",
        version="1",
        component="gmescore",
        summary="agreement of prompt and frames (GME-Qwen2-VL-7B, 32 frames)",
        source="OpenS2V-Nexus@210eb08 eval/get_gmescore.py",
        uses=frozenset({"video", "prompt"}),
        weights=(WEIGHTS,),
        packages=("torch", "transformers", "pillow", "numpy"),
    )

    modules = ("torch", "transformers")

    _embedder: GmeEmbedder | None = None

    def find_weights(self, environment: Environment) -> Path:
        """GME's configuration. Raises MissingWeights."""
        return require_file(WEIGHTS, ("config.json",), environment.weights)

    def load(self, environment: Environment) -> None:
        """Load GME, or take it over from NexusScore where that holds it."""
        from refbench.metrics.nets.gme import shared_embedder

        super().load(environment)
        self.find_weights(environment)
        self._embedder = shared_embedder(environment)

    def score(self, sample: Sample, video: Video) -> Score:
        """The raw value of one video, -1 to 1."""
        import torch

        assert self._embedder is not None, "load() comes before score()"
        text_D = self._embedder.embed_texts([sample.prompt], TEXT_INSTRUCTION)[0]
        scores: list[torch.Tensor] = []
        for frames, repeats in frame_groups(video):
            images_BD = self._embedder.embed_images(frames)
            scores.append(frame_scores(text_D, images_BD).repeat_interleave(torch.tensor(repeats)))
        scores_F = torch.cat(scores)
        if not bool(torch.isfinite(scores_F).all()):
            raise SampleError("GME returned a number that is not finite")
        return Score(value=float(scores_F.mean()), details={"frame_scores": scores_F.tolist()})

    def provenance(self) -> dict[str, Any]:
        """Precision and the digests of GME's files."""
        if self._embedder is None:
            return {}
        return {
            "dtype": str(self._embedder.dtype).removeprefix("torch."),
            "batch_size": FRAMES_HELD,
            "weights": self._embedder.weight_digests,
        }

    def close(self) -> None:
        """Let go of GME; its memory is given back unless NexusScore holds it."""
        if self._embedder is None:
            return
        from refbench.metrics.nets.gme import release_shared_embedder

        self._embedder = None
        release_shared_embedder()


def frame_scores(text_D: torch.Tensor, images_BD: torch.Tensor) -> torch.Tensor:
    """The product (B,) of a text's unit vector with those of pictures, rounded to their precision at each
    step.
    """
    return (text_D * images_BD).sum(dim=-1)


def frame_groups(video: Video) -> Iterator[tuple[list[Any], list[int]]]:
    """The 32 frames as groups of at most `FRAMES_HELD` distinct pictures with the times each is repeated."""
    from PIL import Image

    from refbench.metrics.nets.pixels import distinct_frames

    distinct = distinct_frames(video, uniform_frames(FRAMES))
    while group := list(islice(distinct, FRAMES_HELD)):
        yield [Image.fromarray(frame_HWC) for frame_HWC, _ in group], [times for _, times in group]
