"""What clip-t, clip-i and dino-i share as metrics: options, loading, and the score against references.

Imports no model library before `load()`; the encoders are in `metrics/nets/embedders.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from refbench.bench.errors import SampleError
from refbench.bench.metric import Environment, Metric, Score
from refbench.bench.sample import Sample
from refbench.bench.video import Video
from refbench.bench.weights.store import require_model_folder

FRAMES = 32


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """`backbone`: which of OpenAI's CLIP models; papers use both, and their numbers do not compare."""

    backbone: Literal["clip-vit-large-patch14", "clip-vit-base-patch32"] = "clip-vit-large-patch14"


@dataclass(frozen=True, kw_only=True)
class DinoOptions:
    """`backbone`: the Hugging Face repository of a DINOv2 or DINOv3 (ViT) model."""

    backbone: str = "facebook/dinov2-base"

    def __post_init__(self) -> None:
        if self.backbone.count("/") != 1 or not all(self.backbone.split("/")):
            raise ValueError(f"the backbone {self.backbone!r} is no repository (OWNER/NAME)")


class SimilarityMetric(Metric):
    """Loads one encoder from one model folder; a subclass says which and scores with it."""

    modules = ("torch", "transformers")

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._encoder: Any = None
        self._weights: dict[str, str] = {}

    @property
    @abstractmethod
    def repository(self) -> str:
        """The model's repository on the hub, whose folder is looked for on disk."""

    @abstractmethod
    def make_encoder(self, folder: Path, device: Any) -> Any:
        """The encoder of that folder."""

    def find_weights(self, environment: Environment) -> Path:
        """The model's folder. Raises MissingWeights."""
        return require_model_folder(self.repository, environment.weights)

    def load(self, environment: Environment) -> None:
        """Load the encoder. Raises MissingWeights, and UserError for files that do not fit."""
        super().load(environment)
        folder = self.find_weights(environment)
        from refbench.metrics.nets.pretrained import torch_device, weight_digests

        self._encoder = self.make_encoder(folder, torch_device(environment.device))
        self._weights = weight_digests(folder, self.repository)

    def provenance(self) -> dict[str, Any]:
        """Precision, frames per forward pass, digests of the model's files."""
        return {"dtype": "float32", "batch_size": FRAMES, "weights": self._weights}

    def close(self) -> None:
        """Drop the encoder."""
        self._encoder = None


class ClipBacked(SimilarityMetric):
    """A similarity by one of OpenAI's CLIP models."""

    Options = ClipOptions

    @property
    def repository(self) -> str:
        """OpenAI's repository of the chosen backbone."""
        return f"openai/{self.options.backbone}"

    def make_encoder(self, folder: Path, device: Any) -> Any:
        """CLIP with its tokenizer."""
        from refbench.metrics.nets.embedders import ClipEncoder

        return ClipEncoder(folder, device)


class ReferenceSimilarity(SimilarityMetric):
    """Mean cosine of whole frames and whole reference pictures."""

    def not_applicable(self, sample: Sample) -> str | None:
        """A sample without references has nothing to be compared with."""
        return None if sample.references else "no references"

    def score(self, sample: Sample, video: Video) -> Score:
        """The mean over 32 frames and all references, -1 to 1; the details hold each reference's mean.

        Raises SampleError for a reference that is missing or cannot be read and a video that cannot be
        decoded.
        """
        from refbench.metrics.nets.embedders import frame_embeddings, reference_embeddings

        if not sample.references:
            raise SampleError("no references")
        references_RD = reference_embeddings(self._encoder, sample)
        cosines_FR = frame_embeddings(self._encoder, video, FRAMES) @ references_RD.T
        return Score(
            value=float(cosines_FR.mean(dtype="float64")),
            details={"per_reference": cosines_FR.mean(axis=0, dtype="float64").tolist()},
        )
