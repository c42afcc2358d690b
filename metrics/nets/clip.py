"""CLIP's image tower from a Hugging Face folder: the one loader, for Aesthetics and the image prompts.

    embedding = projection(LayerNorm(class token after the last layer)),   not normalised

The tower is transformers' CLIPVisionModelWithProjection, the class that the official scripts use, in float32.
A folder holds a whole CLIP, whose text half is left out, or the image half alone; sizes are read from its
config.json, so that a small checkpoint loads by the same code.

Axes: N pictures, C channels, H W rows and columns, D width of the joint space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from refbench.bench.errors import UserError, one_line
from refbench.bench.weights.hf_folder import load_model, read_config
from refbench.metrics.nets.inference import exact_inference, release

TEXT_HALF = ("text_model.", "text_projection.", "logit_scale")
# The activation of OpenAI's checkpoints; the exact GELU moves an aesthetic score by 0.002.
ACTIVATION = "quick_gelu"


@dataclass(frozen=True, kw_only=True)
class ClipImageTower:
    """A loaded image tower, `model`, which gives the embeddings of pictures."""

    model: Any

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", *, attention: Literal["sdpa", "eager"] = "sdpa"
    ) -> ClipImageTower:
        """The tower of a CLIP folder on a device.

        `attention` is transformers' name of an implementation: the fused one, its default, or the written-out
        one, which differ by about 3e-7 in an embedding. Raises UserError for a folder that lacks a file, is
        damaged or does not fit, with the keys.
        """
        from transformers import CLIPVisionModelWithProjection

        model = load_model(
            CLIPVisionModelWithProjection,
            folder,
            dtype=torch.float32,
            device=device,
            may_hold=TEXT_HALF,
            attn_implementation=attention,
            config=_image_config(read_config(folder), folder),
        )
        return cls(model=model)

    @property
    def side_px(self) -> int:
        """Side of the square pictures that the tower takes, in pixels."""
        side: int = self.model.config.image_size
        return side

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        width: int = self.model.config.projection_dim
        return width

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, D), float32, not normalised, on the tower's device.

        The pixels (N, 3, H, W), float32, are normalised and may be on any device.
        """
        with exact_inference():
            embeddings_ND: torch.Tensor = self.model(pixels_NCHW.to(self.model.device)).image_embeds
        return embeddings_ND

    def close(self) -> None:
        """Give the memory back."""
        release(self.model)


def _image_config(content: Mapping[str, Any], folder: Path) -> Any:
    """transformers' configuration of the image half, from the content of a config.json."""
    from transformers import CLIPConfig, CLIPVisionConfig

    whole = content.get("model_type") == "clip"
    if whole and not isinstance(content.get("vision_config"), Mapping):
        raise UserError(f"{folder}/config.json has no vision_config: this is no CLIP")
    try:
        if whole:
            both = CLIPConfig.from_dict(content)
            config = both.vision_config
            # The joint space is said once, for both halves.
            config.projection_dim = both.projection_dim
        else:
            config = CLIPVisionConfig.from_dict(content)
    except Exception as error:  # noqa: BLE001 - the checks of transformers raise kinds of their own
        raise UserError(f"{folder}/config.json describes no CLIP: {one_line(error, 120)}") from None
    if config.hidden_act != ACTIVATION:
        raise UserError(f"{folder}/config.json names the activation {config.hidden_act!r}, not {ACTIVATION}")
    return config
