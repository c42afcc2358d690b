"""Tiny diffusers pipeline folders of the Wan family: what every generator's base repository holds.

The parts keep what the sampling code relies on (the VAE's strides and latent statistics, 257 CLIP tokens of
a 224-pixel picture, special token numbers, flow sigmas) and are as small as they go in everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.baselines.small.networks import (
    IMAGE_WIDTH,
    LOW_NOISE_VALUES,
    TEXT_WIDTH,
    network,
    tensors,
    write_shards,
)
from refbench.baselines.wan.latents import WAN21_LATENTS, LatentSpace
from refbench.baselines.wan.prompts import MAGREF_NEGATIVE, MAX_TEXT_TOKENS, REFALIGN_14B_NEGATIVE
from refbench.bench.files import write_json
from refbench.bench.weights.tiny import random_state_dict, save_tensors

if TYPE_CHECKING:
    import torch

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
WORD_START = "▁"
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model"


def write_pipeline(
    folder: Path,
    config: Mapping[str, Any],
    *,
    pipeline: str,
    shards: int = 1,
    extra_keys: tuple[str, ...] = (),
    boundary: float | None = None,
    latents: LatentSpace = WAN21_LATENTS,
) -> None:
    """Write a whole pipeline folder.

    Args:
        folder: the repository's, which exists.
        config: the transformer's, in diffusers' terms; one with `image_dim` brings the CLIP parts.
        pipeline: the class that `model_index.json` names.
        shards: files of the transformer.
        extra_keys: keys that the transformer's file holds and its network does not, one value per channel.
        boundary: of two experts; `transformer_2` is then the low-noise one.
        latents: the VAE's space.
    """
    write_transformer(folder / "transformer", config, shards, extra_keys)
    write_vae(folder / "vae", latents)
    write_tokenizer(folder / "tokenizer")
    write_text_encoder(folder / "text_encoder")
    write_scheduler(folder / "scheduler")
    index = pipeline_index(pipeline, type(network(config)).__name__)
    if boundary is not None:
        write_transformer(folder / "transformer_2", config, shards, extra_keys, values=LOW_NOISE_VALUES)
        index |= {"transformer_2": index["transformer"], "boundary_ratio": boundary}
    if "image_dim" in config:
        write_image_encoder(folder / "image_encoder")
        write_image_processor(folder / "image_processor")
        index |= {
            "image_encoder": ["transformers", "CLIPVisionModel"],
            "image_processor": ["transformers", "CLIPImageProcessor"],
        }
    write_json(folder / "model_index.json", index)


def pipeline_index(pipeline: str, transformer: str) -> dict[str, Any]:
    """`model_index.json` of a text-to-video folder: its parts and their classes."""
    return {
        "_class_name": pipeline,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", transformer],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }


def write_transformer(
    folder: Path, config: Mapping[str, Any], shards: int, extra_keys: tuple[str, ...], *, values: str = ""
) -> None:
    """Write the transformer under diffusers' names."""
    import torch

    folder.mkdir(exist_ok=True)
    network(config).save_config(folder)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    extra = {key: torch.ones(width) for key in extra_keys}
    write_shards(folder, tensors(config, values=values) | extra, DIFFUSERS_WEIGHTS, shards)


def write_vae(folder: Path, latents: LatentSpace = WAN21_LATENTS) -> None:
    """Write a VAE of four channels: 4 times shorter, with 8 or 16 pixels to a latent, the latter in the form
    of Wan2.2-TI2V-5B's (residual blocks on patches of 2×2 pixels).
    """
    import torch
    from diffusers import AutoencoderKLWan

    folder.mkdir(exist_ok=True)
    with torch.device("meta"):
        vae = AutoencoderKLWan(
            base_dim=4,
            z_dim=latents.channels,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            **({} if latents == WAN21_LATENTS else _patched_vae(latents)),
        )
    vae.save_config(folder)
    save_tensors(folder, random_state_dict(vae), f"{DIFFUSERS_WEIGHTS}.safetensors")


def _patched_vae(latents: LatentSpace) -> dict[str, Any]:
    """What Wan2.2-TI2V-5B's VAE is configured with beside Wan2.1's, its own latent statistics among them."""
    channels = range(latents.channels)
    return {
        "decoder_base_dim": 4,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": latents.stride_px,
        "scale_factor_temporal": latents.stride_frames,
        "latents_mean": [0.01 * (number % 7) - 0.03 for number in channels],
        "latents_std": [0.5 + 0.02 * (number % 11) for number in channels],
    }


