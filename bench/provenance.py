"""Which software made a result: package versions and the commit of this checkout."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@cache
def package_version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def package_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Installed versions by distribution name, this project's own first; absent ones are left out."""
    names = dict.fromkeys(["refalign-bench", *distributions])
    return {name: found for name in names if (found := package_version(name)) is not None}


@cache
def source_commit() -> str | None:
    """The commit of the checkout this package runs from (`+changes` if files differ), or None outside of
    one.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def python_version() -> str:
    """`CPython 3.11.7`."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def digest_of(data: Any) -> str:
    """SHA-256 of JSON-serialisable data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
