"""OpenS2V-5M's cross-frame pairs: which subjects of other clips show the same thing as this clip's.

`cross_frames_pairs/cross_frames_pairs*.json` maps a cluster (the source video) to its pairs, and
`cross_frames_pairs/<cluster>.json` may hold one cluster's list instead. A pair names both clips as
`<shard>/<clip id>` and both subjects by number, once for a pair of clips: it is read in both directions. The
files list only pairs above similarities of about 0.6 (text) and 0.8 (image), so none is dropped here.
`cluster_videos.json` lists the same clips without subjects and is not needed.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from refbench.bench.errors import SampleError, first_fault, one_line
from refbench.bench.files import contained_file
from refbench.refalign.data.shards import LARGEST_ENTRY_BYTES, AnnotationShard, object_entries, parse_json


class _Pair(BaseModel):
    cur_id: str
    aft_id: str
    cur_class_id: str
    aft_class_id: str


_PAIRS = TypeAdapter(list[_Pair])


def cluster_of(clip_id: str) -> str:
    """The source video of a clip: its id up to `_segment`, or else up to `_part`.

    Source: OpenS2V-Nexus v1.1, `data_process/demo_dataloader.py`.
    """
    cluster = clip_id.split("_segment")[0]
    return cluster if cluster != clip_id else clip_id.split("_part")[0]


class CrossPairs:
    """The links between clips, looked up one cluster at a time."""

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self.folder = folder
        files = sorted(folder.glob("cross_frames_pairs*.json"))
        self._shards = [AnnotationShard(file, object_entries, cache) for file in files]

    def linked(self, shard: str, clip_id: str) -> dict[str, set[str]]:
        """Subject ids by linked clip (`<shard>/<clip id>`), clips in the order of their names.

        Raises SampleError for pairs that cannot be read.
        """
        own = f"{shard}/{clip_id}"
        links: dict[str, set[str]] = {}
        for pair in self._pairs(cluster_of(clip_id)):
            if pair.aft_id == pair.cur_id:
                continue
            if pair.cur_id == own:
                links.setdefault(pair.aft_id, set()).add(pair.aft_class_id)
            elif pair.aft_id == own:
                links.setdefault(pair.cur_id, set()).add(pair.cur_class_id)
        return dict(sorted(links.items()))

    def _pairs(self, cluster: str) -> list[_Pair]:
        content: object = []
        for shard in self._shards:
            number = shard.find(cluster)
            if number is not None:
                content = shard.member(number)[1]
                break
        else:
            content = self._lone_cluster(cluster)
        try:
            return _PAIRS.validate_python(content)
        except ValidationError as error:
            raise SampleError(f"cross-frame pairs of {cluster}: {first_fault(error)}") from None

    def _lone_cluster(self, cluster: str) -> object:
        file = contained_file(self.folder, f"{cluster}.json")
        if file is None:
            return []
        try:
            if file.stat().st_size > LARGEST_ENTRY_BYTES:
                raise SampleError(f"cross-frame pairs of {cluster}: the file is too large")
            return parse_json(file.read_bytes())
        except OSError as error:
            raise SampleError(f"cross-frame pairs of {cluster}: {one_line(error.strerror)}") from None
