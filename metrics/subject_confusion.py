"""subject-confusion: does each subject in the video look like its own reference, or like another one's?

    score = pairs of (frame, subject) whose subject is nearer to another reference / all such pairs

A sample needs two or more references. Two kinds of rows are compared with the references in 32 frames:

* pictures: what NexusScore's detector finds with confidence over 0.6 and a product with the label over 0.30
  is cut out, embedded by GME and compared with **all** reference pictures;
* faces: every face that FaceSim's detector finds is compared by CurricularFace with the faces of all
  references that show a person. Faces less alike to all of them than `MIN_FACE_COSINE` are strangers.

In each frame detections and references are paired, the most alike first, each at most once, and a box only
with references for which the detector found it; boxes over one another count as one that was found for
several. A pair's *margin* is its similarity minus that to the best other reference; below 0 the subject is
confused. Range: 0 to 1, lower is better. Supplementary: no protocol's total contains it.

The details hold `presence`, the share of the references looked for that some detection in some frame is
nearest to (0 to 1), `margin`, the mean margin (-2 to 2; none where there was no other reference to compare
with), counts for each reference, and for `pictures` and `faces` the mean similarity of each subject (rows) to
each reference (columns).

Source: ours; the detector, its thresholds and both embeddings are those of `metrics/nexusscore.py` and
`metrics/facesim.py`. Known failures: two subjects that changed roles ("the man in red holds the cup") are not
confused, since a pairing knows no prompt; a subject that is missing costs presence, not confusion; the face
of a sample's only person has no other to be mistaken for and counts as its own; what the detector does not
find is not judged, and where it finds nothing there is no score; a reference picture that is alike to
everything, or a place that fills the frame, draws others to it; look-alike references give margins around 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refbench.bench.errors import SampleError
from refbench.bench.metric import MetricDeclaration, Score, ScoringCost
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.scores.columns import NOTHING_FOUND
from refbench.bench.video import Video
from refbench.metrics.both_searches import JOB_LIMIT_S, PACKAGES, SHARES, WEIGHTS, OfBoth, OfBothScorer
from refbench.metrics.facesim import FaceSearch, cosines
from refbench.metrics.nexusscore import (
    FRAMES,
    MIN_TEXT_SIMILARITY,
    SeenBox,
    SubjectSearch,
    half_product,
    picture_embeddings,
    subjects_of,
)

# Ours: strangers' cosines lie around 0, other photographs of one person reach 0.77 to 0.80.
MIN_FACE_COSINE = 0.3
# Ours, as in PASCAL VOC: boxes that share more than half of their common area show one subject.
SAME_SUBJECT_OVERLAP = 0.5


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A detection that was paired with a reference: its similarities to all references, (R,).

    `own` is the reference's column, `times` in how many of the frames the detection stands.
    """

    own: int
    similarities_R: np.ndarray
    times: int = 1

    @property
    def margin(self) -> float | None:
        """Similarity to the own reference minus that to the best other; None where there is no other."""
        others = np.delete(self.similarities_R, self.own)
        return float(self.similarities_R[self.own] - others.max()) if len(others) else None

    @property
    def confused(self) -> bool:
        """Whether another reference is nearer."""
        return self.margin is not None and self.margin < 0

    @property
    def nearest(self) -> int:
        """The column of the nearest reference; of equally near ones the own."""
        return int(self.similarities_R.argmax()) if self.confused else self.own


@dataclass(frozen=True, kw_only=True)
class Compared:
    """All pairs of one kind (pictures or faces) in a video.

    `references` are the sample's numbers of the columns, `sought` those of them that were looked for.
    """

    references: tuple[int, ...]
    sought: tuple[int, ...]
    pairs: tuple[Pair, ...]

    @property
    def present(self) -> set[int]:
        """The references that were looked for and are nearest to some detection."""
        return {self.references[pair.nearest] for pair in self.pairs} & set(self.sought)

    def matrix(self) -> list[list[float] | None]:
        """The mean similarities of each reference's subject (rows) to all references; None: never found."""
        rows: list[list[float] | None] = []
        for column in range(len(self.references)):
            own = [pair for pair in self.pairs if pair.own == column]
            rows.append(
                np.average(
                    [pair.similarities_R for pair in own], axis=0, weights=[pair.times for pair in own]
                ).tolist()
                if own
                else None
            )
        return rows

    def counted(self, number: int) -> dict[str, int]:
        """In how many frames the subject of a reference was found, and in how many of them confused."""
        own = [pair for pair in self.pairs if self.references[pair.own] == number]
        return {
            "frames": sum(pair.times for pair in own),
            "confused": sum(pair.times for pair in own if pair.confused),
        }


