"""The picture tower in CLIP ViT-B/32's place, which NexusScore's detector and clip-i share.

Its patch embedding is set to the lowest waves of each colour and does not learn: a transformer that learns
from scratch gets on sooner so. The rest learns that a frame is nearer, by a margin, to the reference picture
of the subject it shows than to those of all others in the batch, and to tell the traits that the renderer
drew from: of people, things and places.

Shapes: N pictures, R references, H W rows and columns, C channels, D joint space, T traits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from refbench.metrics.nets.yolo_world.image_prompt import ReferenceEncoder
from refbench.metrics.small.clip import PICTURE_PROCESSOR, clip_config, image_half, write_image_half
from refbench.metrics.weights import CLIP_VIT_B32
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.loop import Schedule, seeded
from refbench.mini.training.measures import auc
from refbench.mini.training.pictures import as_shown
from refbench.mini.world import NUM_FRAMES
from refbench.mini.world.identity import (
    Place,
    Shown,
    Split,
    Subject,
    Thing,
    code_of,
    person,
    random_place,
    thing,
)
from refbench.mini.world.people import Person
from refbench.mini.world.places import PLACES
from refbench.mini.world.render import place_reference, reference_picture, render
from refbench.mini.world.scene import (
    TRAINING_PEOPLE,
    TRAINING_THINGS,
    compose,
    random_framing,
    random_subjects,
)

NAME = "clip-b32"
CONFIG = clip_config(patch_px=32, heads=4, mlp_width=256, projection=48, width=96, layers=3)
# References of a step, and the clips that show some of them.
PEOPLE, THINGS, PLACES_OF_STEP, CLIPS, FRAMES_OF_CLIP = 16, 12, 4, 12, 2
WAVE_GAIN = 4.0
FACE_RATE = 0.25
MARGIN, SCALE, TRAITS_WEIGHT = 0.15, 16.0, 20.0
SCHEDULE = Schedule(steps=1000, learning_rate=3e-3, warmup_steps=50, average=0.995)
MEASURED = 60


def traits(shown: Shown) -> np.ndarray:
    """What a picture of somebody, something or a place tells, float32 (T,): numbers of the other kinds are
    zero.
    """
    kinds = {Person: 35, Thing: 17, Place: len(PLACES)}
    parts = []
    what = shown if isinstance(shown, Place) else shown.what
    for kind, width in kinds.items():
        if not isinstance(what, kind):
            parts.append(np.zeros(width + 1, np.float32))
        elif isinstance(what, Place):
            names = [float(what.name == name) for name in PLACES]
            parts.append(np.array([1.0, *names], np.float32))
        else:
            parts.append(np.concatenate([np.ones(1, np.float32), what.vector()]))
    return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class PictureBatch:
    """Pixels (N,3,224,224), first the references; whose each is (N); traits (N,T); whether frames and
    references of these rows are compared (N).
    """

    pixels_NCHW: torch.Tensor
    owner_N: torch.Tensor
    traits_NT: torch.Tensor
    compared_N: torch.Tensor
    references: int


class PictureTower(nn.Module):
    """The tower and a linear reading of its embedding as traits, which only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = image_half(CONFIG)
        embedding = self.tower.vision_model.embeddings.patch_embedding
        embedding.weight = nn.Parameter(lowest_waves(*embedding.weight.shape), requires_grad=False)
        self.traits = nn.Linear(CONFIG["projection_dim"], len(traits(person("training", 0))))


