"""Weights that several wings load, each declared once: metrics, generators and RefAlign's teachers."""

from __future__ import annotations

from refbench.bench.weights.entry import MODEL_FILES, WeightEntry

CLIP_VIT_L14 = WeightEntry(
    name="clip-vit-large-patch14",
    repository="openai/clip-vit-large-patch14",
    holds="CLIP ViT-L/14",
    memory_gib=1.6,
    required=MODEL_FILES,
)
DINOV2_BASE = WeightEntry(
    name="dinov2-base",
    repository="facebook/dinov2-base",
    holds="DINOv2 ViT-B/14",
    memory_gib=0.4,
    required=MODEL_FILES,
)
DINOV3_BASE = WeightEntry(
    name="dinov3-vitb16",
    repository="facebook/dinov3-vitb16-pretrain-lvd1689m",
    holds="DINOv3 ViT-B/16 (by --set dino-i.backbone=…)",
    memory_gib=0.4,
    required=MODEL_FILES,
)
QWEN25_VL = WeightEntry(
    name="qwen2.5-vl-7b",
    repository="Qwen/Qwen2.5-VL-7B-Instruct",
    holds="local judge (by --set naturalscore.backend=local; its total is unofficial), and BindWeave's",
    memory_gib=15.5,
    required=("config.json",),
)
