"""FaceSim: likeness of the largest face in the frames to the reference's.

    score = mean of cos(f, r) over those of 32 frames with a face whose cosine is positive

r and f are CurricularFace IR-101 embeddings of the reference's and the frame's largest face, found and
aligned by InsightFace. Range: 0 (also when no frame is left) to 1, which rounding can pass by 1e-7.

Source: `eval/get_facesim.py` of PKU-YuanGroup/OpenS2V-Nexus v1.1 (commit 210eb08), key `cur_score`. Kept on
purpose: frames without a face and frames with a negative cosine are left out of the mean, so that a video
with one good frame scores as that frame; a video without any face scores 0 and is no failure; a picture
without a face is looked at again with a grey frame; of several references the first that shows a person
counts; a reference without a face leaves the sample without a score. Different: the aligned faces of a video
go through the network in one batch, a repeated frame is embedded once, and a reference once for all its
videos. Metrics of one turn that look at faces (subject-confusion) share all of that (`FaceSearch`).

The details hold each frame's cosine and `arc_score`, the same with ArcFace (key `arc_score`), where the
official script means to drop negative frames too but, by a wrong test, averages them in as zeros.
`face_boxes` are the faces, each once: place of its frame among the 32, box (`metrics/frame_boxes.py`).

InsightFace's model packs may be used for non-commercial research only, see the component's `licence_note`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer, ScoringCost
from refbench.bench.registry import metrics
from refbench.bench.sample import Reference, Sample
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.video import Video, uniform_frames
from refbench.bench.weights.store import file_digests, is_small, require, require_file
from refbench.metrics.frame_boxes import in_thousandths, listed
from refbench.metrics.nets.faces import OFFICIAL_PACK, Face, FaceFinder, pack_folder
from refbench.metrics.nets.pixels import distinct_frames
from refbench.metrics.nets.sharing import Shared, stamps
from refbench.metrics.weights import OPENS2V_WEIGHT

if TYPE_CHECKING:
    from refbench.metrics.nets.curricularface import CurricularFace

FRAMES = 32
NETWORK_FILE = "glint360k_curricular_face_r101_backbone.bin"


@dataclass(frozen=True, kw_only=True)
class FaceSimOptions:
    """Which face detector finds and aligns the faces."""

    pack: str = OFFICIAL_PACK
    """InsightFace's model pack: a name below the weights, or the path of a folder; officially buffalo_l."""


@dataclass(frozen=True, kw_only=True)
class ReferenceFace:
    """Embeddings of a reference's largest face: CurricularFace (512,), and ArcFace where the pack has it; and
    its five landmarks, see `Face`.
    """

    curricular_D: np.ndarray
    arcface_D: np.ndarray | None
    landmarks_52: np.ndarray


@metrics.register
class FaceSim(Metric):
    """Needs CurricularFace and a model pack of InsightFace."""

    declaration = MetricDeclaration(
        name="facesim",
        version="1",
        component="facesim",
        summary="likeness of the largest face to the reference (CurricularFace)",
        source="OpenS2V-Nexus@210eb08 eval/get_facesim.py",
        uses=frozenset({"video", "references"}),
        weights=(OPENS2V_WEIGHT,),
        # docs/measured-gpu.md, `facesim`.
        cost=ScoringCost(
            gpu_s=0.030,
            tflop=0.78,
            peak_gib=0.82,
            remarks=("the search for faces (ONNX Runtime) was not measured and is left out",),
        ),
        packages=("torch", "insightface", "onnxruntime", "opencv-python", "scikit-image", "pillow", "numpy"),
    )
    modules = ("torch", "cv2", "onnxruntime", "insightface")
    Options = FaceSimOptions

    def not_applicable(self, sample: Sample) -> str | None:
        """The official rule: one person, and a reference that shows it."""
        return COMPONENTS["facesim"].not_applicable(sample)

    def find_weights(self, environment: Environment) -> tuple[Path, Path]:
        """The network's file and the pack's folder. Raises MissingWeights."""
        network_file = require_file(OPENS2V_WEIGHT, (NETWORK_FILE,), environment.weights)
        return network_file, pack_folder(require(OPENS2V_WEIGHT, environment.weights), self.options.pack)

    def load(self, environment: Environment) -> FaceSimScorer:
        """A scorer with the model pack and the network.

        Raises MissingWeights, and UserError for damaged files.
        """
        network_file, pack = self.find_weights(environment)
        return FaceSimScorer(search=shared_search(network_file, pack, environment))


@dataclass(frozen=True, kw_only=True)
class FrameFaces:
    """The faces of a frame, the largest first; how many of the 32 places it has, and its size in pixels."""

    faces: tuple[Face, ...]
    repeats: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, eq=False)
