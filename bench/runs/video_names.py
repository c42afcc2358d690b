"""Which sample and seed a video's file name means, and which files of a folder are videos at all.

A name is read where it has one plain meaning: `<id>.mp4` in any case and with any extension of a container
that is read, or `<id>_seed<n>.mp4` and its like where all names of the folder are of that one form. Anything
else needs a pattern (`{id}_seed{seed}.mp4`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from refbench.bench.errors import UserError, one_line

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
# Containers of videos that are not read, or that only sometimes hold what their name says.
UNREAD_SUFFIXES = (".ts", ".mts", ".m2ts", ".flv", ".wmv", ".mpg", ".mpeg", ".ogv", ".3gp", ".webp", ".apng")
# What people write between an id and its seed. A folder whose names are all of one form is read by it.
SEEDED_FORMS = (
    "{id}_seed{seed}",
    "{id}-seed{seed}",
    "{id}_seed_{seed}",
    "{id}-seed-{seed}",
    "{id}_seed-{seed}",
    "{id}-{seed}",
    "{id}_{seed}",
    "{id}_s{seed}",
)
NEAR = 0.8
MOST_STARS = 8
# How far below the given folder, and how many entries, are looked at for videos that are not used.
LOOKED_AT_DEPTH = 3
LOOKED_AT_ENTRIES = 20_000


@dataclass(frozen=True)
class NamePattern:
    """A form of file names: `{id}` is a sample's id, `{seed}` a number, `*` anything within one name.

    It is matched against the path below the folder of videos, in any case; without an extension at its end it
    stands for any video.
    """

    text: str
    expression: re.Pattern[str]

    @classmethod
    def of(cls, text: str, ids: Collection[str]) -> NamePattern:
        """Raises UserError for a pattern without `{id}`, with a part twice, or with other braces."""
        parts = re.split(r"(\{[^{}]*\}|\*)", text)
        if (
            parts.count("{id}") != 1
            or parts.count("{seed}") > 1
            or parts.count("*") > MOST_STARS
            or any(part.startswith("{") and part not in ("{id}", "{seed}") for part in parts)
        ):
            raise UserError(
                f"--pattern takes one {{id}}, at most one {{seed}}, and * for anything else "
                f"({{id}}_seed{{seed}}.mp4, say), not {one_line(text, 80)!r}"
            )
        known = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
        meaning = {"{id}": f"(?P<id>{known})", "{seed}": r"(?P<seed>[0-9]{1,18})", "*": "[^/]*"}
        suffix = "" if text.lower().endswith(VIDEO_SUFFIXES) else r"(?:\.[A-Za-z0-9]{2,4})?"
        # Ids keep their case: two samples may differ in it alone.
        pieces = [meaning.get(part) or f"(?i:{re.escape(part)})" for part in parts if part]
        return cls(text=text, expression=re.compile("".join(pieces) + suffix))

    def read(self, name: str) -> tuple[str, int] | None:
        """The sample's id and seed (0 where the pattern has none), or None for a name of another form."""
        match = self.expression.fullmatch(name)
        if match is None:
            return None
        return match["id"], int(match.groupdict().get("seed") or 0)


def is_hidden(path: Path) -> bool:
    """Whether a name is no user's: `.x`, and the `._x` that macOS leaves beside files on other disks."""
    return path.name.startswith(".")


def is_video(path: Path) -> bool:
    """Whether a file is a regular one with a video's extension, or without any and a video by its content."""
    if is_hidden(path) or not path.is_file():
        return False
    suffix = path.suffix.lower()
    return suffix in VIDEO_SUFFIXES or (suffix == "" and has_video_content(path))


def has_video_content(path: Path) -> bool:
    """Whether a file begins as MP4, QuickTime, Matroska, WebM or AVI do."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return (
        start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free")
        or start[:4] == b"\x1a\x45\xdf\xa3"
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
    )


def video_id(path: Path) -> str:
    """The name without a video's extension."""
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name


def why_unusable(path: Path, ids: Collection[str]) -> str | None:
    """Why something that is named as a sample's video is not read; None for what has no such name."""
    if is_hidden(path):
        return None
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".gif":
            return "GIF is not read" if path.stem in ids else None
        named = path.stem in ids
        if not (named and suffix in UNREAD_SUFFIXES):
            # `faceobj_1.mp4.part` and the like.
            named = has_video_content(path) and (named or near_id(path.stem, ids) is not None)
        return f"{one_line(path.suffix, 20)} is not read" if named else None
    if path.is_dir():
        return "a folder" if video_id(path) in ids else None
    return "no regular file" if path.suffix.lower() in VIDEO_SUFFIXES else None


def videos_below(folder: Path, depth: int = LOOKED_AT_DEPTH) -> Iterator[Path]:
    """The videos of a folder and of those below it, sorted; links to folders are not followed."""
    looked_at = 0
    folders = [(folder, 1)]
    while folders:
        current, level = folders.pop()
        below = []
        for entry in sorted(current.iterdir()):
            looked_at += 1
            if looked_at > LOOKED_AT_ENTRIES:
                return
            if is_video(entry):
                yield entry
            elif level < depth and entry.is_dir() and not entry.is_symlink() and not is_hidden(entry):
                below.append((entry, level + 1))
        folders += reversed(below)


def near_id(name: str, ids: Collection[str]) -> str | None:
    """The id that a file's name was perhaps meant to be, or None."""
    by_lower = {sample_id.lower(): sample_id for sample_id in ids}
    meant = video_id(Path(name)).lower()
    found = get_close_matches(meant, by_lower, 1, NEAR)
    if not found:
        # An id with more around it: `model_faceobj_14_final`, which is not `faceobj_1` either.
        found = [
            sample_id
            for sample_id in sorted(by_lower, key=len, reverse=True)
            if re.search(rf"(?<![a-z0-9]){re.escape(sample_id)}(?![a-z0-9])", meant)
        ]
    return by_lower[found[0]] if found else None


def named_with_near(names: Collection[str], ids: Collection[str]) -> list[str]:
    """Each name, with the id that is near it: `faceobj14.mp4 (near faceobj_14)`."""
    listed = []
    for name in names:
        # A reason at the end says already what is wrong.
        near = None if name.endswith(")") else near_id(name, ids)
        listed.append(one_line(name, 80) + (f" (near {near})" if near else ""))
    return listed
