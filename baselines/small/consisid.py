"""A tiny ConsisID repository: a whole pipeline folder in the published layout, and a face reader's matrices.

Four narrow blocks with the face's tokens after every second one, positions for 96×64 pixels, the VAE's real
strides and 16 latent channels, T5's tokenizer as a SentencePiece file. The published face networks have one
size, so that `face_encoder` holds the matrices of a random reader instead.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from refbench.baselines.consisid.method import CONSISID
from refbench.bench.files import write_json
from refbench.bench.weights.tiny import marked_folder, random_parameter, random_state_dict, save_tensors

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
LAST_LAYER, LAST_LAYER_GAIN = "decoder.conv_out.conv.weight", 0.1
TEXT_WIDTH = 32
VOCABULARY = 120
SIZE = (96, 64)
IDENTITY_WIDTH, LAYER_WIDTH, LAYERS = 40, 24, 5
TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 6,
    "attention_head_dim": 16,
    "in_channels": 32,
    "out_channels": 16,
    "time_embed_dim": 32,
    "text_embed_dim": TEXT_WIDTH,
    "num_layers": 4,
    "sample_width": SIZE[0] // 8,
    "sample_height": SIZE[1] // 8,
    "sample_frames": 49,
    "use_rotary_positional_embeddings": True,
    "use_learned_positional_embeddings": True,
    "is_train_face": True,
    "is_kps": False,
    "cross_attn_interval": 2,
    "cross_attn_dim_head": 16,
    "cross_attn_num_heads": 2,
    "LFE_id_dim": IDENTITY_WIDTH,
    "LFE_vit_dim": LAYER_WIDTH,
    "LFE_depth": 10,
    "LFE_dim_head": 8,
    "LFE_num_heads": 2,
    "LFE_num_id_token": 2,
    "LFE_num_querie": 4,
    # The tokens' width follows from the blocks': two thirds of 96.
    "LFE_output_dim": 64,
    "LFE_ff_mult": 1,
    "LFE_num_scale": LAYERS,
}


def write_tiny(folder: Path) -> None:
    """Write the repository below `folder`, where `bench.weights.store` looks for it."""
    repository = marked_folder(folder, CONSISID.repository)
    for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler", "face_encoder"):
        (repository / part).mkdir(exist_ok=True)
    _write_networks(repository)
    _write_text_encoder(repository / "text_encoder")
    _write_tokenizer(repository / "tokenizer")
    _write_scheduler(repository / "scheduler")
    _write_faces(repository / "face_encoder")
    index = {
        "_class_name": "ConsisIDPipeline",
        "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "ConsisIDTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    write_json(repository / "model_index.json", index)


def _write_networks(repository: Path) -> None:
    import torch
    from diffusers import AutoencoderKLCogVideoX, ConsisIDTransformer3DModel

    with torch.device("meta"):
        transformer = ConsisIDTransformer3DModel(**TRANSFORMER)
        vae = AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=16,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
            # Tiles are half of this; these overlap in whole latent cells, as those of 720×480 do.
            sample_width=80,
            sample_height=96,
            scaling_factor=0.7,
        )
    for part, module in (("transformer", transformer), ("vae", vae)):
        module.save_config(repository / part)
        state = random_state_dict(module)
        if part == "vae":
            # Untrained networks leave large latents; most pixels would be black or white.
            state[LAST_LAYER] *= LAST_LAYER_GAIN
        save_tensors(repository / part, state, WEIGHTS_FILE)


def _write_text_encoder(folder: Path) -> None:
    import torch
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        architectures=["T5EncoderModel"],
        vocab_size=VOCABULARY,
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=2 * TEXT_WIDTH,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dtype="float32",
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        state = random_state_dict(T5EncoderModel(config))
    # One matrix under two names; the published files hold the first.
    state.pop("encoder.embed_tokens.weight", None)
    save_tensors(folder, state)


def _write_tokenizer(folder: Path) -> None:
    """T5's: padding, end and unknown are the first three numbers; characters are pieces."""
    import sentencepiece

    model = io.BytesIO()
    letters = " ".join(chr(code) for code in range(ord("!"), ord("~") + 1))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([letters, "a video of a face", "the person looks at the camera"]),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 226, **special}
    write_json(folder / "tokenizer_config.json", settings)


def _write_scheduler(folder: Path) -> None:
    """CogVideoX-5B's published schedule."""
    from diffusers import CogVideoXDPMScheduler

    CogVideoXDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
    ).save_config(folder)


def _write_faces(folder: Path) -> None:
    import torch

    from refbench.baselines.consisid.random_faces import FILE, PATCH_VALUES

    widths = {"identity": IDENTITY_WIDTH} | {f"layer_{index}": LAYER_WIDTH for index in range(LAYERS)}
    matrices = {
        name: torch.from_numpy(random_parameter(f"stand_in.{name}", (width, PATCH_VALUES)))
        for name, width in widths.items()
    }
    save_tensors(folder, matrices, FILE)
