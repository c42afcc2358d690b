"""Files, read and written in one way: whole or not at all, bounded, and never outside of their folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from refbench.bench.errors import SampleError, UserError, one_line

# The largest text file that is read: data lists of all known benchmarks are far smaller.
LARGEST_TEXT_BYTES = 64 * 2**20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, in a folder that is made; what was written there becomes `path`.

    Readers never see half of a file. When the block raises, `path` stays as it was and the temporary file is
    removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON, indented and in UTF-8, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """A data file's text; a missing, oversized or unreadable one is a UserError."""
    try:
        if path.stat().st_size > LARGEST_TEXT_BYTES:
            raise UserError(
                f"{path} is larger than {LARGEST_TEXT_BYTES // 2**20} MiB: not a file of this kind"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None


def parse_json(text: str, where: str) -> Any:
    """JSON from a data file; broken JSON and duplicate keys are UserErrors that say `where`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{where}: the id {one_line(twice, 60)!r} appears twice")
        return result

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: broken JSON: {one_line(error)}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; a missing, oversized, broken or ambiguous (duplicate keys) one is a
    UserError.
    """
    return parse_json(read_text(path), str(path))


def read_json_object(path: Path) -> dict[str, Any]:
    """As `read_json`, for a file that must hold an object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object")
    return content


def leaves_its_folder(path: str) -> bool:
    """Whether a relative path from a data file is empty, absolute (on any system) or climbs with `..`."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    return bool(not path or "\0" in path or posix.is_absolute() or windows.anchor or ".." in windows.parts)


def contained_file(root: Path, path: str) -> Path | None:
    """The file `path` below `root`, or None where there is none.

    `root` may itself be a link (a folder on another disk), but nothing below it may lead out. Raises
    SampleError for a path that is absolute, climbs with `..`, or leaves `root` through a link.
    """
    escape = SampleError(f"the path {one_line(path, 120)!r} leaves the data set's folder")
    if leaves_its_folder(path):
        raise escape
    try:
        file = (root / path).resolve()
        if not file.is_relative_to(root.resolve()):
            raise escape
        return file if file.is_file() else None
    except (OSError, ValueError, RuntimeError) as error:
        raise SampleError(
            f"the path {one_line(path, 120)!r} cannot be followed: {one_line(error, 80)}"
        ) from None


def shortlist(names: Iterable[str], most: int = 5) -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    listed = list(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")
