"""The weights of RefAlign's teachers. Nothing heavy is imported here."""

from __future__ import annotations

from refbench.bench.weights.catalogue import Declared
from refbench.bench.weights.common import CLIP_VIT_L14, DINOV2_BASE, DINOV3_BASE
from refbench.bench.weights.entry import MODEL_FILES, WeightEntry

DINOV3_LARGE = WeightEntry(
    name="dinov3-vitl16",
    repository="facebook/dinov3-vitl16-pretrain-lvd1689m",
    holds="DINOv3 ViT-L/16",
    kind="teacher",
    memory_gib=1.2,
    required=MODEL_FILES,
)
DINOV2_LARGE = WeightEntry(
    name="dinov2-large",
    repository="facebook/dinov2-large",
    holds="DINOv2 ViT-L/14",
    kind="teacher",
    memory_gib=1.2,
    required=MODEL_FILES,
)
SIGLIP2_BASE = WeightEntry(
    name="siglip2-base",
    repository="google/siglip2-base-patch16-512",
    holds="SigLIP 2 base, patch 16, 512 pixels",
    kind="teacher",
    memory_gib=1.4,
    required=MODEL_FILES,
)

TEACHER_WEIGHTS = Declared(
    user="refalign teacher",
    entries=(CLIP_VIT_L14, DINOV2_BASE, DINOV3_BASE, DINOV3_LARGE, DINOV2_LARGE, SIGLIP2_BASE),
)
