"""Everything that votes say, computed once: `analyse` reads files and gives a `VoteReport`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from refbench.bench.dataset import domain_of
from refbench.bench.environment import missing_packages
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import is_there, shortlist
from refbench.bench.scores.bootstrap import Interval
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.protocol import Protocol, protocol_of
from refbench.bench.scores.record import RunKey
from refbench.bench.scores.store import Store
from refbench.reports.stored_runs import StoredRuns, read_stored_runs
from refbench.reports.votes.agreement import (
    Share,
    VoterAgreement,
    kendall_tau,
    pairwise_accuracy,
    position_bias,
    voter_agreement,
)
from refbench.reports.votes.ballot import CRITERIA, OVERALL, Ballot, ballot_path, read_ballot
from refbench.reports.votes.comparisons import Comparisons, VoterSummary, comparisons, summarise_voters
from refbench.reports.votes.fitted_weights import FittedWeights, fit_weights
from refbench.reports.votes.power import votes_to_settle
from refbench.reports.votes.ratings import Ratings, rate
from refbench.reports.votes.scored_videos import method_scores, pair_scores
from refbench.reports.votes.vote_file import check_ballot, joined, read_votes

TOTAL = "total"
PACKAGES = ("choix", "scipy")


@dataclass(frozen=True, kw_only=True)
class MethodPair:
    """Two methods for one criterion: `difference` is how much higher the first is rated.

    `preferred` is the chance that the first is preferred, after the ratings. `decided`: the interval of the
    difference excludes 0; else `needed` votes on this pair would settle it, None for more than anybody
    gathers. `votes` are those on the pair itself, `ties` their share of ties (of all votes where there is
    none).
    """

    first: RunKey
    second: RunKey
    difference: float
    interval: Interval | None
    preferred: float
    votes: int
    ties: float
    decided: bool
    needed: int | None


@dataclass(frozen=True, kw_only=True)
class CriterionReport:
    """What the votes say on one criterion."""

    criterion: str
    ratings: Ratings
    pairs: tuple[MethodPair, ...]
    position: Share
    agreement: VoterAgreement


@dataclass(frozen=True, kw_only=True)
class ScoreAgreement:
    """How far a component (or `total`) agrees with the votes: criterion → pairwise accuracy, and Kendall's
    tau of the methods' scores with their ratings.
    """

    component: str
    label: str
    accuracy: Mapping[str, Share]
    tau: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class VoteReport:
    """All that is said of a set of vote files. `scores` and `fitted` are empty without score stores.

    `official_weights` are those of the protocol's TotalScore; `fitted` is an opinion beside them.
    """

    ballot: Ballot
    votes: Comparisons
    voters: tuple[VoterSummary, ...]
    criteria: tuple[CriterionReport, ...]
    protocol: str | None = None
    scores: tuple[ScoreAgreement, ...] = ()
    official_weights: Mapping[str, float] | None = None
    fitted: FittedWeights | None = None
    notes: tuple[str, ...] = ()


def analyse(
    files: Sequence[Path],
    *,
    ballot: Path | None = None,
    stores: Sequence[Store] = (),
    protocol: str | None = None,
    keep_inattentive: bool = False,
) -> VoteReport:
    """What the votes in `files` say; the ballot is the one beside the first file, unless `ballot` is given.

    Raises UserError for a missing or damaged file, votes on another ballot, two voters with one name, no vote
    that counts, stores without records of the compared runs, and packages that are not installed.
    """
    if absent := missing_packages(PACKAGES, "votes"):
        raise UserError(f"reading votes {absent}")
    found = ballot if ballot is not None else ballot_path(files[0])
    if ballot is None and not is_there(found):
        raise UserError(f"{found} is not there: say with --ballot FILE which ballot the votes are on")
    drawn = read_ballot(found)
    read = [read_votes(path) for path in dict.fromkeys(files)]
    for file in read:
        check_ballot(file, drawn)
    lines = joined(read)
    voters = summarise_voters(lines, drawn, keep_inattentive=keep_inattentive)
    votes = comparisons(lines, drawn, [one.voter for one in voters if not one.left_out])
    if not len(votes):
        raise UserError(f"no vote on two methods counts in {shortlist(map(str, files))}")
    criteria = tuple(_criterion(votes, criterion) for criterion in CRITERIA)
    report = VoteReport(
        ballot=drawn,
        votes=votes,
        voters=tuple(voters),
        criteria=criteria,
        notes=_notes(votes, voters, criteria[-1].ratings),
    )
    return report if not stores else _with_scores(report, read_stored_runs(list(stores)), protocol)


def _criterion(votes: Comparisons, criterion: str) -> CriterionReport:
    wins = votes.wins[criterion]
    ratings = rate(votes.first, votes.second, wins, votes.voter, votes.sample, len(votes.runs))
    group_of = {index: group for group in ratings.groups for index in group}
    pairs = [
        _method_pair(votes, wins, ratings, one, other)
        for one, other in combinations([rating.index for rating in ratings.ratings], 2)
        if group_of[one] == group_of[other]
    ]
    return CriterionReport(
        criterion=criterion,
        ratings=ratings,
        pairs=tuple(pairs),
        position=position_bias(votes, criterion),
        agreement=voter_agreement(votes, criterion),
    )


def _method_pair(votes: Comparisons, wins: np.ndarray, ratings: Ratings, one: int, other: int) -> MethodPair:
    difference, interval = ratings.difference(one, other)
    direct = wins[
        ((votes.first == one) & (votes.second == other)) | ((votes.first == other) & (votes.second == one))
    ]
    ties = float(((direct if len(direct) else wins) == 0.5).mean())
    preferred = float(1 / (1 + np.exp(-difference)))
    decided = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return MethodPair(
        first=votes.runs[one],
        second=votes.runs[other],
        difference=difference,
        interval=interval,
        preferred=preferred,
        votes=len(direct),
        ties=ties,
        decided=decided,
        needed=None if decided else votes_to_settle(preferred, ties),
    )


def _notes(votes: Comparisons, voters: Sequence[VoterSummary], ratings: Ratings) -> tuple[str, ...]:
    notes = []
    left_out = [one.voter for one in voters if one.left_out]
    if left_out:
        notes.append(f"left out, too many failed attention checks: {', '.join(left_out)}")
    kept = [one.voter for one in voters if not one.left_out and one.failed_checks]
    if kept:
        notes.append(f"counted, with failed attention checks: {', '.join(kept)}")
    unchecked = [one.voter for one in voters if not one.checks]
    if unchecked:
        notes.append(f"counted, without an answered attention check: {', '.join(unchecked)}")
    if len(votes.voters) == 1:
        notes.append("one voter: intervals hold for this voter's taste alone")
    if len(ratings.groups) > 1:
        groups = [", ".join(votes.runs[index].label for index in group) for group in ratings.groups]
        notes.append(f"no vote connects these groups, whose ratings cannot be compared: {' | '.join(groups)}")
    rated = {rating.index for rating in ratings.ratings}
    absent = [key.label for index, key in enumerate(votes.runs) if index not in rated]
    if absent:
        notes.append(f"not voted on yet: {', '.join(absent)}")
    return tuple(map(one_line, notes))


def _with_scores(report: VoteReport, stored: StoredRuns, protocol_name: str | None) -> VoteReport:
    votes = report.votes
    groups = stored.groups()
    without = [key.label for key in votes.runs if key not in groups]
    if len(without) == len(votes.runs):
        raise UserError(
            f"the stores hold no records of what was voted on ({shortlist(without)} on {report.ballot.track})"
        )
    protocol: Protocol = protocol_of(report.ballot.track, protocol_name)
    scores = pair_scores(votes, stored.records, protocol)
    by_method = method_scores(votes, groups, protocol)
    ratings = {
        one.criterion: {rating.index: rating.rating for rating in one.ratings.ratings}
        for one in report.criteria
        # Ratings of unconnected groups have no common order.
        if len(one.ratings.groups) == 1
    }
    differences = {name: scores.differences_VC[:, place] for place, name in enumerate(scores.components)} | {
        TOTAL: scores.total
    }
    notes = [f"left out: {text}" for text in stored.left_out]
    if without:
        notes.append(f"no records of {shortlist(without)}")
    return VoteReport(
        ballot=report.ballot,
        votes=votes,
        voters=report.voters,
        criteria=report.criteria,
        protocol=protocol.name,
        scores=tuple(
            ScoreAgreement(
                component=name,
                label="TotalScore" if name == TOTAL else COMPONENTS[name].label,
                accuracy={
                    criterion: pairwise_accuracy(votes, criterion, difference) for criterion in CRITERIA
                },
                tau={
                    criterion: kendall_tau(by_method[name], ratings.get(criterion, {}))
                    for criterion in CRITERIA
                },
            )
            for name, difference in differences.items()
        ),
        official_weights=dict(protocol.weights(domain_of(report.ballot.track))),
        fitted=fit_weights(
            scores.components, scores.for_weights, votes.wins[OVERALL], votes.voter, votes.sample
        ),
        notes=(*report.notes, *map(one_line, notes)),
    )
