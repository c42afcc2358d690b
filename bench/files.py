"""Files, read and written in one way: whole or not at all, bounded, and never outside of their folder.

What a killed process was writing stays under a name that holds its machine and its process id, and is removed
when the next process of that machine writes into the same folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from refbench.bench.errors import SampleError, UserError, one_line

if TYPE_CHECKING:
    from filelock import FileLock

# The largest text file that is read: data lists of all known benchmarks are far smaller. In memory the worst
# JSON, a list of small objects, takes 34 times its size.
LARGEST_TEXT_BYTES = 24 * 2**20
# Of these errors the next file is not spared either: no space, no quota, a disk that can only be read.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
KINDS_OF_FILE = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
PARTIAL_NAME = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.partial", re.DOTALL)
SCRATCH_NAME = re.compile(r"refbench-[a-z]+-([0-9a-f]{8})-(\d+)-\w+")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, in a folder that is made; what was written there becomes `path`.

    What is written may be a folder, where there is none of that name yet. Readers never see half of it. When
    the block raises, `path` stays as it was and the temporary file is removed; so are those that killed
    processes left in the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers_once(path.parent)
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        _remove(partial)


def partial_path(path: Path) -> Path:
    """The temporary name beside `path` under which this process writes what will become it."""
    return path.with_name(f".{path.name}.{machine()}-{os.getpid()}.partial")


def remove_leftovers(folder: Path, names: re.Pattern[str] = PARTIAL_NAME) -> None:
    """Remove from a folder what processes of this machine were writing when they were killed.

    The groups of `names` are a machine and a process id. What another machine, a living process or another
    user owns stays, and so does what cannot be removed.
    """
    # Where signal 0 would end a process (Windows), none can be seen to be gone.
    if os.name != "posix":
        return
    with suppress(OSError):
        for path in folder.iterdir():
            match = names.fullmatch(path.name)
            if match is None or match[1] != machine() or _lives(int(match[2])):
                continue
            with suppress(OSError):
                if path.lstat().st_uid == os.getuid():
                    _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@cache
def _remove_leftovers_once(folder: Path) -> None:
    """As `remove_leftovers`, but a folder of many files is listed once by a process."""
    remove_leftovers(folder)


def scratch_folder(purpose: str) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder; those that killed processes left are removed first. `purpose` is one word."""
    remove_leftovers(Path(tempfile.gettempdir()), SCRATCH_NAME)
    prefix = f"refbench-{purpose}-{machine()}-{os.getpid()}-"
    # Where a network's memory is that of its file, systems that cannot remove this yet leave it.
    return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)


def family_folder(purpose: str, token: str) -> Path:
    """A temporary folder, made where it is missing, that the processes of one parent share.

    `purpose` and `token` are one word each. Once the parent has ended it is removed as what `scratch_folder`
    makes.
    """
    folder = Path(tempfile.gettempdir())
    remove_leftovers(folder, SCRATCH_NAME)
    family = folder / f"refbench-{purpose}-{machine()}-{os.getppid()}-{token}"
    family.mkdir(mode=0o700, exist_ok=True)
    return family


@cache
def machine() -> str:
    """What process ids belong to: the host, and within it the container, as eight hexadecimal digits."""
    try:
        container = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        container = ""
    return hashlib.sha256(f"{platform.node()} {container}".encode()).hexdigest()[:8]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def lock_for_writing(path: Path, taken: Callable[[Path], str]) -> FileLock:
    """The lock of a file that one process alone writes, taken; its folder is made where it is missing.

    The lock is the file `<name>.lock` beside it. Raises UserError: with what `taken` says of the lock file
    when another process holds it, and where nothing can be written.
    """
    from filelock import FileLock, Timeout

    lock_file = path.with_suffix(".lock")
    lock = FileLock(lock_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(taken(lock_file)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {one_line(error.strerror)}") from None
    return lock


def is_disk_error(error: BaseException) -> bool:
    """Whether an error says that nothing more can be written: the work must end, not only this file's."""
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def regular_size(path: Path, most_bytes: int) -> int:
    """The bytes of a regular file (links are followed), found before anything is read.

    Raises UserError for a path that is not there, a folder, a named pipe, a device, and a file of more than
    `most_bytes`.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS_OF_FILE.get(stat.S_IFMT(status.st_mode), "something else")
        raise UserError(f"{path} is {kind}, not a file")
    if status.st_size > most_bytes:
        raise UserError(f"{path} is larger than {_size_text(most_bytes)}: not a file of this kind")
    return status.st_size


def is_there(path: Path) -> bool:
    """Whether a name is taken, be it by what cannot be read: a named pipe, or a link that leads nowhere."""
    return os.path.lexists(path)


def _size_text(size_bytes: int) -> str:
    for unit, unit_bytes in (("GiB", 2**30), ("MiB", 2**20)):
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:g} {unit}"
    return f"{size_bytes / 2**10:g} KiB"


def read_bytes(path: Path, most_bytes: int = LARGEST_TEXT_BYTES) -> bytes:
    """The content of a regular file; a missing, oversized or unreadable one is a UserError."""
    regular_size(path, most_bytes)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON, indented and in UTF-8, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """A data file's text in UTF-8, with or without a byte order mark.

    A missing, oversized or unreadable file, and one that is no regular file, is a UserError.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


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


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """What matches a pattern below a folder, in name order, without hidden files (`._model.safetensors`) and
    what lies in hidden folders.

    Nothing for a folder that is not there.
    """
    found = folder.glob(pattern) if folder.is_dir() else ()
    return sorted(
        path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def shortlist(names: Iterable[str], most: int = 5) -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    listed = list(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")
