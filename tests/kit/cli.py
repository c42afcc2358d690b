"""The command line in tests: as a process of its own, or within this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


class Run:
    """`refbench` as a process, in a working folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "refbench", *map(str, arguments)]

    def __call__(self, *arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done
