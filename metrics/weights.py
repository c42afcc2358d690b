"""Weights that several metrics load, each declared once. Nothing is registered here."""

from __future__ import annotations

from refbench.bench.weights.entry import MODEL_FILES, WeightEntry

OPENS2V_WEIGHT = WeightEntry(
    name="opens2v-weight",
    repository="BestWishYsh/OpenS2V-Weight",
    holds="aesthetic head, CurricularFace, InsightFace pack, YOLO-World image-prompt detector",
    memory_gib=1.0,
    required=("aesthetic-model.pth", "glint360k_curricular_face_r101_backbone.bin"),
)
GME_QWEN2_VL = WeightEntry(
    name="gme-qwen2-vl-7b",
    repository="Alibaba-NLP/gme-Qwen2-VL-7B-Instruct",
    holds="GME-Qwen2-VL-7B",
    memory_gib=15.5,
    required=("config.json",),
)
CLIP_VIT_B32 = WeightEntry(
    name="clip-vit-base-patch32",
    repository="openai/clip-vit-base-patch32",
    holds="CLIP ViT-B/32 of the detector's image prompts",
    memory_gib=0.6,
    required=MODEL_FILES,
)
