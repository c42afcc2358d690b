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
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self

from pydantic import ValidationError

from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.files import is_there, lock_for_writing, regular_size, replacing
from refbench.bench.scores.compact_records import CompactRecords, collecting_nothing
from refbench.bench.scores.record import Record, RecordKey, generated_with, latest
from refbench.bench.weights.kind import WeightsKind

if TYPE_CHECKING:
    from filelock import FileLock

# A score store: its folder, a method's folder in it, or one of its files.
Store = str | os.PathLike[str]

# Room for millions of records, several thousand times what one method on an official track leaves.
LARGEST_STORE_BYTES = 16 * 2**30
# Read at once: far more than a line.
READ_BYTES = 2**20
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
        self._compact = CompactRecords()
        self._lock: FileLock | None = None
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._lock = _taken_lock(self.path)
        try:
            whole = 0
            if self.path.exists():
                with collecting_nothing():
                    for one in _stored(self.path, self._compact):
                        self.records[one.record.key] = one.record
                        whole = one.end
            self._file = self.path.open("ab")
            if whole < self._file.tell():
                # Torn by a crash.
                os.truncate(self.path, whole)
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
            self.records[record.key] = self._compact.compact(record)
        self._file.flush()


def _taken_lock(path: Path) -> FileLock:
    """The lock of a store file, which says in its file who has it. Raises UserError when another has."""

    def taken(lock_file: Path) -> str:
        return (
            f"{path} is being written by another run{_owner(lock_file)}; wait for it, or use "
            f"another --out and merge. If no such run is left (a machine that went away), remove "
            f"{lock_file}"
        )

    lock = lock_for_writing(path, taken)
    # For whoever finds it taken: on a shared disk the owner may be another machine.
    with suppress(OSError):
        Path(lock.lock_file).write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
    return lock


def _owner(lock_file: Path) -> str:
    """` (process 12 on HOST)`, as far as the lock file says it."""
    try:
        with lock_file.open("rb") as file:
            said = one_line(file.read(200).decode("utf-8", "replace"), 120)
    except OSError:
        return ""
    return f" ({said})" if said else ""


class _Stored(NamedTuple):
    """A record and where its line stands in the file, in bytes; `end` is after the line's end."""

    record: Record
    start: int
    end: int


def _stored(path: Path, records: CompactRecords) -> Iterator[_Stored]:
    """The records of one file in order, read once and a line at a time; see `read_records`."""
    lines = _whole_lines(path)
    for number, (start, line) in enumerate(lines, start=1):
        try:
            record = records.from_line(line[:-1])
        except ValidationError as error:
            for _ in lines:
                # A file that does not end as a store does says so instead.
                pass
            raise UserError(f"{path}, line {number} is no score record: {first_fault(error)}") from None
        yield _Stored(record, start, start + len(line))


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that have an end, each with the position of its first byte.

    Raises UserError for what is no regular file, far too large or unreadable; and, after the last line, when
    what follows is not the beginning of a record.
    """
    regular_size(path, LARGEST_STORE_BYTES)
    try:
        with path.open("rb", READ_BYTES) as file:
            # An editor on another system may have put a byte order mark before the first line.
            mark = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
            position = file.seek(len(codecs.BOM_UTF8) if mark else 0)
            number = 1
            for line in file:
                if not line.endswith(b"\n"):
                    # Torn: a record's beginning, or nothing where a disk lost it. What a writer adds to it
                    # in this moment is read the next time.
                    torn = line.strip(b"\0")
                    if torn and not torn.startswith(b"{"):
                        raise UserError(f"{path}, line {number} is no score record, nor the beginning of one")
                    return
                yield position, line
                position += len(line)
                number += 1
    except OSError as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None


def read_records(path: Path) -> list[Record]:
    """All records of one file, in order; a torn last line is left out.

    Equal parts of them (`provenance.weights`) are one object and not to be changed. Raises UserError with
    the line number for anything else that is no record, and for what is no regular file or far too large.
    """
    with collecting_nothing():
        return [one.record for one in _stored(path, CompactRecords())]


def read_latest(files: Iterable[Path]) -> dict[RecordKey, Record]:
    """The latest record of every key in these files, as `read_records` reads them, in order of appearance."""
    shared = CompactRecords()
    with collecting_nothing():
        return latest(one.record for file in files for one in _stored(file, shared))


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What a file of a store held before it was compacted, and what went. A torn last line is no line."""

    lines: int
    removed_lines: int
    size_bytes: int
    removed_bytes: int


def compact_store(path: Path) -> Compacted:
    """Rewrite a file of a store without the lines that a later one supersedes, and without a torn last line.

    The lines that stay are those of the latest records, byte for byte, in the order of `read_latest`. The
    file is replaced as a whole, under the writer's lock: who reads, and a process that is killed, leaves or
    finds the former file or the new one. A file with nothing to remove is left alone.

    Raises UserError when another process writes the file, and as `read_records` does.
    """
    lock = _taken_lock(path)
    try:
        size_bytes = regular_size(path, LARGEST_STORE_BYTES)
        places: dict[RecordKey, tuple[int, int]] = {}
        lines = 0
        with collecting_nothing():
            for one in _stored(path, CompactRecords()):
                places[one.record.key] = (one.start, one.end)
                lines += 1
        kept_bytes = sum(end - start for start, end in places.values())
        if kept_bytes < size_bytes:
            # A link goes on leading to the file that it led to.
            file = path.resolve()
            with replacing(file) as partial:
                _copy_parts(file, partial, places.values())
    finally:
        lock.release()
    return Compacted(
        lines=lines,
        removed_lines=lines - len(places),
        size_bytes=size_bytes,
        removed_bytes=size_bytes - kept_bytes,
    )


def _copy_parts(source: Path, target: Path, parts: Iterable[tuple[int, int]]) -> None:
    """Write parts (start and end, in bytes) of a file into a new one of its mode, down to the disk."""
    with source.open("rb", READ_BYTES) as old, target.open("wb", READ_BYTES) as new:
        for start, end in parts:
            # In a buffered file a step within the buffer reads nothing.
            old.seek(start)
            new.write(old.read(end - start))
        new.flush()
        os.fsync(new.fileno())
    shutil.copymode(source, target)


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
    return list(read_latest(store_files(stores)).values())


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