class FacesSeen:
    """The faces of a video's different frames, embedded when they are first asked for.

    The batches are the same whoever asks, so that no score depends on what else is scored.
    """

    frames: tuple[FrameFaces, ...]
    network: CurricularFace

    @cached_property
    def largest_embeddings(self) -> np.ndarray:
        """Embeddings (F, D) of the largest faces of the frames that have one, from one batch."""
        return self._embedded([frame.faces[0] for frame in self.frames if frame.faces])

    @cached_property
    def _other_embeddings(self) -> np.ndarray:
        others = [face for frame in self.frames for face in frame.faces[1:]]
        batches = [others[start : start + FRAMES] for start in range(0, len(others), FRAMES)]
        return np.concatenate([self._embedded(batch) for batch in batches] or [self._embedded([])])

    def per_frame(self) -> Iterator[tuple[FrameFaces, np.ndarray]]:
        """Each frame that has faces, with the embeddings (faces, D) of all of them."""
        largest, others = iter(self.largest_embeddings), iter(self._other_embeddings)
        for frame in self.frames:
            if frame.faces:
                yield frame, np.stack([next(largest), *(next(others) for _ in frame.faces[1:])])

    def _embedded(self, faces: Sequence[Face]) -> np.ndarray:
        from refbench.metrics.nets.curricularface import face_embeddings

        if not faces:
            return np.empty((0, 0), np.float32)
        return face_embeddings(self.network, np.stack([face.crop_HWC for face in faces]))


@dataclass(kw_only=True, eq=False)
class FaceSearch:
    """A model pack and the network, with the faces of the last video: metrics of one turn look at it once.

    `device` names where network and detector run. `known_references` are the faces of references by the
    digest of their file (None: no face): a reference is searched once for all its videos.
    """

    network: CurricularFace
    faces: FaceFinder
    device: str
    weights: Mapping[str, str]
    known_references: dict[str, ReferenceFace | None] = field(default_factory=dict)
    _last: tuple[weakref.ref[Video], FacesSeen] | None = field(init=False, default=None)

    @classmethod
    def load(cls, network_file: Path, pack: Path, environment: Environment) -> FaceSearch:
        """From the network's file and the pack's folder. Raises UserError for damaged files."""
        import torch

        from refbench.metrics.nets.curricularface import load_curricularface
        from refbench.metrics.nets.faces import load_faces

        device = torch.device(environment.device)
        faces = load_faces(pack, environment.device, environment.threads)
        network = load_curricularface(network_file, any_layout=is_small(network_file.parent))
        used = {f"{OPENS2V_WEIGHT.name}/{network_file.name}": network_file}
        used |= {f"{pack.name}/{file.name}": file for file in faces.files}
        return cls(
            network=network.requires_grad_(False).to(device),
            faces=faces,
            device=f"{device}, {faces.provider}",
            weights=file_digests(network_file.parent, used),
        )

    def seen(self, video: Video) -> FacesSeen:
        """The faces of the video, which of the last one are known. Raises SampleError as `Video.frames`."""
        last = self._last
        if last is not None and last[0]() is video:
            return last[1]
        frames = []
        for frame_HWC, repeats in distinct_frames(video, uniform_frames(FRAMES)):
            height, width = frame_HWC.shape[:2]
            faces = tuple(self.faces.find_all(frame_HWC))
            frames.append(FrameFaces(faces=faces, repeats=repeats, width=width, height=height))
        seen = FacesSeen(frames=tuple(frames), network=self.network)
        self._last = (weakref.ref(video), seen)
        return seen

    def reference_face(self, reference: Reference) -> ReferenceFace | None:
        """The largest face of a reference, or None where none is found.

        Raises SampleError for a picture that is missing or cannot be read.
        """
        digest = reference.content_digest()
        if digest not in self.known_references:
            face = self.faces.find(np.asarray(reference.open_plain_rgb()))
            self.known_references[digest] = None if face is None else self._embedded(face)
        return self.known_references[digest]

    def close(self) -> None:
        """Give the network's memory back; the pack's goes with this search."""
        from refbench.metrics.nets.inference import release

        self._last = None
        release(self.network)

    def _embedded(self, face: Face) -> ReferenceFace:
        from refbench.metrics.nets.curricularface import face_embeddings

        curricular_D = face_embeddings(self.network, face.crop_HWC[None])[0]
        return ReferenceFace(
            curricular_D=curricular_D, arcface_D=face.arcface_D, landmarks_52=face.landmarks_52
        )


_SEARCHES: Shared[FaceSearch] = Shared()


def shared_search(network_file: Path, pack: Path, environment: Environment) -> FaceSearch:
    """The process's search with these files, loaded by the first caller; to be given back by closing the
    scorer that has it. Raises UserError for damaged files.
    """
    files = (network_file, *sorted(pack.glob("*.onnx")))
    key = (stamps(files), is_small(network_file.parent), environment.device, environment.threads)
    return _SEARCHES.hold(key, lambda: FaceSearch.load(network_file, pack, environment))


