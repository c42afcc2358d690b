"""Plain JSONL: one clip a line, for every data set that is not in OpenS2V-5M's layout.

    {"video": "clips/a.mp4", "prompt": "a cat", "references": ["cat.png"], "labels": ["cat"], "id": "a"}

`labels` (one per reference) and `id` are optional, other fields are refused. Paths are relative to the file
and may not leave its folder. A list that the user wrote and named itself may hold absolute paths too; those
of a data set's folder may not. References are opened as generators open them (EXIF applied, transparency on
white) and letterboxed; of more than `max_references` the first are taken. A line without references is a clip
to learn from text alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from refbench.bench.errors import SampleError, first_fault, one_line
from refbench.bench.files import contained_file
from refbench.bench.sample import Reference
from refbench.bench.video import Video
from refbench.refalign.data.draws import Draws
from refbench.refalign.data.frames import (
    Region,
    frame_indices,
    read_clip,
    stacked_references,
    window_starts,
)
from refbench.refalign.data.sample import Clip, ClipRule, ClipSize
from refbench.refalign.data.shards import AnnotationShard, line_entries, parse_json
from refbench.refalign.data.source import ClipOutline, ClipSource, ReferenceRates


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    video: str
    prompt: str
    references: list[str]
    labels: list[str] | None = None
    id: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _lists_agree(self) -> _Line:
        if self.labels is not None and len(self.labels) != len(self.references):
            raise ValueError(f"labels: {len(self.labels)} for {len(self.references)} references")
        return self


class LinesSource(ClipSource):
    """One or several JSONL files of one folder; each file is a shard.

    A sample's key is `<file stem>/<id>`; without an id it is file, line and a digest of the line, so that
    features cached under it are not taken for another line's after an edit. `absolute`: lines may name files
    anywhere by their absolute path.
    """

    shards: Sequence[AnnotationShard]

    def __init__(
        self, path: Path, files: Sequence[Path], cache: Path | None, *, absolute: bool = False
    ) -> None:
        self.path = path
        self.absolute = absolute
        self.shards = [AnnotationShard(file, line_entries, cache) for file in files]

    def name(self, shard: int, number: int) -> str:
        """`<file>:<line>`."""
        return f"{self.shards[shard].path.name}:{self.shards[shard].line(number)}"

    def clip(self, shard: int, number: int, rule: ClipRule, rates: ReferenceRates, draws: Draws) -> Clip:
        """The line's clip; `rates` have nothing to choose from here. Raises SampleError."""
        folder = self.shards[shard].path.parent
        key, line, video = self._opened(shard, number)
        references = line.references[: rule.max_references]
        images = [opened_on_white(*self._placed(folder, reference)) for reference in references]
        probe = video.probe
        indices = frame_indices(0, probe.frames, rule, lambda count: draws.below(count, "start"))
        whole = Region(left=0, top=0, right=probe.width, bottom=probe.height)
        video_FHWC, _ = read_clip(video, indices, whole, rule)
        return Clip(
            key=key,
            prompt=line.prompt,
            video_FHWC=video_FHWC,
            references_NHWC=stacked_references(images, rule),
            labels=tuple((line.labels or [""] * len(images))[: len(images)]),
            first_frame=indices[0],
        )

    def outline(self, shard: int, number: int, rule: ClipRule) -> ClipOutline:
        """See the parent."""
        key, line, video = self._opened(shard, number)
        return ClipOutline(
            key=key,
            prompt=line.prompt,
            first_frame=0,
            starts=window_starts(video.probe.frames, rule),
            references=min(len(line.references), rule.max_references),
            own_references=False,
        )

    def size(self, shard: int, number: int) -> ClipSize:
        """See the parent."""
        _, _, video = self._opened(shard, number)
        glance = video.glance
        return ClipSize(width=glance.width, height=glance.height, frames=glance.frames or video.probe.frames)

    def _opened(self, shard: int, number: int) -> tuple[str, _Line, Video]:
        """The clip's key, its line and its video. Raises SampleError."""
        text = self.shards[shard].read(number)
        try:
            line = _Line.model_validate(parse_json(text))
        except ValidationError as error:
            raise SampleError(first_fault(error)) from None
        file = contained_file(*self._placed(self.shards[shard].path.parent, line.video))
        if file is None:
            raise SampleError(f"the video {one_line(line.video, 120)} is missing")
        key = f"{self.name(shard, number)}#{hashlib.sha256(text).hexdigest()[:12]}"
        return key if line.id is None else f"{self.shards[shard].name}/{line.id}", line, Video(file)

    def _placed(self, folder: Path, path: str) -> tuple[Path, str]:
        """The folder that a line's path may not leave, and the path from there."""
        given = Path(path)
        if self.absolute and given.is_absolute():
            return Path(given.anchor), str(given.relative_to(given.anchor))
        return folder, path


def opened_on_white(folder: Path, path: str) -> np.ndarray:
    """A reference image below `folder`: EXIF applied, transparency on white, RGB uint8 (height, width, 3).

    Raises SampleError for a file that is missing, damaged or outside.
    """
    if contained_file(folder, path) is None:
        raise SampleError(f"reference image {one_line(path, 120)} is missing")
    try:
        return np.asarray(Reference(path=path, root=folder, label="", kind="object").open_on_white())
    except SampleError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's parsers of metadata raise kinds of their own
        raise SampleError(
            f"reference image {one_line(path, 120)} cannot be read: {one_line(error)}"
        ) from None
