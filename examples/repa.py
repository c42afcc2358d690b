"""REPA on the noisy video: tokens of one block are aligned to a teacher's features of the clean frames.

    distance = mean over tokens of 1 - cos(mlp(token), teacher feature at the same place)

A file like this one is all that a training loss needs:

    refbench train tiny --plugin examples/repa.py --data clips.jsonl --out run \\
        alignment.enabled=false losses.repa.enabled=true losses.repa.block=1
    refbench train stage1_1_3b_repa --plugin examples/repa.py --data OpenS2V-5M --weights weights --out run

docs/training.md says what a loss is given. The teacher sees the frames 0, 4, 8, … of the clip, one for each
latent frame, on the grid of the video's tokens.

Source: arXiv 2410.06940; sihyun-yu/REPA@2b8c181, loss.py and models/sit.py: the coefficient 0.5, tokens after
the eighth block, three layers with SiLU. Different here: videos and Wan instead of images and SiT; DINOv3
instead of DINOv2, to compare with RefAlign (`losses.repa.teacher=dinov2-base`); 1 is added to -cos, so that 0
means aligned; layers begin in torch's own way.

Shapes: B samples, V tokens of the video, C channels of the generator, D channels of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from refbench.refalign.losses import (
    AlignmentLoss,
    LossDeclaration,
    LossInputs,
    LossModule,
    LossNeeds,
    LossOptions,
    TokenWidths,
    losses,
)
from refbench.refalign.training.recipes import register_recipe, stage1_1_3b
from refbench.refalign.training.settings import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RepaOptions(LossOptions):
    """Settings of the run: losses.repa.weight=0.25, losses.repa.block=10, …"""

    weight: float = 0.5
    """Weight beside flow matching."""

    block: int = 7
    """After which block, counted from 0, the tokens are taken."""

    teacher: str = "dinov3-vitb16"
    """Whose features are aimed at."""

    hidden: int = 2048
    """Channels inside of the MLP."""


@losses.register
class Repa(AlignmentLoss):
    """The light part: what the loss is called, can be told, and asks for. Nothing is built yet."""

    declaration = LossDeclaration(
        name="repa",
        terms=("distance",),
        summary="tokens of the noisy video towards a teacher's features of the clean frames",
        source="arXiv 2410.06940",
    )
    Options = RepaOptions

    def needs(self) -> LossNeeds:
        """One block of the video's tokens, and one teacher of the clip's frames."""
        return LossNeeds(video_blocks=(self.options.block,), frame_teachers=(self.options.teacher,))

    def build(self, widths: TokenWidths) -> RepaModule:
        """The MLP, drawn from the run's seed."""
        return RepaModule(self.options, widths.generator, widths.teachers[self.options.teacher])


class RepaModule(LossModule):
    """The MLP, trained with the network and kept in the run's checkpoints."""

    def __init__(self, options: RepaOptions, width: int, teacher_width: int) -> None:
        super().__init__()
        self.options = options
        self.project = nn.Sequential(
            nn.Linear(width, options.hidden),
            nn.SiLU(),
            nn.Linear(options.hidden, options.hidden),
            nn.SiLU(),
            nn.Linear(options.hidden, teacher_width),
        )

    def terms(self, inputs: LossInputs) -> dict[str, torch.Tensor]:
        """`distance`, one value for each sample."""
        projected_BVD = self.project(inputs.video_tokens[self.options.block])
        teacher_BVD = inputs.frame_features[self.options.teacher]
        # In float32: cosines of bfloat16 tokens are rounded to 1/256.
        cosine_BV = torch.cosine_similarity(projected_BVD.float(), teacher_BVD.float(), dim=-1)
        return {"distance": 1 - cosine_BV.mean(dim=1)}


@register_recipe
def stage1_1_3b_repa() -> TrainingConfig:
    """RefAlign's first stage with REPA in the place of RA."""
    first = stage1_1_3b()
    return replace(
        first,
        recipe="stage1_1_3b_repa",
        alignment=replace(first.alignment, enabled=False),
        losses={"repa": RepaOptions(enabled=True)},
    )
