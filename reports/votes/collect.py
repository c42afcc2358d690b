"""Collecting votes: the ballot that is there or a new one, and the page, served or exported."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import is_there, replacing, scratch_folder
from refbench.reports.loopback import DEFAULT_PORT
from refbench.reports.votes.ballot import Ballot, ballot_path, read_ballot, write_ballot
from refbench.reports.votes.package import write_package
from refbench.reports.votes.server import VoteServer
from refbench.reports.votes.session import Sessions
from refbench.reports.votes.sources import Sources, check_complete
from refbench.reports.votes.vote_file import VoteWriter, read_votes

PAIRS = 60
CHECKS = 6
# A seed that was not given: voters who know this program cannot know it.
SEED_BITS = 48


@contextmanager
def open_votes(
    sources: Sources,
    out: Path,
    *,
    pairs: int | None = None,
    checks: int | None = None,
    seed: int | None = None,
    port: int = DEFAULT_PORT,
) -> Iterator[VoteServer]:
    """A server that listens and is to be run, with its vote file open for writing.

    The ballot beside `out` is used where there is one. Raises UserError where the videos are not the
    ballot's, the file is taken or of another ballot, and where the port is in use.
    """
    path = ballot_path(out)
    ballot = _ballot(sources, path, pairs, checks, seed)
    if not is_there(path) and is_there(out) and read_votes(out).lines:
        raise UserError(f"{out} is there, and its ballot {path} is not: choose another --out")
    with VoteWriter(out, ballot) as writer, scratch_folder("vote") as scratch:
        if not is_there(path):
            write_ballot(path, ballot)
        package = write_package(ballot, sources, Path(scratch), served=True)
        with VoteServer(package, Sessions(ballot, writer), port) as server:
            yield server


def export_votes(
    sources: Sources,
    folder: Path,
    *,
    pairs: int | None = None,
    checks: int | None = None,
    seed: int | None = None,
) -> Path:
    """Write the page for others into a new folder; returns the ballot's path, which is beside it.

    Raises UserError where the folder is there already or cannot be written.
    """
    path = folder.with_name(f"{folder.name}.ballot.json")
    for taken in (folder, path):
        if is_there(taken):
            raise UserError(f"{taken} is already there: choose another --export")
    ballot = _ballot(sources, path, pairs, checks, seed)
    try:
        with replacing(folder) as partial:
            write_package(ballot, sources, partial, served=False)
        write_ballot(path, ballot)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {one_line(error.strerror or error)}") from None
    return path


def _ballot(sources: Sources, path: Path, pairs: int | None, checks: int | None, seed: int | None) -> Ballot:
    if not is_there(path):
        return sources.draw(
            seed=secrets.randbits(SEED_BITS) if seed is None else seed,
            pairs=PAIRS if pairs is None else pairs,
            checks=CHECKS if checks is None else checks,
        )
    ballot = read_ballot(path)
    real = sum(pair.kind == "methods" for pair in ballot.pairs)
    kept = {
        "--pairs": (pairs, real),
        "--checks": (checks, len(ballot.pairs) - real),
        "--seed": (seed, ballot.seed),
    }
    for option, (asked, there) in kept.items():
        if asked is not None and asked != there:
            raise UserError(
                f"{path} was drawn with {option} {there}: leave {option} out or choose another --out"
            )
    check_complete(ballot, sources)
    return ballot
