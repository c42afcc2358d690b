"""The rater of windows of frames: a small mPLUG-Owl2 in OneAlign's place.

The metric does not ask how good a window is but where the ratings of neighbouring windows differ by more than
0.025. So a rating has to tell how far the frame in the middle jumps from its neighbours, on a scale on which
few differences of a slightly damaged video pass 0.025 and most of a badly damaged one do. The label is

    rating = 0.9 · exp(-0.07 · j)

with j the jump: the mean difference of the middle frame's damage from that of its neighbours, so scaled that
its mean over the video is the known strength of the damage. Steady damage and steady motion are no jump. The
loss looks at differences of neighbouring ratings above all.

Shapes: V videos, F frames or windows of a video, Y X pixels.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from refbench.bench.environment import Environment
from refbench.bench.weights.tiny import save_tensors
from refbench.metrics.motion_smoothness import (
    JUMP_THRESHOLD,
    ONE_ALIGN,
    RATING_WEIGHTS,
    TOKENIZER_FILE,
    MotionSmoothness,
    read_prompt,
    window_indices,
)
from refbench.metrics.nets.mplug_owl2.network import MplugOwl2, MplugOwl2Config
from refbench.metrics.small.motion_smoothness import CONFIG as RANDOM_CONFIG
from refbench.metrics.small.motion_smoothness import grid_positions, write_settings
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.damage import measured_against_strength
from refbench.mini.training.loop import Schedule, seeded
from refbench.mini.training.seen import normalised, now_and_then_written
from refbench.mini.training.whitening import patches_of_frames, whiten
from refbench.mini.world import NUM_FRAMES, SIZE_PX
from refbench.mini.world.degrade import DEGRADATIONS
from refbench.mini.world.render import render
from refbench.mini.world.scene import random_scene

NAME = "motion_smoothness"
# Patches and queries along a side: a query for each square of 2×2 patches.
GRID, QUERY_GRID, VISION_WIDTH = 8, 4, 64
CONFIG: dict[str, Any] = RANDOM_CONFIG | {
    "hidden_size": 96,
    "intermediate_size": 192,
    "visual_config": {
        "visual_model": {
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 2 * VISION_WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIZE_PX,
            "patch_size": SIZE_PX // GRID,
            "layer_norm_eps": 1e-6,
        },
        "visual_abstractor": {
            "num_learnable_queries": QUERY_GRID**2,
            "hidden_size": VISION_WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 2 * VISION_WIDTH,
            "layer_norm_eps": 1e-6,
            "encoder_hidden_size": VISION_WIDTH,
            "grid_size": GRID,
        },
    },
}
VIDEOS_PER_STEP = 6
# What makes frames jump, what is hard to see more often; the other videos are clean, or damaged evenly.
JUMPY = ("flicker", "jitter", "jitter", "warp", "warp", "noise")
JUMPY_RATE = 0.7
EVEN = ("blur", "freeze", "compression")
SMOOTH_RATING, DECAY = 0.9, 0.075
THUMBNAIL_STEP = 4
LEVEL_WEIGHT = 0.5
WINDOWS = [window_indices(centre, NUM_FRAMES) for centre in range(NUM_FRAMES)]
SCHEDULE = Schedule(steps=1500, learning_rate=1e-3, warmup_steps=100, average=0.99)
MEASURED = ("flicker", "jitter", "warp")
MEASURED_CLIPS = 60


@dataclass(frozen=True, kw_only=True)
class Rated:
    """Normalised pixels (V·F,3,Y,X) of videos and the rating of each of their windows (V,F)."""

    pixels_N3YX: torch.Tensor
    ratings_VF: torch.Tensor


class SmoothnessLearner:
    """Ratings of the windows of whole videos."""

    name = NAME

    def __init__(self, tokenizer_file: Any, seed: int = 0) -> None:
        self.prompt = read_prompt(tokenizer_file, CONFIG["vocab_size"])
        with seeded(NAME, seed):
            self.network = Network(seed)

    def examples(self, generator: random.Random, progress: float) -> Rated:
        """Videos of the training split, most of them damaged."""
        videos, ratings = [], []
        for _ in range(VIDEOS_PER_STEP):
            clean_FHWC = render(random_scene("training", generator)).video_FHWC
            video_FHWC, rating_F = damaged(clean_FHWC, generator)
            videos.append(now_and_then_written(video_FHWC, generator))
            ratings.append(rating_F)
        return Rated(
            pixels_N3YX=normalised(np.concatenate(videos)),
            ratings_VF=torch.from_numpy(np.stack(ratings)).float(),
        )

    def losses(self, batch: Rated, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Errors of the differences of neighbouring ratings, in units of the metric's threshold, of the
        ratings, and of small pictures.
        """
        videos = len(batch.ratings_VF)
        rater = self.network.rater
        encoded_NQD = rater.encode_frames(batch.pixels_N3YX)
        vectors = encoded_NQD.unflatten(0, (videos, NUM_FRAMES))
        windows = torch.stack([vectors[:, list(window)].flatten(1, 2) for window in WINDOWS], 1)
        logits = rater.word_logits(
            rater.prefix(self.prompt.before),
            windows.flatten(0, 1),
            self.prompt.after,
            self.prompt.words,
        )
        worth = torch.tensor(list(RATING_WEIGHTS.values()), device=logits.device)
        rated_VF = (logits.softmax(-1) @ worth).view(videos, NUM_FRAMES)
        error_VF = (rated_VF - batch.ratings_VF) / JUMP_THRESHOLD
        small_N3YX = functional.avg_pool2d(batch.pixels_N3YX, THUMBNAIL_STEP)
        made_N = self.network.thumbnail(encoded_NQD[:, :-1].flatten(1))
        return {
            "thumbnail": (made_N - small_N3YX.flatten(1)).square().mean(),
            "differences": functional.smooth_l1_loss(error_VF.diff(dim=1), torch.zeros_like(error_VF[:, 1:])),
            "level": LEVEL_WEIGHT * functional.smooth_l1_loss(error_VF, torch.zeros_like(error_VF)),
        }


