"""BindWeave's network, and how its references are encoded: slots of latent frames before the video's, CLIP
tokens of four pictures, and a vision-language model's states of the prompt with the pictures as further rows
of text.

Source: branch `infer` of bytedance/BindWeave (`s2v/tasks/inference/pipeline/wan_pipeline_s2v.py`@c983061,
`s2v/models/predictor/wan_dit.py`@c983061, `wan_dit_mllm.py`@0dbd30a) and its branch `feature_extraction`
(`s2v/tools/feature_extract/get_eval_feature.py`@1a4875f). That code runs on Ascend processors alone, so no
golden stands behind this file. The tests hold it to laws instead: the layout of the slots in plain array
arithmetic, attention against numpy, and diffusers' own network where its split happens to fall at token 257.

Shapes: B samples, N references, F latent frames, S slots, H and W latent rows and columns, T tokens, D
features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import PixArtAlphaTextProjection
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch.nn.functional import interpolate

from refbench.baselines.wan.codec import ImageCodec
from refbench.baselines.wan.conditioning import (
    SPATIAL_COMPRESSION,
    Condition,
    Conditioner,
    Geometry,
    encode_each,
)
from refbench.baselines.wan.guidance import PassReferences
from refbench.baselines.wan.nets.image_branch import (
    MASK_CHANNELS,
    Box,
    ImageWanTransformer3DModel,
    clip_normalised,
)
from refbench.baselines.wan.references import to_tensor
from refbench.bench.errors import SampleError, one_line
from refbench.bench.weights.hf_folder import load_model, load_part

if TYPE_CHECKING:
    from PIL import Image

SLOTS = 4
# Where the attention parts image from text: the class token and 16×16 patches of one picture.
IMAGE_TOKENS = 257
# Hidden width of Qwen2.5-VL-7B.
STATE_WIDTH = 3584
BLACK = (0, 0, 0)

# The vision-language model's copies: 0.75 of a side, 0.3 where the picture has more pixels than 1280×720;
# then `qwen_vl_utils`' sides in multiples of 28, 4 to 16,384 tokens.
LARGE_PICTURE_PX = 1280 * 720
SCALE, LARGE_SCALE = 0.75, 0.3
TOKEN_SIDE_PX = 28
FEWEST_PX, MOST_PX = 4 * TOKEN_SIDE_PX**2, 16_384 * TOKEN_SIDE_PX**2


class SplitAttnProcessor(WanAttnProcessor):
    """Wan's cross-attention, which takes the first 257 tokens for the image, however many images there are.

    The second to fourth picture's tokens, which stand before the text, are read with the text's keys and
    values. The original trains and samples so: its split is the one of networks with a single picture.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """(B,T,D) after attention to (B,257 + any number,D)."""
        image = encoder_hidden_states[:, :IMAGE_TOKENS]
        text = encoder_hidden_states[:, IMAGE_TOKENS:]
        query = self._heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        read = self._read(attn, query, attn.norm_k(attn.to_k(text)), attn.to_v(text))
        read = read + self._read(
            attn, query, attn.norm_added_k(attn.add_k_proj(image)), attn.add_v_proj(image)
        )
        result: torch.Tensor = attn.to_out[1](attn.to_out[0](read))
        return result

    def _read(self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        read = dispatch_attention_fn(
            query, self._heads(attn, key), self._heads(attn, value), backend=self._attention_backend
        )
        return read.flatten(2, 3).type_as(query)

    @staticmethod
    def _heads(attn: Any, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(2, (attn.heads, -1))


class BindWeaveTransformer3DModel(ImageWanTransformer3DModel):
    """Wan's image-to-video network with slots before the video and a projector of a vision-language model's
    states (`state_width` features) to the width of the text encoder's.
    """

    # With diffusers' signature, as the parent.
    @wraps(WanTransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, state_width: int = STATE_WIDTH, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_to_config(state_width=state_width)
        self.condition_embedder.text_projector = PixArtAlphaTextProjection(
            state_width, self.config.text_dim, act_fn="gelu_tanh"
        )
        for block in self.blocks:
            block.attn2.set_processor(SplitAttnProcessor())

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor,
        condition_hidden_states: torch.Tensor,
        vision_language_states: torch.Tensor,
    ) -> Transformer2DModelOutput:
        """Predict the flow of the video's latents.

        Args:
            hidden_states: noisy latents (B,16,F,H,W).
            timestep: (B,) on the scale 0..1000.
            encoder_hidden_states: (B, text rows, text width), every row attended.
            encoder_hidden_states_image: CLIP tokens (B,S·257,D).
            condition_hidden_states: mask and latents (B,20,S+F,H,W), slots first.
            vision_language_states: (B, any number of rows, state width); they come before the text.
        """
        slots = condition_hidden_states.shape[2] - hidden_states.shape[2]
        batch, channels, _, rows, columns = hidden_states.shape
        empty = hidden_states.new_zeros(batch, channels, slots, rows, columns)
        state = torch.cat([empty, hidden_states], dim=2)
        projected = self.condition_embedder.text_projector(vision_language_states)
        sample = super().forward(
            hidden_states=torch.cat([state, condition_hidden_states], dim=1),
            timestep=timestep,
            encoder_hidden_states=torch.cat([projected, encoder_hidden_states], dim=1),
            encoder_hidden_states_image=encoder_hidden_states_image,
            return_dict=False,
        )[0]
        return Transformer2DModelOutput(sample=sample[:, :, slots:])


@dataclass(frozen=True, kw_only=True)
class SlotCondition(Condition):
    """Slots, CLIP tokens, and states of the vision-language model by text (`prompt`, `negative`)."""

    condition_BCFHW: torch.Tensor
    image_tokens_BTD: torch.Tensor
    states_BTD: Mapping[str, torch.Tensor]

    def inputs(self, latents: torch.Tensor, references: PassReferences) -> dict[str, torch.Tensor]:
        """State, slots and tokens. Raises ValueError for a pass without references."""
        if references != "own":
            raise ValueError("BindWeave has no pass with zero latents or nothing for references")
        return {
            "hidden_states": latents,
            "condition_hidden_states": self.condition_BCFHW.to(latents.dtype),
            "encoder_hidden_states_image": self.image_tokens_BTD.to(latents.dtype),
        }

    def text_inputs(self, text: Literal["prompt", "negative"]) -> dict[str, torch.Tensor]:
        """The states of the model that read this text beside the pictures."""
        return {"vision_language_states": self.states_BTD[text]}


@dataclass(frozen=True, kw_only=True)
class SlotCodec(ImageCodec):
    """The codec with the vision-language model that reads the texts beside the pictures.

    It is moved to the device and back for each reading, independent of the other models' offloading.
    """

    reader: VisionLanguageModel


@dataclass(frozen=True, kw_only=True)
class SlotReferences(Conditioner[SlotCodec]):
    """References in slots; the reader gets `texts` (by `prompt` and `negative`) together with them."""

    texts: Mapping[str, str]

    def encode(
        self,
        codec: SlotCodec,
        references: Sequence[Image.Image],
        geometry: Geometry,
        generator: torch.Generator,
    ) -> SlotCondition:
        """The reader's states first, while no other model is in use; then slots and CLIP tokens."""
        states = codec.reader.states(self.texts, references)
        copies = [on_black(image, geometry.width, geometry.height) for image in references]
        images = [image for image, _ in copies]
        grey_BCFHW = torch.zeros(1, 3, geometry.num_frames, geometry.height, geometry.width)
        slots_BCFHW = condition_slots(
            encode_each(codec, images),
            [box for _, box in copies],
            codec.encode(grey_BCFHW),
        )
        pixels_N3HW = torch.cat([image_for_clip(image, codec.image_side_px) for image in images])
        return SlotCondition(
            condition_BCFHW=slots_BCFHW,
            image_tokens_BTD=padded_tokens(codec.image_tokens(pixels_N3HW), len(references)),
            states_BTD={name: state_BTD.to(codec.device, codec.dtype) for name, state_BTD in states.items()},
        )


def on_black(image: Image.Image, width: int, height: int) -> tuple[Image.Image, Box]:
    """An RGB image on black at width × height pixels, centred, and the box [x0, y0, x1, y1) where it lies.

    Scaled down with Lanczos to fit, never up; sides are truncated to whole pixels, and of an uneven margin
    the larger half is right and below.
    """
    from PIL import Image

    ratio = min(width / image.width, height / image.height, 1.0)
    inner = (max(int(image.width * ratio), 1), max(int(image.height * ratio), 1))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = Image.new("RGB", (width, height), BLACK)
    canvas.paste(image.resize(inner, Image.Resampling.LANCZOS), (left, top))
    return canvas, (left, top, left + inner[0], top + inner[1])


def latent_box(box: Box, rows: int, columns: int) -> torch.Tensor:
    """A box of pixels as 0 and 1 (rows,columns): a cell is 1 when its upper left pixel lies in the box."""
    left, top, right, bottom = box
    down, across = (SPATIAL_COMPRESSION * np.arange(count) for count in (rows, columns))
    inside = ((down >= top) & (down < bottom))[:, None] & ((across >= left) & (across < right))
    return torch.from_numpy(inside).float()


def condition_slots(
    references_BCNHW: torch.Tensor, boxes: Sequence[Box], video_BCFHW: torch.Tensor
) -> torch.Tensor:
    """Mask and latents (1,20,4+F,H,W) of up to four references before those of the grey video.

    A reference's box is in the first of the mask's four channels; the others, unused slots and the video's
    mask are zero.
    """
    frames, rows, columns = video_BCFHW.shape[2:]
    channels = MASK_CHANNELS + video_BCFHW.shape[1]
    result = video_BCFHW.new_zeros(1, channels, SLOTS + frames, rows, columns)
    for slot, box in enumerate(boxes):
        result[:, 0, slot] = latent_box(box, rows, columns).to(result)
    result[:, MASK_CHANNELS:, : len(boxes)] = references_BCNHW
    result[:, MASK_CHANNELS:, SLOTS:] = video_BCFHW
    return result


def image_for_clip(image: Image.Image, size: int) -> torch.Tensor:
    """An RGB image with its black margins, squashed to (1,3,size,size) for CLIP: bilinear, antialiased."""
    pixels_B3HW = to_tensor(image)[None] / 2 + 0.5
    squashed = interpolate(pixels_B3HW, size=(size, size), mode="bilinear", antialias=True)
    return clip_normalised(squashed)


def padded_tokens(tokens_BTD: torch.Tensor, references: int) -> torch.Tensor:
    """The CLIP tokens (1,N·T,D) of N references, with zeros for those up to four: (1,4·T,D)."""
    tokens_each = tokens_BTD.shape[1] // references
    missing = (SLOTS - references) * tokens_each
    return torch.cat([tokens_BTD, tokens_BTD.new_zeros(1, missing, tokens_BTD.shape[2])], dim=1)


def reading_copy(image: Image.Image) -> Image.Image:
    """The smaller copy of a reference that the vision-language model sees, in whole tokens of 28 pixels.

    Raises SampleError for a picture that is more than 200 times as long as wide.
    """
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    scale = LARGE_SCALE if image.width * image.height > LARGE_PICTURE_PX else SCALE
    smaller = image.resize(
        (max(int(image.width * scale), 1), max(int(image.height * scale), 1)), Image.Resampling.BICUBIC
    )
    try:
        height, width = smart_resize(
            smaller.height, smaller.width, factor=TOKEN_SIDE_PX, min_pixels=FEWEST_PX, max_pixels=MOST_PX
        )
    except ValueError as error:
        raise SampleError(f"a reference is too narrow for the model: {one_line(error, 120)}") from None
    return smaller.resize((width, height), Image.Resampling.BICUBIC)


class VisionLanguageModel:
    """Qwen2.5-VL as a reader of texts with pictures. It is on the device only while it reads.

    Raises UserError for a folder that cannot be read.
    """

    def __init__(self, folder: Path, *, device: str, dtype: torch.dtype) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        # Without the output layer, of which nothing is read.
        self._model = load_model(AutoModelForImageTextToText, folder, dtype=dtype).model
        self._processor = load_part(AutoProcessor, folder)
        self._device, self._dtype = device, dtype

    @property
    def width(self) -> int:
        """Features of a state."""
        return int(self._model.config.get_text_config().hidden_size)

    def states(self, texts: Mapping[str, str], references: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """The last hidden states (1,T,D), after the final norm, of each text before the pictures in a chat.

        Raises SampleError for a text or picture that the model's processor refuses.
        """
        pictures = [reading_copy(image) for image in references]
        self._model.to(self._device)
        try:
            return {name: self._read(text, pictures) for name, text in texts.items()}
        finally:
            self._model.to("cpu")

    def _read(self, text: str, pictures: Sequence[Image.Image]) -> torch.Tensor:
        content = [{"type": "text", "text": text}, *({"type": "image", "image": one} for one in pictures)]
        chat = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        try:
            inputs = self._processor(text=[chat], images=list(pictures), return_tensors="pt")
            with torch.no_grad():
                read = self._model(**inputs.to(self._device, self._dtype), use_cache=False)
        except ValueError as error:
            raise SampleError(f"the prompt with its references: {one_line(error, 160)}") from None
        states_BTD: torch.Tensor = read.last_hidden_state
        return states_BTD
