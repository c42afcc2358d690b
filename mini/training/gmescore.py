"""The embedder of GmeScore and NexusScore: a Qwen2-VL of 0.5 million parameters, trained by contrast.

Prompts against frames: each prompt shall find its frame among those of a step, among frames of its own clip
that are damaged, and references pasted over it. Reference pictures against subjects cut out of frames: each
shall find its own. Labels against the same crops: as NexusScore compares them with a fixed number, a right
label shall be over it and a wrong one under it.

The metric enlarges every picture to 448×448 pixels, 256 tokens. Patches of 28 pixels of which none are merged
give these tokens at the least cost: each shows 4×4 pixels of a frame.

Shapes: B pictures or texts, L tokens, D width, P patches, C values of a patch, T image tokens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from refbench.bench.environment import Environment
from refbench.metrics.gmescore import GmeScore, GmeScorer, frame_groups, frame_scores
from refbench.metrics.nets.gme import (
    DEFAULT_INSTRUCTION,
    TEXT_INSTRUCTION,
    GmeEmbedder,
    first_resize,
    gme_prompt,
    model_size,
)
from refbench.metrics.nexusscore import HUMAN_LABEL, MIN_TEXT_SIMILARITY
from refbench.metrics.small.qwen2_vl import TOKEN_IDS, write_settings
from refbench.metrics.weights import GME_QWEN2_VL
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.loop import Schedule, seeded
from refbench.mini.training.qwen import (
    colours_of,
    raw_patches,
    save_half,
    take_raw_patches,
    trained_config,
    trained_processor,
)
from refbench.mini.training.seen import clips, now_and_then_written, sample_of, written
from refbench.mini.training.tokens import text_merges
from refbench.mini.training.whitening import some_frames, whiten
from refbench.mini.world import SIZE_PX
from refbench.mini.world.degrade import DEGRADATIONS, pasted
from refbench.mini.world.identity import Subject
from refbench.mini.world.people import Person
from refbench.mini.world.prompts import prompt_of, words_of_prompts
from refbench.mini.world.render import ActorLabels, Rendering, place_picture, reference_picture, render
from refbench.mini.world.scene import random_scene
from refbench.mini.world.things import SHAPES

NAME = "gmescore"
# What is said around every text and picture, but for the special tokens, at which the tokenizer cuts anyway.
TEMPLATE = [f"system\n{instruction}" for instruction in (DEFAULT_INSTRUCTION, TEXT_INSTRUCTION)]
MERGES = text_merges([*TEMPLATE, "user\n", "assistant\n"], words_of_prompts())
VISION = {
    "embed_dim": 64,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2,
    "patch_size": 28,
    "spatial_merge_size": 1,
}
CONFIG = trained_config(MERGES, width=64, layers=2, heads=4, vision=VISION)

CLIPS_PER_STEP, SUBJECTS_PER_STEP, DAMAGED_PER_STEP, NOTHING_PER_STEP = 20, 8, 5, 2
LABELS = [*(shape.capitalize() for shape in sorted(SHAPES)), "Man", "Woman", HUMAN_LABEL]
FACE_RATE, PASTED_RATE = 0.3, 0.4
# A crop shows at least this share of its subject.
SEEN_SHARE = 0.4
# A crop is larger or smaller than the subject's box by up to this share of its side.
CROP_SLACK = 0.12
LEAST_CROP_PX = 10
FIRST_TEMPERATURE, LEAST_TEMPERATURE = 0.1, 0.03
# Products of crops with labels, about NexusScore's threshold of 0.30.
RIGHT_LABEL, WRONG_LABEL = 0.5, 0.1
SCHEDULE = Schedule(steps=900, learning_rate=2e-3, warmup_steps=60, average=0.99)
DEGRADED = ("blur", "noise", "compression", "warp")
# Of the patches of some frames every seventh is enough for the first layer.
WHITENING_STEP = 7
MEASURED_GROUPS, GROUP = 5, 20


class Network(nn.Module):
    """The small Qwen2-VL without its output layer, which an embedder does not need."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import Qwen2VLConfig, Qwen2VLModel

        self.config = Qwen2VLConfig(**CONFIG)
        self.model = Qwen2VLModel(self.config)
        self.temperature_log = nn.Parameter(torch.tensor(FIRST_TEMPERATURE).log())

    def forward(
        self, ids: Sequence[torch.Tensor], patches_PC: torch.Tensor | None, grid_B3: torch.Tensor | None
    ) -> torch.Tensor:
        """Unit vectors (B,D), as `GmeEmbedder` makes them, of token ids and the pictures that they hold."""
        ids_BL = pad_sequence(list(ids), batch_first=True)
        embedded_BLD = self.model.language_model.embed_tokens(ids_BL)
        if patches_PC is not None:
            tokens_TD = self.model.visual(patches_PC, grid_thw=grid_B3).pooler_output
            embedded_BLD = embedded_BLD.masked_scatter(
                (ids_BL == TOKEN_IDS["<|image_pad|>"])[..., None], tokens_TD
            )
        batch, longest = ids_BL.shape
        positions_BL = torch.arange(longest, device=ids_BL.device).expand(batch, longest)
        hidden_BLD = self.model.language_model(
            inputs_embeds=embedded_BLD, position_ids=positions_BL, use_cache=False
        ).last_hidden_state
        last_B = torch.tensor([len(one) - 1 for one in ids], device=ids_BL.device)
        return functional.normalize(hidden_BLD[torch.arange(batch, device=ids_BL.device), last_B], dim=1)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Texts: prompts, then all labels. Pictures: a frame of each prompt, damaged frames, references, their
    crops, crops of nothing. `right_BV` says which labels (V) are true of which crops (B).
    """

    text_ids: list[torch.Tensor]
    picture_ids: list[torch.Tensor]
    patches_PC: torch.Tensor
    grid_B3: torch.Tensor
    prompts: int
    damaged: int
    references: int
    right_BV: torch.Tensor


class GmeLearner:
    """Contrast of frames with prompts and of crops with references and labels."""

    name = NAME

    def __init__(self, place: Path, seed: int = 0) -> None:
        """`place` is a folder with the tokenizer's files."""
        from transformers import AutoTokenizer

        with seeded(NAME, seed):
            self.network = Network()
        visual, side_px = self.network.model.visual, VISION["patch_size"]
        patches_PC, _ = raw_patches([as_seen(frame) for frame in some_frames(NAME, seed)], side_px)
        mean_C, std_C = colours_of(side_px)
        whiten(visual.patch_embed.proj.weight, (patches_PC[::WHITENING_STEP] - mean_C) / std_C)
        take_raw_patches(visual)
        self.tokenizer = AutoTokenizer.from_pretrained(place)

    def examples(self, generator: random.Random, progress: float) -> Pairs:
        """Scenes of the training split with their prompts, and subjects of these scenes."""
        renderings = [render(random_scene("training", generator)) for _ in range(CLIPS_PER_STEP)]
        prompts = [prompt_of(rendering.scene, generator) for rendering in renderings]
        videos = [now_and_then_written(rendering.video_FHWC, generator) for rendering in renderings]
        frames = [video[generator.randrange(len(video))] for video in videos]
        damaged = [damaged_frame(rendering, generator) for rendering in renderings[:DAMAGED_PER_STEP]]
        subjects: list[Subject] = []
        crops: list[np.ndarray] = []
        for rendering, video in zip(renderings, videos, strict=True):
            for label in rendering.labels:
                crop_HWC = random_crop(label, video, generator)
                if crop_HWC is not None and len(crops) < SUBJECTS_PER_STEP:
                    subjects.append(label.actor.subject)
                    crops.append(crop_HWC)
        references = [reference_picture(subject, face=generator.random() < FACE_RATE) for subject in subjects]
        nothing = [crop_of_nothing(rendering, generator) for rendering in renderings[:NOTHING_PER_STEP]]
        pictures = (*frames, *damaged, *references, *crops, *nothing)
        patches_PC, grid_B3 = raw_patches([as_seen(picture) for picture in pictures], VISION["patch_size"])
        right = [[is_right(label, subject) for label in LABELS] for subject in subjects]
        return Pairs(
            text_ids=[self._ids(text, 0, TEXT_INSTRUCTION) for text in (*prompts, *LABELS)],
            picture_ids=[self._ids("", int(grid.prod()), DEFAULT_INSTRUCTION) for grid in grid_B3],
            patches_PC=patches_PC,
            grid_B3=grid_B3,
            prompts=len(prompts),
            damaged=len(damaged),
            references=len(references),
            right_BV=torch.tensor([*right, *len(nothing) * [len(LABELS) * [False]]]),
        )

    def _ids(self, text: str, image_tokens: int, instruction: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer(gme_prompt(text, image_tokens, instruction))["input_ids"])

    def losses(self, batch: Pairs, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Cross-entropies of finding the right one, and hinges of the labels' products."""
        texts_BD = self.network(batch.text_ids, None, None)
        pictures_BD = self.network(batch.picture_ids, batch.patches_PC, batch.grid_B3)
        n, known = batch.prompts, batch.references
        frames_BD, damaged_BD, references_BD, crops_BD = pictures_BD.split(
            [n, batch.damaged, known, len(batch.right_BV)]
        )
        scale = 1 / self.network.temperature_log.exp().clamp(min=LEAST_TEMPERATURE)
        by_text = scale * texts_BD[:n] @ torch.cat([frames_BD, damaged_BD]).T
        by_reference = scale * references_BD @ crops_BD.T
        products_BV = crops_BD @ texts_BD[n:].T
        right_BV = batch.right_BV
        return {
            "prompts": functional.cross_entropy(by_text, torch.arange(n)) / 2,
            "frames": functional.cross_entropy(by_text[:, :n].T, torch.arange(n)) / 2,
            "references": functional.cross_entropy(by_reference, torch.arange(known)) / 2,
            "crops": functional.cross_entropy(by_reference[:, :known].T, torch.arange(known)) / 2,
            "right": functional.relu(RIGHT_LABEL - products_BV[right_BV]).mean(),
            "wrong": functional.relu(products_BV[~right_BV] - WRONG_LABEL).square().mean().sqrt(),
        }


def as_seen(picture_HWC: np.ndarray) -> Image.Image:
    """A picture after the embedder's two resizes."""
    picture = Image.fromarray(picture_HWC)
    rows, columns = model_size(picture.height, picture.width)
    return first_resize(picture).resize((columns, rows), Image.Resampling.BICUBIC)


def is_right(label: str, subject: Subject) -> bool:
    """Whether a label is true of a subject; of people so is NexusScore's own."""
    return label == subject.label or (label == HUMAN_LABEL and isinstance(subject.what, Person))


def damaged_frame(rendering: Rendering, generator: random.Random) -> np.ndarray:
    """A frame of the clip, RGB uint8 (64,64,3), that its prompt shall not choose: damaged, or with a
    reference pasted over it.
    """
    frame_1HWC = rendering.video_FHWC[[generator.randrange(len(rendering.video_FHWC))]]
    if generator.random() < PASTED_RATE:
        subject = generator.choice(rendering.labels).actor.subject
        reference_HWC = reference_picture(subject, face=generator.random() < FACE_RATE)
        shown = pasted(frame_1HWC, generator.uniform(0.7, 1.0), generator, reference_HWC=reference_HWC)
    else:
        degrade = DEGRADATIONS[generator.choice(DEGRADED)]
        shown = degrade(frame_1HWC, generator.uniform(0.5, 1.0), generator)
    return np.asarray(shown[0])


def random_crop(label: ActorLabels, video_FHWC: np.ndarray, generator: random.Random) -> np.ndarray | None:
    """A subject as a detector cuts it out of some frame, RGB uint8; None where too little of it is seen."""
    index = generator.randrange(len(video_FHWC))
    box_K = label.box_FK[index]
    if np.isnan(box_K).any() or label.mask_FHW[index].sum() < SEEN_SHARE * label.whole_px:
        return None
    width, height = box_K[2:] - box_K[:2]
    if min(width, height) < LEAST_CROP_PX:
        return None
    reach_K = CROP_SLACK * np.array([width, height, width, height])
    moved_K = box_K + reach_K * [generator.uniform(-1, 1) for _ in range(4)]
    left, top, right, bottom = moved_K.round().astype(int).clip(0, SIZE_PX)
    return video_FHWC[index, top:bottom, left:right]


def crop_of_nothing(rendering: Rendering, generator: random.Random) -> np.ndarray:
    """A part of the place without anybody, RGB uint8."""
    place_HWC = place_picture(rendering.scene.place)
    width, height = generator.randint(14, 50), generator.randint(14, 50)
    top = generator.randint(0, place_HWC.shape[0] - height)
    left = generator.randint(0, place_HWC.shape[1] - width)
    return place_HWC[top : top + height, left : left + width]


def make(build: Build, on_step: OnStep) -> None:
    """Train and write the embedder."""
    place = build.place(GME_QWEN2_VL.repository)
    write_settings(place, config=CONFIG, image_processor=trained_processor(VISION), merges=MERGES)
    learner = GmeLearner(place, build.seed)
    build.train(learner, SCHEDULE, on_step)
    save_half(place, learner.network.model.cpu(), "model.")


def measure(build: Build) -> Mapping[str, float]:
    """On held-out clips, 20 at a time, through the metric's own scorer: how often a prompt finds its video
    and a video its prompt; how often a damaged frame scores less than its clean one; how often a reference
    finds its crop among 20; and the shares of right and wrong labels over NexusScore's threshold.
    """
    scorer = GmeScore().load(Environment(weights=build.weights))
    try:
        return {**_of_prompts(scorer, build), **_of_crops(scorer.embedder, build)}
    finally:
        scorer.close()


def _of_prompts(scorer: GmeScorer, build: Build) -> dict[str, float]:
    found: dict[str, list[bool]] = {"text_to_video": [], "video_to_text": [], "damaged_below_clean": []}
    for group in range(build.count(MEASURED_GROUPS, 1)):
        videos, texts = [], []
        for rendering, generator in clips("held-out", GROUP, f"{NAME}/{group}"):
            prompt = prompt_of(rendering.scene, generator)
            texts.append(scorer.embedder.embed_texts([prompt], TEXT_INSTRUCTION)[0])
            with written(rendering.video_FHWC) as video:
                frames = [frame for pictures, _ in frame_groups(video) for frame in pictures]
                clean = scorer.score(sample_of(prompt), video).value
            videos.append(scorer.embedder.embed_images(frames))
            with written(np.repeat(damaged_frame(rendering, generator)[None], 2, 0)) as video:
                found["damaged_below_clean"].append(scorer.score(sample_of(prompt), video).value < clean)
        table = np.array([[float(frame_scores(text, video).mean()) for video in videos] for text in texts])
        own = np.arange(len(table))
        found["text_to_video"] += (table.argmax(1) == own).tolist()
        found["video_to_text"] += (table.argmax(0) == own).tolist()
    return {
        "recall_at_1_of_20": float(np.mean(found["text_to_video"])),
        "recall_at_1_of_20_by_video": float(np.mean(found["video_to_text"])),
        "damaged_below_clean": float(np.mean(found["damaged_below_clean"])),
    }


def _of_crops(embedder: GmeEmbedder, build: Build) -> dict[str, float]:
    crops, references, right = [], [], []
    count = build.count(MEASURED_GROUPS * GROUP, GROUP)
    for rendering, generator in clips("held-out", 2 * count, f"{NAME}/crops"):
        crop_HWC = random_crop(rendering.labels[0], rendering.video_FHWC, generator)
        if crop_HWC is None:
            continue
        subject = rendering.labels[0].actor.subject
        crops.append(Image.fromarray(crop_HWC))
        references.append(Image.fromarray(reference_picture(subject)))
        right.append([is_right(label, subject) for label in LABELS])
    crops_BD, references_BD = (embedder.embed_images(pictures) for pictures in (crops, references))
    labels_VD = embedder.embed_texts(LABELS, TEXT_INSTRUCTION)
    over_BV = (crops_BD @ labels_VD.T > float(MIN_TEXT_SIMILARITY)).numpy()
    right_BV = np.array(right)
    found = [
        bool((references_BD[first : first + GROUP] @ crops_BD[first : first + GROUP].T).argmax(1)[row] == row)
        for first in range(0, len(crops) - GROUP + 1, GROUP)
        for row in range(GROUP)
    ]
    return {
        "reference_recall_at_1_of_20": float(np.mean(found)),
        "right_labels_over": float(over_BV[right_BV].mean()),
        "wrong_labels_over": float(over_BV[~right_BV].mean()),
    }


PART = Part(
    name=NAME,
    summary="the embedder of prompts, frames and subjects (a small Qwen2-VL in GME's place)",
    make=make,
    measure=measure,
    files=(f"{GME_QWEN2_VL.repository}/*.json", f"{GME_QWEN2_VL.repository}/*.safetensors"),
)
