"""NaturalScore's local judge: a small Qwen2-VL that answers with a digit from 1 to 5.

The judge gets every frame of a video and the whole instruction, as any judge does. Its image processor makes
a picture 64×64 pixels again, in 4 tokens, and its tokenizer knows the lines of the instruction, each as one
token: a video is 110 tokens.

The label is the known strength of the damage: 5 for a clean video, less the more it is damaged, 3.5 for one
that stands still, 1 for noise, a plain colour, and references that are shown instead of a video, still, under
a pan, or as a flash. A label between two digits is shared between them.

Shapes: V videos, F frames, H W rows and columns, L tokens, P patches.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from refbench.baselines.controls.canvas import letterboxed
from refbench.baselines.controls.flash_frame import FlashOptions, flashed
from refbench.baselines.controls.pan_reference import PanOptions, panned
from refbench.bench.environment import Environment
from refbench.bench.weights.common import QWEN25_VL
from refbench.metrics.judges.instruction import OURS
from refbench.metrics.naturalscore import NaturalScore, NaturalScoreOptions
from refbench.metrics.small.naturalscore import END, FURTHER_FILES
from refbench.metrics.small.qwen2_vl import write_settings
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.damage import (
    doubled,
    measured_against_strength,
    recoloured,
    ruined,
    value_of,
)
from refbench.mini.training.loop import Schedule, on_device, seeded
from refbench.mini.training.qwen import keep_sizes, save_half, trained_config, trained_processor
from refbench.mini.training.seen import clips, now_and_then_written, written
from refbench.mini.training.tokens import text_merges
from refbench.mini.training.whitening import patches_of_frames, whiten
from refbench.mini.world import NUM_FRAMES, SIZE_PX
from refbench.mini.world.degrade import DEGRADATIONS, Degradation, pasted
from refbench.mini.world.render import Rendering, reference_picture, render
from refbench.mini.world.scene import random_scene

NAME = "naturalscore"
MERGES = text_merges([OURS, "user\n", "assistant\n"])
VISION = {
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 2,
    "patch_size": 8,
    "spatial_merge_size": 4,
}
CONFIG = trained_config(MERGES, width=96, layers=3, heads=4, vision=VISION)
PROCESSOR = trained_processor(VISION, min_pixels=SIZE_PX**2, max_pixels=SIZE_PX**2)
TOKENS_OF_FRAME = (SIZE_PX // VISION["patch_size"] // VISION["spatial_merge_size"]) ** 2
GAUGE_WEIGHT = 0.3
# What is left of a frame's pixel after it was enlarged for judges and made small again: a little blur.
AFTER_RESIZES = np.array([-0.0135, 0.0935, 0.84, 0.0935, -0.0135])

# Drawing a clip costs as much as learning from it: each is damaged in two ways.
CLIPS_PER_STEP, VIDEOS_OF_CLIP = 12, 2
WORST, STILL, BEST = 1.0, 3.5, 5.0
# How much of the scale the full strength of a damage takes.
WEIGHTS: Mapping[str, float] = {
    "blur": 1.0, "noise": 1.0, "flicker": 1.0, "compression": 1.0, "jitter": 1.0, "warp": 1.0, "doubled": 1.0,
    "recoloured": 0.6,
}  # fmt: skip
KINDS: Mapping[str, Degradation] = {**DEGRADATIONS, "doubled": doubled, "recoloured": recoloured}
# How often a video is left or treated in each way.
WAYS: Mapping[str, float] = {
    "clean": 0.22, "ruined": 0.06, "shown": 0.16, "freeze": 0.06, "pasted": 0.1, "damaged": 0.4,
}  # fmt: skip
# A reference that takes the place of a quarter of the video is as bad as half the strength of other damage.
PASTED_FROM = 0.3
SCHEDULE = Schedule(steps=1500, learning_rate=2e-3, warmup_steps=100, average=0.99)
MEASURED = ("blur", "noise", "flicker", "compression", "jitter", "warp")
MEASURED_CLIPS = 60


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Patches (P,C) of all frames, and the number (V,), 1 to 5, that each video deserves."""

    patches_PC: torch.Tensor
    deserved_V: torch.Tensor


class Network(nn.Module):
    """The judge, and what teaches its picture tokens to show damage: from those of each frame a linear layer,
    which is not kept, makes the number that its video deserves.
    """

    def __init__(self) -> None:
        super().__init__()
        from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

        self.judge = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**CONFIG))
        keep_sizes(self.judge)
        self.gauge = nn.Linear(TOKENS_OF_FRAME * CONFIG["hidden_size"], 1)
        self.seen: list[torch.Tensor] = []
        self.judge.model.visual.register_forward_hook(self._see)

    def _see(self, module: nn.Module, inputs: object, output: Any) -> None:
        self.seen = [output.pooler_output]

    def gauged(self, videos: int) -> torch.Tensor:
        """The number (V,) by the picture tokens that the judge saw last: the mean of the frames'."""
        tokens_VFD = self.seen.pop().reshape(videos, NUM_FRAMES, -1)
        numbers_V: torch.Tensor = self.gauge(tokens_VFD).mean(dim=(1, 2))
        return numbers_V


