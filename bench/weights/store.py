"""Weights on disk: where a catalogue entry is, whether it is whole, its digest, and how it gets there.

Search order: `--weights DIR`, `REFBENCH_WEIGHTS` (a folder per repository, `<owner>/<name>` or `<name>`),
then the hub cache: of a repository's snapshots the declared revision, else the one that `refs/main` names.
Nothing is downloaded unless `refbench weights pull` asks for it; a pull records every
file's size and SHA-256 in `refbench-manifest.json`, against which the files are checked later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from refbench.bench.errors import MissingWeights, UserError, one_line
from refbench.bench.files import (
    leaves_its_folder,
    read_bytes,
    read_text,
    regular_size,
    remove_leftovers,
    shortlist,
    visible,
    write_json,
)
from refbench.bench.weights.catalogue import catalogue
from refbench.bench.weights.checkpoint import INDEX_SUFFIX, LARGEST_WEIGHTS_BYTES, indexed_files
from refbench.bench.weights.entry import WeightEntry
from refbench.bench.weights.kind import (
    MARKERS,
    PREFIXES,
    WeightsKind,
    joined_kind,
    kind_of_folder,
)

WEIGHTS_VARIABLE = "REFBENCH_WEIGHTS"
MANIFEST_FILE = "refbench-manifest.json"
# A file up to this size is hashed whole for a fingerprint; of a larger one only its ends are read.
LARGEST_HASHED_BYTES = 64 * 2**20
SAMPLED_BYTES = 2**20
SAMPLED_PREFIX = "sampled-"
# Weights of other frameworks that some repositories carry beside ours.
FOREIGN_FILES = ("*.h5", "*.msgpack", "*.ot", "tf_model*", "flax_model*", "openvino/*", "coreml/*")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a pull recorded: the exact revision, the licence as the hub's card states it, every file."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    repository: str
    revision: str
    licence: str = ""
    files: dict[str, _File]


def weights_folder(given: Path | None) -> Path | None:
    """The folder of `--weights`, else of REFBENCH_WEIGHTS, else None."""
    chosen = given or os.environ.get(WEIGHTS_VARIABLE)
    return Path(chosen).expanduser() if chosen else None


def locate(entry: WeightEntry, folder: Path | None) -> Path | None:
    """Where an entry's files are, or None: in `folder`, else its snapshot in the hub cache (see
    `hub_snapshot`).
    """
    if folder is not None:
        for name in (entry.repository, entry.repository.partition("/")[2]):
            if (folder / name).is_dir():
                return folder / name
    snapshot = hub_snapshot(entry)
    return snapshot if snapshot is not None and snapshot.is_dir() else None


def hub_snapshot(entry: WeightEntry) -> Path | None:
    """The snapshot of an entry that the hub cache means, whether it is there or not; None without any.

    The entry's revision where that was downloaded, else what `refs/main` names; without both the one snapshot
    that there is, and of several none.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / f"models--{entry.repository.replace('/', '--')}"
    snapshots = repository / "snapshots"
    if entry.revision and (snapshots / entry.revision).is_dir():
        return snapshots / entry.revision
    reference = repository / "refs" / "main"
    if reference.is_file():
        revision = read_text(reference).strip()
        if leaves_its_folder(revision):
            raise UserError(f"{reference} names no revision: {one_line(revision, 60)!r}")
        return snapshots / revision
    found = [path for path in visible(snapshots) if path.is_dir()]
    return found[0] if len(found) == 1 else None


def require(entry: WeightEntry, folder: Path | None) -> Path:
    """The folder of an entry's files; MissingWeights says how to get them.

    A snapshot of the hub cache must be whole. Where a pull left its manifest, a file that is gone or has
    another size is a UserError at once.
    """
    found = locate(entry, weights_folder(folder))
    if found is None:
        snapshot = hub_snapshot(entry)
        cached = f" (the hub cache's refs/main names {snapshot.name}, which is not there)" if snapshot else ""
        raise MissingWeights(
            f"{entry.repository} is not on disk{cached}; {how_to_get(entry)}, then --weights WEIGHTS"
        )
    if found.parent.name == "snapshots":
        absent = _absent_of_snapshot(found)
        if absent:
            raise MissingWeights(
                f"{found} is not whole: it lacks {shortlist(absent, 3)}; {how_to_get(entry)}"
            )
    faults = size_faults(found)
    if faults:
        raise UserError(f"{faults[0]}; {how_to_get(entry)}")
    return found