@dataclass(frozen=True, kw_only=True)
class SubjectConfusionScorer(OfBothScorer):
    """Compares what NexusScore and FaceSim find with all references."""

    def score(self, sample: Sample, video: Video) -> Score:
        """The share of confused subjects of one video, 0 to 1.

        Raises SampleError when no reference appears, and for a reference or a video that cannot be read.
        """
        return summary_of(
            sample,
            {
                "pictures": compared_pictures(sample, self.nexusscore.search, video),
                "faces": compared_faces(sample, self.facesim.search, video),
            },
        )


@metrics.register
class SubjectConfusion(OfBoth):
    """Needs everything of NexusScore and FaceSim; GME is shared with NexusScore and GmeScore."""

    declaration = MetricDeclaration(
        name="subject-confusion",
        # 2: crops and faces are embedded in the batches of NexusScore and FaceSim.
        version="2",
        summary="supplementary: share of subjects nearer to another reference than to their own",
        source="ours; networks of NexusScore and FaceSim (OpenS2V-Nexus@210eb08)",
        uses=frozenset({"video", "references"}),
        weights=WEIGHTS,
        # benchmarks/subject_confusion.py: what is left beside both. Assumed: one reference that NexusScore
        # does not look for, of as many tokens as a frame of GmeScore.
        cost=ScoringCost(
            assumed_gpu_s=0.03,
            serial_s=0.02,
            tflop=9.6,
            parameter_bytes=2,
            peak_gib=26.9,
            shares=SHARES,
            remarks=(
                "in the turn of nexusscore and facesim it looks at nothing again; alone it costs what they "
                "do, and the faces of samples with several people, which facesim leaves out, are in no sum",
            ),
        ),
        job_limit_s=JOB_LIMIT_S,
        packages=PACKAGES,
    )
    scorer_class = SubjectConfusionScorer

    def not_applicable(self, sample: Sample) -> str | None:
        """Samples with fewer than two references, or of which no two can be compared."""
        if not sample.references:
            return "no references"
        if len(sample.references) == 1:
            return "one reference cannot be confused with another"
        if not subjects_of(sample) and len(people_of(sample)) < 2:
            return "no two references can be compared: faces need two, everything else a label"
        return None


def people_of(sample: Sample) -> list[int]:
    """The numbers of the references that show a person."""
    return [number for number, one in enumerate(sample.references) if one.kind == "person"]


def paired(similarities_DR: np.ndarray, candidates: Sequence[Collection[int]]) -> list[int | None]:
    """For each of D detections of a frame the column of its reference, or None where it gets none.

    `similarities_DR` are (detections, references), `candidates` the columns that each detection may get. The
    most alike pair is made first; a detection and a reference are in one pair at most. Of equally alike ones
    the first detection, then the first column.

    >>> paired(np.array([[0.9, 0.1], [0.8, 0.3]]), [{0, 1}, {0, 1}])
    [0, 1]
    """
    own: list[int | None] = [None] * len(candidates)
    possible = [(detection, column) for detection, columns in enumerate(candidates) for column in columns]
    for detection, column in sorted(possible, key=lambda pair: (-similarities_DR[pair], *pair)):
        if own[detection] is None and column not in own:
            own[detection] = column
    return own


def pairs_of(
    similarities_DR: np.ndarray, candidates: Sequence[Collection[int]], times: int
) -> Iterator[Pair]:
    """The pairs of a frame that stands for so many of the 32; see `paired`."""
    for row, own in zip(similarities_DR, paired(similarities_DR, candidates), strict=True):
        if own is not None:
            yield Pair(own=own, similarities_R=row, times=times)


def summary_of(sample: Sample, kinds: Mapping[str, Compared]) -> Score:
    """The score and its details of a video's pairs. Raises SampleError where there is none."""
    sought = {number for kind in kinds.values() for number in kind.sought}
    if not sought:
        raise SampleError("no reference to look for: all are people, and no face is found in their pictures")
    pairs = [pair for kind in kinds.values() for pair in kind.pairs]
    if not pairs:
        raise SampleError(NOTHING_FOUND["subject-confusion"])
    margins = [(pair.margin, pair.times) for pair in pairs if pair.margin is not None]
    compared = sum(times for _, times in margins)
    present = {number for kind in kinds.values() for number in kind.present}
    return Score(
        value=sum(pair.times for pair in pairs if pair.confused) / sum(pair.times for pair in pairs),
        details={
            "frames": FRAMES,
            "presence": len(present) / len(sought),
            "margin": sum(margin * times for margin, times in margins) / compared if compared else None,
            "references": [
                {
                    "path": reference.path,
                    "sought": number in sought,
                    "present": number in present,
                    **{name: kind.counted(number) for name, kind in kinds.items() if number in kind.sought},
                }
                for number, reference in enumerate(sample.references)
            ],
            **{
                name: {"references": list(kind.references), "mean_similarity": kind.matrix()}
                for name, kind in kinds.items()
                if kind.sought
            },
        },
    )


