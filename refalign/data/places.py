"""The path guard: a file that a data set names must lie in the data set's folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from refbench.bench.errors import SampleError, one_line


def contained_file(root: Path, path: str) -> Path | None:
    """The file `path` below `root`, or None where there is none.

    `root` may itself be a link (a folder on another disk), but nothing below it may lead out. Raises
    SampleError for a path that is absolute, climbs with `..`, or leaves `root` through a link.
    """
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    escape = SampleError(f"the path {one_line(path, 120)!r} leaves the data set's folder")
    if not path or "\0" in path or posix.is_absolute() or windows.anchor or ".." in windows.parts:
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
