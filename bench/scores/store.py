"""The score store: append-only JSONL, one file per method and track, `<root>/<method>/<track>.jsonl`.

One process writes a file at a time (a lock that dies with the process). A line is written whole or, in a
crash, torn at the end of the file: a torn last line is ignored by readers and cut off by the next writer, so
a crash loses at most that line.
"""

from __future__ import annotations

import codecs
import os
import platform
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from pydantic import ValidationError

from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.files import is_there, lock_for_writing, read_bytes
from refbench.bench.scores.record import Record, RecordKey, generated_with, latest
from refbench.bench.weights.kind import WeightsKind

if TYPE_CHECKING:
    from filelock import FileLock

# A score store: its folder, a method's folder in it, or one of its files.
Store = str | os.PathLike[str]

# Room for millions of records, several thousand times what one method on an official track leaves.
LARGEST_STORE_BYTES = 16 * 2**30
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def checked_name(name: str, what: str) -> str:
    """`name` if it can be a folder's name (letters, digits, `.`, `_`, `+`, `-`), else a UserError."""
    if not NAME.fullmatch(name):
        raise UserError(f"{what} {one_line(name, 60)!r} may hold letters, digits, '.', '_', '+' and '-' only")
    return name


def store_path(root: Path, method: str, track: str) -> Path:
    """The file that holds the records of one method and track."""
    return root / checked_name(method, "the method name") / f"{checked_name(track, 'the track name')}.jsonl"


class StoreWriter:
    """The one writer of a store file, as a context manager. `records` are those that were there, latest by
    key.

    Raises UserError when another process writes the file, or when it is damaged before its last line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[RecordKey, Record] = {}
        self._lock: FileLock | None = None
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        def taken(lock_file: Path) -> str:
            return (
                f"{self.path} is being written by another run{_owner(lock_file)}; wait for it, or use "
                f"another --out and merge. If no such run is left (a machine that went away), remove "
                f"{lock_file}"
            )

        self._lock = lock_for_writing(self.path, taken)
        # For whoever finds it taken: on a shared disk the owner may be another machine.
        with suppress(OSError):
            Path(self._lock.lock_file).write_text(
                f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8"
            )
        try:
            self.records = latest(read_records(self.path)) if self.path.exists() else {}
            self._file = self.path.open("ab")
            self._cut_torn_line()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        if self._lock is not None:
            self._lock.release()

    def append(self, records: Sequence[Record]) -> None:
        """Write records, each as one line; they are with the operating system when this returns."""
        assert self._file is not None, "append() outside of the with block"
        for record in records:
            self._file.write(record.model_dump_json().encode() + b"\n")
            self.records[record.key] = record
        self._file.flush()

    def _cut_torn_line(self) -> None:
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(self.path, end)


def _owner(lock_file: Path) -> str:
    """` (process 12 on HOST)`, as far as the lock file says it."""
    try:
        with lock_file.open("rb") as file:
            said = one_line(file.read(200).decode("utf-8", "replace"), 120)
    except OSError:
        return ""
    return f" ({said})" if said else ""


def read_records(path: Path) -> list[Record]:
    """All records of one file, in order; a torn last line is left out.

    Raises UserError with the line number for anything else that is no record, and for what is no regular
    file or far too large.
    """
    content = read_bytes(path, LARGEST_STORE_BYTES)
    # An editor on another system may have put a byte order mark before the first line.
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    # What follows the last newline is empty or torn: a record's beginning, or nothing where a disk lost it.
    torn = lines.pop().strip(b"\0")
    if torn and not torn.startswith(b"{"):
        raise UserError(f"{path}, line {len(lines) + 1} is no score record, nor the beginning of one")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError as error:
            fault = first_fault(error)
            raise UserError(f"{path}, line {number} is no score record: {fault}") from None
    return records


@dataclass(frozen=True)
class StorePart(os.PathLike[str]):
    """A file of a store of which only the records with these keys are meant; as a path it is the file."""

    file: Path
    keys: frozenset[RecordKey]

    def __fspath__(self) -> str:
        return str(self.file)


def store_paths(stores: Store | Iterable[Store]) -> list[Path]:
    """One store or several as paths."""
    return [Path(store) for store in ([stores] if isinstance(stores, str | os.PathLike) else stores)]


def store_files(stores: Store | Iterable[Store]) -> list[Path]:
    """The files of the given stores, sorted; hidden ones (`._x.jsonl` of macOS) are nobody's.

    Raises UserError when a store does not exist or when nothing is found.
    """
    files: set[Path] = set()
    paths = store_paths(stores)
    for path in paths:
        if path.is_dir():
            # What is no regular file is refused by its name where it is read.
            files.update(
                file
                for file in path.rglob("*.jsonl")
                if not file.is_dir()
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
        elif is_there(path):
            files.add(path)
        else:
            raise UserError(f"the score store {path} does not exist")
    if not files:
        raise UserError(f"no score records (*.jsonl) below {', '.join(map(str, paths))}")
    return sorted(files)


def load_records(stores: Store | Iterable[Store]) -> list[Record]:
    """The latest record of every key in the given stores, in order of the files."""
    return list(latest(record for file in store_files(stores) for record in read_records(file)).values())


def merge_stores(stores: Iterable[Store], root: Path) -> dict[Path, int]:
    """Join stores (of several machines or shards) into the store below `root`; later stores win.

    A missing video or missing weights never replace a value that another store holds: the machine that had
    the video is right. Returns the number of records added or changed per written file. Raises UserError
    where one file has scores of mini weights and another of released ones.
    """
    by_file: dict[Path, list[Record]] = {}
    first_with: dict[WeightsKind, Path] = {}
    for file in (file for store in stores for file in store_files(store)):
        for record in read_records(file):
            by_file.setdefault(store_path(root, record.method, record.track), []).append(record)
            for kind in record.provenance.weights_kinds | {generated_with(record.variant)}:
                if kind is not None:
                    first_with.setdefault(kind, file)
    if "mini" in first_with and "real" in first_with:
        raise UserError(
            f"{first_with['mini']} has scores of mini weights, {first_with['real']} of released ones: "
            "merge them into stores of their own"
        )
    written = {}
    for path, records in sorted(by_file.items()):
        with StoreWriter(path) as writer:
            joined = dict(writer.records)
            for record in records:
                held = joined.get(record.key)
                if held is None or held.value is None or record.value is not None:
                    joined[record.key] = record
            changed = [record for key, record in joined.items() if writer.records.get(key) != record]
            writer.append(changed)
        written[path] = len(changed)
    return written