def _absent_of_snapshot(folder: Path) -> list[str]:
    """Files that a snapshot of the hub cache should hold: links without a file, and shards of an index."""
    absent = {path for path in folder.rglob("*") if path.is_symlink() and not path.exists()}
    for index in visible(folder, f"**/*{INDEX_SUFFIX}"):
        shards = set(indexed_files(index))
        lacking = {shard for shard in shards if not shard.is_file()}
        # Without any of its shards a network was left out on purpose.
        if lacking != shards:
            absent |= lacking
    return sorted(path.relative_to(folder).as_posix() for path in absent)


def require_file(entry: WeightEntry, candidates: Sequence[str], folder: Path | None) -> Path:
    """The first of the files (relative to the entry's folder) that exists; else MissingWeights names them."""
    found = require(entry, folder)
    for candidate in candidates:
        if (found / candidate).is_file() or (found / candidate).is_dir():
            return found / candidate
    raise MissingWeights(f"{found} lacks {' or '.join(candidates)}; {how_to_get(entry)}")


def require_model_folder(wanted: WeightEntry | str, folder: Path | None) -> Path:
    """The folder of a Hugging Face model, looked for where all weights are.

    `wanted` is an entry, or a repository that need not be catalogued. Raises MissingWeights for a model that
    is not there or lacks its config or its weights.
    """
    entry = wanted if isinstance(wanted, WeightEntry) else entry_of(wanted)
    found = require(entry, folder)
    if not (found / "config.json").is_file():
        raise MissingWeights(f"{found} lacks config.json; {how_to_get(entry)}")
    if not any(visible(found, pattern) for pattern in ("*.safetensors", "pytorch_model*.bin")):
        raise MissingWeights(f"{found} lacks model.safetensors or pytorch_model.bin; {how_to_get(entry)}")
    return found


def entry_of(repository: str) -> WeightEntry:
    """The catalogue's entry of a repository, or one with the repository's own name."""
    rows = (row.entry for row in catalogue().values() if row.entry.repository == repository)
    return next(rows, WeightEntry(name=repository, repository=repository, holds=""))


def how_to_get(entry: WeightEntry) -> str:
    """The command that downloads an entry, or makes it."""
    if entry.made_by:
        return entry.made_by
    if entry.name == entry.repository:
        # Not catalogued: some repository that an option names.
        return f"hf download {entry.repository} --local-dir WEIGHTS/{entry.repository}"
    return f"refbench weights pull {entry.name} --weights WEIGHTS"


def is_tiny(folder: Path) -> bool:
    """Whether a weights folder is marked as holding made-up tiny checkpoints."""
    return kind_of_folder(folder) == "tiny"


def is_small(folder: Path) -> bool:
    """Whether a weights folder is marked as holding other than released checkpoints, whose sizes are free."""
    return kind_of_folder(folder) != "real"


def kind_on_disk(entries: Iterable[WeightEntry], folder: Path | None) -> WeightsKind:
    """What the weights that would be read for these entries count as; `real` where none are there."""
    located = (locate(entry, weights_folder(folder)) for entry in entries)
    return joined_kind(kind_of_folder(found) for found in located if found is not None)


def file_digests(folder: Path, files: Mapping[str, Path]) -> dict[str, str]:
    """Name → SHA-256 of each file, prefixed with `tiny:` or `mini:` where the folder is marked so."""
    prefix = PREFIXES[kind_of_folder(folder)]
    return {name: prefix + sha256_of(path) for name, path in files.items()}


def weights_fingerprint(folder: Path, files: Sequence[Path]) -> str:
    """A digest of weight files below the folder `folder` that is cheap for many GiB.

    Where a pull left its manifest (in `folder` or up to two folders above it): `<revision> sha256:<digest of
    names and recorded hashes>`. Else `sha256:` over names and SHA-256 of the files, or `sampled-sha256:`
    where one is larger than 64 MiB and stands in by its size and its first and last MiB. `tiny:` or `mini:`
    comes before all that where the folder is marked so. Raises MissingWeights for no files or one that is
    gone.
    """
    if not files:
        raise MissingWeights(f"{folder} holds no weights")
    root = _repository_folder(folder)
    manifest = read_manifest(root)
    recorded = manifest.files if manifest is not None else {}
    hashes = {}
    for path in sorted(folder / file for file in files):
        # A file from elsewhere has no name below the folder.
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        hashes[name] = recorded[name].sha256 if name in recorded else _quick_digest(path)
    lines = "".join(f"{name} {text}\n" for name, text in hashes.items())
    sampled = any(text.startswith(SAMPLED_PREFIX) for text in hashes.values())
    digest = f"{SAMPLED_PREFIX if sampled else ''}sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    revision = (
        f"{manifest.revision[:12]} " if manifest is not None and hashes.keys() <= recorded.keys() else ""
    )
    return f"{PREFIXES[kind_of_folder(root)]}{revision}{digest}"


