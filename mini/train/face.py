"""The small face network: CurricularFace's layout, narrow, so that FaceSim's loader and alignment take it.

It learns that two pictures of a person (frames of other scenes, the reference) are nearer than those of
others in a batch: cross-entropy over cosines. Faces are cut by the metric's own alignment from the renderer's
landmarks, moved a little, as a detector would miss them.

Shapes: P people, V views of each, N faces, D embedding.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from refbench.bench.files import replacing
from refbench.metrics.facesim import NETWORK_FILE
from refbench.metrics.nets.curricularface import CurricularFace, Layout, face_embeddings
from refbench.metrics.nets.faces import CROP_SIDE_PX, aligned_crop, halved
from refbench.mini.train.loop import Part, PartSettings, StepDraws, draws_of
from refbench.mini.world.identity import Split, Subject, person
from refbench.mini.world.people import Person
from refbench.mini.world.render import reference_landmarks, reference_picture, render
from refbench.mini.world.scene import FRAMINGS, TRAINING_PEOPLE, compose

LAYOUT = Layout(stem_width=12, unit_widths=(16, 24, 24, 48, 48, 64), embedding_width=64)
PEOPLE_PER_STEP, VIEWS = 24, 2
TEMPERATURE = 0.1
# How often a view is the reference picture, and how far landmarks move as a share of the eyes' distance.
REFERENCE_RATE, LANDMARK_ERROR = 0.4, 0.08


@dataclass(frozen=True, kw_only=True)
class FaceNetwork(Part):
    """The face network's training."""

    name: str = "face"
    settings: PartSettings = field(default_factory=lambda: PartSettings(steps=3000, learning_rate=2e-3))

    def network(self) -> torch.nn.Module:
        """A fresh network of `LAYOUT`."""
        return CurricularFace(LAYOUT)

    def loss(
        self, network: torch.nn.Module, step: int, draws: StepDraws
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Of each face, the other view of its person is to be the nearest."""
        numbers = draws.python.sample(range(TRAINING_PEOPLE), PEOPLE_PER_STEP)
        subjects = [person("training", number) for number in numbers]
        views = [[face_view(subject, "training", draws.python) for _ in range(VIEWS)] for subject in subjects]
        faces_NHWC = np.stack([faces[view] for view in range(VIEWS) for faces in views])
        embeddings_ND = functional.normalize(network(as_faces(faces_NHWC)), dim=1)
        first_PD, second_PD = embeddings_ND.chunk(VIEWS)
        cosines_PP = first_PD @ second_PD.T / TEMPERATURE
        own_P = torch.arange(PEOPLE_PER_STEP)
        loss = (
            functional.cross_entropy(cosines_PP, own_P) + functional.cross_entropy(cosines_PP.T, own_P)
        ) / 2
        right = (cosines_PP.argmax(dim=1) == own_P).float().mean()
        return loss, {"loss": float(loss.detach()), "right": float(right)}

    def finish(self, network: torch.nn.Module, folder: Path) -> None:
        """Write the network as a state dict under OpenS2V's name."""
        with replacing(folder / NETWORK_FILE) as partial:
            torch.save(network.state_dict(), partial)


def as_faces(faces_NHWC: np.ndarray) -> torch.Tensor:
    """Aligned RGB uint8 faces as the network takes them, (N,3,112,112) in -1 to 1."""
    # Contiguous: the gradient of the shortcuts' pooling ends the process for channels that come last.
    return torch.from_numpy(faces_NHWC).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def face_view(subject: Subject, split: Split, generator: random.Random) -> np.ndarray:
    """An aligned face of a person, RGB uint8 (112,112,3): of the reference, or of a frame of some scene."""
    assert isinstance(subject.what, Person)
    if generator.random() < REFERENCE_RATE:
        close = generator.random() < 0.5
        return _cut(
            reference_picture(subject, face=close), reference_landmarks(subject.what, face=close), generator
        )
    return scene_face(subject, split, generator)


def scene_face(subject: Subject, split: Split, generator: random.Random) -> np.ndarray:
    """An aligned face of a person in a frame of a random scene."""
    while True:
        scene = compose([subject], split, generator, framing=generator.choice(FRAMINGS))
        rendering = render(scene)
        landmarks_FKC = rendering.labels[0].landmarks_FKC
        seen = np.flatnonzero(~np.isnan(landmarks_FKC).any(axis=(1, 2)))
        if len(seen):
            frame = int(generator.choice(seen.tolist()))
            return _cut(rendering.video_FHWC[frame], landmarks_FKC[frame], generator)


def _cut(image_HWC: np.ndarray, landmarks_KC: np.ndarray, generator: random.Random) -> np.ndarray:
    reach = LANDMARK_ERROR * float(np.abs(landmarks_KC[1] - landmarks_KC[0]).max())
    error = np.array([[generator.gauss(0, reach) for _ in range(2)] for _ in range(len(landmarks_KC))])
    moved_KC = (landmarks_KC + error).astype(np.float32)
    return halved(aligned_crop(np.ascontiguousarray(image_HWC), moved_KC, CROP_SIDE_PX))


def identity_auc(network: torch.nn.Module, split: Split = "held-out", people: int = 100) -> float:
    """How often a frame is nearer to its person's reference than one of another person is: 0.5 is chance."""
    generator = draws_of("face/measured", 0, 0).python
    subjects = [person(split, number) for number in range(people)]
    references = [face_of_reference(subject, generator) for subject in subjects]
    frames = [scene_face(subject, split, generator) for subject in subjects]
    cosines_PP = face_embeddings(network, np.stack(references)) @ face_embeddings(network, np.stack(frames)).T
    own_P, others = np.diag(cosines_PP), cosines_PP[~np.eye(people, dtype=bool)]
    return float((own_P[:, None] > others[None]).mean())


def face_of_reference(subject: Subject, generator: random.Random) -> np.ndarray:
    """The aligned face of a person's portrait."""
    assert isinstance(subject.what, Person)
    return _cut(
        reference_picture(subject, face=True), reference_landmarks(subject.what, face=True), generator
    )
