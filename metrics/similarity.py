"""What clip-t, clip-i and dino-i share: options, loading, and the score against references.

Registers nothing. Imports no model library before `load()`; the encoders are in `metrics/nets/embedders.py`
and `metrics/nets/open_clip_encoder.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from refbench.bench.environment import Environment, missing_packages
from refbench.bench.errors import MissingWeights, SampleError
from refbench.bench.metric import Metric, Score, Scorer
from refbench.bench.sample import Sample
from refbench.bench.video import Video
from refbench.bench.weights.common import CLIP_VIT_L14, DINOV2_BASE
from refbench.bench.weights.store import entry_of, file_digests, how_to_get, require, require_model_folder
from refbench.metrics.weights import CLIP_VIT_B32

if TYPE_CHECKING:
    from refbench.metrics.nets.embedders import TextEncoder

FRAMES = 32
OPENAI_CLIPS = {entry.name: entry for entry in (CLIP_VIT_L14, CLIP_VIT_B32)}
OPEN_CLIP_CONFIG = "open_clip_config.json"
# In the order in which open_clip itself prefers them.
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Which CLIP is asked; numbers of two CLIPs do not compare."""

    backbone: Literal["clip-vit-large-patch14", "clip-vit-base-patch32"] = "clip-vit-large-patch14"
    """Which of OpenAI's CLIP models; papers use both."""
    model: str | None = None
    """Another CLIP instead, in open_clip's format: OWNER/NAME below the weights, or the path of a folder."""


@dataclass(frozen=True, kw_only=True)
class DinoOptions:
    """Which DINO is asked; numbers of two backbones do not compare."""

    backbone: str = DINOV2_BASE.repository
    """The Hugging Face repository (OWNER/NAME) of a DINOv2 or DINOv3 ViT."""

    def __post_init__(self) -> None:
        if self.backbone.count("/") != 1 or not all(self.backbone.split("/")):
            raise ValueError(f"the backbone {self.backbone!r} is no repository (OWNER/NAME)")


@dataclass(frozen=True, kw_only=True)
class SimilarityScorer(Scorer):
    """Scores with one encoder; `weights` are the digests of its files by name."""

    encoder: Any
    weights: Mapping[str, str]

    def provenance(self) -> dict[str, Any]:
        """Precision, frames per forward pass, digests of the model's files."""
        return {"dtype": "float32", "batch_size": FRAMES, "weights": dict(self.weights)}

    def close(self) -> None:
        """Give the encoder's memory back."""
        self.encoder.close()


@dataclass(frozen=True, kw_only=True)
class ReferenceScorer(SimilarityScorer):
    """Mean cosine of whole frames and whole reference pictures."""

    def score(self, sample: Sample, video: Video) -> Score:
        """The mean over 32 frames and all references, -1 to 1; the details hold each reference's mean.

        Raises SampleError for a sample without references, a reference that is missing or cannot be read, and
        a video that cannot be decoded.
        """
        from refbench.metrics.nets.embedders import frame_embeddings, reference_embeddings

        if not sample.references:
            raise SampleError("no references")
        references_RD = reference_embeddings(self.encoder, sample)
        cosines_FR = frame_embeddings(self.encoder, video, FRAMES) @ references_RD.T
        return Score(
            value=float(cosines_FR.mean(dtype="float64")),
            details={"per_reference": cosines_FR.mean(axis=0, dtype="float64").tolist()},
        )


class SimilarityMetric(Metric):
    """Loads one encoder from one model folder; a subclass says which, and who scores with it."""

    modules = ("torch", "transformers")
    scorer_class: ClassVar[type[SimilarityScorer]]

    @property
    @abstractmethod
    def model(self) -> str:
        """The model's repository on the hub (or folder), under which its files are recorded."""

    @abstractmethod
    def find_weights(self, environment: Environment) -> Path:
        """The model's folder. Raises MissingWeights."""

    @abstractmethod
    def load_encoder(self, folder: Path, device: str) -> Any:
        """The encoder of that folder. Raises UserError for files that do not fit."""

    def load(self, environment: Environment) -> SimilarityScorer:
        """A scorer with its encoder. Raises MissingWeights, and UserError for files that do not fit."""
        folder = self.find_weights(environment)
        encoder = self.load_encoder(folder, environment.device)
        files = {f"{self.model}/{file.name}": file for file in encoder.files}
        return self.scorer_class(encoder=encoder, weights=file_digests(folder, files))


class ReferenceSimilarity(SimilarityMetric):
    """A likeness to the reference pictures."""

    scorer_class = ReferenceScorer

    def not_applicable(self, sample: Sample) -> str | None:
        """A sample without references has nothing to be compared with."""
        return None if sample.references else "no references"


class ClipBacked(SimilarityMetric):
    """A similarity by one of OpenAI's CLIP models, or by any CLIP in open_clip's format."""

    Options = ClipOptions

    @property
    def model(self) -> str:
        """The chosen CLIP."""
        chosen: str | None = self.options.model
        return OPENAI_CLIPS[self.options.backbone].repository if chosen is None else chosen

    def settings(self) -> dict[str, Any]:
        """The chosen CLIP."""
        chosen = self.options.model
        return {"backbone": self.options.backbone} if chosen is None else {"model": chosen}

    def unavailable(self, environment: Environment) -> str | None:
        """Which weights or packages are missing, or None."""
        needed = () if self.options.model is None else ("open_clip",)
        return super().unavailable(environment) or missing_packages(needed)

    def packages(self) -> tuple[str, ...]:
        """open_clip among them where one of its models was chosen."""
        return super().packages() + (() if self.options.model is None else ("open_clip_torch",))

    def find_weights(self, environment: Environment) -> Path:
        """The model's folder. Raises MissingWeights."""
        if self.options.model is None:
            return require_model_folder(OPENAI_CLIPS[self.options.backbone], environment.weights)
        return open_clip_folder(self.options.model, environment.weights)

    def load_encoder(self, folder: Path, device: str) -> TextEncoder:
        """CLIP with its tokenizer."""
        if self.options.model is None:
            from refbench.metrics.nets.embedders import ClipEncoder

            return ClipEncoder.load(folder, device)
        from refbench.metrics.nets.open_clip_encoder import OpenClipEncoder

        weights = next(folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).exists())
        return OpenClipEncoder.load(folder / OPEN_CLIP_CONFIG, weights, device)


def open_clip_folder(model: str, weights: Path | None) -> Path:
    """The folder of a CLIP in open_clip's format: `model` itself, or a repository found with all weights.

    Raises MissingWeights for one that is not there or lacks its config or its weights.
    """
    given = Path(model).expanduser()
    entry = entry_of(model)
    folder = given if (given / OPEN_CLIP_CONFIG).is_file() else require(entry, weights)
    for names in ((OPEN_CLIP_CONFIG,), OPEN_CLIP_WEIGHTS):
        if not any((folder / name).exists() for name in names):
            raise MissingWeights(f"{folder} lacks {' or '.join(names)}; {how_to_get(entry)}")
    return folder
