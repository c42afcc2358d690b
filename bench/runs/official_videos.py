"""The videos that OpenS2V publishes: each model's samples, in the hub's data set below `Results/<MODEL>/`.

Nothing is downloaded unless `refbench weights pull results/<MODEL>` asks for it. Which models there are is
asked of the hub when it is needed; nothing here assumes it.

Source: the README of OpenS2V-Nexus v1.1, which names the folder.
"""

from __future__ import annotations

import glob
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from refbench.bench.dataset import HUB_DATASET
from refbench.bench.errors import UserError, one_line
from refbench.bench.scores.record import plain_name
from refbench.bench.weights.store import Manifest, read_manifest, size_faults, write_manifest

RESULTS_PREFIX = "results/"
HUB_FOLDER = "Results"
# Where a download that is not whole yet is kept, so that it goes on.
PARTIAL_FOLDER = ".partial"
# One folder's name, and nothing that could lead elsewhere.
SAFE_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,99}")


def pull_results(model: str, folder: Path) -> tuple[Path, Manifest]:
    """Download a model's official videos into `folder/results/<MODEL>`; the folder and what came.

    `model` is matched without case and punctuation. What was pulled whole is not fetched again. Raises
    UserError, for an unknown model with the names that the hub has.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        api = HfApi()
        revision = str(api.dataset_info(HUB_DATASET).sha or "")
        entries = list(
            api.list_repo_tree(HUB_DATASET, path_in_repo=HUB_FOLDER, repo_type="dataset", revision=revision)
        )
    except Exception as error:  # noqa: BLE001 - the hub client raises many kinds; all mean one thing here
        raise UserError(f"{HUB_DATASET} could not be asked: {one_line(error, 200)}") from None
    name = _chosen(model, entries)
    target = folder / "results" / name
    manifest = read_manifest(target)
    if manifest is not None and manifest.revision == revision and not size_faults(target):
        return target, manifest
    partial = folder / "results" / PARTIAL_FOLDER
    try:
        snapshot_download(
            HUB_DATASET,
            repo_type="dataset",
            revision=revision,
            local_dir=partial,
            allow_patterns=[f"{HUB_FOLDER}/{glob.escape(name)}/*"],
        )
    except Exception as error:  # noqa: BLE001 - as above
        raise UserError(f"{HUB_DATASET} could not be downloaded: {one_line(error, 200)}") from None
    came = partial / HUB_FOLDER / name
    if not came.is_dir():
        raise UserError(f"the hub sent nothing for {HUB_FOLDER}/{name} of {HUB_DATASET}")
    manifest = write_manifest(came, f"{HUB_DATASET}/{HUB_FOLDER}/{name}", revision, "")
    if target.exists():
        shutil.rmtree(target)
    came.replace(target)
    return target, manifest


def _chosen(model: str, entries: list[Any]) -> str:
    """The hub's name of a model. Only what can be a folder's name is taken from the hub's answer."""
    found = {
        name: hasattr(entry, "size")
        for entry in entries
        if SAFE_NAME.fullmatch(name := PurePosixPath(str(entry.path)).name)
    }
    folders = [name for name, is_file in found.items() if not is_file]
    for name in folders:
        if model == name:
            return name
    asked = plain_name(model) if SAFE_NAME.fullmatch(model) else None
    near = [name for name in folders if plain_name(name) == asked]
    if len(near) == 1:
        return near[0]
    files = [name for name, is_file in found.items() if is_file]
    said = f"the hub has {', '.join(sorted(folders)) or 'no folder there'}"
    said += f" (and the files {', '.join(sorted(files))})" if files else ""
    raise UserError(f"{HUB_FOLDER} of {HUB_DATASET} has no {one_line(model, 60)!r}; {said}")
