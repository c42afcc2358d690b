"""The vote file: JSON lines, appended as answers come, by one writer at a time.

The first line is a header with the digest of the ballot. Each further line is one act of a voter: a vote, a
skip, or an undo that takes one of the voter's earlier lines back. Nothing is ever overwritten. A line is on
the disk (fsync) before the voter is told so; what a killed process was writing is a torn last line, which
readers leave out and the next writer cuts off.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.files import lock_for_writing, read_bytes
from refbench.reports.votes.ballot import CRITERIA, Ballot, Id, short_digest

if TYPE_CHECKING:
    from filelock import FileLock

Choice = Literal["left", "right", "tie"]
LONGEST_NAME = 60
# Room for half a million votes.
LARGEST_FILE_BYTES = 256 * 2**20
LONGEST_S = 86_400.0


class Header(BaseModel):
    """The first line: what the votes are on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["header"] = "header"
    schema_version: Literal[1] = 1
    ballot: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    track: str


class VoteLine(BaseModel):
    """One act of a voter; `number` counts the voter's lines from 1.

    A vote has a choice for every criterion, an undo the number of the line it takes back. `left` and `right`
    are the ids of the videos as they were shown, `seconds` how long the pair was looked at.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["vote", "skip", "undo"]
    voter: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    session: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
    number: Annotated[int, Field(ge=1, le=10_000_000)]
    arrangement: Annotated[int, Field(ge=0, le=10_000)]
    pair: Id
    left: Id
    right: Id
    answers: dict[str, Choice] | None = None
    undoes: int | None = None
    seconds: Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if checked_voter(self.voter) != self.voter:
            raise ValueError("the voter's name is not written as it was taken")
        if (self.answers is not None) != (self.kind == "vote"):
            raise ValueError("a vote has answers, and nothing else has")
        if self.answers is not None and set(self.answers) != set(CRITERIA):
            raise ValueError(f"a vote answers {', '.join(CRITERIA)}")
        if (self.undoes is not None) != (self.kind == "undo"):
            raise ValueError("an undo names the line it takes back, and nothing else does")
        if self.undoes is not None and not 1 <= self.undoes < self.number:
            raise ValueError("an undo takes back an earlier line")
        return self


@dataclass(frozen=True, kw_only=True)
class VoteFile:
    """What a file holds; `header` is None for an empty one."""

    path: Path
    header: Header | None
    lines: tuple[VoteLine, ...]


def checked_voter(name: str) -> str:
    """A voter's name with single spaces, as it is recorded. Raises UserError for none, or a too long one."""
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise UserError(f"a voter's name has 1 to {LONGEST_NAME} printable characters")
    return name


def read_votes(path: Path) -> VoteFile:
    """The lines of a vote file; a torn last line is left out. Raises UserError with the line's number for
    anything else that is no such line.
    """
    lines = read_bytes(path, LARGEST_FILE_BYTES).split(b"\n")
    torn = lines.pop().strip(b"\0")
    if torn and not torn.startswith(b"{"):
        raise UserError(f"{path}, line {len(lines) + 1} is no vote, nor the beginning of one")
    header: Header | None = None
    votes = []
    for number, line in enumerate(lines, start=1):
        try:
            if number == 1:
                header = Header.model_validate_json(line)
            else:
                votes.append(VoteLine.model_validate_json(line))
        except UserError as error:
            raise UserError(f"{path}, line {number} is no vote: {error}") from None
        except ValidationError as error:
            what = "header of a vote file" if number == 1 else "vote"
            raise UserError(f"{path}, line {number} is no {what}: {first_fault(error)}") from None
    return VoteFile(path=path, header=header, lines=tuple(votes))