class JudgeLearner:
    """The answer after the instruction, and the end after the answer."""

    name = NAME

    def __init__(self, place: Path, seed: int = 0) -> None:
        """`place` is a folder with the settings that the real judge reads."""
        from transformers import AutoProcessor

        with seeded(NAME, seed):
            self.network = Network()
        embedding = self.network.judge.model.visual.patch_embed
        whiten(embedding.proj.weight, patches_of_frames(VISION["patch_size"], NAME, seed))
        processor = AutoProcessor.from_pretrained(place)
        self.digits: list[int] = [processor.tokenizer.convert_tokens_to_ids(digit) for digit in "12345"]
        question = asked(processor, [np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)] * NUM_FRAMES)
        self.question = {key: value for key, value in question.items() if key != "pixel_values"}

    def examples(self, generator: random.Random, progress: float) -> Judged:
        """Videos of the training split, damaged in every way."""
        videos, deserved = [], []
        for _ in range(CLIPS_PER_STEP):
            rendering = render(random_scene("training", generator))
            for _ in range(VIDEOS_OF_CLIP):
                video_FHWC, number = judged_video(rendering, generator)
                videos.append(now_and_then_written(video_FHWC, generator))
                deserved.append(number)
        return Judged(
            patches_PC=torch.from_numpy(np.concatenate([patches(video) for video in videos])),
            deserved_V=torch.tensor(deserved),
        )

    def losses(self, batch: Judged, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Cross-entropies of the digit and of the end."""
        videos = len(batch.deserved_V)
        low_V = batch.deserved_V.floor().clamp(max=BEST - 1)
        share_V = batch.deserved_V - low_V
        index_V = low_V.long() - 1
        digits_V5 = functional.one_hot(index_V, 5) * (1 - share_V[:, None])
        digits_V5 = digits_V5 + functional.one_hot(index_V + 1, 5) * share_V[:, None]
        digits = torch.tensor(self.digits)
        answers_V1 = digits[digits_V5.argmax(1)][:, None]
        held = on_device(self.question, answers_V1.device)
        question = {key: value.repeat_interleave(videos, 0) for key, value in held.items()}
        if "image_grid_thw" in question:
            question["image_grid_thw"] = held["image_grid_thw"].repeat(videos, 1)
        for key, filler in (("input_ids", answers_V1), ("attention_mask", torch.ones_like(answers_V1))):
            question[key] = torch.cat([question[key], filler], 1)
        if "mm_token_type_ids" in question:
            more = torch.zeros_like(answers_V1)
            question["mm_token_type_ids"] = torch.cat([question["mm_token_type_ids"], more], 1)
        logits = self.network.judge(
            **question, pixel_values=batch.patches_PC, logits_to_keep=2, use_cache=False
        ).logits
        wanted = torch.zeros_like(logits[:, 0]).index_add(1, digits, digits_V5.to(logits.dtype))
        end_V = torch.full((videos,), END)
        return {
            "digit": functional.cross_entropy(logits[:, 0], wanted),
            "gauge": GAUGE_WEIGHT * functional.mse_loss(self.network.gauged(videos), batch.deserved_V),
            "end": functional.cross_entropy(logits[:, 1], end_V),
        }


def asked(processor: Any, frames: Sequence[np.ndarray]) -> Mapping[str, torch.Tensor]:
    """The judge's input for RGB frames, as the local judge makes it."""
    pictures = [{"type": "image", "image": Image.fromarray(frame)} for frame in frames]
    inputs: Mapping[str, torch.Tensor] = processor.apply_chat_template(
        [{"role": "user", "content": [*pictures, {"type": "text", "text": OURS}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return inputs


def patches(video_FHWC: np.ndarray) -> np.ndarray:
    """What the image processor makes of frames that were enlarged for judges: (P,C), float32."""
    taps, edges = AFTER_RESIZES, cv2.BORDER_REPLICATE
    seen_FHWC = np.stack([cv2.sepFilter2D(frame, -1, taps, taps, borderType=edges) for frame in video_FHWC])
    mean_C, std_C = (np.array(PROCESSOR[key], np.float32) for key in ("image_mean", "image_std"))
    pixels_FHWC = (seen_FHWC / np.float32(255) - mean_C) / std_C
    side, merged = VISION["patch_size"], VISION["spatial_merge_size"]
    blocks = SIZE_PX // side // merged
    # Patches that become one token follow each other.
    cut = pixels_FHWC.reshape(len(video_FHWC), blocks, merged, side, blocks, merged, side, 3)
    return cut.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, 3 * side**2)


def judged_video(rendering: Rendering, generator: random.Random) -> tuple[np.ndarray, float]:
    """A video, clean or damaged, and the number, 1 to 5, that it deserves."""
    video_FHWC = rendering.video_FHWC
    best = STILL if is_still(video_FHWC) else BEST
    strength = generator.uniform(0.0, 1.0)
    way = generator.choices(list(WAYS), list(WAYS.values()))[0]
    match way:
        case "clean":
            return video_FHWC, best
        case "ruined":
            return ruined(video_FHWC, generator), WORST
        case "shown":
            return references_shown(rendering, generator), WORST
        case "freeze":
            return DEGRADATIONS["freeze"](video_FHWC, strength, generator), best - (best - STILL) * strength
        case "pasted":
            subject = generator.choice(rendering.labels).actor.subject
            reference_HWC = reference_picture(subject, face=generator.random() < 0.5)
            strength = generator.uniform(PASTED_FROM, 1.0)
            number = best - (best - WORST) * (0.5 + 0.5 * strength)
            return pasted(video_FHWC, strength, generator, reference_HWC=reference_HWC), number
    kind = generator.choice(sorted(WEIGHTS))
    number = best - (best - WORST) * WEIGHTS[kind] * strength
    return KINDS[kind](video_FHWC, strength, generator), number


def is_still(video_FHWC: np.ndarray) -> bool:
    """Whether nothing moves."""
    return bool((video_FHWC == video_FHWC[:1]).all())


def references_shown(rendering: Rendering, generator: random.Random) -> np.ndarray:
    """The controls that show references instead of a video: still, under a pan, or for a moment."""
    subjects = [label.actor.subject for label in rendering.labels]
    layout_HWC = layout([reference_picture(one, face=generator.random() < 0.4) for one in subjects])
    size: dict[str, Any] = {"width": SIZE_PX, "height": SIZE_PX, "num_frames": NUM_FRAMES}
    way = generator.random()
    if way < 0.4:
        return np.repeat(layout_HWC[None], NUM_FRAMES, 0)
    if way < 0.75:
        options = PanOptions(travel=generator.uniform(0, 0.3), zoom=generator.uniform(1, 1.4), **size)
        return np.stack(list(panned(Image.fromarray(layout_HWC), options)))
    flash = FlashOptions(
        flash_frames=generator.randint(1, 3),
        flash_at=generator.random(),
        cell_px=generator.choice((4, 8, 16, 16)),
        drift_px=generator.randint(0, 3),
        **size,
    )
    return np.stack(list(flashed(layout_HWC, "", generator.randrange(2**32), flash)))


def layout(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures side by side on white, as the controls lay out references, RGB uint8 (64,64,3)."""
    canvas = Image.new("RGB", (SIZE_PX, SIZE_PX), "white")
    for index, picture_HWC in enumerate(pictures):
        left, right = (edge * SIZE_PX // len(pictures) for edge in (index, index + 1))
        canvas.paste(letterboxed(Image.fromarray(picture_HWC), right - left, SIZE_PX), (left, 0))
    return np.array(canvas)


def make(build: Build, on_step: OnStep) -> None:
    """Train and write the judge."""
    place = build.place(QWEN25_VL.repository)
    write_settings(
        place, config=CONFIG, image_processor=PROCESSOR, merges=MERGES, further_files=FURTHER_FILES
    )
    learner = JudgeLearner(place, build.seed)
    build.train(learner, SCHEDULE, on_step)
    save_half(place, learner.network.judge.cpu())


def measure(build: Build) -> Mapping[str, float]:
    """On held-out clips, through the metric: rank correlation with known strength, and the mean number of
    clean videos and of references shown in their place.
    """
    scorer = NaturalScore(NaturalScoreOptions(backend="local")).load(Environment(weights=build.weights))
    try:
        figures = measured_against_strength(scorer, MEASURED, build.count(MEASURED_CLIPS, 6), NAME)
        for name, make_video in (
            ("clean", lambda rendering, generator: rendering.video_FHWC),
            ("references_shown", references_shown),
            ("ruined", lambda rendering, generator: ruined(rendering.video_FHWC, generator)),
        ):
            values = []
            for rendering, generator in clips("held-out", build.count(MEASURED_CLIPS // 3), f"{NAME}/{name}"):
                with written(make_video(rendering, generator)) as video:
                    values.append(value_of(scorer, video))
            answered = [value for value in values if value is not None]
            figures[f"mean_{name}"] = float(np.mean(answered)) if answered else math.nan
        return figures
    finally:
        scorer.close()


PART = Part(
    name=NAME,
    summary="the local judge of how natural a video is (a small Qwen2-VL)",
    make=make,
    measure=measure,
    files=(f"{QWEN25_VL.repository}/*.json", f"{QWEN25_VL.repository}/*.safetensors"),
)