class Network(nn.Module):
    """The rater, and what teaches its vectors to say what is where in a frame: from those of a frame a linear
    layer, which is not kept, makes the frame anew at a quarter of its size.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.rater = new_rater(seed)
        values = QUERY_GRID**2 * CONFIG["hidden_size"]
        self.thumbnail = nn.Linear(values, 3 * (SIZE_PX // THUMBNAIL_STEP) ** 2)


def new_rater(seed: int = 0) -> MplugOwl2:
    """An untrained rater that looks where it has to from the start: a query at its square, and an image
    vector at those of the same look, which are the same square in the other frames.
    """
    network = MplugOwl2(MplugOwl2Config.from_json(CONFIG, "the small configuration"))
    model = network.model
    embeddings = model.vision_model.embeddings
    whiten(embeddings.patch_embed.weight, patches_of_frames(SIZE_PX // GRID, NAME, seed))
    nn.init.normal_(embeddings.position_embedding, std=0.3)
    nn.init.normal_(embeddings.cls_token, std=0.02)
    nn.init.normal_(model.visual_abstractor.query_embeds, std=0.3)
    nn.init.normal_(model.visual_abstractor.vit_eos, std=0.02)
    positions = torch.from_numpy(grid_positions(GRID, VISION_WIDTH))
    squares = positions[1:].view(QUERY_GRID, GRID // QUERY_GRID, QUERY_GRID, GRID // QUERY_GRID, -1)
    for layer in model.visual_abstractor.encoder.layers:
        attention = layer.crossattention.attention
        attention.k_pos_embed.copy_(positions)
        attention.q_pos_embed.copy_(squares.mean((1, 3)).flatten(0, 1))
        for projection in (attention.query, attention.key):
            start_as_identity(projection, 0.02)
    for layer in model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj.multiway[1]):
            start_as_identity(projection, 0.05)
    return network


@torch.no_grad()
def start_as_identity(projection: nn.Linear, noise: float) -> None:
    """Let a projection give its input and a little noise."""
    nn.init.normal_(projection.weight, std=noise)
    projection.weight.add_(torch.eye(len(projection.weight)))


def damaged(clean_FHWC: np.ndarray, generator: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """The video with some damage, and the rating (F,) of the window around each frame."""
    strength = generator.uniform(0.0, 1.0)
    if generator.random() < JUMPY_RATE:
        video_FHWC = DEGRADATIONS[generator.choice(JUMPY)](clean_FHWC, strength, generator)
        return video_FHWC, ratings(clean_FHWC, video_FHWC, strength)
    if generator.random() < 0.5:
        clean_FHWC = DEGRADATIONS[generator.choice(EVEN)](clean_FHWC, strength, generator)
    return clean_FHWC, np.full(len(clean_FHWC), SMOOTH_RATING)


def ratings(clean_FHWC: np.ndarray, video_FHWC: np.ndarray, strength: float) -> np.ndarray:
    """The label (F,) of each window of a video of known damage."""
    damage_FHWC = video_FHWC.astype(np.float32) - clean_FHWC
    jumps_FHWC = np.stack(
        [
            damage_FHWC[middle] - (damage_FHWC[left] + damage_FHWC[right]) / 2
            for left, middle, right in WINDOWS
        ]
    )
    jump_F = np.abs(jumps_FHWC).mean(axis=(1, 2, 3))
    rating_F: np.ndarray = SMOOTH_RATING * np.exp(-DECAY * strength * jump_F / max(jump_F.mean(), 1e-6))
    return rating_F


def make(build: Build, on_step: OnStep) -> None:
    """Train and write the rater."""
    place = build.place(ONE_ALIGN.repository)
    write_settings(place, CONFIG)
    learner = SmoothnessLearner(place / TOKENIZER_FILE, build.seed)
    build.train(learner, SCHEDULE, on_step)
    save_tensors(
        place, {key: value.half() for key, value in learner.network.rater.cpu().state_dict().items()}
    )


def measure(build: Build) -> Mapping[str, float]:
    """Rank correlation with known strength on held-out clips, through the metric."""
    scorer = MotionSmoothness().load(Environment(weights=build.weights))
    try:
        return measured_against_strength(scorer, MEASURED, build.count(MEASURED_CLIPS), NAME)
    finally:
        scorer.close()


PART = Part(
    name=NAME,
    summary="how steady a video is (a small mPLUG-Owl2 in OneAlign's place)",
    make=make,
    measure=measure,
    files=tuple(
        f"{ONE_ALIGN.repository}/{name}" for name in ("config.json", "model.safetensors", TOKENIZER_FILE)
    ),
)
