"""Writing the files of a report below one folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import write_text


def write_files(out: str | os.PathLike[str], contents: Mapping[str, str | bytes]) -> list[Path]:
    """Write texts and bytes below `out` (path → content); returns the files in the same order.

    Raises UserError when the folder cannot be written.
    """
    folder = Path(out)
    try:
        for name, content in contents.items():
            file = folder / name
            if isinstance(content, str):
                write_text(file, content)
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"nothing can be written below {folder}: {one_line(error.strerror or error)}"
        ) from None
    return [folder / name for name in contents]
