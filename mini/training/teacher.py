"""The vision teacher of the alignment loss: a small DINOv3 in the real one's place that tells subjects apart.

Learned from pairs of views of one subject against all others of the batch (a contrastive loss over the mean
of its patch tokens), with a head that is thrown away. What is used of it later are the patch tokens.

Shapes: B subjects, H W rows and columns, T tokens, D channels.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.loop import Schedule, fixed_threads, seeded
from refbench.mini.training.measures import auc
from refbench.mini.training.subjects import two_views
from refbench.refalign.small_teacher import write_teacher
from refbench.refalign.teacher import DEFAULT_TEACHER, Teacher, get_teacher_spec

NAME = "teacher"
WIDTH, LAYERS, HEADS = 96, 4, 4
HEAD_WIDTH = 64
SUBJECTS_PER_STEP = 48
TEMPERATURE = 0.1
JUDGED_SUBJECTS = 200

SCHEDULE = Schedule(steps=2500, learning_rate=1e-3, warmup_steps=100, average=0.998)


class TeacherNetwork(nn.Module):
    """The DINOv3 and the head of its training."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import DINOv3ViTModel

        self.network = DINOv3ViTModel(teacher_config())
        self.head = nn.Linear(WIDTH, HEAD_WIDTH)

    def forward(self, pictures_BHWC: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, HEAD_WIDTH) of uint8 pictures."""
        spec = get_teacher_spec(DEFAULT_TEACHER)
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        pixels_BCHW = ((pictures_BHWC.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        states_BTD = self.network(pixels_BCHW).last_hidden_state
        patches_BTD = states_BTD[:, 1 + self.network.config.num_register_tokens :]
        return functional.normalize(self.head(patches_BTD.mean(dim=1)), dim=1)


def teacher_config() -> Any:
    """Configuration of the small DINOv3: patches of 16 pixels as the real one, 4 layers of 96 channels."""
    from transformers import DINOv3ViTConfig

    return DINOv3ViTConfig(
        patch_size=get_teacher_spec(DEFAULT_TEACHER).patch_px,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_register_tokens=4,
        layerscale_value=0.1,
    )


class TeacherLearner:
    """Each view finds the other view of its subject among all of the batch."""

    name = NAME

    def __init__(self, seed: int = 0) -> None:
        with seeded(NAME, seed):
            self.network = TeacherNetwork()

    def examples(self, generator: random.Random, progress: float) -> torch.Tensor:
        """Pictures (2B,H,W,3) uint8: first views, then the other views in the same order."""
        return torch.from_numpy(np.concatenate(two_views("training", SUBJECTS_PER_STEP, generator)))

    def losses(self, batch: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The symmetric contrastive loss."""
        first_BD, second_BD = self.network(batch).chunk(2)
        cosines_BB = first_BD @ second_BD.T / TEMPERATURE
        own_B = torch.arange(len(cosines_BB))
        loss = functional.cross_entropy(cosines_BB, own_B) + functional.cross_entropy(cosines_BB.T, own_B)
        return {"contrast": loss / 2}


def make(build: Build, on_step: OnStep) -> None:
    """Train the teacher and write it."""
    learner = TeacherLearner(build.seed)
    build.train(learner, SCHEDULE, on_step)
    folder = build.place(get_teacher_spec(DEFAULT_TEACHER).repository)
    write_teacher(folder, learner.network.network.cpu(), half=True)


def measure(build: Build) -> dict[str, float]:
    """How well its patch tokens, on average over a picture, separate held-out subjects: the area under the
    curve of same against different, and the share whose other view is nearest among 20.
    """
    teacher = Teacher.load(DEFAULT_TEACHER, build.weights)
    generator = random.Random(f"{NAME}/measure")
    views = two_views("held-out", build.count(JUDGED_SUBJECTS, least=8), generator)
    with fixed_threads():
        first_BD, second_BD = (
            functional.normalize(teacher.features(torch.from_numpy(view), (4, 4)).mean(dim=1), dim=1)
            for view in views
        )
    cosines_BB = (first_BD @ second_BD.T).numpy()
    own = np.eye(len(cosines_BB), dtype=bool)
    groups = [slice(start, start + 20) for start in range(0, len(own) - 19, 20)] or [slice(None)]
    found = [cosines_BB[few, few].argmax(axis=1) == np.arange(len(own[few])) for few in groups]
    return {
        "identity_auc": auc(cosines_BB[own].tolist(), cosines_BB[~own].tolist()),
        "recall_at_1_of_20": float(np.concatenate(found).mean()),
    }


PART = Part(
    name=NAME,
    summary="the vision teacher of the alignment loss",
    make=make,
    measure=measure,
    files=(f"{get_teacher_spec(DEFAULT_TEACHER).repository}/*",),
)
