"""Reference pictures as the detector's prompts: CLIP ViT-B/32 with transformers' own picture processor.

Source: `eval/get_nexusscore.py` of PKU-YuanGroup/OpenS2V-Nexus@210eb08, which takes tower and image processor
from `openai/clip-vit-base-patch32`. Different: transformers' Pillow image processor is asked for (the default
one of transformers 5 differs by a grey level in places), and all references of a sample go through together.

Axes of tensor names: R references, D width of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from refbench.bench.weights.hf_folder import load_part
from refbench.metrics.nets.clip import ClipImageTower

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class ReferenceEncoder:
    """CLIP's image tower behind the image processor of its folder, in float32."""

    tower: ClipImageTower
    processor: Any

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> ReferenceEncoder:
        """Tower and processor of a CLIP folder. Raises UserError for one that is damaged or does not fit."""
        from transformers import CLIPImageProcessorPil

        return cls(
            tower=ClipImageTower.load(folder, device), processor=load_part(CLIPImageProcessorPil, folder)
        )

    def pixel_values(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """The tower's input (R, 3, 224, 224), float32 on the CPU, of RGB pictures: the short side brought to
        224 pixels, the centre cut out, CLIP's mean and deviation.
        """
        pixels: torch.Tensor = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return pixels

    def embed(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Embeddings (R, D) of RGB pictures in the joint space, not normalised, on the tower's device."""
        return self.tower.embed(self.pixel_values(pictures))
