"""Who votes at the moment, and what each voter may write next. It knows nothing of HTTP.

A voter holds a name while the page speaks up; who comes second under that name is told so. A page that was
loaded again goes on with its token. Each voter's lines are numbered, so that a line that is sent twice (its
acknowledgement was lost) is written once.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from refbench.bench.errors import UserError, first_fault
from refbench.reports.votes.ballot import Ballot, Id
from refbench.reports.votes.vote_file import Choice, VoteLine, VoteWriter, checked_voter

# A page in the background speaks up once a minute, as browsers slow it down.
LEASE_S = 180.0


class Refused(Exception):
    """What a voter's page asked for cannot be done; the text is shown to the voter."""


class _Act(BaseModel):
    """What a page sends: the parts of a `VoteLine` that it decides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    number: int
    pair: Id
    left: Id
    right: Id
    answers: dict[str, Choice] | None = None
    undoes: int | None = None
    seconds: float | None = None


@dataclass
class _Seat:
    token: str
    session: str
    arrangement: int
    seen_s: float


class Sessions:
    """The voters of one vote file. Safe to use from several threads.

    `now` gives seconds that never go back.
    """

    def __init__(self, ballot: Ballot, writer: VoteWriter, now: Callable[[], float] = time.monotonic) -> None:
        self._writer = writer
        self._now = now
        self._lock = threading.Lock()
        self._seats: dict[str, _Seat] = {}
        self._sides = [ballot.sides(index) for index in range(len(ballot.arrangements))]
        self._arrangements = {line.voter: line.arrangement for line in writer.lines}

    def join(self, name: str, token: str | None = None) -> dict[str, Any]:
        """Take a name: its token, arrangement, and the lines that are there under it.

        Raises Refused for a name that is no name, or that somebody votes under.
        """
        try:
            voter = checked_voter(name)
        except UserError as error:
            raise Refused(str(error)) from None
        with self._lock:
            seat = self._seats.get(voter)
            mine = seat is not None and token is not None and secrets.compare_digest(seat.token, token)
            if seat is not None and not mine and self._now() - seat.seen_s < LEASE_S:
                raise Refused(f"somebody is voting as {voter} at this moment: choose another name")
            if seat is None or not mine:
                seat = _Seat(secrets.token_hex(16), secrets.token_hex(8), self._arrangement(voter), 0.0)
                self._seats[voter] = seat
            seat.seen_s = self._now()
            return {
                "voter": voter,
                "token": seat.token,
                "session": seat.session,
                "arrangement": seat.arrangement,
                "lines": [line.model_dump(exclude_none=True) for line in self._lines(voter)],
            }

    def keep(self, voter: str, token: str) -> None:
        """Say that the voter is still there."""
        with self._lock:
            self._seat(voter, token)

    def leave(self, voter: str, token: str) -> None:
        """Give the name back."""
        with self._lock:
            self._seat(voter, token)
            del self._seats[voter]

    def write(self, voter: str, token: str, act: object) -> int:
        """Append a vote, skip or undo; returns its number when it is on the disk.

        Raises Refused for what is no such line, shows a pair that the voter was not shown that way, or has
        another number than the voter's next.
        """
        with self._lock:
            seat = self._seat(voter, token)
            try:
                sent = _Act.model_validate(act)
                line = VoteLine.model_validate(
                    {
                        **sent.model_dump(exclude_none=True),
                        "voter": voter,
                        "session": seat.session,
                        "arrangement": seat.arrangement,
                    }
                )
            except ValidationError as error:
                raise Refused(f"not a vote: {first_fault(error)}") from None
            if self._sides[seat.arrangement].get(line.pair) != (line.left, line.right):
                raise Refused("not a vote: the pair was not shown that way")
            before = self._lines(voter)
            if before and line.model_copy(update={"session": before[-1].session}) == before[-1]:
                return line.number
            if line.number != len(before) + 1:
                raise Refused("this page is behind the vote file: load it again")
            undone = {one.undoes for one in before} | {one.number for one in before if one.kind == "undo"}
            if line.undoes is not None and line.undoes in undone:
                raise Refused("not a vote: that line cannot be taken back")
            self._writer.append(line)
            return line.number

    def _lines(self, voter: str) -> list[VoteLine]:
        return [line for line in self._writer.lines if line.voter == voter]

    def _seat(self, voter: str, token: str) -> _Seat:
        seat = self._seats.get(voter)
        if seat is None or not secrets.compare_digest(seat.token, token):
            raise Refused("this page no longer holds its name: load it again")
        seat.seen_s = self._now()
        return seat

    def _arrangement(self, voter: str) -> int:
        """The voter's own of before, else the one that the fewest have."""
        if voter not in self._arrangements:
            used = Counter(self._arrangements.values())
            self._arrangements[voter] = min(range(len(self._sides)), key=lambda index: used[index])
        return self._arrangements[voter]