def lowest_waves(channels: int, colours: int, side: int, _side: int) -> torch.Tensor:
    """Filters (channels, colours, side, side): of each colour the mean, and the cosine waves that follow."""
    numbers = sorted(((u, v) for u in range(side) for v in range(side)), key=lambda pair: (sum(pair), pair))
    at = (torch.arange(side) + 0.5) * math.pi / side
    filters = torch.zeros(channels, colours, side, side)
    for channel in range(channels):
        u, v = numbers[channel // colours]
        wave = torch.outer(torch.cos(u * at), torch.cos(v * at)) / side**2
        # Pictures have less of the waves than of the mean.
        filters[channel, channel % colours] = wave if u + v == 0 else WAVE_GAIN * wave
    return filters


def picture_processor() -> Any:
    """The processor that the tower's folder names."""
    from transformers import CLIPImageProcessorPil

    settings = {key: value for key, value in PICTURE_PROCESSOR.items() if key != "image_processor_type"}
    return CLIPImageProcessorPil(**settings)


class TowerLearner:
    """Reference pictures and frames of people, things and places."""

    name = NAME

    def __init__(self, seed: int = 0) -> None:
        with seeded(NAME, seed):
            self.network = PictureTower()
        self.encoder = ReferenceEncoder(tower=self.network.tower, processor=picture_processor())

    def examples(self, generator: random.Random, progress: float) -> PictureBatch:
        """References of different subjects and places, then frames that show them."""
        shown: list[Shown] = [
            *(person("training", number) for number in generator.sample(range(TRAINING_PEOPLE), PEOPLE)),
            *different_things("training", generator, THINGS),
            *(random_place("training", generator) for _ in range(PLACES_OF_STEP)),
        ]
        pictures = [reference_of(one, generator) for one in shown]
        owners = list(range(len(shown)))
        for owner in generator.sample(range(len(shown)), min(CLIPS, len(shown))):
            for frame_HWC in frames_of(shown[owner], "training", generator, FRAMES_OF_CLIP):
                pictures.append(frame_HWC)
                owners.append(owner)
        known = np.stack([traits(one) for one in shown])
        return PictureBatch(
            pixels_NCHW=self.encoder.pixel_values(as_images(pictures)),
            owner_N=torch.tensor(owners),
            traits_NT=torch.from_numpy(known[owners]),
            references=len(shown),
            compared_N=torch.tensor([isinstance(shown[owner], Subject) for owner in owners]),
        )

    def losses(self, batch: PictureBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """A margin softmax of frames over references and the other way round; the error of the traits."""
        embeddings_ND = self.network.tower(batch.pixels_NCHW).image_embeds
        unit_ND = functional.normalize(embeddings_ND, dim=1)
        is_reference = torch.arange(len(unit_ND)) < batch.references
        frames, references = (batch.compared_N & which for which in (~is_reference, is_reference))
        cosine = unit_ND[frames] @ unit_ND[references].T
        # Those that are compared come first among the references.
        own = functional.one_hot(batch.owner_N[frames], cosine.shape[1]).bool()
        logits = SCALE * (cosine - MARGIN * own)
        shares = logits.log_softmax(dim=0).masked_fill(~own, -math.inf)[:, own.any(dim=0)]
        wrong_N = (self.network.traits(embeddings_ND) - batch.traits_NT).square().mean(dim=1)
        return {
            "frames": functional.cross_entropy(logits, own.long().argmax(dim=1)),
            "references": -shares.logsumexp(dim=0).mean(),
            "reference_traits": TRAITS_WEIGHT * wrong_N[is_reference].mean(),
            "frame_traits": TRAITS_WEIGHT * wrong_N[~is_reference].mean(),
        }


def different_things(split: Split, generator: random.Random, count: int) -> list[Subject]:
    """Things of which no two look alike, at most `count`."""
    drawn = (thing(split, number) for number in generator.sample(range(TRAINING_THINGS), 3 * count))
    return list({code_of(one.what): one for one in drawn}.values())[:count]


def reference_of(shown: Shown, generator: random.Random) -> np.ndarray:
    """A reference picture; of people now and then the face alone."""
    if isinstance(shown, Place):
        return place_reference(shown)
    is_person = isinstance(shown.what, Person)
    return reference_picture(shown, face=is_person and generator.random() < FACE_RATE)


def frames_of(shown: Shown, split: Split, generator: random.Random, count: int) -> list[np.ndarray]:
    """Frames of one clip with this subject alone, or with anybody in this place."""
    subjects = random_subjects(split, generator) if isinstance(shown, Place) else [shown]
    place = shown if isinstance(shown, Place) else None
    framing = random_framing(subjects, generator)
    scene = compose(subjects, split, generator, framing=framing, place=place)
    chosen = generator.sample(range(NUM_FRAMES), count)
    return list(as_shown(render(scene, chosen).video_FHWC, generator))


def as_images(pictures: Sequence[np.ndarray]) -> list[Any]:
    """RGB uint8 pictures as Pillow's."""
    from PIL import Image

    return [Image.fromarray(picture_HWC) for picture_HWC in pictures]


def make(build: Build, on_step: OnStep) -> None:
    """Train the tower and write its folder, in half precision."""
    learner = TowerLearner(build.seed)
    build.train(learner, SCHEDULE, on_step)
    tensors = {key: value.half().contiguous() for key, value in learner.network.tower.state_dict().items()}
    write_image_half(build.place(CLIP_VIT_B32.repository), CONFIG, tensors)


def measure(build: Build) -> Mapping[str, float]:
    """AUC of a reference picture against frames, the right one's above another's of its kind; and how often
    the right reference of 20 is the nearest to a frame.
    """
    encoder = ReferenceEncoder.load(tower_folder(build))
    generator = random.Random("clip-b32/measured")
    count = build.count(MEASURED, least=6)
    figures = {}
    measured = {
        "people": [person("held-out", number) for number in range(count)],
        "things": different_things("held-out", generator, count),
    }
    for kind, subjects in measured.items():
        references = encoder.embed(as_images([reference_of(one, random.Random(0)) for one in subjects]))
        frames = encoder.embed(as_images([frames_of(one, "held-out", generator, 1)[0] for one in subjects]))
        cosine = functional.normalize(frames, dim=1) @ functional.normalize(references, dim=1).T
        right = cosine.diagonal()
        wrong = cosine[~torch.eye(len(cosine), dtype=torch.bool)]
        figures[f"{kind}_auc"] = auc(right.tolist(), wrong.tolist())
        figures[f"{kind}_recall_of_20"] = float(np.mean(list(_recalls(cosine, generator))))
    return figures


def _recalls(cosine: torch.Tensor, generator: random.Random) -> Iterator[bool]:
    for row, values in enumerate(cosine.tolist()):
        others = [index for index in range(len(values)) if index != row]
        rivals = generator.sample(others, min(19, len(others)))
        yield all(values[row] > values[rival] for rival in rivals)


def tower_folder(build: Build) -> Path:
    """Where the tower's files are."""
    return build.weights / CLIP_VIT_B32.repository


PART = Part(
    name=NAME,
    summary="picture tower of NexusScore's detector and of clip-i",
    make=make,
    measure=measure,
    files=(f"{CLIP_VIT_B32.repository}/*",),
)