@dataclass(kw_only=True)
class Sighting:
    """What a box shows: the places in `subjects_of` that it was found for, and the number of its crop."""

    corners_4: Sequence[float]
    subjects: set[int]
    crop: int


def sightings_of(boxes: Iterable[SeenBox]) -> list[Sighting]:
    """What the boxes of a frame show, each subject once, the surest box of it."""
    sightings: list[Sighting] = []
    for box in sorted(boxes, key=lambda box: -float(box.confidence)):
        if box.crop is None or not _has_pixels(box.corners_4):
            continue
        same = next(
            (one for one in sightings if overlap(one.corners_4, box.corners_4) > SAME_SUBJECT_OVERLAP), None
        )
        if same is None:
            sightings.append(Sighting(corners_4=box.corners_4, subjects={box.subject}, crop=box.crop))
        else:
            same.subjects.add(box.subject)
    return sightings


def compared_pictures(sample: Sample, search: SubjectSearch, video: Video) -> Compared:
    """The subjects of a video, as NexusScore finds them, against all reference pictures.

    Raises SampleError for a reference or a video that cannot be read.
    """
    everyone, subjects = sample.references, subjects_of(sample)
    column_of = [subject.number for subject in subjects]
    pairs: list[Pair] = []
    seen = search.seen(subjects, video) if subjects else None
    if seen is not None and seen.crops:
        import torch

        known = dict(zip(column_of, seen.pictures, strict=True))
        others = [number for number in range(len(everyone)) if number not in known]
        opened = [everyone[number].open_plain_rgb() for number in others]
        known |= zip(others, picture_embeddings(opened, search.embedder), strict=True)
        pictures = [known[number] for number in range(len(everyone))]
        references_RD = torch.stack(pictures).float()
        for frame in seen.frames:
            sightings = sightings_of(frame.boxes)
            crops = [seen.crops[one.crop] for one in sightings]
            # As in NexusScore, what is unlike the label is no such subject.
            candidates = [
                {
                    column_of[subject]
                    for subject in one.subjects
                    if half_product(seen.labels[subject], crop_D) > MIN_TEXT_SIMILARITY
                }
                for one, crop_D in zip(sightings, crops, strict=True)
            ]
            if crops:
                similarities_DR = (torch.stack(crops).float() @ references_RD.T).numpy()
                pairs += pairs_of(similarities_DR, candidates, frame.repeats)
    return Compared(
        references=tuple(range(len(everyone))), sought=tuple(dict.fromkeys(column_of)), pairs=tuple(pairs)
    )


def compared_faces(sample: Sample, search: FaceSearch, video: Video) -> Compared:
    """All faces of a video against the faces of all references that show a person.

    Raises SampleError for a reference or a video that cannot be read.
    """
    found = {number: search.reference_face(sample.references[number]) for number in people_of(sample)}
    known = {number: face for number, face in found.items() if face is not None}
    columns = tuple(known)
    pairs: list[Pair] = []
    for frame, embeddings_FD in search.seen(video).per_frame() if columns else ():
        similarities_FR = np.array([cosines(face.curricular_D, embeddings_FD) for face in known.values()]).T
        # Also false for a face whose embedding is of length zero.
        known_FR = similarities_FR[similarities_FR.max(axis=1) >= MIN_FACE_COSINE]
        pairs += pairs_of(known_FR, [range(len(columns))] * len(known_FR), frame.repeats)
    return Compared(references=columns, sought=columns, pairs=tuple(pairs))


def overlap(one_4: Sequence[float], other_4: Sequence[float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2), 0 to 1.

    >>> overlap((0, 0, 2, 2), (1, 0, 3, 2))
    0.3333333333333333
    """
    left, top = max(one_4[0], other_4[0]), max(one_4[1], other_4[1])
    right, bottom = min(one_4[2], other_4[2]), min(one_4[3], other_4[3])
    common = max(right - left, 0.0) * max(bottom - top, 0.0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one_4, other_4)) - common
    return common / union if union > 0 else 0.0


def _has_pixels(corners_4: Iterable[float]) -> bool:
    left, top, right, bottom = (round(corner) for corner in corners_4)
    return right > left and bottom > top
