"""Aesthetics: how pleasing the frames look to LAION's aesthetic predictor.

    score = mean over 32 frames of head(e / |e|),   e = CLIP ViT-L/14 image embedding of the frame

The head is five linear layers without activation (768-1024-128-64-16-1). Range of the raw value: not bounded,
1 to 10 in the head's training data; the protocol clips it to 4..7.

Source: `eval/get_aesscore.py` of PKU-YuanGroup/OpenS2V-Nexus v1.1 (commit 210eb08), key `aes_score`; weights
openai/clip-vit-large-patch14 and `aesthetic-model.pth` of BestWishYsh/OpenS2V-Weight. Kept: transformers'
CLIPVisionModelWithProjection, the frames `linspace(0, n-1, 32)` truncated (a shorter video repeats frames),
PIL's resize and the crop rounded down, float32 also on a GPU, all frames in one batch. Different: a repeated
frame is embedded once and counted as often as it is drawn. Scores of version 0.1, which ran CLIP through
open_clip, differ by about 1e-6, within the goldens' tolerance: the metric's version is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refbench.bench.environment import Environment
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer, ScoringCost
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.video import Video, uniform_frames
from refbench.bench.weights.common import CLIP_VIT_L14
from refbench.bench.weights.store import file_digests, require_file, require_model_folder
from refbench.metrics.nets.pixels import CLIP_MEAN, CLIP_STD, CropRule, distinct_frames
from refbench.metrics.weights import OPENS2V_WEIGHT

if TYPE_CHECKING:
    from refbench.metrics.nets.aesthetic_head import AestheticHead
    from refbench.metrics.nets.clip import ClipImageTower

FRAMES = 32

# The first is the official script's file; the second is LAION's own name for the same head, unverified here.
HEAD_FILES = ("aesthetic-model.pth", "sac+logos+ava1-l14-linearMSE.pth")


@metrics.register
class Aesthetics(Metric):
    """Needs CLIP ViT-L/14 and the head."""

    declaration = MetricDeclaration(
        name="aesthetics",
        version="1",
        component="aesthetics",
        summary="how pleasing the frames look (LAION predictor on CLIP ViT-L/14)",
        source="OpenS2V-Nexus@210eb08 eval/get_aesscore.py",
        uses=frozenset({"video"}),
        weights=(CLIP_VIT_L14, OPENS2V_WEIGHT),
        # docs/measured-gpu.md, `aesthetics`; 162 GFLOP a frame, counted by torch.
        cost=ScoringCost(gpu_s=0.121, tflop=5.2, peak_gib=1.72),
        packages=("torch", "transformers", "pillow", "numpy"),
    )
    modules = ("torch", "transformers")

    def find_weights(self, environment: Environment) -> tuple[Path, Path]:
        """CLIP's folder and the head's file. Raises MissingWeights."""
        clip_folder = require_model_folder(CLIP_VIT_L14, environment.weights)
        return clip_folder, require_file(OPENS2V_WEIGHT, HEAD_FILES, environment.weights)

    def load(self, environment: Environment) -> AestheticScorer:
        """A scorer with tower and head on the device.

        Raises MissingWeights, and UserError for files that do not fit.
        """
        clip_folder, head_file = self.find_weights(environment)
        from refbench.bench.weights.hf_folder import weight_digests
        from refbench.metrics.nets.aesthetic_head import load_head
        from refbench.metrics.nets.clip import ClipImageTower

        # Of both implementations this one comes nearer to the goldens.
        tower = ClipImageTower.load(clip_folder, environment.device, attention="eager")
        head = load_head(head_file, tower.width).to(environment.device)
        head_name = f"{OPENS2V_WEIGHT.name}/{head_file.name}"
        return AestheticScorer(
            tower=tower,
            head=head,
            crop=CropRule(resized_px=tower.side_px, crop_px=tower.side_px, mean=CLIP_MEAN, std=CLIP_STD),
            weights=weight_digests(clip_folder, CLIP_VIT_L14.name)
            | file_digests(head_file.parent, {head_name: head_file}),
        )


@dataclass(frozen=True, kw_only=True)
class AestheticScorer(Scorer):
    """Pre-processes frames as they are decoded: what is held are their 224×224 inputs, one batch."""

    tower: ClipImageTower
    head: AestheticHead
    crop: CropRule
    weights: Mapping[str, str]

    def score(self, sample: Sample, video: Video) -> Score:
        """The mean score of one video's frames; SampleError for a video that cannot be decoded."""
        from PIL import Image

        pixels: list[np.ndarray] = []
        times: list[int] = []
        for frame_HWC, repeats in distinct_frames(video, uniform_frames(FRAMES)):
            pixels.append(self.crop.pixels(Image.fromarray(frame_HWC)))
            times.append(repeats)
        frame_scores_F = np.repeat(self.frame_scores(np.stack(pixels)), times)
        return Score(
            value=float(frame_scores_F.mean(dtype=np.float64)),
            details={"frame_scores": frame_scores_F.tolist()},
        )

    def frame_scores(self, pixels_NCHW: np.ndarray) -> np.ndarray:
        """Scores (N,), float32, of normalised pixels (N, 3, H, W)."""
        import torch

        embeddings_ND = self.tower.embed(torch.from_numpy(pixels_NCHW))
        with torch.inference_mode():
            lengths_N1 = torch.linalg.vector_norm(embeddings_ND, dim=-1, keepdim=True)
            scores_N: np.ndarray = self.head(embeddings_ND / lengths_N1).cpu().numpy()
        return scores_N

    def provenance(self) -> dict[str, Any]:
        """Precision, frames per forward pass, digests of both checkpoints."""
        return {"dtype": "float32", "batch_size": FRAMES, "weights": dict(self.weights)}

    def close(self) -> None:
        """Give the memory of both networks back."""
        from refbench.metrics.nets.inference import release

        release(self.tower.model, self.head)
