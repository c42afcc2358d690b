"""Kaleido's network: Wan's with references before the video, at rotary positions apart from it."""

from __future__ import annotations

from typing import ClassVar

import torch

from refbench.baselines.wan.nets.transformer import ReferenceRule, ReferenceWanTransformer3DModel


class KaleidoTransformer3DModel(ReferenceWanTransformer3DModel):
    """References before the video, at its own time indices, 80 rows and columns away (R-RoPE).

    Source: `dit_video_crossattn.py` of zai-org/Kaleido@4c6c757 (`overloop`, max_h = max_w = 80).
    """

    rule: ClassVar[ReferenceRule] = ReferenceRule(
        position="head", rope="shifted", rope_shift=80, rope_dtype=torch.float32, text=True
    )