def _repository_folder(folder: Path) -> Path:
    """`folder`, or one of the two folders above it that a pull or `make-tiny` has marked."""
    # A network's own folder (`transformer`) lies below that of its repository.
    for candidate in (folder, *folder.parents[:2]):
        if any((candidate / name).exists() for name in (MANIFEST_FILE, *MARKERS.values())):
            return candidate
    return folder


def _quick_digest(path: Path) -> str:
    """SHA-256 of a file, or of the size and both ends of a large one, which is marked as sampled."""
    if not path.exists():
        raise MissingWeights(f"{path} is not there")
    try:
        size = regular_size(path, LARGEST_WEIGHTS_BYTES)
        if size <= LARGEST_HASHED_BYTES:
            return sha256_of(path)
        with path.open("rb") as file:
            digest = hashlib.sha256(f"{size} ".encode() + file.read(SAMPLED_BYTES))
            file.seek(-SAMPLED_BYTES, os.SEEK_END)
            digest.update(file.read(SAMPLED_BYTES))
    except OSError as error:
        raise MissingWeights(f"{path} cannot be read: {one_line(error.strerror)}") from None
    return f"{SAMPLED_PREFIX}{digest.hexdigest()}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces. Raises UserError for what is no regular file of weights."""
    regular_size(path, LARGEST_WEIGHTS_BYTES)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """What a pull recorded in a folder, or None where there is no manifest. A damaged one is a UserError."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        manifest = Manifest.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise UserError(f"{path} is damaged: {one_line(error, 120)}; pull again") from None
    for name in manifest.files:
        if leaves_its_folder(name):
            raise UserError(f"{path} names a file outside of its folder: {one_line(name, 80)!r}")
    return manifest


def size_faults(folder: Path) -> list[str]:
    """Files that are missing or have another size than the pull recorded, one line each; cheap."""
    manifest = read_manifest(folder)
    if manifest is None:
        return []
    faults = []
    for name, recorded in manifest.files.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path} is missing")
        elif path.stat().st_size != recorded.bytes:
            faults.append(f"{path} has {path.stat().st_size:,} bytes instead of {recorded.bytes:,}")
    return faults


def missing_files(entry: WeightEntry, folder: Path) -> list[str]:
    """What of an entry's required files its folder lacks."""
    return [
        alternatives
        for alternatives in entry.required
        if not any(visible(folder, name) for name in alternatives.split("|"))
    ]


def verify(entry: WeightEntry, folder: Path) -> list[str]:
    """What is wrong with an entry's folder, one line each: required files, sizes, then every file's
    SHA-256.
    """
    faults = [f"{folder} lacks {name.replace('|', ' or ')}" for name in missing_files(entry, folder)]
    faults += size_faults(folder)
    manifest = read_manifest(folder)
    if manifest is None or faults:
        return faults
    return [
        f"{folder / name} is not the file that was pulled: its SHA-256 differs"
        for name, recorded in manifest.files.items()
        if sha256_of(folder / name) != recorded.sha256
    ]


def pull(entry: WeightEntry, folder: Path) -> Manifest:
    """Download an entry into `folder/<owner>/<name>` and record what came. Raises UserError.

    An interrupted download goes on when it is called again; a file that is whole is not fetched twice.
    """
    from huggingface_hub import HfApi, snapshot_download

    if entry.made_by:
        raise UserError(f"{entry.name} is on no hub: {entry.made_by} makes it")
    target = folder / entry.repository
    try:
        information = HfApi().model_info(entry.repository, revision=entry.revision or None)
        snapshot_download(
            entry.repository,
            revision=information.sha,
            local_dir=target,
            allow_patterns=list(entry.only) or None,
            ignore_patterns=list(FOREIGN_FILES),
        )
    except Exception as error:  # noqa: BLE001 - the hub client raises many kinds; all mean one thing here
        raise UserError(f"{entry.repository} could not be downloaded: {one_line(error, 200)}") from None
    card = information.card_data
    licence = str(card.get("license") or "") if card is not None else ""
    return write_manifest(target, entry.repository, information.sha or "", licence)


def write_manifest(folder: Path, repository: str, revision: str, licence: str) -> Manifest:
    """Record every file below a pulled folder, in the folder itself."""
    remove_leftovers(folder)
    manifest = Manifest(
        repository=repository,
        revision=revision,
        licence=licence,
        files={
            path.relative_to(folder).as_posix(): _File(bytes=path.stat().st_size, sha256=sha256_of(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and path.name != MANIFEST_FILE
            and ".cache" not in path.relative_to(folder).parts
        },
    )
    write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))
    return manifest
