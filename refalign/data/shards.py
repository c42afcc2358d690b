"""Shards: large annotation files, read entry by entry through an index of byte offsets.

OpenS2V-5M's files are JSON objects of hundreds of MB. Each is scanned once, mapped into memory and not
parsed, to find where its entries are; what is wrong with one entry is found when that entry is read and costs
that entry alone. The index (40 bytes an entry) is kept in the cache folder as a `.npy` file whose name holds
the shard's size and modification time, so a changed shard gets a new one; without a cache folder it is made
in memory by each process.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refbench.bench.errors import SampleError, UserError, one_line

INDEX_VERSION = 1
# A clip's annotation takes some 50 KB, a cluster's pairs a few MB; a larger entry is refused unread.
LARGEST_ENTRY_BYTES = 64 * 2**20
LARGEST_HASHED_BYTES, HASHED_END_BYTES = 64 * 2**20, 2**20
ENTRY = np.dtype(
    [
        ("offset", "<u8"),
        ("length", "<u8"),
        ("line", "<u8"),  # counted from 1 in JSONL, else the entry's number
        ("hash", "<u8"),  # of the entry's name
        ("by_hash", "<u4"),  # row k: the number of the entry with the k-th smallest hash
        ("twice", "<u4"),  # 1 where an earlier entry has the same name
    ]
)
# Strings and brackets; the last quote stands for a string that never ends.
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]"]', re.DOTALL)
COLON = re.compile(rb"\s*:")
SPACE = re.compile(rb"\s*")


@dataclass(frozen=True, kw_only=True)
class EntrySpan:
    """The bytes of an entry in its file, its line, and its name (None where it has none)."""

    offset: int
    length: int
    line: int
    name: str | None


def object_entries(content: mmap.mmap) -> Iterator[EntrySpan]:
    """The `"key": value` spans of a file that holds one JSON object.

    Inside a value only strings and brackets are looked at. Where the file breaks off, or is no object, the
    rest of it is one last entry, which fails when it is read.
    """
    start = SPACE.match(content)
    position = start.end() if start else 0
    if content[position : position + 1] != b"{":
        yield EntrySpan(offset=0, length=len(content), line=1, name=None)
        return
    number, depth = 0, 0
    pending: tuple[int, str | None] | None = None
    for token in TOKEN.finditer(content, position):
        first = content[token.start()]
        end: int | None = None
        if first in b"{[":
            depth += 1
            if depth == 2 and pending is None:
                pending = (token.start(), None)
        elif first in b"}]":
            depth -= 1
            end = token.end() if depth == 1 else token.start() if depth == 0 else None
        elif token.end() - token.start() == 1:
            break
        elif depth == 1 and COLON.match(content, token.end()):
            end = token.start()
        if end is not None and pending is not None:
            number += 1
            yield EntrySpan(offset=pending[0], length=end - pending[0], line=number, name=pending[1])
            pending, position = None, end
        if depth == 0:
            position = token.end()
            break
        if end == token.start() and depth == 1:
            pending = (token.start(), _name(token.group()))
    rest = SPACE.match(content, position)
    if depth > 0 or (rest is not None and rest.end() < len(content)):
        yield EntrySpan(offset=position, length=len(content) - position, line=number + 1, name=None)


def _name(token: bytes) -> str | None:
    try:
        return str(json.loads(token))
    except ValueError:
        return None


def line_entries(content: mmap.mmap) -> Iterator[EntrySpan]:
    """The lines of a JSONL file that are not blank; the name is the line's `id`, if it has one."""
    position, line = 0, 0
    while position < len(content):
        end = content.find(b"\n", position)
        end = len(content) if end < 0 else end
        line += 1
        if end - position > LARGEST_ENTRY_BYTES:
            yield EntrySpan(offset=position, length=end - position, line=line, name=None)
        else:
            text = content[position:end]
            if text.strip():
                yield EntrySpan(offset=position, length=end - position, line=line, name=_line_id(text))
        position = end + 1


def _line_id(text: bytes) -> str | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = row.get("id") if isinstance(row, dict) else None
    return name if isinstance(name, str) else None