@dataclass(frozen=True, kw_only=True)
class FaceSimScorer(Scorer):
    """Searches frames as they are decoded and holds the 112×112 faces of one video."""

    search: FaceSearch

    def score(self, sample: Sample, video: Video) -> Score:
        """The raw value of one video, 0 to 1.

        Raises SampleError for a reference that is missing, cannot be read or shows no face, and for a video
        that cannot be decoded.
        """
        reference = self._reference_face(person_reference(sample))
        seen = self.search.seen(video)
        found = [frame.faces[0] if frame.faces else None for frame in seen.frames]
        times = [frame.repeats for frame in seen.frames]
        boxes: list[tuple[int, ...]] = []
        for place, (frame, face) in enumerate(zip(seen.frames, found, strict=True)):
            if face is not None:
                box = in_thousandths(face.box_4, frame.width, frame.height)
                boxes.append((sum(times[:place]), *box))
        faces = [face for face in found if face is not None]
        curricular = cosines(reference.curricular_D, seen.largest_embeddings) if faces else []
        arcface: list[float] = []
        if faces and reference.arcface_D is not None:
            embeddings = [one_D for face in faces if (one_D := self.search.faces.arcface(face)) is not None]
            arcface = cosines(reference.arcface_D, np.stack(embeddings))
        has_face = [face is not None for face in found]
        frame_cosines = _per_frame(curricular, has_face, times)
        details: dict[str, Any] = {
            "frame_cosines": [None if value is None or np.isnan(value) else value for value in frame_cosines],
            "frames": len(frame_cosines),
            "frames_with_face": sum(value is not None for value in frame_cosines),
            "frames_kept": len(kept_cosines(frame_cosines)),
            "frames_with_face_in_grey_frame": sum(
                repeats for face, repeats in zip(found, times, strict=True) if face and face.framed
            ),
            "face_boxes": listed(boxes),
        }
        if reference.arcface_D is not None:
            details["arc_score"] = arc_average(_per_frame(arcface, has_face, times))
        return Score(value=cur_average(frame_cosines), details=details)

    def provenance(self) -> dict[str, Any]:
        """Device of network and detector, precision, faces per forward pass, digests of all their files."""
        return {
            "device": self.search.device,
            "dtype": "float32",
            "batch_size": FRAMES,
            "weights": dict(self.search.weights),
        }

    def close(self) -> None:
        """Let go of pack and network; their memory is given back unless another metric holds them."""
        _SEARCHES.release(self.search)

    def _reference_face(self, reference: Reference) -> ReferenceFace:
        face = self.search.reference_face(reference)
        if face is None:
            raise SampleError(f"no face is found in the reference image {reference.path}")
        return face


def person_reference(sample: Sample) -> Reference:
    """The first reference that shows a person: for official samples the first from a person's folder.

    Raises SampleError when there is none.
    """
    for reference in sample.references:
        if reference.kind == "person":
            return reference
    raise SampleError("no reference shows a person")


def cosines(reference_D: np.ndarray, embeddings_FD: np.ndarray) -> list[float]:
    """The cosine of each row of (F, D) with the reference (D,), by torch in float32 as officially.

    A zero vector gives 0.
    """
    import torch

    similarities_F = torch.nn.functional.cosine_similarity(
        torch.from_numpy(reference_D), torch.from_numpy(embeddings_FD), dim=-1
    )
    values: list[float] = similarities_F.tolist()
    return values


def kept_cosines(frame_cosines: Iterable[float | None]) -> list[float]:
    """What cur_score averages: positive cosines of frames with a face (None has none, NaN is dropped)."""
    return [value for value in map(_clipped, frame_cosines) if value]


def cur_average(frame_cosines: Iterable[float | None]) -> float:
    """cur_score of a video: the mean of the kept cosines, 0 if there are none."""
    kept = kept_cosines(frame_cosines)
    return float(np.mean(kept)) if kept else 0.0


def arc_average(frame_cosines: Iterable[float | None]) -> float:
    """arc_score of a video: negative cosines count as zeros, frames without a face are left out."""
    clipped = [value for value in map(_clipped, frame_cosines) if value is not None]
    return float(np.mean(clipped)) if clipped else 0.0


def _clipped(cosine: float | None) -> float | None:
    # The order matters: max(0.0, nan) is 0.0, max(nan, 0.0) would be nan.
    return None if cosine is None else max(0.0, cosine)


def _per_frame(values: Sequence[float], has_face: Sequence[bool], times: Sequence[int]) -> list[float | None]:
    """The values of the frames with a face at their places, None elsewhere, repeated as frames are."""
    remaining = iter(values)
    per_distinct = [next(remaining) if face else None for face in has_face]
    return [value for value, repeats in zip(per_distinct, times, strict=True) for _ in range(repeats)]
