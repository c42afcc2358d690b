"""The networks whose references stand in the sequence, one class per reference rule.

Together with `ConcatReferences` (how references are encoded and noise is drawn) and a guidance rule these
are the four hooks in which Phantom, Kaleido and RefAlign differ: reference position, rotary rule, guidance
rule, patch path.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from refbench.baselines.wan.nets.transformer import ReferenceRule, ReferenceWanTransformer3DModel


class PhantomTransformer3DModel(ReferenceWanTransformer3DModel):
    """References behind the video as further frames; they read the prompt like any frame.

    Source: `phantom_wan/subject2video.py` of Phantom-video/Phantom, which concatenates latents and runs Wan's
    network unchanged; the solver there carries the references' frames along and drops them, which changes
    nothing.
    """

    rule: ClassVar[ReferenceRule] = ReferenceRule(position="tail", rope="continue", text=True)


class KaleidoTransformer3DModel(ReferenceWanTransformer3DModel):
    """References before the video, at its own time indices, 80 rows and columns away (R-RoPE).

    Source: `dit_video_crossattn.py` of zai-org/Kaleido@4c6c757 (`overloop`, max_h = max_w = 80).
    """

    rule: ClassVar[ReferenceRule] = ReferenceRule(
        position="head", rope="shifted", rope_shift=80, rope_dtype=torch.float32, text=True
    )
