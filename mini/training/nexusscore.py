"""NexusScore's detector: from a reference picture to the boxes of its subject in a frame.

YOLO-World as the metric has it, narrow, with the picture tower of `clip_b32`, which is trained before and
stays as it is. The frames were enlarged from 64 to 640 pixels, so that all subjects are large: the coarsest
level alone answers, the two finer ones stay silent. Two thirds of the work are spared where there is little
to learn: the layers of the first two strides do not learn but hand down the colours of 4×4 pixels, and the
neck's way through the finest map is closed (a downsampling layer whose batch norm is zero). A reference is
asked for where its subject is seen, and where it is not; a reference of a place has the whole frame as its
box. Batch norms learn their statistics here, in place of those of the metric's network, which are for
inference only and have the same names.

Shapes: B frames, R references, G pairs of a frame and a reference, D prompt width, H W rows and columns, C
channels, 4 the sides of a box.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from refbench.metrics.nets.yolo_world.backbone import BATCH_NORM_EPSILON, CSPDarknet, InferenceBatchNorm
from refbench.metrics.nets.yolo_world.boxes import INPUT_SIZE_PX, STRIDES_PX, Letterbox
from refbench.metrics.nets.yolo_world.detector import YoloWorld, YoloWorldSizes
from refbench.metrics.nets.yolo_world.head import expected_distances
from refbench.metrics.nets.yolo_world.image_prompt import ReferenceEncoder
from refbench.metrics.nets.yolo_world.image_prompt_detector import ImagePromptDetector
from refbench.metrics.nets.yolo_world.neck import GuidedNeck, doubled, per_pair
from refbench.metrics.nexusscore import MIN_CONFIDENCE
from refbench.metrics.small.nexusscore import DETECTOR_FILE, save_detector
from refbench.metrics.weights import OPENS2V_WEIGHT
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.clip_b32 import CONFIG, as_images, tower_folder, traits
from refbench.mini.training.clip_b32 import NAME as TOWER
from refbench.mini.training.loop import Schedule, seeded
from refbench.mini.training.measures import Detections, average_precision, overlaps_of
from refbench.mini.training.pictures import as_shown, empty_picture
from refbench.mini.training.questions import (
    PAIRS_OF_FRAME,
    Question,
    absent_reference,
    another,
    question_about,
    question_about_place,
    questions_of,
    reference_of,
)
from refbench.mini.training.seen import coded
from refbench.mini.world import NUM_FRAMES, SIZE_PX
from refbench.mini.world.identity import Place, Shown, person
from refbench.mini.world.people import Person
from refbench.mini.world.render import render
from refbench.mini.world.scene import random_scene

NAME = "image-prompt-detector"
SIZES = YoloWorldSizes(
    stem=4,
    stages=(8, 16, 32, 64),
    stage_depths=(1, 1, 1, 1),
    neck_depth=1,
    neck_heads=(2, 1, 2, 4),
    prompt=CONFIG["projection_dim"],
    classification=32,
    regression=24,
    projector=2 * CONFIG["projection_dim"],
)
COARSE = len(STRIDES_PX) - 1
# The confidence of the finer levels, before the sigmoid, and the exponent that takes all else from it.
SILENT_LOGIT, SILENT_SCALE = -12.0, -12.0
FIRST_LOGIT, FIRST_SCALE = -3.0, 0.7
BATCH_NORM_MOMENTUM = 0.05
# Where the activation hardly bends: colours are handed down as 3 to 9.
COLOURS, COLOUR_GAIN, COLOUR_SHIFT = 3, 6.0, 3.0

CLIPS, FRAMES_OF_CLIP, EMPTY_FRAMES = 6, 2, 1
# Up to this share of the steps subjects are learned without references, from these frames.
SUBJECTS_SHARE, SUBJECT_CLIPS, SUBJECT_FRAMES = 0.4, 10, 3
# Of a box's half width and height: points within the first answer for it, those up to the second may. A box
# that holds no point has the nearest.
CORE, EDGE = 0.35, 0.7
NEAREST_PX = 17.0
BOX_WEIGHT, SIDES_WEIGHT, NAMES_WEIGHT = 2.0, 1.0, 1.0
TRAITS_WEIGHT = 30.0
SCHEDULE = Schedule(steps=2400, learning_rate=3e-3, warmup_steps=50, average=0.99)

MEASURED_SCENES = 60
CRF = 18


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """What the first stage gives of the frames (B,C,160,160); embeddings (R,D) of references, and which of
    them each pair asks for (G), those of a frame side by side; boxes (G,4) in input pixels, NaN where nothing
    is to be found; traits (G,T) of the subjects, NaN for places; doubtful pairs (G).
    """

    first_BCHW: torch.Tensor
    references_RD: torch.Tensor
    asked_G: torch.Tensor
    boxes_G4: torch.Tensor
    traits_GT: torch.Tensor
    doubtful_G: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class SubjectBatch:
    """What the first stage gives of the frames (B,C,160,160); of each subject that is seen the frame that it
    is in (S), its box (S,4) in input pixels and its traits (S,T).
    """

    first_BCHW: torch.Tensor
    frame_S: torch.Tensor
    boxes_S4: torch.Tensor
    traits_ST: torch.Tensor


def new_detector(sizes: YoloWorldSizes = SIZES) -> YoloWorld:
    """An untrained detector whose batch norms learn."""
    network = YoloWorld(sizes)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, InferenceBatchNorm):
                learning = nn.BatchNorm2d(
                    len(child.weight), eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM
                )
                setattr(module, name, learning)
    for block in (*network.neck.top_down_layers, *network.neck.bottom_up_layers):
        nn.init.zeros_(block.attn_block.bias)
        # Prompts have length 1: without this their gates begin as if there was none.
        block.attn_block.guide_fc.weight.data *= math.sqrt(sizes.prompt)
    _hand_down_colours(network.backbone["image_model"])
    for parameter in network.neck.downsample_layers[0].bn.parameters():
        nn.init.zeros_(parameter)
    # The pools of the last stage see most of a frame, which at first hides what is at a point.
    pyramid = network.backbone["image_model"].stage4[-1]
    pyramid.conv2.conv.weight.data[:, pyramid.conv1.conv.out_channels :] = 0
    # GELU(x) - GELU(-x) = x: prompts begin as what the tower says.
    first, _, second = network.image_prompt_encoder["projector"]
    both = torch.eye(sizes.prompt).repeat(2, 1)
    both[sizes.prompt :] *= -1
    for linear, weight in ((first, both), (second, both.T)):
        linear.weight.data.copy_(weight)
        nn.init.zeros_(linear.bias)
    head = network.bbox_head.head_module
    for level, contrast in enumerate(head.cls_contrasts):
        nn.init.constant_(contrast.bias, FIRST_LOGIT if level == COARSE else SILENT_LOGIT)
        nn.init.constant_(contrast.logit_scale, FIRST_SCALE if level == COARSE else SILENT_SCALE)
    return network


@torch.no_grad()
def _hand_down_colours(darknet: CSPDarknet) -> None:
    """Let stem and first stage take sums of 3×3 pixels, colour by colour, with all other channels at zero."""
    downsample, block = darknet.stage1
    passing = [darknet.stem, downsample, block.main_conv, block.final_conv]
    for unit in (*passing, *(unit for one in block.blocks for unit in (one.conv1, one.conv2))):
        for tensor in (unit.conv.weight, unit.bn.weight, unit.bn.bias, unit.bn.running_mean):
            tensor.zero_()
        unit.bn.running_var.fill_(1 - BATCH_NORM_EPSILON)
    for unit in passing:
        for colour in range(COLOURS):
            unit.conv.weight[colour, colour] = 1
        area = math.prod(unit.conv.kernel_size)
        unit.bn.weight[:COLOURS] = (COLOUR_GAIN if unit is darknet.stem else 1.0) / area
    darknet.stem.bn.bias[:COLOURS] = COLOUR_SHIFT


def handed_down(images_BCHW: torch.Tensor) -> torch.Tensor:
    """What the first stage gives of images (B,3,H,W): (B,C,H/4,W/4), as it computes it, in less time."""
    sums_BCHW = functional.avg_pool2d(images_BCHW, 3, stride=2, padding=1)
    colours_BCHW = functional.silu(COLOUR_GAIN * sums_BCHW + COLOUR_SHIFT)
    colours_BCHW = functional.avg_pool2d(colours_BCHW, 3, stride=2, padding=1)
    for _ in range(3):
        colours_BCHW = functional.silu(colours_BCHW)
    return functional.pad(colours_BCHW, (0, 0, 0, 0, 0, SIZES.stages[0] - COLOURS))


class TrainedDetector(nn.Module):
    """The detector, and a reading of the backbone's coarsest map as the traits of the subject at each point,
    which only training needs: so the backbone learns what subjects look like before prompts mean anything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = new_detector()
        self.traits = nn.Conv2d(SIZES.stages[-1], len(traits(person("training", 0))), 1)
        nn.init.zeros_(self.traits.weight)


