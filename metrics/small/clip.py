"""Small CLIPs in the published layout: one with a tokenizer in ViT-L/14's place, an image half in B/32's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.bench.files import write_json
from refbench.bench.weights.common import CLIP_VIT_L14
from refbench.bench.weights.tiny import marked_folder, random_state_dict, save_tensors
from refbench.metrics.nets.pixels import CLIP_MEAN, CLIP_STD
from refbench.metrics.small.byte_tokens import byte_symbols
from refbench.metrics.small.noise import scaled_noise
from refbench.metrics.weights import CLIP_VIT_B32

if TYPE_CHECKING:
    import torch

CONTEXT_LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
IMAGE_PX = 224


def byte_vocabulary() -> dict[str, int]:
    """CLIP's vocabulary without merges: 256 bytes, the same at a word's end, start and end of text."""
    characters = list(byte_symbols())
    tokens = [*characters, *(character + END_OF_WORD for character in characters), START, END]
    return {token: number for number, token in enumerate(tokens)}


def clip_config(
    *, patch_px: int, heads: int, mlp_width: int, projection: int, width: int = 32, layers: int = 2
) -> dict[str, Any]:
    """config.json of a CLIP whose halves have the same width and layers and whose text half reads bytes."""
    vocabulary = byte_vocabulary()
    tower = {
        "hidden_size": width,
        "intermediate_size": mlp_width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu",
        "projection_dim": projection,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": projection,
        "vision_config": {
            **tower,
            "model_type": "clip_vision_model",
            "patch_size": patch_px,
            "image_size": IMAGE_PX,
        },
        "text_config": {
            **tower,
            "model_type": "clip_text_model",
            "vocab_size": len(vocabulary),
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": vocabulary[START],
            "eos_token_id": vocabulary[END],
            "pad_token_id": vocabulary[END],
        },
    }


PICTURE_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": IMAGE_PX,
    "resample": 3,
    "do_center_crop": True,
    "crop_size": IMAGE_PX,
    "do_normalize": True,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
}
SMALL_L14 = clip_config(patch_px=28, heads=4, mlp_width=128, projection=48)
SMALL_B32 = clip_config(patch_px=32, heads=2, mlp_width=64, projection=32)


def write_clip_l14(folder: Path) -> None:
    """Write a whole CLIP with its tokenizer below `folder`, where ViT-L/14 is looked for."""
    from transformers import CLIPConfig, CLIPModel

    place = marked_folder(folder, CLIP_VIT_L14.repository)
    tokenizer = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    write_json(place / "config.json", SMALL_L14)
    write_json(place / "vocab.json", byte_vocabulary())
    write_json(place / "tokenizer_config.json", tokenizer)
    (place / "merges.txt").write_text("#version: 0.2\n")
    save_tensors(place, random_state_dict(CLIPModel(CLIPConfig.from_json_file(place / "config.json"))))


def write_clip_b32(folder: Path) -> None:
    """Write an image half with its picture processor below `folder`, where ViT-B/32 is looked for."""
    import torch

    place = marked_folder(folder, CLIP_VIT_B32.repository)
    with torch.device("meta"):
        half = image_half(SMALL_B32)
    tensors = {
        key: torch.from_numpy(scaled_noise(key, tuple(tensor.shape), gain=2))
        for key, tensor in sorted(half.state_dict().items())
    }
    write_image_half(place, SMALL_B32, tensors)


def image_half(config: Mapping[str, Any]) -> Any:
    """The image half of a CLIP by its config.json."""
    from transformers import CLIPConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(CLIPConfig.from_dict(dict(config)).vision_config)


def write_image_half(place: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write an image half of a CLIP with its picture processor into a repository's folder."""
    write_json(place / "config.json", config)
    write_json(place / "preprocessor_config.json", PICTURE_PROCESSOR)
    save_tensors(place, tensors)
