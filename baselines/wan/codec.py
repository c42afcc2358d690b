"""The frozen networks around a Wan transformer: text into features, images and videos into latents and back.

Shapes: B samples (one), C latent channels, L text rows, D features, N images, T tokens, F frames or latent
frames, H W rows and columns.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from refbench.baselines.wan.finite import check_pixels
from refbench.baselines.wan.latents import LatentSpace
from refbench.baselines.wan.prompts import MAX_TEXT_TOKENS, cleaned_prompt

# Pictures whose posteriors are kept: the references of some samples, 2.4 MB each at 832×480.
MOST_KEPT_PICTURES = 16


@dataclass(frozen=True, kw_only=True)
class WanCodec:
    """Tokenizer and text encoder (UMT5's) and VAE of a Wan generator, which run on `device`.

    The VAE keeps a dtype of its own (float32 as in the original code); text features get `dtype`, the
    transformer's. Offloaded models come to `device` when they are used and leave it again. A picture that was
    encoded lately is not encoded again: a reference is that of all seeds of its sample. `cleans_prompts`:
    texts are cleaned before they are tokenized.
    """

    tokenizer: Any
    text_encoder: Any
    vae: Any
    device: torch.device
    dtype: torch.dtype
    cleans_prompts: bool = True
    kept_pictures: OrderedDict[bytes, Any] = field(default_factory=OrderedDict, compare=False, repr=False)

    @property
    def models(self) -> dict[str, torch.nn.Module]:
        """The networks by the name of their part."""
        return {"text_encoder": self.text_encoder, "vae": self.vae}

    @property
    def latents(self) -> LatentSpace:
        """The channels and strides of the VAE's latents."""
        return LatentSpace.of(self.vae)

    def encode_text(self, text: str) -> tuple[torch.Tensor, str]:
        """Features (1,512,D) of a prompt, zero after its end; and a note if it was cut at 512 tokens,
        else an empty one. A tokenizer that says less (`model_max_length`) makes as many rows.

        Every row is attended to by the network, the zero ones too, as in Wan's code.
        """
        cleaned = cleaned_prompt(text) if self.cleans_prompts else text
        rows = min(MAX_TEXT_TOKENS, self.tokenizer.model_max_length)
        tokens = self.tokenizer(
            cleaned,
            padding="max_length",
            max_length=rows,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        mask_BL = tokens.attention_mask.to(self.device)
        states_BLD = self.text_encoder(tokens.input_ids.to(self.device), mask_BL).last_hidden_state
        length = int(mask_BL.sum())
        note = ""
        if length == rows:
            whole = len(self.tokenizer(cleaned, verbose=False).input_ids)
            if whole > rows:
                note = f"has {whole} tokens; the first {rows} are used, as in the original code"
        states_BLD[:, length:] = 0
        return states_BLD.to(self.dtype), note

    def encode(self, pixels_B3FHW: torch.Tensor, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Normalised latents (1,C,F,h,w) of a clip (1,3,frames,height,width) in [-1,1].

        The posterior's mode, or a draw from it with `generator`. Never tiled: tiling changes latents.
        """
        posterior = self._posterior(pixels_B3FHW)
        latents_BCFHW: torch.Tensor = posterior.mode() if generator is None else posterior.sample(generator)
        mean, std = self._latent_statistics(latents_BCFHW)
        return (latents_BCFHW - mean) / std

    def _posterior(self, pixels_B3FHW: torch.Tensor) -> Any:
        """The VAE's posterior; that of a single picture is kept."""
        given = pixels_B3FHW.to(self.device, self.vae.dtype)
        if pixels_B3FHW.shape[2] > 1:
            return self.vae.encode(given).latent_dist
        pixels = pixels_B3FHW.float().contiguous().cpu().numpy()
        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        if key not in self.kept_pictures:
            self.kept_pictures[key] = self.vae.encode(given).latent_dist
            if len(self.kept_pictures) > MOST_KEPT_PICTURES:
                self.kept_pictures.popitem(last=False)
        self.kept_pictures.move_to_end(key)
        return self.kept_pictures[key]

    def decode(self, latents_BCFHW: torch.Tensor, *, tiling: bool = False) -> Iterator[np.ndarray]:
        """RGB uint8 frames (height,width,3) of latents (1,C,F,h,w); values are truncated, as in Wan's code.

        Tiling saves memory and is switched on for decoding alone. Raises SampleError, with the first frame,
        for pixels that are not finite.
        """
        latents_BCFHW = latents_BCFHW.to(self.device, self.vae.dtype)
        mean, std = self._latent_statistics(latents_BCFHW)
        if tiling:
            self.vae.enable_tiling()
        try:
            with torch.no_grad():
                video_B3FHW = self.vae.decode(latents_BCFHW * std + mean).sample
        finally:
            self.vae.use_tiling = False
        check_pixels(video_B3FHW)
        frames_FHWC = ((video_B3FHW[0].float() + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)
        yield from frames_FHWC.cpu().numpy()

    def _latent_statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The VAE's per-channel mean and standard deviation, shaped to broadcast over latents."""
        mean, std = (
            torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1)
            for values in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        return mean, std


@dataclass(frozen=True, kw_only=True)
class ImageCodec(WanCodec):
    """The codec of a network with an image branch: with CLIP's image encoder and its processor."""

    image_encoder: Any
    image_processor: Any

    @property
    def models(self) -> dict[str, torch.nn.Module]:
        """The networks by the name of their part."""
        return {**super().models, "image_encoder": self.image_encoder}

    @property
    def image_side_px(self) -> int:
        """Side of the square images that the image encoder takes, in pixels."""
        return int(self.image_encoder.config.image_size)

    def image_tokens(self, pixels_N3HW: torch.Tensor) -> torch.Tensor:
        """CLIP tokens (1,N·T,D) of normalised images (N,3,H,W), in order: each encoded alone, the second-last
        layer, class token first (T = 257 for the released encoder).
        """
        pixels_N3HW = pixels_N3HW.to(self.device, self.image_encoder.dtype)
        states_NTD: torch.Tensor = self.image_encoder(pixels_N3HW, output_hidden_states=True).hidden_states[
            -2
        ]
        return states_NTD.reshape(1, -1, states_NTD.shape[-1])
