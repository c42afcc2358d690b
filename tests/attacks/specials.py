"""Special files in place of each input: what is no regular file, cannot be read, is empty or immense, or has
a name that a terminal would obey; and three small files that once cost gigabytes.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from attacks.ground import Input, copy_ground, inputs
from attacks.mutants import outcome
from attacks.verdict import Outcome

KIND = "special"
SPARSE_BYTES = 200 * 10**9
HOSTILE_NAME = "a\x1b[2J\u202egpj\x07"
HOSTILE_FILES = Path(__file__).parents[1] / "files/hostile"


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(SPARSE_BYTES)


def _unreadable(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    path.chmod(0)


SPECIALS: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "sparse 200 GB": _sparse,
    "symlink loop": lambda path: path.symlink_to(path.name),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "unreadable": _unreadable,
    "empty": Path.touch,
    **{
        name: lambda path, name=name: shutil.copyfile(HOSTILE_FILES / name, path)
        for name in sorted(path.name for path in HOSTILE_FILES.iterdir())
    },
}


def attack(ground: Path, scratch: Path, seed: int, count: int | None, only: str | None) -> Iterator[Outcome]:
    """Each special file in place of each input, or a random `count` of these pairs."""
    kinds = {one.kind: one for one in inputs(ground) if only in (None, one.kind)}
    pairs = [(one, name) for one in kinds.values() for name in [*SPECIALS, "hostile name"]]
    if os.geteuid() == 0:
        # Root reads everything.
        pairs = [(one, name) for one, name in pairs if name != "unreadable"]
    if count is not None:
        pairs = random.Random(seed).sample(pairs, min(count, len(pairs)))
    for number, (one, name) in enumerate(pairs):
        folder = scratch / f"special-{number}"
        copy_ground(ground, folder, one)
        yield outcome(KIND, _placed(one, name, folder), folder, f"{one.file} is {name}")
        shutil.rmtree(folder)


def _placed(one: Input, name: str, folder: Path) -> Input:
    """The input with the special file in its place."""
    target = folder / one.file
    if name != "hostile name":
        target.unlink()
        SPECIALS[name](target)
        return one
    # Beside the good file a copy under a bad name; named on the command line where the file itself is.
    other = target.with_name(HOSTILE_NAME + target.suffix)
    shutil.copyfile(target, other)
    words = [str(other.relative_to(folder)) if word == one.file else word for word in one.words]
    return replace(one, words=words)