class DetectorLearner:
    """Frames with references of what they show and of what they do not show."""

    name = NAME

    def __init__(self, encoder: ReferenceEncoder, seed: int = 0) -> None:
        self.encoder = encoder
        with seeded(NAME, seed):
            self.network = TrainedDetector()

    def examples(self, generator: random.Random, progress: float) -> SubjectBatch | PairBatch:
        """First frames with the subjects in them; then two frames of each of some clips, and some that show
        nothing, with three references each.
        """
        if progress < SUBJECTS_SHARE:
            return subjects_of_frames(generator)
        return self.batch(*asked_frames(generator))

    def batch(self, frames: Sequence[np.ndarray], questions: Sequence[Sequence[Question]]) -> PairBatch:
        """The batch of frames, RGB uint8 (64,64,3), with as many questions to each."""
        flat = [question for of_frame in questions for question in of_frame]
        rows = {one: row for row, one in enumerate(dict.fromkeys(question.shown for question in flat))}
        boxes_G4 = np.full((len(flat), 4), np.nan, np.float32)
        for row, question in enumerate(flat):
            if question.box_4 is not None:
                boxes_G4[row] = question.box_4 * (INPUT_SIZE_PX / SIZE_PX)
        return PairBatch(
            first_BCHW=first_maps(frames),
            references_RD=self.encoder.embed(as_images([reference_of(one) for one in rows])).clone(),
            asked_G=torch.tensor([rows[question.shown] for question in flat]),
            boxes_G4=torch.from_numpy(boxes_G4),
            traits_GT=torch.from_numpy(np.stack([_subject_traits(question.shown) for question in flat])),
            doubtful_G=torch.tensor([question.doubtful for question in flat]),
        )

    def losses(self, batch: SubjectBatch | PairBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """First the traits of subjects; then also the answers about references."""
        if isinstance(batch, SubjectBatch):
            maps = backbone_maps(self.network.network, batch.first_BCHW)
            core_SN = within(batch.boxes_S4, CORE)
            return self._traits_losses(maps[COARSE][batch.frame_S], core_SN, batch.traits_ST)
        return self._pair_losses(batch)

    def _traits_losses(
        self, maps_SCHW: torch.Tensor, core_SN: torch.Tensor, traits_ST: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The error of the traits that are told in the middle of subjects."""
        share_SN = core_SN / core_SN.sum(dim=1, keepdim=True).clamp(min=1)
        told_ST = torch.einsum("stn,sn->st", self.network.traits(maps_SCHW).flatten(2), share_SN)
        return {"traits": TRAITS_WEIGHT * _mean((told_ST - traits_ST).square())}

    def _pair_losses(self, batch: PairBatch) -> dict[str, torch.Tensor]:
        """Focal cross-entropy of the scores; of boxes the missing overlap and the differences of sides; which
        reference a subject's place is nearest to; and traits.
        """
        maps = backbone_maps(self.network.network, batch.first_BCHW)
        prompts_RD = self.network.network.project(batch.references_RD)
        answers = coarse_answers(self.network.network, maps, prompts_RD[batch.asked_G])
        logits_GHW, distances_G4HW = answers.logits_GHW, answers.distances_G4HW
        corners_GN4 = decoded_coarse(distances_G4HW)
        core_GN, edge_GN = (within(batch.boxes_G4, share) for share in (CORE, EDGE))
        logits_GN = logits_GHW.flatten(1)
        judged_GN = (core_GN | ~edge_GN) & ~batch.doubtful_G[:, None]
        wanted_GN = core_GN.float()
        wrong_GN = (logits_GN.sigmoid().detach() - wanted_GN).abs() * judged_GN
        entropy_GN = functional.binary_cross_entropy_with_logits(logits_GN, wanted_GN, reduction="none")
        boxed_GN = core_GN & ~batch.doubtful_G[:, None]
        boxes_G4 = batch.boxes_G4[:, None].expand_as(corners_GN4)[boxed_GN]
        found_G4 = corners_GN4[boxed_GN]
        sizes = (boxes_G4[:, 2:] - boxes_G4[:, :2]).repeat(1, 2)
        subject_GN = boxed_GN & ~batch.traits_GT.isnan().any(dim=1, keepdim=True)
        seen_G = subject_GN.any(dim=1)
        count = boxed_GN.sum().clamp(min=1)
        return {
            "scores": (wrong_GN * entropy_GN).sum() / count,
            "overlap": BOX_WEIGHT * _mean(1 - general_overlap(found_G4, boxes_G4)),
            "sides": SIDES_WEIGHT * _mean((found_G4 - boxes_G4).abs() / sizes),
            "names": NAMES_WEIGHT * self._names_loss(answers.embeddings_GDHW, subject_GN, prompts_RD, batch),
            **self._traits_losses(
                per_pair(maps[COARSE], len(subject_GN))[seen_G], subject_GN[seen_G], batch.traits_GT[seen_G]
            ),
        }

    def _names_loss(
        self,
        embeddings_GDHW: torch.Tensor,
        subject_GN: torch.Tensor,
        prompts_RD: torch.Tensor,
        batch: PairBatch,
    ) -> torch.Tensor:
        """Each subject at its place, whatever the frame is asked for, is to be nearest to its own reference
        of all in the batch.
        """
        contrast = self.network.network.bbox_head.head_module.cls_contrasts[COARSE]
        # Q questions of a frame meet the places of that frame's Q subjects.
        embeddings_BQDN = embeddings_GDHW.flatten(2).unflatten(0, (-1, PAIRS_OF_FRAME))
        place_BQN = subject_GN.unflatten(0, (-1, PAIRS_OF_FRAME)).float()
        share_BQN = place_BQN / place_BQN.sum(dim=2, keepdim=True).clamp(min=1)
        at_BQSD = torch.einsum("bqdn,bsn->bqsd", embeddings_BQDN, share_BQN)
        logits_BQSR = at_BQSD @ prompts_RD.T * contrast.logit_scale.exp()
        asked_BQS = batch.asked_G.view(-1, 1, PAIRS_OF_FRAME).expand(logits_BQSR.shape[:3])
        seen_BQS = (place_BQN.sum(dim=2) > 0)[:, None].expand_as(asked_BQS)
        return _mean(functional.cross_entropy(logits_BQSR[seen_BQS], asked_BQS[seen_BQS], reduction="none"))


def detector_input(frames: Sequence[np.ndarray]) -> torch.Tensor:
    """The network's input (B,3,640,640), 0 to 1, of frames of one size, RGB uint8 (H,W,3)."""
    letterbox = Letterbox.of(*frames[0].shape[:2])
    pixels_BCHW = np.stack([letterbox.apply(frame_HWC) for frame_HWC in frames])
    return torch.from_numpy(pixels_BCHW).float() / 255


def _mean(values: torch.Tensor) -> torch.Tensor:
    """The mean, 0 of nothing: a step may show no subject."""
    return values.sum() / max(values.numel(), 1)


def _subject_traits(shown: Shown) -> np.ndarray:
    """A subject's traits; NaN for a place, at whose points subjects are."""
    known_T = traits(shown)
    return np.full_like(known_T, np.nan) if isinstance(shown, Place) else known_T


def backbone_maps(
    network: YoloWorld, first_BCHW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The backbone's maps (B,C,H,W) at all strides, from what its first stage gives."""
    darknet = network.backbone["image_model"]
    fine_BCHW = darknet.stage2(first_BCHW)
    middle_BCHW = darknet.stage3(fine_BCHW)
    return fine_BCHW, middle_BCHW, darknet.stage4(middle_BCHW)


@dataclass(frozen=True, kw_only=True)
class CoarseAnswers:
    """What the coarsest level says of each pair: logits (G,H,W), side distances (G,4,H,W) in strides, and the
    normed embeddings (G,D,H,W) that the logits come from.
    """

    logits_GHW: torch.Tensor
    distances_G4HW: torch.Tensor
    embeddings_GDHW: torch.Tensor


def coarse_answers(
    network: YoloWorld, maps: Sequence[torch.Tensor], prompts_GD: torch.Tensor
) -> CoarseAnswers:
    """The answers of the coarsest level to unit prompts, those of a frame side by side."""
    coarse_GCHW = coarse_map(network.neck, maps, prompts_GD[:, None])
    head = network.bbox_head.head_module
    contrast = head.cls_contrasts[COARSE]
    embeddings_GDHW = contrast.norm(head.cls_preds[COARSE](coarse_GCHW))
    products_GHW = torch.einsum("gdhw,gd->ghw", embeddings_GDHW, prompts_GD)
    return CoarseAnswers(
        logits_GHW=products_GHW * contrast.logit_scale.exp() + contrast.bias,
        distances_G4HW=expected_distances(head.reg_preds[COARSE](coarse_GCHW), head.bins),
        embeddings_GDHW=embeddings_GDHW,
    )


def coarse_map(
    neck: GuidedNeck, maps_BCHW: Sequence[torch.Tensor], prompts_GKD: torch.Tensor
) -> torch.Tensor:
    """The neck's coarsest map (G,C,H,W), without the finest one, of which nothing comes through."""
    fine_BCHW, middle_BCHW, coarse_BCHW = maps_BCHW
    joined_BCHW = torch.cat([doubled(coarse_BCHW), middle_BCHW], dim=1)
    middle_GCHW = neck.top_down_layers[0](joined_BCHW, prompts_GKD)
    nothing_GCHW = middle_GCHW.new_zeros(len(middle_GCHW), fine_BCHW.shape[1], *middle_GCHW.shape[2:])
    middle_GCHW = neck.bottom_up_layers[0](torch.cat([nothing_GCHW, middle_GCHW], dim=1), prompts_GKD)
    coarse_GCHW = per_pair(coarse_BCHW, len(prompts_GKD))
    down_GCHW = neck.downsample_layers[1](middle_GCHW)
    result: torch.Tensor = neck.bottom_up_layers[1](torch.cat([down_GCHW, coarse_GCHW], dim=1), prompts_GKD)
    return result


def coarse_points(side: int) -> torch.Tensor:
    """The points of the coarsest level in input pixels (N,2), row by row."""
    at = (torch.arange(side) + 0.5) * STRIDES_PX[COARSE]
    return torch.cartesian_prod(at, at).flip(1)


def decoded_coarse(distances_G4HW: torch.Tensor) -> torch.Tensor:
    """Side distances of the coarsest level to corners (G,N,4) in input pixels."""
    sides_GN4 = distances_G4HW.flatten(2).transpose(1, 2) * STRIDES_PX[COARSE]
    points_N2 = coarse_points(distances_G4HW.shape[-1]).to(sides_GN4)
    return torch.cat([points_N2 - sides_GN4[..., :2], points_N2 + sides_GN4[..., 2:]], dim=-1)


def within(boxes_G4: torch.Tensor, share: float) -> torch.Tensor:
    """Which points (G,N) lie in the middle of a box: within a share of its half sides; none of NaN."""
    points_N2 = coarse_points(INPUT_SIZE_PX // STRIDES_PX[COARSE]).to(boxes_G4)
    middle_G2 = (boxes_G4[:, :2] + boxes_G4[:, 2:]) / 2
    reach_G2 = ((boxes_G4[:, 2:] - boxes_G4[:, :2]) / 2 * share).clamp(min=NEAREST_PX)
    return ((points_N2 - middle_G2[:, None]).abs() <= reach_G2[:, None]).all(dim=-1)


def general_overlap(found_N4: torch.Tensor, wanted_N4: torch.Tensor) -> torch.Tensor:
    """Intersection over union less the empty share of the box around both (GIoU), -1 to 1, (N,)."""
    corner_N2 = torch.minimum(found_N4[:, 2:], wanted_N4[:, 2:]) - torch.maximum(
        found_N4[:, :2], wanted_N4[:, :2]
    )
    shared_N = corner_N2.clamp(min=0).prod(dim=1)
    joined_N = _areas(found_N4) + _areas(wanted_N4) - shared_N
    around_N = (
        torch.maximum(found_N4[:, 2:], wanted_N4[:, 2:]) - torch.minimum(found_N4[:, :2], wanted_N4[:, :2])
    ).prod(dim=1)
    return shared_N / joined_N.clamp(min=1e-6) - (around_N - joined_N) / around_N.clamp(min=1e-6)


def _areas(boxes_N4: torch.Tensor) -> torch.Tensor:
    return (boxes_N4[:, 2:] - boxes_N4[:, :2]).prod(dim=1)


# --- questions -------------------------------------------------------------------------------------------


def first_maps(frames: Sequence[np.ndarray]) -> torch.Tensor:
    """What the first stage gives of frames (B,C,160,160)."""
    return torch.cat([handed_down(detector_input([frame_HWC])) for frame_HWC in frames])


def subjects_of_frames(generator: random.Random) -> SubjectBatch:
    """Frames of some clips with the subjects that are seen in them."""
    frames: list[np.ndarray] = []
    owners, boxes, known = [], [], []
    while len(frames) < SUBJECT_CLIPS * SUBJECT_FRAMES:
        rendering = render(random_scene("training", generator))
        chosen = generator.sample(range(NUM_FRAMES), SUBJECT_FRAMES)
        for frame in chosen:
            for labels in rendering.labels:
                question = question_about(labels, frame)
                if question.box_4 is not None and not question.doubtful:
                    owners.append(len(frames) + chosen.index(frame))
                    boxes.append(question.box_4 * (INPUT_SIZE_PX / SIZE_PX))
                    known.append(traits(question.shown))
        frames += list(as_shown(rendering.video_FHWC[chosen], generator))
    return SubjectBatch(
        first_BCHW=first_maps(frames),
        frame_S=torch.tensor(owners, dtype=torch.long),
        boxes_S4=torch.from_numpy(np.reshape(boxes, (-1, 4)).astype(np.float32)),
        traits_ST=torch.from_numpy(np.reshape(known, (len(known), -1))),
    )


def asked_frames(generator: random.Random) -> tuple[list[np.ndarray], list[list[Question]]]:
    """The frames of a step and the questions to each."""
    frames, questions = [], []
    for _ in range(CLIPS):
        rendering = render(random_scene("training", generator))
        chosen = generator.sample(range(NUM_FRAMES), FRAMES_OF_CLIP)
        frames += list(as_shown(rendering.video_FHWC[chosen], generator))
        questions += questions_of(rendering, chosen, "training", generator)
    for _ in range(EMPTY_FRAMES):
        frames.append(empty_picture("training", generator))
        absent = (another("training", generator) for _ in range(PAIRS_OF_FRAME))
        questions.append([Question(shown=one, box_4=None) for one in absent])
    return frames, questions


# --- files and measuring ---------------------------------------------------------------------------------


def make(build: Build, on_step: OnStep) -> None:
    """Train the detector on the tower's embeddings and write its file, in half precision."""
    learner = DetectorLearner(ReferenceEncoder.load(tower_folder(build)), build.seed)
    build.train(learner, SCHEDULE, on_step)
    tensors = {
        key: value.half() if value.is_floating_point() else value
        for key, value in learner.network.network.state_dict().items()
    }
    save_detector(build.place(OPENS2V_WEIGHT.repository), tensors)


def detector_file(build: Build) -> Path:
    """Where the detector's file is."""
    return build.weights / OPENS2V_WEIGHT.repository / DETECTOR_FILE


def measure(build: Build) -> Mapping[str, float]:
    """AP50 of subjects, and of people, things and places alone, over pairs of a held-out frame and a
    reference, seen in it or not; the share of seen subjects that a counting box finds; counting boxes per
    reference that is not seen, per one that is only alike, and per frame that shows nothing.
    """
    detector = ImagePromptDetector.load(detector_file(build), tower_folder(build), "cpu")
    generator = random.Random("nexusscore/measured")
    kinds: dict[str, list[Detections]] = {"people": [], "things": [], "places": []}
    absent: dict[str, list[int]] = {"absent": [], "empty": []}
    for _ in range(build.count(MEASURED_SCENES)):
        rendering = render(random_scene("held-out", generator))
        video_FHWC = coded(rendering.video_FHWC, CRF)
        frame = generator.randrange(NUM_FRAMES)
        questions = [question_about(one, frame) for one in rendering.labels]
        questions += [
            Question(shown=absent_reference(rendering, "held-out", generator), box_4=None) for _ in range(2)
        ]
        questions.append(question_about_place(rendering.scene.place))
        for question, found in _answers(detector, video_FHWC[frame], questions):
            kinds[_kind(question.shown)].append(found)
            if question.box_4 is None:
                absent["absent"].append(int((found.scores_N > MIN_CONFIDENCE).sum()))
        empty_HWC = empty_picture("held-out", generator)
        nothing = [Question(shown=another("held-out", generator), box_4=None) for _ in range(2)]
        for question, found in _answers(detector, empty_HWC, nothing):
            kinds[_kind(question.shown)].append(found)
            absent["empty"].append(int((found.scores_N > MIN_CONFIDENCE).sum()))
    detector.close()
    subjects = kinds["people"] + kinds["things"]
    figures = {"subject_ap50": average_precision(subjects)}
    figures |= {f"{kind}_ap50": average_precision(found) for kind, found in kinds.items()}
    figures["subjects_found"] = float(np.mean([_is_found(one) for one in subjects if len(one.wanted_K4)]))
    return figures | {f"boxes_where_{kind}": float(np.mean(counts)) for kind, counts in absent.items()}


def _answers(
    detector: ImagePromptDetector, frame_HWC: np.ndarray, questions: list[Question]
) -> Iterator[tuple[Question, Detections]]:
    prompts = detector.prompts(as_images([reference_of(question.shown) for question in questions]))
    for question, boxes in zip(questions, detector.detect([frame_HWC], prompts)[0], strict=True):
        wanted_K4 = np.zeros((0, 4)) if question.box_4 is None else question.box_4[None]
        nothing = np.zeros((0, 4))
        yield (
            question,
            Detections(
                found_N4=boxes.corners.numpy(),
                scores_N=boxes.scores.numpy(),
                wanted_K4=nothing if question.doubtful else wanted_K4,
                ignored_K4=wanted_K4 if question.doubtful else nothing,
            ),
        )


def _kind(shown: Shown) -> str:
    if isinstance(shown, Place):
        return "places"
    return "people" if isinstance(shown.what, Person) else "things"


def _is_found(one: Detections) -> bool:
    counting_N4 = one.found_N4[one.scores_N > MIN_CONFIDENCE]
    return any(overlaps_of(box_4, one.wanted_K4).max() >= 0.5 for box_4 in counting_N4)


PART = Part(
    name="nexusscore",
    summary="NexusScore: image-prompt detector",
    make=make,
    measure=measure,
    files=(f"{OPENS2V_WEIGHT.repository}/{DETECTOR_FILE}",),
    needs=(TOWER,),
)
