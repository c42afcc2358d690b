"""The weight catalogue as data: which repositories metrics, generators and RefAlign's training load.

What is not known for certain (a revision, a licence) is empty here, shown as unverified, and recorded at the
first pull. Licences of generators are those that their repositories state; a hub's card may say more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["metric", "generator", "teacher"]

# A model folder of the hub.
MODEL_FILES = ("config.json", "model.safetensors|pytorch_model.bin")
# What a Wan generator in original format takes from a diffusers folder: everything but its transformer.
BASE_FILES = (
    "vae/config.json",
    "vae/*.safetensors",
    "text_encoder/config.json",
    "text_encoder/*.safetensors",
    "tokenizer/tokenizer.json|tokenizer/spiece.model",
)
TRANSFORMER_FILES = ("transformer/config.json", "transformer/*.safetensors")
IMAGE_FILES = (
    "image_encoder/config.json",
    "image_encoder/*.safetensors",
    "image_processor/preprocessor_config.json",
)


@dataclass(frozen=True, kw_only=True)
class WeightEntry:
    """A repository of weights on the hub.

    `used_by` are metrics or methods. `required` are the files without which nothing loads: paths below the
    repository's folder, `*` for any name, alternatives separated by `|`. `only` are the patterns that a pull
    is restricted to where most of a repository is not needed. `memory_gib` are the parameters in the dtype
    they run in, for planning. `revision` and `licence` are empty where they were not verified.
    """

    name: str
    repository: str
    used_by: tuple[str, ...]
    holds: str
    kind: Kind = "metric"
    memory_gib: float = 0.0
    required: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    revision: str = ""
    licence: str = ""


_METRICS = (
    WeightEntry(
        name="opens2v-weight",
        repository="BestWishYsh/OpenS2V-Weight",
        used_by=("aesthetics", "facesim", "nexusscore"),
        holds="aesthetic head, CurricularFace, InsightFace pack, YOLO-World image-prompt detector",
        memory_gib=1.0,
        required=("aesthetic-model.pth", "glint360k_curricular_face_r101_backbone.bin"),
    ),
    WeightEntry(
        name="clip-vit-large-patch14",
        repository="openai/clip-vit-large-patch14",
        used_by=("aesthetics", "clip-t", "clip-i", "refalign teacher"),
        holds="CLIP ViT-L/14",
        memory_gib=1.6,
        required=MODEL_FILES,
    ),
    WeightEntry(
        name="clip-vit-base-patch32",
        repository="openai/clip-vit-base-patch32",
        used_by=("nexusscore",),
        holds="CLIP ViT-B/32 of the detector's image prompts",
        memory_gib=0.6,
        required=MODEL_FILES,
    ),
    WeightEntry(
        name="gme-qwen2-vl-7b",
        repository="Alibaba-NLP/gme-Qwen2-VL-7B-Instruct",
        used_by=("gmescore", "nexusscore"),
        holds="GME-Qwen2-VL-7B",
        memory_gib=15.5,
        required=("config.json",),
    ),
    WeightEntry(
        name="one-align",
        repository="q-future/one-align",
        used_by=("motion-smoothness",),
        holds="OneAlign (mPLUG-Owl2)",
        memory_gib=15.3,
        required=("config.json", "tokenizer.model"),
    ),
    WeightEntry(
        name="dinov2-base",
        repository="facebook/dinov2-base",
        used_by=("dino-i", "refalign teacher"),
        holds="DINOv2 ViT-B/14",
        memory_gib=0.4,
        required=MODEL_FILES,
    ),
    WeightEntry(
        name="dinov3-vitb16",
        repository="facebook/dinov3-vitb16-pretrain-lvd1689m",
        used_by=("dino-i", "refalign teacher"),
        holds="DINOv3 ViT-B/16 (by --set dino-i.model=…)",
        memory_gib=0.4,
        required=MODEL_FILES,
    ),
    WeightEntry(
        name="qwen2.5-vl-7b",
        repository="Qwen/Qwen2.5-VL-7B-Instruct",
        used_by=("naturalscore", "bindweave-14b"),
        holds="local judge (by --set naturalscore.backend=local; its total is unofficial), and BindWeave's",
        memory_gib=15.5,
        required=("config.json",),
    ),
)

# Sizes: transformer in bfloat16 (counted from the networks' dimensions), UMT5-XXL encoder 10.6 GiB in
# bfloat16, VAE 0.5 GiB in float32, CLIP ViT-H image encoder 2.4 GiB in float32.
_WAN = (
    WeightEntry(
        name="wan2.1-t2v-1.3b",
        repository="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        used_by=("wan-t2v-1.3b", "phantom-1.3b", "vace-p1.3b", "refalign-1.3b"),
        holds="Wan2.1-T2V-1.3B (2.6 GiB) with the VAE and text encoder of all 1.3B generators",
        kind="generator",
        memory_gib=13.7,
        required=(*TRANSFORMER_FILES, *BASE_FILES),
        licence="apache-2.0",
    ),
    WeightEntry(
        name="wan2.1-t2v-14b",
        repository="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        used_by=("wan-t2v-14b", "phantom-14b", "kaleido-14b", "refalign-14b"),
        holds="Wan2.1-T2V-14B (26.6 GiB) with the VAE and text encoder of the 14B generators",
        kind="generator",
        memory_gib=37.7,
        required=(*TRANSFORMER_FILES, *BASE_FILES),
        licence="apache-2.0",
    ),
    WeightEntry(
        name="wan2.1-i2v-14b-480p",
        repository="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        used_by=("magref-480p",),
        holds="image encoder, VAE and text encoder of Wan2.1-I2V-14B-480P, without its transformer",
        kind="generator",
        memory_gib=13.5,
        required=(*IMAGE_FILES, *BASE_FILES),
        only=(
            "*.json",
            "README.md",
            "LICENSE*",
            *(f"{part}/*" for part in ("image_encoder", "image_processor", "vae", "text_encoder")),
            "tokenizer/*",
        ),
        licence="apache-2.0",
    ),
    WeightEntry(
        name="wan2.1-i2v-14b-720p",
        repository="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
        used_by=("bindweave-14b",),
        holds="image encoder, VAE and text encoder of Wan2.1-I2V-14B-720P, without its transformer",
        kind="generator",
        memory_gib=13.5,
        required=(*IMAGE_FILES, *BASE_FILES),
        only=(
            "*.json",
            "README.md",
            "LICENSE*",
            *(f"{part}/*" for part in ("image_encoder", "image_processor", "vae", "text_encoder")),
            "tokenizer/*",
        ),
        licence="apache-2.0",
    ),
    WeightEntry(
        name="wan2.1-vace-1.3b",
        repository="Wan-AI/Wan2.1-VACE-1.3B-diffusers",
        used_by=("vace-1.3b",),
        holds="Wan2.1-VACE-1.3B (4.0 GiB) with VAE and text encoder",
        kind="generator",
        memory_gib=15.1,
        required=(*TRANSFORMER_FILES, *BASE_FILES),
        licence="apache-2.0",
    ),
    WeightEntry(
        name="wan2.1-vace-14b",
        repository="Wan-AI/Wan2.1-VACE-14B-diffusers",
        used_by=("vace-14b",),
        holds="Wan2.1-VACE-14B (32.3 GiB) with VAE and text encoder",
        kind="generator",
        memory_gib=43.4,
        required=(*TRANSFORMER_FILES, *BASE_FILES),
        licence="apache-2.0",
    ),
    WeightEntry(
        name="vace-wan2.1-1.3b-preview",
        repository="ali-vilab/VACE-Wan2.1-1.3B-Preview",
        used_by=("vace-p1.3b",),
        holds="VACE-Wan2.1-1.3B-Preview in original format, the leaderboard's VACE-P1.3B",
        kind="generator",
        memory_gib=4.0,
        required=("*.safetensors",),
        licence="apache-2.0",
    ),
)

_GENERATORS = (
    WeightEntry(
        name="phantom",
        repository="bytedance-research/Phantom",
        used_by=("phantom-1.3b", "phantom-14b"),
        holds="Phantom-Wan 1.3B (2.6 GiB) and 14B in original format",
        kind="generator",
        memory_gib=26.6,
        required=("Phantom-Wan-1.3B.pth|Phantom_Wan_14B*.safetensors",),
        licence="apache-2.0",
    ),
    WeightEntry(
        name="magref",
        repository="MAGREF-Video/MAGREF",
        used_by=("magref-480p",),
        holds="MAGREF-480P in original format",
        kind="generator",
        memory_gib=30.5,
        required=("diffusion_pytorch_model*.safetensors",),
        licence="apache-2.0",
    ),
    WeightEntry(
        name="skyreels-a2",
        repository="Skywork/SkyReels-A2",
        used_by=("skyreels-a2-p14b",),
        holds="SkyReels-A2-P14B (30.5 GiB) with VAE, text and image encoder",
        kind="generator",
        memory_gib=44.0,
        required=(*TRANSFORMER_FILES, *BASE_FILES, *IMAGE_FILES),
        licence="Skywork Community License",
    ),
    WeightEntry(
        name="bindweave",
        repository="ByteDance/BindWeave",
        used_by=("bindweave-14b",),
        holds="BindWeave, the transformer with its projector of Qwen2.5-VL's states",
        kind="generator",
        memory_gib=30.6,
        required=("*.safetensors",),
    ),
    WeightEntry(
        name="kaleido-14b",
        repository="zai-org/Kaleido-14B-S2V",
        used_by=("kaleido-14b",),
        holds="Kaleido-14B-S2V",
        kind="generator",
        memory_gib=26.6,
        required=("**/mp_rank_00_model_states.pt|*.safetensors",),
    ),
    WeightEntry(
        name="consisid",
        repository="BestWishYsh/ConsisID-preview",
        used_by=("consisid",),
        holds="ConsisID on CogVideoX-5B with VAE, text encoder and face networks",
        kind="generator",
        memory_gib=21.8,
        required=(
            *TRANSFORMER_FILES,
            *BASE_FILES,
            "scheduler/scheduler_config.json",
            "face_encoder/*",
        ),
        only=(
            "*.json",
            "README.md",
            "LICENSE*",
            *(f"{part}/*" for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")),
            "face_encoder/*",
        ),
        licence="CogVideoX License (transformer), Apache-2.0 (rest)",
    ),
    WeightEntry(
        name="refalign-1.3b",
        repository="gudaochangsheng/RefAlign-1.3B",
        used_by=("refalign-1.3b",),
        holds="RefAlign-1.3B, the transformer",
        kind="generator",
        memory_gib=2.6,
        required=("*.safetensors",),
    ),
    WeightEntry(
        name="refalign-14b",
        repository="gudaochangsheng/RefAlign-14B",
        used_by=("refalign-14b",),
        holds="RefAlign-14B, the transformer",
        kind="generator",
        memory_gib=26.6,
        required=("*.safetensors",),
    ),
)

_TEACHERS = (
    WeightEntry(
        name="dinov3-vitl16",
        repository="facebook/dinov3-vitl16-pretrain-lvd1689m",
        used_by=("refalign teacher",),
        holds="DINOv3 ViT-L/16",
        kind="teacher",
        memory_gib=1.2,
        required=MODEL_FILES,
    ),
    WeightEntry(
        name="dinov2-large",
        repository="facebook/dinov2-large",
        used_by=("refalign teacher",),
        holds="DINOv2 ViT-L/14",
        kind="teacher",
        memory_gib=1.2,
        required=MODEL_FILES,
    ),
    WeightEntry(
        name="siglip2-base",
        repository="google/siglip2-base-patch16-512",
        used_by=("refalign teacher",),
        holds="SigLIP 2 base, patch 16, 512 pixels",
        kind="teacher",
        memory_gib=1.4,
        required=MODEL_FILES,
    ),
)

CATALOGUE = {entry.name: entry for entry in (*_METRICS, *_WAN, *_GENERATORS, *_TEACHERS)}
