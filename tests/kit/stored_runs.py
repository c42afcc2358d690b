"""Runs with every component, their scoreboards, and stores that hold them with their run description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kit.records import record
from refbench.bench.method import MethodCard
from refbench.bench.runs.folder import RunInfo, stored_run_file, write_run
from refbench.bench.scores.aggregate import Scoreboard, scoreboards
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.record import Record
from refbench.bench.scores.store import StoreWriter, store_path

IDS = ("singleobj_1", "singlehuman_1", "singlehuman_2", "faceobj_1", "singleface_1", "multiface_1")
FACESIM_CATEGORIES = ("singlehuman", "faceobj", "singleface")
NEXUS_CATEGORIES = ("singleobj", "singlehuman", "faceobj")


def run_records(
    method: str = "m",
    quality: float = 0.5,
    *,
    ids: tuple[str, ...] = IDS,
    without: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0,),
    **fields: Any,
) -> list[Record]:
    """Records of one run: every component at `quality` of its range, a little higher for later samples."""
    found = []
    for place, sample in enumerate(ids):
        category = sample.rpartition("_")[0]
        for component in COMPONENTS.values():
            if component.name in without:
                continue
            share = quality + 0.02 * (place % 3 - 1)
            value: float | None = component.worst + share * (component.best - component.worst)
            reason = None
            if (component.name == "facesim" and category not in FACESIM_CATEGORIES) or (
                component.name == "nexusscore" and category not in NEXUS_CATEGORIES
            ):
                value, reason = None, "not_applicable: no such subject"
            for seed in seeds:
                found.append(
                    record(component.metric, sample, value, reason=reason, method=method, seed=seed, **fields)
                )
    return found


def boards_of(*runs: list[Record], protocol: str = "opens2v-1.1") -> list[Scoreboard]:
    """The scoreboards of runs, in the order given."""
    return scoreboards([one for run in runs for one in run], protocol)


def run_info(**card: object) -> RunInfo:
    """The description of a run of method `m`, whose card says this."""
    fields = {"name": "m", "summary": "draws <b>frames</b>", **card}
    return RunInfo(
        method="m", track="open-domain", card=MethodCard.model_validate(fields), versions={"torch": "2.15"}
    )


def store(root: Path, records: list[Record], info: RunInfo | None = None) -> Path:
    """Write the records of one method and track, with their run description; returns the store's file."""
    path = store_path(root, records[0].method, records[0].track)
    with StoreWriter(path) as writer:
        writer.append(records)
    if info is not None:
        write_run(stored_run_file(path, records[0].variant), info)
    return path
