"""Phantom's network: Wan's with references behind the video as further frames."""

from __future__ import annotations

from typing import ClassVar

from refbench.baselines.wan.nets.transformer import ReferenceRule, ReferenceWanTransformer3DModel


class PhantomTransformer3DModel(ReferenceWanTransformer3DModel):
    """References behind the video as further frames; they read the prompt like any frame.

    Source: `phantom_wan/subject2video.py` of Phantom-video/Phantom, which concatenates latents and runs Wan's
    network unchanged; the solver there carries the references' frames along and drops them, which changes
    nothing.
    """

    rule: ClassVar[ReferenceRule] = ReferenceRule(position="tail", rope="continue", text=True)
