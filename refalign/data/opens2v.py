"""Reads OpenS2V-5M as it is on disk.

    annotations/<shard>.json        {clip id: {metadata, word_tags, annotation}}
    videos/<shard>/<metadata.path>  the clip's source video
    cross_frames_pairs/             see `pairs.py`; optional
    gpt_frames/<clip id>/<n>_<label>.png  optional; `main_image.png` beside them is the frame itself

How names relate. A clip's id is its video's name and the processing steps behind it, and one video may have
several clips: `X_part2_step1-0-95_step2-0-95_step3_step4_step5` is cut from `X_part2.mp4`. The video is
looked for as `videos/<shard>/<path>`, then `videos/<path>` (releases whose path begins with the part's
folder), then by the id's own name as `videos/<shard>/X_part2.mp4`. A folder of GPT frames names later steps
than the annotation does (`…_step2-0-95_step4_step5_step6`), so apart from the id itself it is found by what
is left when the trailing steps without frame numbers are taken off both.

What the numbers mean. `crop` [x0, x1, y0, y1] removes watermarks, and boxes and masks refer to the cropped
frame; `face_cut` [first, last) holds the usable frames (`cut` stands in where it is missing). `ann_frame_idx`
counts the source video's frames. Subjects are numbered by strings from "1", which index `annotations` from 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from refbench.bench.errors import SampleError, UserError, first_fault, one_line
from refbench.bench.files import contained_file
from refbench.bench.video import Probe, Video
from refbench.refalign.data.augmentation import augmented
from refbench.refalign.data.draws import Draws
from refbench.refalign.data.frames import (
    Region,
    frame_indices,
    read_clip,
    read_frames,
    stacked_references,
    window_starts,
)
from refbench.refalign.data.lines import opened_on_white
from refbench.refalign.data.pairs import CrossPairs
from refbench.refalign.data.sample import Clip, ClipRule, ClipSize, Skipped
from refbench.refalign.data.shards import AnnotationShard, object_entries
from refbench.refalign.data.source import ClipOutline, ClipSource, ReferenceRates
from refbench.refalign.data.subjects import AnnotatedSubject, Cutout, chosen_cutouts, cut_out

GPT_FRAME = re.compile(r"(\d{1,6})_(.+)\.png")
STEP = re.compile(r"_step\d")
TRAILING_STEPS = re.compile(r"(_step\d+)+$")

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Metadata(BaseModel):
    path: str
    crop: tuple[int, int, int, int] | None = None
    face_cut: tuple[int, int] | None = None
    cut: tuple[int, int] | None = None
    face_cap_qwen: str


class _Scored(BaseModel):
    class_name: str = ""
    bbox: tuple[_Finite, _Finite, _Finite, _Finite]
    gme_score: float | None = None
    aes_score: float | None = None


class _Frame(BaseModel):
    ann_frame_idx: Annotated[int, Field(ge=0)]
    annotations: list[_Scored]


class _Class(BaseModel):
    class_name: str = ""


class _Mask(BaseModel):
    size: tuple[int, int]
    counts: str


class _Annotation(BaseModel):
    ann_frame_data: _Frame
    mask_map: dict[str, _Class] = Field(default_factory=dict)
    mask_annotation: dict[str, dict[str, _Mask]]


class _Entry(BaseModel):
    metadata: _Metadata
    annotation: _Annotation

    def subjects(self) -> list[AnnotatedSubject]:
        """The subjects masked in the reference frame. Raises SampleError for one without a box."""
        frame = self.annotation.ann_frame_data
        subjects = []
        for subject_id, mask in self.annotation.mask_annotation.get(str(frame.ann_frame_idx), {}).items():
            number = int(subject_id) if subject_id.isdecimal() and len(subject_id) < 7 else 0
            if not 1 <= number <= len(frame.annotations):
                raise SampleError(f"subject {one_line(subject_id, 20)!r} has no entry in annotations")
            scored = frame.annotations[number - 1]
            named = self.annotation.mask_map.get(subject_id)
            subjects.append(
                AnnotatedSubject(
                    id=subject_id,
                    label=(named.class_name if named is not None else "") or scored.class_name,
                    aes_score=scored.aes_score,
                    gme_score=scored.gme_score,
                    box=scored.bbox,
                    mask_counts=mask.counts,
                    mask_size=mask.size,
                )
            )
        return subjects

    def region(self, probe: Probe) -> Region:
        """The cropped frame. Raises SampleError where the crop is not inside the video's frame."""
        if self.metadata.crop is None:
            return Region(left=0, top=0, right=probe.width, bottom=probe.height)
        x0, x1, y0, y1 = self.metadata.crop
        if not (0 <= x0 < x1 <= probe.width and 0 <= y0 < y1 <= probe.height):
            raise SampleError(
                f"the crop {one_line([x0, x1, y0, y1], 60)} is not inside {probe.width}×{probe.height} pixels"
            )
        return Region(left=x0, top=y0, right=x1, bottom=y1)

    def usable_frames(self, probe: Probe) -> tuple[int, int]:
        """The first frame that a window may hold, and the frame after the last one."""
        first, last = self.metadata.face_cut or self.metadata.cut or (0, probe.frames)
        return max(first, 0), min(last, probe.frames)


