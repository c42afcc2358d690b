"""RefAlign's network: Wan with reference tokens behind the video's, which do not read the prompt.

Reference i takes the temporal index F + i after a video of F latent frames, and rows and columns from 0, of
any size. The projectors of the alignment loss are not part of it (`refalign.alignment`): inference does not
need them.

Source: RefAlign, arXiv 2603.25743, code at gudaochangsheng/RefAlign@6f91526 (goldens `refalign/`).
"""

from __future__ import annotations

from typing import ClassVar

from refbench.baselines.wan.nets.transformer import ReferenceRule, ReferenceWanTransformer3DModel


class RefAlignTransformer3DModel(ReferenceWanTransformer3DModel):
    """Reference latents (B,C,N,h,w) in, states of the reference tokens out; see the parent's `forward`."""

    rule: ClassVar[ReferenceRule] = ReferenceRule(position="tail", rope="continue", text=False)
