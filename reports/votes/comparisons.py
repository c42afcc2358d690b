"""From vote lines to comparisons of methods, and which voters passed the attention checks.

A tie counts as half a win for either side. Skips give no comparison; they are counted. A voter who failed
more than a third of the checks, and at least two, is left out unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from refbench.bench.scores.record import RunKey
from refbench.reports.votes.ballot import CRITERIA, OVERALL, Ballot, BallotPair, run_keys
from refbench.reports.votes.vote_file import VoteLine, standing

LARGEST_FAILED_SHARE = 1 / 3
LEAST_FAILED = 2


@dataclass(frozen=True, kw_only=True)
class VoterSummary:
    """What one voter did; `left_out`: too many attention checks were failed."""

    voter: str
    votes: int
    skips: int
    undone: int
    checks: int
    failed_checks: int
    left_out: bool


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """The votes that count, one entry each: `first` and `second` are indices into `runs`, `wins` holds for
    each criterion 1 where the first won, 0 where the second did, 0.5 for a tie.

    `voter` and `sample` are indices into `voters` and `samples`, `pair` into the ballot's pairs; `seed` is
    the videos' seed. `first_left` says that the first video was shown left. Within a pair, first is always
    the same video.
    """

    runs: tuple[RunKey, ...]
    voters: tuple[str, ...]
    samples: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray
    voter: np.ndarray
    sample: np.ndarray
    pair: np.ndarray
    seed: np.ndarray
    first_left: np.ndarray
    wins: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.first)


def summarise_voters(
    lines: Iterable[VoteLine], ballot: Ballot, *, keep_inattentive: bool = False
) -> list[VoterSummary]:
    """What each voter did, by name."""
    lines = list(lines)
    pairs = {pair.id: pair for pair in ballot.pairs}
    contents = {video.id: video.content for video in ballot.videos}
    stand = standing(lines)
    summaries = []
    for voter in sorted({line.voter for line in lines}):
        own = [line for (name, _), line in stand.items() if name == voter]
        votes = [line for line in own if line.answers is not None]
        results = [
            passed for line in votes if (passed := _passed(line, pairs[line.pair], contents)) is not None
        ]
        failed = results.count(False)
        bad = failed >= LEAST_FAILED and failed > LARGEST_FAILED_SHARE * len(results)
        summaries.append(
            VoterSummary(
                voter=voter,
                votes=sum(pairs[line.pair].kind == "methods" for line in votes),
                skips=len(own) - len(votes),
                undone=sum(line.voter == voter and line.kind == "undo" for line in lines),
                checks=len(results),
                failed_checks=failed,
                left_out=bad and not keep_inattentive,
            )
        )
    return summaries


def _passed(line: VoteLine, pair: BallotPair, contents: Mapping[str, str]) -> bool | None:
    """Whether the overall answer to a check is right; None for a pair that is no check."""
    if pair.kind == "methods" or line.answers is None:
        return None
    if pair.kind == "same":
        return line.answers[OVERALL] == "tie"
    return line.answers[OVERALL] == ("left" if contents[line.left] == "method" else "right")


def comparisons(lines: Iterable[VoteLine], ballot: Ballot, voters: Iterable[str]) -> Comparisons:
    """The votes of these voters on pairs of two methods."""
    allowed = set(voters)
    numbers = {pair.id: index for index, pair in enumerate(ballot.pairs)}
    videos = {video.id: video for video in ballot.videos}
    runs = run_keys(ballot)
    kept = [
        line
        for (voter, pair), line in sorted(standing(lines).items())
        if voter in allowed and line.answers is not None and ballot.pairs[numbers[pair]].kind == "methods"
    ]
    pairs = [ballot.pairs[numbers[line.pair]] for line in kept]

    def run_of(video_id: str) -> int:
        video = videos[video_id]
        return runs.index(RunKey(video.method, ballot.track, video.variant))

    names = sorted({line.voter for line in kept})
    samples = sorted({pair.sample for pair in pairs})
    first_left = np.array([line.left == pair.first for line, pair in zip(kept, pairs, strict=True)], bool)
    return Comparisons(
        runs=tuple(runs),
        voters=tuple(names),
        samples=tuple(samples),
        first=np.array([run_of(pair.first) for pair in pairs], int),
        second=np.array([run_of(pair.second) for pair in pairs], int),
        voter=np.array([names.index(line.voter) for line in kept], int),
        sample=np.array([samples.index(pair.sample) for pair in pairs], int),
        pair=np.array([numbers[line.pair] for line in kept], int),
        seed=np.array([videos[pair.first].seed for pair in pairs], int),
        first_left=first_left,
        wins={
            criterion: np.array(
                [
                    _won(line.answers[criterion] if line.answers else "tie", left)
                    for line, left in zip(kept, first_left, strict=True)
                ],
                float,
            )
            for criterion in CRITERIA
        },
    )


def _won(choice: str, first_left: bool) -> float:
    if choice == "tie":
        return 0.5
    return float((choice == "left") == first_left)
