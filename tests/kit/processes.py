"""Processes in tests: whether one has ended, with patience for a busy machine and none for one that stays."""

from __future__ import annotations

import time
from pathlib import Path

PATIENCE_S = 60.0


def wait_for(path: Path) -> str:
    """The text of a file as soon as it has a whole line."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        text = path.read_text() if path.is_file() else ""
        if text.endswith("\n"):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


def ends(process: int) -> bool:
    """Whether a process that is none of our children ends (a corpse that nobody buries has ended)."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False
