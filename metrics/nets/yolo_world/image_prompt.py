"""The picture tower that turns reference pictures into the detector's prompts: CLIP ViT-B/32.

Source: `eval/get_nexusscore.py` of PKU-YuanGroup/OpenS2V-Nexus@210eb08, which takes tower and image processor
from `openai/clip-vit-base-patch32`. Different: transformers' Pillow image processor is asked for (the default
one of transformers 5 differs by a grey level in places), and all references of a sample go through together.

Axes of tensor names: R references, D width of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from refbench.bench.errors import UserError, one_line
from refbench.bench.weights.checkpoint import load_exactly, read_state_dict
from refbench.metrics.nets.pretrained import load_part, read_config, weight_files

if TYPE_CHECKING:
    from PIL import Image

# The other half of CLIP; position_ids are buffers of files written by older releases.
UNUSED_PREFIXES = (
    "text_model.",
    "text_projection.",
    "logit_scale",
    "vision_model.embeddings.position_ids",
)


class ClipPictureTower:
    """RGB pictures to image embeddings, in float32."""

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self._model = model
        self._processor = processor
        self._device = device

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> ClipPictureTower:
        """The tower of a CLIP folder (the whole model's, or the picture half alone).

        Raises UserError for a folder that lacks a file, is damaged or does not fit, with the keys.
        """
        from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPVisionConfig
        from transformers import CLIPVisionModelWithProjection as PictureModel

        content = read_config(folder)
        try:
            if content.get("model_type") == "clip":
                whole = CLIPConfig.from_dict(content)
                config = whole.vision_config
                config.projection_dim = whole.projection_dim
            else:
                config = CLIPVisionConfig.from_dict(content)
            with torch.device("meta"):
                model = PictureModel(config)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{folder}/config.json describes no CLIP model: {one_line(error, 120)}") from None
        files = weight_files(folder)
        if not files:
            raise UserError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")
        tensors = {key: value for file in files for key, value in read_state_dict(file).items()}
        load_exactly(model, tensors, folder, ignored_prefixes=UNUSED_PREFIXES)
        # The only buffer that no checkpoint holds; on the meta device it was never filled.
        embeddings = model.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions).expand(1, -1)
        model = model.float().eval().requires_grad_(False).to(device)
        return cls(model, load_part(CLIPImageProcessorPil, folder), device)

    def pixel_values(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """The tower's input (R, 3, 224, 224): short side 224, centre crop, CLIP's mean and deviation."""
        pixels: torch.Tensor = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return pixels.to(self._device)

    def embed(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Image embeddings (R, D) in the joint space, not normalised."""
        embeddings_RD: torch.Tensor = self._model(pixel_values=self.pixel_values(pictures)).image_embeds
        return embeddings_RD