class AnnotationShard:
    """One data file with the index of its entries; `name` is the file's name without suffix.

    Entries are read from the file on demand, so a shard can be handed to worker processes. Raises UserError
    for a file that cannot be read or a cache that cannot be written.
    """

    def __init__(
        self, path: Path, entries: Callable[[mmap.mmap], Iterator[EntrySpan]], cache: Path | None
    ) -> None:
        self.path = path
        self.name = path.stem
        self._index_file: Path | None = None
        self._index: np.ndarray | None = None
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {one_line(error.strerror)}") from None
        if cache is None:
            self._index = _index_of(path, entries)
        else:
            self._index_file = _cached_index(path, status, entries, cache)

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array would be pickled with its content; each process maps the file for itself.
        return self.__dict__ | ({"_index": None} if self._index_file is not None else {})

    @property
    def _rows(self) -> np.ndarray:
        if self._index is None:
            assert self._index_file is not None
            try:
                self._index = np.load(self._index_file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise UserError(f"the index {self._index_file} cannot be read: {one_line(error)}") from None
        return self._index

    def __len__(self) -> int:
        return len(self._rows)

    def digest(self) -> str:
        """SHA-256 of the index (names, lengths, places of the entries) and of the file's content; of a file
        larger than 64 MiB only the first and the last MiB are read. Raises UserError.
        """
        digest = hashlib.sha256(self._rows.tobytes())
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size <= LARGEST_HASHED_BYTES:
                    digest.update(file.read())
                else:
                    digest.update(file.read(HASHED_END_BYTES))
                    file.seek(-HASHED_END_BYTES, os.SEEK_END)
                    digest.update(file.read())
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {one_line(error.strerror)}") from None
        return digest.hexdigest()

    def line(self, number: int) -> int:
        """The line of entry `number` in a JSONL file, else its number, counted from 1."""
        return int(self._rows[number]["line"])

    def read(self, number: int) -> bytes:
        """The bytes of entry `number`. Raises SampleError when they are too many or cannot be read, and for
        a repeated name.
        """
        row = self._rows[number]
        if row["twice"]:
            raise SampleError("the id appears twice in its file; the first one is used")
        if row["length"] > LARGEST_ENTRY_BYTES:
            raise SampleError(f"an entry of {int(row['length']):,} bytes is too large")
        try:
            with self.path.open("rb") as file:
                file.seek(int(row["offset"]))
                return file.read(int(row["length"]))
        except OSError as error:
            raise SampleError(f"{self.path.name} cannot be read: {one_line(error.strerror)}") from None

    def member(self, number: int) -> tuple[str, Any]:
        """Key and value of entry `number` of a JSON object. Raises SampleError when they are no JSON."""
        content = parse_json(b"{" + self.read(number).rstrip(b", \t\r\n") + b"}")
        if not isinstance(content, dict) or len(content) != 1:
            raise SampleError("broken JSON: not one key with its value")
        return next(iter(content.items()))

    def find(self, name: str) -> int | None:
        """The number of the first entry called `name`, or None."""
        rows = self._rows
        wanted = name_hash(name)
        rank = bisect_left(range(len(rows)), wanted, key=lambda k: int(rows["hash"][rows["by_hash"][k]]))
        if rank == len(rows):
            return None
        number = int(rows["by_hash"][rank])
        return number if int(rows["hash"][number]) == wanted else None


def parse_json(text: bytes) -> Any:
    """The content of a piece of JSON. Raises SampleError with the parser's reason."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"broken JSON: {one_line(error, 120)}") from None


def name_hash(name: str) -> int:
    """The first 64 bits of the name's SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "little")


def _index_of(path: Path, entries: Callable[[mmap.mmap], Iterator[EntrySpan]]) -> np.ndarray:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return np.zeros(0, ENTRY)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                rows = np.fromiter(
                    (
                        (span.offset, span.length, span.line, _row_hash(path, span), 0, 0)
                        for span in entries(content)
                    ),
                    ENTRY,
                )
    except OSError as error:
        raise UserError(f"{path} cannot be read: {one_line(error.strerror)}") from None
    order = np.argsort(rows["hash"], kind="stable")
    rows["by_hash"] = order
    repeated = np.flatnonzero(rows["hash"][order[1:]] == rows["hash"][order[:-1]]) + 1
    rows["twice"][order[repeated]] = 1
    return rows


def _row_hash(path: Path, span: EntrySpan) -> int:
    # No name of an entry holds a NUL, so an entry without one shares its hash with none.
    return name_hash(span.name if span.name is not None else f"{path.name}\0{span.offset}")


def _cached_index(
    path: Path, status: os.stat_result, entries: Callable[[mmap.mmap], Iterator[EntrySpan]], cache: Path
) -> Path:
    from filelock import FileLock

    path_hash = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    stem = f"{re.sub(r'[^A-Za-z0-9_-]+', '-', path.stem)[:60]}-{path_hash}"
    file = cache / f"{stem}-{status.st_size:x}-{status.st_mtime_ns:x}-v{INDEX_VERSION}.npy"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{stem}.lock"):
            if not file.is_file():
                unfinished = cache / f"{stem}.unfinished.npy"
                np.save(unfinished, _index_of(path, entries), allow_pickle=False)
                unfinished.replace(file)
                for older in cache.glob(f"{stem}-*-v*.npy"):
                    if older != file:
                        older.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"the cache folder {cache} cannot be used: {one_line(error)}") from None
    return file