def write_text_encoder(folder: Path) -> None:
    """Write a two-layer UMT5 encoder under the published names of its tensors."""
    import torch
    from transformers import UMT5EncoderModel

    config = text_encoder_config(len(vocabulary()), TEXT_WIDTH)
    with torch.device("meta"):
        state = random_state_dict(UMT5EncoderModel(config))
    save_text_encoder(folder, config, state)


def text_encoder_config(words: int, width: int, **changes: Any) -> Any:
    """A small UMT5 encoder for a vocabulary of `words`: two layers of `width`, four heads."""
    from transformers import UMT5Config

    return UMT5Config(
        architectures=["UMT5EncoderModel"],
        vocab_size=words,
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        dtype="float32",
        **changes,
    )


def save_text_encoder(folder: Path, config: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Write an encoder as `text_encoder/` has it."""
    folder.mkdir(exist_ok=True)
    config.save_pretrained(folder)
    # One matrix under two names; the published files hold the first.
    save_tensors(folder, {key: state[key] for key in state if key != "encoder.embed_tokens.weight"})


def write_tokenizer(
    folder: Path, pieces: Sequence[tuple[str, float]] | None = None, text_rows: int = MAX_TEXT_TOKENS
) -> None:
    """Write a T5 tokenizer of `pieces` with their scores: by default single characters, and bytes for all
    others. `text_rows` is the most tokens of a text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    folder.mkdir(exist_ok=True)
    pieces = list(pieces or vocabulary())
    numbers = {piece: number for number, (piece, _) in enumerate(pieces)}
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=numbers[UNKNOWN], byte_fallback=True))
    words = pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement=WORD_START, prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, numbers[END])]
    )
    tokenizer.add_special_tokens([PAD, END, UNKNOWN])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    write_json(folder / "special_tokens_map.json", special)
    settings = {
        **special,
        "tokenizer_class": "T5Tokenizer",
        "model_max_length": text_rows,
        "extra_ids": 0,
        "additional_special_tokens": [],
    }
    write_json(folder / "tokenizer_config.json", settings)


def vocabulary() -> list[tuple[str, float]]:
    """Pieces with their scores: special ones, 256 bytes, the word's start, characters.

    The negative prompts' characters have pieces of their own, because the T5 tokenizer of transformers 5
    makes one unknown token of characters that have none, bytes or not.
    """
    special = [(piece, 0.0) for piece in (PAD, END, UNKNOWN)]
    bytes_ = [(f"<0x{byte:02X}>", -10.0) for byte in range(256)]
    characters = {chr(code) for code in range(ord("!"), ord("~") + 1)}
    characters |= set(MAGREF_NEGATIVE + REFALIGN_14B_NEGATIVE) - {" "}
    return [*special, *bytes_, (WORD_START, -2.0), *((character, -3.0) for character in sorted(characters))]


def write_scheduler(folder: Path) -> None:
    """Write the published scheduler: UniPC over flow sigmas, shift 3."""
    from diffusers import UniPCMultistepScheduler

    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ).save_config(folder)


def write_image_encoder(folder: Path) -> None:
    """Write a CLIP picture tower: 224 pixels in patches of 14 are 257 tokens, of which the second-last of
    three layers is read.
    """
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    folder.mkdir(exist_ok=True)
    config = CLIPVisionConfig(
        architectures=["CLIPVisionModel"],
        hidden_size=IMAGE_WIDTH,
        intermediate_size=2 * IMAGE_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=224,
        patch_size=14,
        projection_dim=IMAGE_WIDTH,
        hidden_act="gelu",
        dtype="float32",
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        module = CLIPVisionModel(config)
    save_tensors(folder, random_state_dict(module, _published_name))


def _published_name(key: str) -> str:
    """transformers 5 names the tower's tensors without the prefix that published files have."""
    return f"vision_model.{key.removeprefix('vision_model.')}"


def write_image_processor(folder: Path) -> None:
    """Write CLIP's preparation of pictures: short side to 224 pixels, centre, OpenAI's mean and deviation."""
    folder.mkdir(exist_ok=True)
    content = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    write_json(folder / "preprocessor_config.json", content)
