"""GME: embeddings of texts and pictures in one space, by a Qwen2-VL whose last token is pooled.

    embedding = h / |h|,   h = last hidden state (after the final norm) at the prompt's last token

The model is transformers' Qwen2-VL; here is what GME does differently from it: its prompt, its two resizes,
and positions 0..n-1 for image tokens too, instead of the two-dimensional ones of Qwen2-VL's own forward pass.

Source: `eval/` of PKU-YuanGroup/OpenS2V-Nexus v1.1 (commit 210eb08) and the class it takes from
Alibaba-NLP/gme-Qwen2-VL-7B-Instruct. Kept: both resizes by Pillow's bicubic, 1,800 tokens at most, cut on the
right (a long text then loses the template's end and its last kept token is pooled), `<|endoftext|>` as the
last token, normalisation in the model's own precision. Different: a batch is padded on the right without a
mask, which causal attention makes exact; batches are bounded by tokens and filled in order of length.

Legend: B inputs of a batch, L tokens, D width of the embedding, P patches of pictures, C values of a patch,
T image tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from refbench.bench.environment import Environment
from refbench.bench.errors import UserError
from refbench.bench.weights.hf_folder import load_model, load_part, read_config, weight_digests
from refbench.bench.weights.store import require
from refbench.metrics.nets.inference import release
from refbench.metrics.nets.sharing import Shared
from refbench.metrics.weights import GME_QWEN2_VL

DEFAULT_INSTRUCTION = "You are a helpful assistant."
# What GmeScore and NexusScore give texts; pictures get the default.
TEXT_INSTRUCTION = "Find an image that matches the given text."
IMAGE_TOKEN = "<|image_pad|>"
END_TOKEN = "<|endoftext|>"
MAX_TOKENS = 1800

# A side of a picture is a multiple of two patches of 14 pixels, since 2×2 patches become one token.
SIDE_STEP_PX = 28
MAX_ASPECT_RATIO = 200
FIRST_MIN_PIXELS, FIRST_MAX_PIXELS = 4 * 28 * 28, 16384 * 28 * 28
SECOND_MIN_PIXELS, SECOND_MAX_PIXELS = 256 * 28 * 28, 1280 * 28 * 28

# Tokens of one batch, padding included: 3 frames of 480p (570 tokens each) on a CPU, 14 on a GPU.
BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True, kw_only=True)
class _Input:
    """One prompt of a batch: its token ids (after truncation) and the picture that its image tokens show."""

    ids: list[int]
    image: Image.Image | None


class GmeEmbedder:
    """Texts and pictures to unit vectors; float16 on a GPU, float32 on a CPU.

    `texts_embedded` and `images_embedded` count what went through the network; `batch_tokens` bounds the
    tokens of one batch, padding included.
    """

    def __init__(
        self, model: Any, tokenizer: Any, image_processor: Any, device: torch.device, folder: Path
    ) -> None:
        self._visual = model.model.visual
        self._decoder = model.model.language_model
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._image_id: int = model.config.image_token_id
        self._padding_id: int = tokenizer.convert_tokens_to_ids(END_TOKEN)
        self._folder = folder
        self.device = device
        self.dtype: torch.dtype = next(self._decoder.parameters()).dtype
        self.batch_tokens = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cuda"])
        self.texts_embedded = 0
        self.images_embedded = 0

    @classmethod
    def load(cls, folder: Path, device: str, dtype: torch.dtype | None = None) -> GmeEmbedder:
        """The embedder of a model folder; without `dtype` float16 on a GPU and float32 on a CPU.

        Raises UserError for a folder that is damaged or no Qwen2-VL.
        """
        from transformers import AutoImageProcessor, AutoTokenizer, Qwen2VLForConditionalGeneration

        kind = read_config(folder).get("model_type")
        if kind != "qwen2_vl":
            raise UserError(f"{folder} holds a model of type {kind}, not qwen2_vl")
        place = torch.device(device)
        model = load_model(
            Qwen2VLForConditionalGeneration,
            folder,
            dtype=dtype or (torch.float32 if place.type == "cpu" else torch.float16),
            device=place,
            may_lack=("lm_head.",),
        )
        # The Pillow back-end: torchvision's bicubic differs by a level in a few pixels.
        image_processor = load_part(
            AutoImageProcessor,
            folder,
            backend="pil",
            min_pixels=SECOND_MIN_PIXELS,
            max_pixels=SECOND_MAX_PIXELS,
        )
        return cls(model, load_part(AutoTokenizer, folder), image_processor, place, folder)

    @cached_property
    def weight_digests(self) -> dict[str, str]:
        """SHA-256 by file of the weights; read once, at the first question."""
        return weight_digests(self._folder, GME_QWEN2_VL.name)

    def embed_texts(self, texts: Sequence[str], instruction: str | None = None) -> torch.Tensor:
        """Unit vectors (n, D) of texts, in `dtype` on the CPU; without `instruction` GME's default one."""
        self.texts_embedded += len(texts)
        return self._embed([_Input(ids=self.token_ids(text, 0, instruction), image=None) for text in texts])

    def embed_images(self, images: Sequence[Image.Image], instruction: str | None = None) -> torch.Tensor:
        """Unit vectors (n, D) of RGB pictures, in `dtype` on the CPU.

        The protocol gives pictures no instruction: without one it is GME's default.
        """
        self.images_embedded += len(images)
        counts = (image_token_count(image.height, image.width) for image in images)
        return self._embed(
            [
                _Input(ids=self.token_ids("", count, instruction), image=image)
                for image, count in zip(images, counts, strict=True)
            ]
        )

    def token_ids(self, text: str, image_tokens: int, instruction: str | None = None) -> list[int]:
        """GME's prompt around a text, or around a picture of `image_tokens` tokens, as at most 1,800 ids."""
        prompt = gme_prompt(text, image_tokens, instruction or DEFAULT_INSTRUCTION)
        ids: list[int] = self._tokenizer(prompt)["input_ids"][:MAX_TOKENS]
        return ids

    def patches(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the picture tower takes of RGB pictures, on the CPU.

        Normalised patches (P, C), float32, one picture after the other, and (n, 3): each picture's patches
        over time, height and width.
        """
        features = self._image_processor(
            images=[first_resize(image) for image in images], return_tensors="pt"
        )
        return features["pixel_values"], features["image_grid_thw"]

    def close(self) -> None:
        """Give the memory back."""
        release(self._visual, self._decoder)

    def _embed(self, inputs: Sequence[_Input]) -> torch.Tensor:
        width = self._decoder.config.hidden_size
        embeddings_BD = torch.empty(len(inputs), width, dtype=self.dtype)
        with torch.inference_mode():
            for chosen in batches_by_length([len(one.ids) for one in inputs], self.batch_tokens):
                embeddings_BD[chosen] = self._embed_batch([inputs[index] for index in chosen]).cpu()
        return embeddings_BD

    def _embed_batch(self, inputs: Sequence[_Input]) -> torch.Tensor:
        lengths = [len(one.ids) for one in inputs]
        longest = max(lengths)
        padded = [one.ids + [self._padding_id] * (longest - len(one.ids)) for one in inputs]
        ids_BL = torch.tensor(padded, device=self.device)
        embedded_BLD = self._decoder.embed_tokens(ids_BL)
        images = [one.image for one in inputs if one.image is not None]
        if images:
            place_BL = ids_BL == self._image_id
            embedded_BLD[place_BL] = self._image_tokens(images).to(embedded_BLD.dtype)
        positions_BL = torch.arange(longest, device=self.device).expand(len(inputs), longest)
        hidden_BLD = self._decoder(
            inputs_embeds=embedded_BLD, position_ids=positions_BL, use_cache=False
        ).last_hidden_state
        last_B = torch.tensor(lengths, device=self.device) - 1
        pooled_BD = hidden_BLD[torch.arange(len(inputs), device=self.device), last_B]
        return torch.nn.functional.normalize(pooled_BD, p=2, dim=1)

    def _image_tokens(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Tokens (T, D) of pictures, one picture after the other."""
        patches_PC, grid_B3 = self.patches(images)
        tokens_TD: torch.Tensor = self._visual(
            patches_PC.to(self.device, self.dtype), grid_thw=grid_B3.to(self.device)
        ).pooler_output
        return tokens_TD


def gme_prompt(text: str, image_tokens: int, instruction: str) -> str:
    """GME's prompt around a text, or around a picture of `image_tokens` tokens (0: no picture)."""
    picture = f"<|vision_start|>{IMAGE_TOKEN * image_tokens}<|vision_end|>" if image_tokens else ""
    return (
        f"<|im_start|>system\n{instruction}<|im_end|>\n"
        f"<|im_start|>user\n{picture}{text}<|im_end|>\n"
        f"<|im_start|>assistant\n{END_TOKEN}"
    )


def first_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels after GME's own resize, the first of two."""
    rows, columns = (max(SIDE_STEP_PX, side) for side in _rounded(height, width))
    rows, columns = _bounded(height, width, rows, columns, FIRST_MIN_PIXELS, FIRST_MAX_PIXELS)
    longest_allowed = MAX_ASPECT_RATIO * min(rows, columns)
    return min(rows, longest_allowed), min(columns, longest_allowed)


def model_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels after both resizes, which is what the network sees."""
    height, width = first_size(height, width)
    return _bounded(height, width, *_rounded(height, width), SECOND_MIN_PIXELS, SECOND_MAX_PIXELS)


def image_token_count(height: int, width: int) -> int:
    """Image tokens of a picture of that size: one per 28×28 pixels of what the network sees."""
    rows, columns = model_size(height, width)
    return rows * columns // SIDE_STEP_PX**2


def first_resize(image: Image.Image) -> Image.Image:
    """The picture after GME's own resize; the second is the image processor's."""
    rows, columns = first_size(image.height, image.width)
    return image.resize((columns, rows), Image.Resampling.BICUBIC)


def _rounded(height: int, width: int) -> tuple[int, int]:
    return round(height / SIDE_STEP_PX) * SIDE_STEP_PX, round(width / SIDE_STEP_PX) * SIDE_STEP_PX


def _bounded(
    height: int, width: int, rows: int, columns: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """`rows`, `columns` if their product lies within the bounds, else the sides scaled into them."""
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, columns = (
            max(SIDE_STEP_PX, math.floor(side / shrink / SIDE_STEP_PX) * SIDE_STEP_PX)
            for side in (height, width)
        )
    elif rows * columns < min_pixels:
        enlarge = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * enlarge / SIDE_STEP_PX) * SIDE_STEP_PX for side in (height, width))
    return rows, columns


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of inputs in batches of similar length, each at most `batch_tokens` with padding (or one
    input).
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda position: (lengths[position], position)):
        if batch and lengths[index] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


_EMBEDDERS: Shared[GmeEmbedder] = Shared()


def shared_embedder(environment: Environment) -> GmeEmbedder:
    """The process's embedder for an environment, loaded by the first caller.

    Every call is to be matched by one `release_embedder`; the memory is given back with the last. Raises
    MissingWeights, and UserError for damaged files.
    """
    folder = require(GME_QWEN2_VL, environment.weights).resolve()
    return _EMBEDDERS.hold((folder, environment.device), lambda: GmeEmbedder.load(folder, environment.device))


def release_embedder(embedder: GmeEmbedder) -> None:
    """Take back one `shared_embedder` call; with the last holder the embedder's memory is given back.

    Without a holder nothing happens.
    """
    _EMBEDDERS.release(embedder)
