"""Weights that several generators of the Wan family load, each declared once.

Sizes: transformer in bfloat16 (counted from the networks' dimensions), UMT5-XXL encoder 10.6 GiB in bfloat16,
VAE 0.5 GiB in float32, CLIP ViT-H image encoder 2.4 GiB in float32.
"""

from __future__ import annotations

from refbench.bench.weights.entry import BASE_FILES, IMAGE_FILES, TRANSFORMER_FILES, WeightEntry

# What a generator with a transformer of its own takes from a folder of Wan's image-to-video models.
WITHOUT_TRANSFORMER = (
    "*.json",
    "README.md",
    "LICENSE*",
    *(f"{part}/*" for part in ("image_encoder", "image_processor", "vae", "text_encoder")),
    "tokenizer/*",
)

# Files of two experts in diffusers' folders and in Wan's own.
HIGH_NOISE_FILES = ("transformer/*.safetensors", "high_noise_model/*.safetensors")
LOW_NOISE_FILES = ("transformer_2/*.safetensors", "low_noise_model/*.safetensors")

WAN21_T2V_1_3B = WeightEntry(
    name="wan2.1-t2v-1.3b",
    repository="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    holds="Wan2.1-T2V-1.3B (2.6 GiB) with the VAE and text encoder of all 1.3B generators",
    kind="generator",
    memory_gib=13.7,
    required=(*TRANSFORMER_FILES, *BASE_FILES),
    licence="apache-2.0",
)
WAN21_T2V_14B = WeightEntry(
    name="wan2.1-t2v-14b",
    repository="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    holds="Wan2.1-T2V-14B (26.6 GiB) with the VAE and text encoder of the 14B generators",
    kind="generator",
    memory_gib=37.7,
    required=(*TRANSFORMER_FILES, *BASE_FILES),
    licence="apache-2.0",
)
WAN22_T2V_A14B = WeightEntry(
    name="wan2.2-t2v-a14b",
    repository="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    holds="Wan2.2-T2V-A14B (two experts of 26.6 GiB) with VAE and text encoder",
    kind="generator",
    memory_gib=64.3,
    required=(
        *TRANSFORMER_FILES,
        "transformer_2/config.json",
        "transformer_2/*.safetensors",
        *BASE_FILES,
    ),
    licence="apache-2.0",
)
WAN22_TI2V_5B = WeightEntry(
    name="wan2.2-ti2v-5b",
    repository="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    holds="Wan2.2-TI2V-5B (9.3 GiB) with its own VAE of 48 channels, and text encoder",
    kind="generator",
    memory_gib=22.5,
    required=(*TRANSFORMER_FILES, *BASE_FILES),
    licence="apache-2.0",
)
WAN21_I2V_14B_480P = WeightEntry(
    name="wan2.1-i2v-14b-480p",
    repository="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    holds="image encoder, VAE and text encoder of Wan2.1-I2V-14B-480P, without its transformer",
    kind="generator",
    memory_gib=13.5,
    required=(*IMAGE_FILES, *BASE_FILES),
    only=WITHOUT_TRANSFORMER,
    licence="apache-2.0",
)
WAN21_I2V_14B_720P = WeightEntry(
    name="wan2.1-i2v-14b-720p",
    repository="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
    holds="image encoder, VAE and text encoder of Wan2.1-I2V-14B-720P, without its transformer",
    kind="generator",
    memory_gib=13.5,
    required=(*IMAGE_FILES, *BASE_FILES),
    only=WITHOUT_TRANSFORMER,
    licence="apache-2.0",
)
