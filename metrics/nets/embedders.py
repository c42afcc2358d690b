"""Encoders of pictures (and texts) through transformers, and what clip-t, clip-i and dino-i share.

Each encoder turns pictures into unit vectors, so that a product is a cosine:

* CLIP: `image_embeds` and `text_embeds` (class token or end-of-text token → final norm → projection);
* DINOv2 and DINOv3: the class token of `last_hidden_state`, which both give after the final norm, as
  DreamBooth's DINO score does (the pooled output of both models is this same vector).

Pictures are resized with PIL's bicubic and cropped in the centre to 224 pixels: CLIP from a shorter side of
224, DINO of 256, with one rule for every backbone so that their numbers compare.

Axes: N pictures, C channels, H W rows and columns, D embedding, F frames, R references.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from refbench.bench.errors import UserError
from refbench.bench.sample import Sample
from refbench.bench.video import Video, uniform_frames
from refbench.metrics.nets.clip_tower import CLIP_MEAN, CLIP_STD
from refbench.metrics.nets.pixels import CropRule, distinct_frames
from refbench.metrics.nets.pretrained import load_model, load_part, read_config

CLIP_CROP = CropRule(resized_px=224, crop_px=224, mean=CLIP_MEAN, std=CLIP_STD)
DINO_CROP = CropRule(resized_px=256, crop_px=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
DINO_MODEL_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit")


class PictureEncoder(Protocol):
    """Unit vectors (N, D), float32, of normalised pixels (N, 3, H, W) that `crop` makes of a picture."""

    crop: CropRule

    def embed(self, pixels_NCHW: np.ndarray) -> np.ndarray: ...


class ClipEncoder:
    """A CLIP folder's model and tokenizer, float32."""

    crop = CLIP_CROP

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        if read_config(folder).get("model_type") != "clip":
            raise UserError(f"{folder} holds no CLIP model")
        self._model = load_model(CLIPModel, folder, dtype=torch.float32, device=device)
        self._tokenizer = load_part(CLIPTokenizer, folder)
        self._context_length = int(self._model.config.text_config.max_position_embeddings)

    def embed(self, pixels_NCHW: np.ndarray) -> np.ndarray:
        """Unit vectors (N, D) of pictures."""
        model = self._model
        return _unit_vectors(
            model,
            pixels_NCHW,
            lambda pixels: model.visual_projection(model.vision_model(pixels).pooler_output),
        )

    def embed_text(self, text: str) -> tuple[np.ndarray, bool]:
        """The unit vector (D,) of a text, and whether its end was cut off (CLIP reads 77 tokens)."""
        pieces = self._tokenizer(
            text, truncation=True, max_length=self._context_length, return_overflowing_tokens=True
        )["input_ids"]
        ids_1L = torch.tensor(pieces[:1], device=self._model.device)
        with torch.inference_mode():
            pooled_1D = self._model.text_model(input_ids=ids_1L).pooler_output
            features_1D = self._model.text_projection(pooled_1D)
        return _normalised(features_1D)[0], len(pieces) > 1


class DinoEncoder:
    """A DINOv2 or DINOv3 (ViT) folder's model, float32."""

    crop = DINO_CROP

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoModel

        model_type = read_config(folder).get("model_type")
        if model_type not in DINO_MODEL_TYPES:
            raise UserError(
                f"{folder} holds a {model_type!r} model, not one of {', '.join(DINO_MODEL_TYPES)}"
            )
        self._model = load_model(AutoModel, folder, dtype=torch.float32, device=device)

    def embed(self, pixels_NCHW: np.ndarray) -> np.ndarray:
        """Unit vectors (N, D) of pictures."""
        model = self._model
        return _unit_vectors(model, pixels_NCHW, lambda pixels: model(pixels).last_hidden_state[:, 0])


def frame_embeddings(encoder: PictureEncoder, video: Video, frames: int) -> np.ndarray:
    """Unit vectors (frames, D) of frames spread evenly over a video; a repeated frame is encoded once."""
    from PIL import Image

    pixels, times = [], []
    for frame_HWC, repeats in distinct_frames(video, uniform_frames(frames)):
        pixels.append(encoder.crop.pixels(Image.fromarray(frame_HWC)))
        times.append(repeats)
    return np.repeat(encoder.embed(np.stack(pixels)), times, axis=0)


def reference_embeddings(encoder: PictureEncoder, sample: Sample) -> np.ndarray:
    """Unit vectors (R, D) of a sample's references, opened as plain RGB.

    Raises SampleError for one that is missing or cannot be read.
    """
    pictures = (reference.open_plain_rgb() for reference in sample.references)
    return encoder.embed(np.stack([encoder.crop.pixels(picture) for picture in pictures]))


def _unit_vectors(
    model: Any, pixels_NCHW: np.ndarray, features: Callable[[torch.Tensor], torch.Tensor]
) -> np.ndarray:
    # Convolutions run in TF32 on recent GPUs unless told otherwise.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return _normalised(features(torch.from_numpy(pixels_NCHW).to(model.device)))


def _normalised(features_ND: torch.Tensor) -> np.ndarray:
    unit_ND: np.ndarray = torch.nn.functional.normalize(features_ND.float(), dim=-1).cpu().numpy()
    return unit_ND
