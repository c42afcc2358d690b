"""Aesthetics: how pleasing the frames look to LAION's aesthetic predictor.

    score = mean over 32 frames of head(e / |e|),   e = CLIP ViT-L/14 image embedding of the frame

The head is five linear layers without activation (768-1024-128-64-16-1). Range of the raw value: not bounded,
1 to 10 in the head's training data; the protocol clips it to 4..7.

Source: `eval/get_aesscore.py` of PKU-YuanGroup/OpenS2V-Nexus v1.1 (commit 210eb08), key `aes_score`; weights
openai/clip-vit-large-patch14 and `aesthetic-model.pth` of BestWishYsh/OpenS2V-Weight. Kept: the frames are
`linspace(0, n-1, 32)` truncated (a shorter video repeats frames), PIL's resize and the crop rounded down,
float32 also on a GPU, all frames in one batch. Different: CLIP runs through open_clip (the quick-GELU
architecture, the same weights; 4e-6 in the embedding), and a repeated frame is embedded once and counted as
often as it is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from refbench.bench.metric import Environment, Metric, MetricDeclaration, Score
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.video import Video, uniform_frames
from refbench.bench.weights.store import CATALOGUE, require_file, require_model_folder

FRAMES = 32

CLIP_WEIGHTS = "clip-vit-large-patch14"
HEAD_WEIGHTS = "opens2v-weight"
# The first is the official script's file; the second is LAION's own name for the same head, unverified here.
HEAD_FILES = ("aesthetic-model.pth", "sac+logos+ava1-l14-linearMSE.pth")


@metrics.register
class Aesthetics(Metric):
    """Frames are pre-processed as they are decoded: what is held are their 224×224 inputs, one batch."""

    declaration = MetricDeclaration(
        name="aesthetics",
        version="1",
        component="aesthetics",
        summary="how pleasing the frames look (LAION predictor on CLIP ViT-L/14)",
        source="OpenS2V-Nexus@210eb08 eval/get_aesscore.py",
        uses=frozenset({"video"}),
        weights=(CLIP_WEIGHTS, HEAD_WEIGHTS),
        packages=("torch", "open_clip_torch", "pillow", "numpy"),
    )

    modules = ("torch", "open_clip")

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._tower: Any = None
        self._head: Any = None
        self._crop: Any = None
        self._weights: dict[str, str] = {}

    def find_weights(self, environment: Environment) -> tuple[Path, Path]:
        """CLIP's folder and the head's file. Raises MissingWeights."""
        clip_folder = require_model_folder(CATALOGUE[CLIP_WEIGHTS].repository, environment.weights)
        return clip_folder, require_file(HEAD_WEIGHTS, HEAD_FILES, environment.weights)

    def load(self, environment: Environment) -> None:
        """Load tower and head onto the device. Raises MissingWeights, and UserError for files that do not
        fit.
        """
        super().load(environment)
        clip_folder, head_file = self.find_weights(environment)
        from refbench.bench.weights.store import file_digests
        from refbench.metrics.nets.aesthetic_head import load_head
        from refbench.metrics.nets.clip_tower import crop_rule, load_tower
        from refbench.metrics.nets.pretrained import torch_device, weight_digests

        device = torch_device(environment.device)
        self._tower = load_tower(clip_folder).to(device)
        self._head = load_head(head_file, self._tower.output_dim).to(device)
        self._crop = crop_rule(self._tower)
        self._weights = weight_digests(clip_folder, CLIP_WEIGHTS) | file_digests(
            head_file.parent, {f"{HEAD_WEIGHTS}/{head_file.name}": head_file}
        )

    def score(self, sample: Sample, video: Video) -> Score:
        """The mean score of one video's frames; SampleError for a video that cannot be decoded."""
        from PIL import Image

        from refbench.metrics.nets.pixels import distinct_frames

        pixels: list[np.ndarray] = []
        times: list[int] = []
        for frame_HWC, repeats in distinct_frames(video, uniform_frames(FRAMES)):
            pixels.append(self._crop.pixels(Image.fromarray(frame_HWC)))
            times.append(repeats)
        frame_scores_F = np.repeat(self.frame_scores(np.stack(pixels)), times)
        return Score(
            value=float(frame_scores_F.mean(dtype=np.float64)),
            details={"frame_scores": frame_scores_F.tolist()},
        )

    def frame_scores(self, pixels_NCHW: np.ndarray) -> np.ndarray:
        """Scores (N,), float32, of normalised pixels (N, 3, H, W)."""
        import torch

        from refbench.metrics.nets.clip_tower import image_embeddings

        embeddings_ND = image_embeddings(self._tower, pixels_NCHW)
        embeddings_ND = embeddings_ND / torch.linalg.vector_norm(embeddings_ND, dim=-1, keepdim=True)
        with torch.inference_mode():
            scores_N: np.ndarray = self._head(embeddings_ND).cpu().numpy()
        return scores_N

    def provenance(self) -> dict[str, Any]:
        """Precision, frames per forward pass, digests of both checkpoints."""
        return {"dtype": "float32", "batch_size": FRAMES, "weights": self._weights}

    def close(self) -> None:
        """Drop both networks."""
        self._tower = self._head = None
