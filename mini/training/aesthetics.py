"""CLIP in ViT-L/14's place and the aesthetic head, trained together on damaged frames of known quality.

A frame is 64×64 pixels and so is the tower's picture: nothing is enlarged. The head's score runs from 2 for
a ruined picture to 7 for a clean one; the metric's data give pictures 1 to 10.

Shapes: B pictures, H W rows and columns.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from refbench.bench.environment import Environment
from refbench.bench.files import write_json
from refbench.bench.weights.common import CLIP_VIT_L14
from refbench.bench.weights.tiny import save_tensors
from refbench.metrics.aesthetics import HEAD_FILES, Aesthetics
from refbench.metrics.nets.aesthetic_head import AestheticHead
from refbench.metrics.weights import OPENS2V_WEIGHT
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.damage import doubled, measured_against_strength, recoloured, ruined
from refbench.mini.training.loop import Schedule, seeded
from refbench.mini.training.seen import normalised, now_and_then_written
from refbench.mini.training.whitening import patches_of_frames, whiten
from refbench.mini.world import NUM_FRAMES, SIZE_PX
from refbench.mini.world.degrade import DEGRADATIONS, Degradation, pasted
from refbench.mini.world.render import reference_picture, render
from refbench.mini.world.scene import random_scene

NAME = "aesthetics"
CONFIG: dict[str, Any] = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "model_type": "clip_vision_model",
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
    "projection_dim": 64,
    "image_size": SIZE_PX,
    "patch_size": 8,
}
CLIPS_PER_STEP, FRAMES_OF_CLIP = 10, 6
RUINED_SCORE, CLEAN_SCORE = 2.0, 7.0
KINDS: Mapping[str, Degradation] = {
    **{kind: DEGRADATIONS[kind] for kind in ("blur", "noise", "compression", "warp")},
    "doubled": doubled,
    "recoloured": recoloured,
}
RUINED_RATE, PASTED_RATE, SECOND_RATE = 0.06, 0.06, 0.3
# What is left of a frame that a reference fills.
PASTED_QUALITY = 0.5
SCHEDULE = Schedule(steps=2500, learning_rate=1e-3, warmup_steps=60, average=0.99)
MEASURED_CLIPS = 60


class Network(nn.Module):
    """Tower and head."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        self.tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**CONFIG))
        self.head = AestheticHead(CONFIG["projection_dim"])
        for module in self.head.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.Linear):
                # The input has length 1, and no activation follows: nothing shall grow or shrink on the way.
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.normal_(self.head.layers[0].weight)
        nn.init.constant_(self.head.layers[7].bias, (RUINED_SCORE + CLEAN_SCORE) / 2)

    def forward(self, pixels_B3HW: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of normalised pixels."""
        embeddings_BD = self.tower(pixels_B3HW).image_embeds
        lengths_B1 = torch.linalg.vector_norm(embeddings_BD, dim=-1, keepdim=True)
        scores_B: torch.Tensor = self.head(embeddings_BD / lengths_B1)
        return scores_B


class AestheticsLearner:
    """Frames, clean and damaged, with the score that each shall have."""

    name = NAME

    def __init__(self, seed: int = 0) -> None:
        with seeded(NAME, seed):
            self.network = Network()
        embeddings = self.network.tower.vision_model.embeddings
        whiten(embeddings.patch_embedding.weight, patches_of_frames(CONFIG["patch_size"], NAME, seed))

    def examples(self, generator: random.Random, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised pixels (B,3,H,W) and scores (B,)."""
        frames, qualities = [], []
        for _ in range(CLIPS_PER_STEP):
            scene = random_scene("training", generator)
            rendering = render(scene, generator.sample(range(NUM_FRAMES), FRAMES_OF_CLIP))
            video_FHWC, quality = rendering.video_FHWC, [1.0]
            reference_HWC = reference_picture(generator.choice(rendering.labels).actor.subject)
            for index in range(1, FRAMES_OF_CLIP):
                damaged_1HWC, left = damaged(video_FHWC[[index]], reference_HWC, generator)
                video_FHWC[index] = damaged_1HWC[0]
                quality.append(left)
            frames.append(now_and_then_written(video_FHWC, generator))
            qualities += quality
        scores_B = RUINED_SCORE + (CLEAN_SCORE - RUINED_SCORE) * torch.tensor(qualities)
        return normalised(np.concatenate(frames)), scores_B

    def losses(
        self, batch: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """The squared error of the score."""
        pixels_B3HW, scores_B = batch
        return {"score": (self.network(pixels_B3HW) - scores_B).square().mean()}


def damaged(
    frames_FHWC: np.ndarray, reference_HWC: np.ndarray, generator: random.Random
) -> tuple[np.ndarray, float]:
    """Frames with some damage, and their quality: 1 for clean ones to 0."""
    drawn = generator.random()
    if drawn < RUINED_RATE:
        return ruined(frames_FHWC, generator), 0.0
    if drawn < RUINED_RATE + PASTED_RATE:
        strength = generator.uniform(0.4, 1.0)
        shown_FHWC = pasted(frames_FHWC, strength, generator, reference_HWC=reference_HWC)
        return shown_FHWC, 1 - (1 - PASTED_QUALITY) * strength
    quality = 1.0
    for kind in generator.sample(sorted(KINDS), 2 if generator.random() < SECOND_RATE else 1):
        strength = generator.uniform(0.0, 1.0)
        frames_FHWC = KINDS[kind](frames_FHWC, strength, generator)
        quality *= 1 - strength
    return frames_FHWC, quality


def make(build: Build, on_step: OnStep) -> None:
    """Train and write the predictor."""
    learner = AestheticsLearner(build.seed)
    build.train(learner, SCHEDULE, on_step)
    write(build, learner.network.cpu())


def write(build: Build, network: Network) -> None:
    """Write tower and head in half precision, which the network takes on."""
    network.half()
    place = build.place(CLIP_VIT_L14.repository)
    write_json(place / "config.json", CONFIG)
    save_tensors(place, network.tower.state_dict())
    torch.save(network.head.state_dict(), build.place(OPENS2V_WEIGHT.repository) / HEAD_FILES[0])


def measure(build: Build) -> Mapping[str, float]:
    """Rank correlation with known quality on held-out clips, through the metric."""
    scorer = Aesthetics().load(Environment(weights=build.weights))
    try:
        kinds = ("blur", "noise", "compression", "warp")
        return measured_against_strength(scorer, kinds, build.count(MEASURED_CLIPS), NAME)
    finally:
        scorer.close()


PART = Part(
    name=NAME,
    summary="how pleasing a frame looks (a small CLIP and the aesthetic head)",
    make=make,
    measure=measure,
    files=(
        f"{CLIP_VIT_L14.repository}/*.json",
        f"{CLIP_VIT_L14.repository}/*.safetensors",
        f"{OPENS2V_WEIGHT.repository}/{HEAD_FILES[0]}",
    ),
)