class OpenS2VSource(ClipSource):
    """A folder in OpenS2V-5M's layout; each annotation file is a shard.

    A clip's key is `<shard>/<clip id>`, as the pairs write it. Raises UserError for a folder without
    annotations or videos.
    """

    shards: Sequence[AnnotationShard]

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self.path = folder
        self._videos = folder / "videos"
        if not self._videos.is_dir():
            raise UserError(f"{folder} has annotations but no folder videos")
        files = sorted((folder / "annotations").glob("*.json"))
        self.shards = [AnnotationShard(file, object_entries, cache) for file in files]
        self._pairs = CrossPairs(folder / "cross_frames_pairs", cache)

    def name(self, shard: int, number: int) -> str:
        """`<shard>/<clip id>`, or file and entry number where there is no id to read."""
        owner = self.shards[shard]
        try:
            clip_id, _ = owner.member(number)
        except SampleError:
            return f"{owner.path.name}, entry {owner.line(number)}"
        return f"{owner.name}/{one_line(clip_id, 160)}"

    def clip(self, shard: int, number: int, rule: ClipRule, rates: ReferenceRates, draws: Draws) -> Clip:
        """The clip, with its own, a linked clip's or GPT's references. Raises SampleError.

        Where the other references cannot be read the clip's own are taken, and `replaced` says so.
        """
        owner = self.shards[shard]
        clip_id, entry = self._entry(owner, number)
        key = f"{owner.name}/{clip_id}"
        video = Video(self._video_file(owner.name, clip_id, entry.metadata.path))
        region = entry.region(video.probe)
        first, last = entry.usable_frames(video.probe)
        indices = frame_indices(first, last, rule, lambda count: draws.below(count, "start"))
        cutouts = chosen_cutouts(entry.subjects(), region.height, region.width, rule.max_references)
        video_FHWC, still_HWC = read_clip(
            video, indices, region, rule, still=entry.annotation.ann_frame_data.ann_frame_idx
        )
        assert still_HWC is not None
        replaced: tuple[Skipped, ...] = ()
        taken: list[tuple[str, np.ndarray]] | None = None
        try:
            taken = self._other_references(owner.name, clip_id, rule, rates, draws)
        except SampleError as error:
            replaced = (Skipped(key=f"{one_line(key, 160)}, other references", reason=one_line(error)),)
        if taken is None:
            taken = [
                (label, augmented(image_HWC, rates.augmentation, draws, place))
                for place, (label, image_HWC) in enumerate(_pieces(cutouts, still_HWC))
            ]
        return Clip(
            key=key,
            prompt=entry.metadata.face_cap_qwen,
            video_FHWC=video_FHWC,
            references_NHWC=stacked_references([image_HWC for _, image_HWC in taken], rule),
            labels=tuple(label for label, _ in taken),
            first_frame=indices[0],
            replaced=replaced,
        )

    def outline(self, shard: int, number: int, rule: ClipRule) -> ClipOutline:
        """See the parent; of the clip's own references, whatever else may be drawn in their place."""
        owner = self.shards[shard]
        clip_id, entry = self._entry(owner, number)
        probe = Video(self._video_file(owner.name, clip_id, entry.metadata.path)).probe
        region = entry.region(probe)
        first, last = entry.usable_frames(probe)
        if last <= first:
            raise SampleError(f"no frame lies in [{first}, {last})")
        cutouts = chosen_cutouts(entry.subjects(), region.height, region.width, rule.max_references)
        return ClipOutline(
            key=f"{owner.name}/{clip_id}",
            prompt=entry.metadata.face_cap_qwen,
            first_frame=first,
            starts=window_starts(last - first, rule),
            references=len(cutouts),
            own_references=True,
        )

    def size(self, shard: int, number: int) -> ClipSize:
        """See the parent: by the annotation, and by the video where that says nothing."""
        owner = self.shards[shard]
        clip_id, entry = self._entry(owner, number)
        metadata = entry.metadata
        cut = metadata.face_cut or metadata.cut
        if metadata.crop is None or cut is None:
            glance = Video(self._video_file(owner.name, clip_id, metadata.path)).glance
            region = entry.region(glance)
            first, last = entry.usable_frames(glance)
            return ClipSize(width=region.width, height=region.height, frames=last - first)
        x0, x1, y0, y1 = metadata.crop
        return ClipSize(width=x1 - x0, height=y1 - y0, frames=cut[1] - cut[0])

    def _entry(self, shard: AnnotationShard, number: int) -> tuple[str, _Entry]:
        clip_id, content = shard.member(number)
        try:
            return clip_id, _Entry.model_validate(content)
        except ValidationError as error:
            raise SampleError(first_fault(error)) from None

    def _video_file(self, shard: str, clip_id: str, path: str) -> Path:
        candidates = (f"{shard}/{path}", path, f"{shard}/{STEP.split(clip_id)[0]}.mp4")
        # The bare path is checked first: below a shard's folder an absolute one would look relative.
        files = {name: contained_file(self._videos, name) for name in (path, *candidates)}
        for name in candidates:
            file = files[name]
            if file is not None:
                return file
        raise SampleError(f"the video {one_line(path, 120)} is missing from videos/{shard}")

    def _other_references(
        self, shard: str, clip_id: str, rule: ClipRule, rates: ReferenceRates, draws: Draws
    ) -> list[tuple[str, np.ndarray]] | None:
        """Labels and images by GPT or from a linked clip, or None where the clip's own are to be used."""
        if draws.uniform("gpt") < rates.gpt:
            drawn = self._gpt_references(clip_id, rule)
            if drawn:
                return drawn
        if draws.uniform("cross pair") < rates.cross_pair:
            return self._linked_references(shard, clip_id, rule, draws)
        return None

    def _linked_references(
        self, shard: str, clip_id: str, rule: ClipRule, draws: Draws
    ) -> list[tuple[str, np.ndarray]] | None:
        """The linked subjects of one linked clip, drawn from those whose annotation is here."""
        shards = {other.name: other for other in self.shards}
        here: list[tuple[str, AnnotationShard, int, set[str]]] = []
        for other_key, subject_ids in self._pairs.linked(shard, clip_id).items():
            other_shard, _, other_id = other_key.partition("/")
            owner = shards.get(other_shard)
            number = owner.find(other_id) if owner is not None else None
            if owner is not None and number is not None:
                here.append((other_key, owner, number, subject_ids))
        if not here:
            return None
        other_key, owner, number, subject_ids = here[draws.below(len(here), "linked clip")]
        try:
            return self._still_references(owner, number, subject_ids, rule)
        except SampleError as error:
            raise SampleError(f"linked clip {one_line(other_key, 120)}: {error}") from None

    def _still_references(
        self, shard: AnnotationShard, number: int, subject_ids: set[str], rule: ClipRule
    ) -> list[tuple[str, np.ndarray]]:
        clip_id, entry = self._entry(shard, number)
        video = Video(self._video_file(shard.name, clip_id, entry.metadata.path))
        region = entry.region(video.probe)
        subjects = [subject for subject in entry.subjects() if subject.id in subject_ids]
        cutouts = chosen_cutouts(subjects, region.height, region.width, rule.max_references)
        frames = dict(read_frames(video, [entry.annotation.ann_frame_data.ann_frame_idx]))
        (frame_HWC,) = frames.values()
        return _pieces(cutouts, region.of(frame_HWC))

    def _gpt_references(self, clip_id: str, rule: ClipRule) -> list[tuple[str, np.ndarray]]:
        """GPT's pictures for the clip in the order of their numbers; empty where it has none."""
        root = self.path / "gpt_frames"
        folder = self._gpt_folders.get(clip_id) or self._gpt_folders.get(TRAILING_STEPS.sub("", clip_id))
        if folder is None:
            return []
        names = [(GPT_FRAME.fullmatch(name), name) for name in _names_in(root / folder)]
        numbered = sorted((int(match[1]), match[2].replace("_", " "), name) for match, name in names if match)
        return [
            (label, opened_on_white(root, f"{folder}/{name}"))
            for _, label, name in numbered[: rule.max_references]
        ]

    @cached_property
    def _gpt_folders(self) -> dict[str, str]:
        """Folder names of GPT frames by their own name and by their name without the last steps."""
        found: dict[str, str] = {}
        for name in _names_in(self.path / "gpt_frames"):
            found[name] = name
            found.setdefault(TRAILING_STEPS.sub("", name), name)
        return found


def _names_in(folder: Path) -> list[str]:
    """Names in a folder, sorted; none where it is no folder. Raises SampleError when it cannot be listed."""
    try:
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise SampleError(f"the folder {folder.name} cannot be listed: {one_line(error.strerror)}") from None


def _pieces(cutouts: list[Cutout], frame_HWC: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [(cutout.subject.label, cut_out(frame_HWC, cutout)) for cutout in cutouts]
