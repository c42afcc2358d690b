"""Variant D of RefAlign's ablation: the network takes VAE latents and a teacher's features of the references.

    reference token = patch embedding(latents) + linear(teacher feature at the same place)

which is what a patch embedding makes of latents and features side by side along the channels.

    refbench train tiny --plugin examples/vae_and_teacher.py --data clips.jsonl --out run \\
        alignment.enabled=false reference_inputs.teacher_features.enabled=true
    refbench train table2_d --plugin examples/vae_and_teacher.py --data OpenS2V-5M --weights weights --out run

Of the paper (arXiv 2603.25743, Table 2, read in secondary text) it is known that D takes the features of VAE
and DINOv3 both as input, and that ablations are trained for 1,800 iterations. How they are joined is not
public. Ours: the sum above, the features normalised over their channels, weights that begin at zero (so that
training begins with the network as it was), and no alignment loss beside it.

The weights belong to the network. A generator that does not make the input refuses it; the trainer makes no
validation videos of it.

Shapes: B samples, T tokens of all references, C channels of the generator, D channels of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from refbench.refalign.losses import TokenWidths
from refbench.refalign.reference_inputs import (
    InputDeclaration,
    InputOptions,
    ReferenceFeatures,
    ReferenceInput,
    reference_inputs,
)
from refbench.refalign.training.recipes import register_recipe, stage1_1_3b
from refbench.refalign.training.settings import TrainingConfig

ABLATION_ITERATIONS = 1800


@dataclass(frozen=True, kw_only=True)
class TeacherFeaturesOptions(InputOptions):
    """Settings of the run: reference_inputs.teacher_features.teacher=dinov2-base."""

    teacher: str = "dinov3-vitb16"
    """Whose features the network takes."""


@reference_inputs.register
class TeacherFeatures(ReferenceInput):
    """The light part: what the input is called, can be told, and asks for."""

    declaration = InputDeclaration(
        name="teacher_features",
        summary="a teacher's features of the references beside their latents",
        source="arXiv 2603.25743, Table 2, row D; how the two are joined is ours",
    )
    Options = TeacherFeaturesOptions

    def teachers(self) -> tuple[str, ...]:
        """One teacher of the references."""
        return (self.options.teacher,)

    def build(self, widths: TokenWidths) -> TeacherEmbedding:
        """The linear layer, which becomes a part of the network."""
        teacher = self.options.teacher
        return TeacherEmbedding(teacher, widths.teachers[teacher], widths.generator)


class TeacherEmbedding(nn.Module):
    """From the teacher's channels to the network's. Without a bias: dropped references have zeros here."""

    def __init__(self, teacher: str, teacher_width: int, width: int) -> None:
        super().__init__()
        self.teacher = teacher
        self.linear = nn.Linear(teacher_width, width, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, given: ReferenceFeatures) -> torch.Tensor:
        """What is added to the reference tokens, (B,T,C)."""
        features_BTD = given.features[self.teacher].float()
        added_BTC: torch.Tensor = self.linear(nn.functional.layer_norm(features_BTD, features_BTD.shape[-1:]))
        return added_BTC


@register_recipe
def table2_d() -> TrainingConfig:
    """RefAlign's first stage without RA, for as long as the paper's ablations."""
    first = stage1_1_3b()
    return replace(
        first,
        recipe="table2_d",
        alignment=replace(first.alignment, enabled=False),
        reference_inputs={"teacher_features": TeacherFeaturesOptions(enabled=True)},
        run=replace(first.run, max_steps=ABLATION_ITERATIONS),
    )
