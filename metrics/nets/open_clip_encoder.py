"""CLIPs in open_clip's own format, for clip-t and clip-i: a folder with `open_clip_config.json`.

Architecture, tokenizer and picture transform are those that open_clip makes of the folder, so that numbers
are those of open_clip's users. OpenAI's checkpoints in the layout of the Hugging Face hub are read by
`metrics/nets/embedders.py`. Nothing is downloaded and no code of a repository is run: a config that asks for
either is refused.

Axes: N pictures, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import read_json_object
from refbench.metrics.nets.embedders import unit_vectors
from refbench.metrics.nets.inference import exact_inference, release

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class OpenClipEncoder:
    """A model of open_clip with its tokenizer and picture transform, float32."""

    model: Any
    tokenizer: Any
    transform: Any
    files: tuple[Path, ...]

    @classmethod
    def load(cls, config_file: Path, weights_file: Path, device: str) -> OpenClipEncoder:
        """From `open_clip_config.json` and the weight file beside it that open_clip prefers.

        Raises UserError for files that are damaged, do not fit, or ask for a download or foreign code.
        """
        import open_clip

        _refuse_foreign_parts(read_json_object(config_file).get("model_cfg"), config_file)
        name = f"local-dir:{config_file.parent}"
        try:
            model, transform = open_clip.create_model_from_pretrained(name, device=device)
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
            raise UserError(
                f"{config_file.parent} cannot be loaded by open_clip: {one_line(error, 200)}"
            ) from None
        model.eval().requires_grad_(False)
        return cls(model=model, tokenizer=tokenizer, transform=transform, files=(weights_file,))

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Normalised pixels (3, H, W), float32, of an RGB picture, by open_clip's transform of the model."""
        pixels_CHW: np.ndarray = self.transform(image).numpy()
        return pixels_CHW

    def embed(self, pixels_NCHW: np.ndarray) -> np.ndarray:
        """Unit vectors (N, D), float32, of what `pixels` made of pictures."""
        with exact_inference():
            return unit_vectors(self.model.encode_image(torch.from_numpy(pixels_NCHW).to(self._device)))

    def embed_text(self, text: str) -> tuple[np.ndarray, bool]:
        """The unit vector (D,), float32, of a text, and whether its end was cut off."""
        ids_1L = self.tokenizer([text])
        length = ids_1L.shape[1]
        # A text that was cut ends with the end token where a longer reading goes on.
        cut_off = not torch.equal(self.tokenizer([text], 2 * length)[:, :length], ids_1L)
        with exact_inference():
            return unit_vectors(self.model.encode_text(ids_1L.to(self._device)))[0], cut_off

    def close(self) -> None:
        """Give the memory back."""
        release(self.model)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _refuse_foreign_parts(model_config: Any, source: Path) -> None:
    """Raises UserError for a config whose towers or tokenizer come from elsewhere than the folder."""
    if not isinstance(model_config, Mapping):
        raise UserError(f"{source} has no model_cfg: this is no model of open_clip")
    text, vision = (model_config.get(f"{half}_cfg") for half in ("text", "vision"))
    if not isinstance(text, Mapping) or not isinstance(vision, Mapping):
        raise UserError(f"{source} lacks text_cfg or vision_cfg")
    if "hf_model_name" in text or ":" in str(vision.get("timm_model_name", "")):
        raise UserError(f"{source} takes a tower from the hub, which is not done: choose another CLIP")
    if "trust_remote_code" in str(text.get("tokenizer_kwargs", "")):
        raise UserError(f"{source} asks for code of a repository to be run, which is not done")
