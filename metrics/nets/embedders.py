"""Encoders of pictures (and texts) through transformers, and what clip-t, clip-i and dino-i share.

Each encoder turns pictures into unit vectors, so that a product is a cosine:

* CLIP: `image_embeds` and `text_embeds` (class token or end-of-text token → final norm → projection);
* DINOv2 and DINOv3: the class token of `last_hidden_state`, which both give after the final norm, as
  DreamBooth's DINO score does (the pooled output of both models is this same vector).

Pictures are resized with PIL's bicubic and cropped in the centre to 224 pixels: CLIP from a shorter side of
224, DINO of 256, with one rule for every backbone so that their numbers compare. Checkpoints in open_clip's
format are `metrics/nets/open_clip_encoder.py`.

Axes: N pictures, C channels, H W rows and columns, D embedding, F frames, R references.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from refbench.bench.errors import UserError
from refbench.bench.sample import Sample
from refbench.bench.video import Video, uniform_frames
from refbench.bench.weights.hf_folder import load_model, load_part, read_config, weight_files
from refbench.metrics.nets.inference import exact_inference, release
from refbench.metrics.nets.pixels import CLIP_MEAN, CLIP_STD, CropRule, distinct_frames

if TYPE_CHECKING:
    from PIL import Image

CLIP_CROP = CropRule(resized_px=224, crop_px=224, mean=CLIP_MEAN, std=CLIP_STD)
DINO_CROP = CropRule(resized_px=256, crop_px=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
DINO_MODEL_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit")


class PictureEncoder(Protocol):
    """A loaded model that embeds pictures; `files` are the weight files it was read from."""

    @property
    def files(self) -> tuple[Path, ...]: ...

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Normalised pixels (3, H, W), float32, of an RGB picture of any size."""
        ...

    def embed(self, pixels_NCHW: np.ndarray) -> np.ndarray:
        """Unit vectors (N, D), float32, of what `pixels` made of pictures."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class TextEncoder(PictureEncoder, Protocol):
    """A picture encoder that embeds texts in the same space."""

    def embed_text(self, text: str) -> tuple[np.ndarray, bool]:
        """The unit vector (D,), float32, of a text, and whether its end was cut off."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClipEncoder:
    """A CLIP folder's model and tokenizer, float32."""

    model: Any
    tokenizer: Any
    files: tuple[Path, ...]

    @classmethod
    def load(cls, folder: Path, device: str) -> ClipEncoder:
        """From a Hugging Face folder. Raises UserError for one that holds no CLIP or does not fit."""
        from transformers import CLIPModel, CLIPTokenizer

        if read_config(folder).get("model_type") != "clip":
            raise UserError(f"{folder} holds no CLIP model")
        return cls(
            model=load_model(CLIPModel, folder, dtype=torch.float32, device=device),
            tokenizer=load_part(CLIPTokenizer, folder),
            files=tuple(weight_files(folder)),
        )

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Normalised pixels (3, 224, 224), float32, of an RGB picture. SampleError for an endless strip."""
        return CLIP_CROP.pixels(image)

    def embed(self, pixels_NCHW: np.ndarray) -> np.ndarray:
        """Unit vectors (N, D), float32, of normalised pixels (N, 3, 224, 224)."""
        model = self.model
        with exact_inference():
            pooled_ND = model.vision_model(torch.from_numpy(pixels_NCHW).to(model.device)).pooler_output
            return unit_vectors(model.visual_projection(pooled_ND))

    def embed_text(self, text: str) -> tuple[np.ndarray, bool]:
        """The unit vector (D,), float32, of a text, and whether its end was cut off: CLIP reads 77 tokens."""
        model = self.model
        pieces = self.tokenizer(
            text,
            truncation=True,
            max_length=int(model.config.text_config.max_position_embeddings),
            return_overflowing_tokens=True,
        )["input_ids"]
        ids_1L = torch.tensor(pieces[:1], device=model.device)
        with torch.inference_mode():
            features_1D = model.text_projection(model.text_model(input_ids=ids_1L).pooler_output)
        return unit_vectors(features_1D)[0], len(pieces) > 1

    def close(self) -> None:
        """Give the memory back."""
        release(self.model)


@dataclass(frozen=True, kw_only=True)
class DinoEncoder:
    """A DINOv2 or DINOv3 (ViT) folder's model, float32."""

    model: Any
    files: tuple[Path, ...]

    @classmethod
    def load(cls, folder: Path, device: str) -> DinoEncoder:
        """From a Hugging Face folder. Raises UserError for another kind of model or one that does not fit."""
        from transformers import AutoModel

        model_type = read_config(folder).get("model_type")
        if model_type not in DINO_MODEL_TYPES:
            raise UserError(
                f"{folder} holds a {model_type!r} model, not one of {', '.join(DINO_MODEL_TYPES)}"
            )
        return cls(
            model=load_model(AutoModel, folder, dtype=torch.float32, device=device),
            files=tuple(weight_files(folder)),
        )

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Normalised pixels (3, 224, 224), float32, of an RGB picture. SampleError for an endless strip."""
        return DINO_CROP.pixels(image)

    def embed(self, pixels_NCHW: np.ndarray) -> np.ndarray:
        """Unit vectors (N, D), float32, of normalised pixels (N, 3, 224, 224)."""
        with exact_inference():
            states_NLD = self.model(torch.from_numpy(pixels_NCHW).to(self.model.device)).last_hidden_state
            return unit_vectors(states_NLD[:, 0])

    def close(self) -> None:
        """Give the memory back."""
        release(self.model)


def unit_vectors(features_ND: torch.Tensor) -> np.ndarray:
    """Features (N, D) of any floating type and device at length 1, as float32."""
    unit_ND: np.ndarray = torch.nn.functional.normalize(features_ND.float(), dim=-1).cpu().numpy()
    return unit_ND


def frame_embeddings(encoder: PictureEncoder, video: Video, frames: int) -> np.ndarray:
    """Unit vectors (frames, D) of frames spread evenly over a video; a repeated frame is encoded once.

    Raises SampleError for a video that cannot be decoded.
    """
    from PIL import Image

    pixels, times = [], []
    for frame_HWC, repeats in distinct_frames(video, uniform_frames(frames)):
        pixels.append(encoder.pixels(Image.fromarray(frame_HWC)))
        times.append(repeats)
    return np.repeat(encoder.embed(np.stack(pixels)), times, axis=0)


def reference_embeddings(encoder: PictureEncoder, sample: Sample) -> np.ndarray:
    """Unit vectors (R, D) of a sample's references, opened as plain RGB.

    Raises SampleError for one that is missing or cannot be read.
    """
    pictures = (reference.open_plain_rgb() for reference in sample.references)
    return encoder.embed(np.stack([encoder.pixels(picture) for picture in pictures]))
