"""Simulated voters of known preference, on drawn ballots without files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from refbench.bench.scores.record import RunKey
from refbench.reports.votes.ballot import CRITERIA, Ballot, draw_ballot, write_ballot
from refbench.reports.votes.vote_file import Choice, VoteLine, VoteWriter

TRACK = "open-domain"
SESSION = "0123456789abcdef"


def ballot_of(
    methods: Iterable[str], samples: int = 12, *, pairs: int = 1000, checks: int = 3, seed: int = 0
) -> Ballot:
    """A ballot of methods that have a video of every sample."""
    places = [(f"singleobj_{number}", 0) for number in range(1, samples + 1)]
    found = {RunKey(method, TRACK): places for method in methods}
    return draw_ballot(
        TRACK, found, lambda key, place: f"{key}{place}", seed=seed, pairs=pairs, checks=checks
    )


def vote_line(
    ballot: Ballot,
    number: int,
    choice: Choice | Mapping[str, Choice] = "left",
    *,
    voter: str = "ann",
    arrangement: int = 0,
    kind: str = "vote",
    place: int | None = None,
    **fields: object,
) -> VoteLine:
    """Line `number` of a voter; the pair is that of the arrangement at `place` (default: number - 1)."""
    shown = list(ballot.sides(arrangement).items())
    pair, (left, right) = shown[number - 1 if place is None else place]
    answers = {name: choice if isinstance(choice, str) else choice[name] for name in CRITERIA}
    content = {
        "kind": kind, "voter": voter, "session": SESSION, "number": number, "arrangement": arrangement,
        "pair": pair, "left": left, "right": right, "answers": answers if kind == "vote" else None, **fields,
    }  # fmt: skip
    return VoteLine.model_validate(content)


def simulated(
    ballot: Ballot,
    strengths: Mapping[str, float],
    voters: Sequence[str],
    *,
    seed: int = 0,
    left_bias: float = 0.0,
    ties: float = 0.0,
    careless: Iterable[str] = (),
    session: Callable[[str], str] = lambda voter: SESSION,
) -> list[VoteLine]:
    """Votes on every pair by voters who prefer by strength (log-odds), `left_bias` log-odds to the left.

    `careless` voters choose a side by chance, attention checks included; the others pass all checks.
    """
    generator = np.random.default_rng(seed)
    videos = {video.id: video for video in ballot.videos}
    kinds = {pair.id: pair.kind for pair in ballot.pairs}
    lines = []
    for place, voter in enumerate(voters):
        arrangement = place % len(ballot.arrangements)
        for number, (pair, (left, right)) in enumerate(ballot.sides(arrangement).items(), start=1):
            answers: dict[str, Choice] = {}
            for criterion in CRITERIA:
                if voter in careless:
                    answers[criterion] = "left" if generator.random() < 0.5 else "right"
                elif kinds[pair] == "methods":
                    difference = strengths[videos[left].method] - strengths[videos[right].method] + left_bias
                    chance = 1 / (1 + np.exp(-difference))
                    chosen: Choice = "left" if generator.random() < chance else "right"
                    answers[criterion] = "tie" if generator.random() < ties else chosen
                elif kinds[pair] == "same":
                    answers[criterion] = "tie"
                else:
                    answers[criterion] = "left" if videos[left].content == "method" else "right"
            line = vote_line(
                ballot, number, answers, voter=voter, arrangement=arrangement, session=session(voter)
            )
            lines.append(line)
    return lines


def write_votes(
    path: Path, ballot: Ballot, lines: Iterable[VoteLine], *, ballot_file: Path | None = None
) -> Path:
    """A vote file with these lines, and the ballot beside it (or at `ballot_file`)."""
    with VoteWriter(path, ballot) as writer:
        for line in lines:
            writer.append(line)
    write_ballot(ballot_file or path.with_suffix(".ballot.json"), ballot)
    return path