def check_ballot(file: VoteFile, ballot: Ballot) -> None:
    """Raise UserError where a file's votes are on another ballot, or show what the ballot does not."""
    if file.header is None:
        raise UserError(f"{file.path} is empty: not even the header of a vote file is there")
    digest = ballot.digest
    if file.header.ballot != digest:
        other = f" of {one_line(file.header.track, 60)}" if file.header.track != ballot.track else ""
        raise UserError(
            f"{file.path} holds votes on other pairs{other} (ballot {short_digest(file.header.ballot)}) than "
            f"the ballot of {ballot.track} at hand ({short_digest(digest)})"
        )
    sides = [ballot.sides(index) for index in range(len(ballot.arrangements))]
    for number, line in enumerate(file.lines, start=2):
        if line.arrangement >= len(sides) or sides[line.arrangement].get(line.pair) != (
            line.left,
            line.right,
        ):
            raise UserError(f"{file.path}, line {number} shows a pair that its ballot does not show that way")


def standing(lines: Iterable[VoteLine]) -> dict[tuple[str, str], VoteLine]:
    """(voter, pair) → the vote or skip that stands after all undos; of several the last."""
    kept: dict[tuple[str, int], VoteLine] = {}
    for line in lines:
        if line.undoes is not None:
            kept.pop((line.voter, line.undoes), None)
        else:
            kept[line.voter, line.number] = line
    return {(line.voter, line.pair): line for line in kept.values()}


def joined(files: Sequence[VoteFile]) -> list[VoteLine]:
    """The lines of several files, those of a package that was saved more than once only once.

    Raises UserError where two people have one name: the same voter in two files without a common session.
    """
    lines: dict[tuple[str, str, int], VoteLine] = {}
    seen: dict[str, tuple[Path, set[str]]] = {}
    for file in files:
        sessions: dict[str, set[str]] = {}
        for line in file.lines:
            sessions.setdefault(line.voter, set()).add(line.session)
        for voter, own in sessions.items():
            path, before = seen.get(voter, (file.path, own))
            if not before & own:
                raise UserError(
                    f"two voters have the name {voter}, one in {path} and one in {file.path}: "
                    "give one of them another name in the file"
                )
            seen[voter] = (path, before | own)
        for line in file.lines:
            key = (line.voter, line.session, line.number)
            if lines.setdefault(key, line) != line:
                raise UserError(f"{file.path}: line {line.number} of {line.voter} has two meanings")
    return sorted(lines.values(), key=lambda line: (line.voter, line.number))


class VoteWriter:
    """The one writer of a vote file, as a context manager; `lines` are those that are there.

    Raises UserError when another process writes the file, when it is damaged before its last line, and when
    its votes are on another ballot.
    """

    def __init__(self, path: Path, ballot: Ballot) -> None:
        self.path = path
        self.lines: list[VoteLine] = []
        self._ballot = ballot
        self._lock: FileLock | None = None
        self._file: FileIO | None = None

    def __enter__(self) -> Self:
        def taken(lock_file: Path) -> str:
            return f"{self.path} is being written by another `refbench vote`; use that page, or another --out"

        self._lock = lock_for_writing(self.path, taken)
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _open(self) -> None:
        found = read_votes(self.path) if self.path.exists() else None
        if found is not None and found.lines:
            check_ballot(found, self._ballot)
            self.lines = list(found.lines)
        self._file = self.path.open("ab", buffering=0)
        # A header without votes binds nobody: whoever wrote it may have died before the ballot was kept.
        end = self.path.read_bytes().rfind(b"\n") + 1 if self.lines else 0
        self._file.truncate(end)
        if end == 0:
            self._write(Header(ballot=self._ballot.digest, track=self._ballot.track))
            _sync_folder(self.path.parent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._lock is not None:
            self._lock.release()

    def append(self, line: VoteLine) -> None:
        """Write a line; it is on the disk when this returns."""
        self._write(line)
        self.lines.append(line)

    def _write(self, line: Header | VoteLine) -> None:
        assert self._file is not None, "append() outside of the with block"
        end = self._file.tell()
        try:
            # Without a buffer: what a full disk refused must not come out with the next line.
            written = self._file.write(content := line.model_dump_json(exclude_none=True).encode() + b"\n")
            if written != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            raise


def _sync_folder(folder: Path) -> None:
    """The name of a new file is on the disk as well; where folders cannot be opened, it may not be."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
