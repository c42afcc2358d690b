"""A `VoteReport` for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from refbench.bench.console import count_text, interval_text, percent, print_lines, print_table
from refbench.bench.scores.bootstrap import Interval
from refbench.bench.scores.columns import COMPONENTS
from refbench.reports.votes.agreement import Share
from refbench.reports.votes.analysis import CriterionReport, VoteReport
from refbench.reports.votes.ballot import OVERALL
from refbench.reports.votes.page import CRITERION_LABELS
from refbench.reports.votes.power import MOST_VOTES

NONE = "–"


def print_votes(report: VoteReport) -> None:
    """Print all tables and remarks of a report."""
    votes = report.votes
    ties = float((votes.wins[OVERALL] == 0.5).mean())
    print_lines(
        [
            f"{count_text(len(votes), 'vote')} of {count_text(len(votes.voters), 'voter')} on "
            f"{count_text(len(set(votes.pair.tolist())), 'pair')} of {report.ballot.track}; "
            f"overall {percent(ties)} % ties (half a win for both), "
            f"{sum(one.skips for one in report.voters)} skipped (not counted)"
        ]
    )
    for criterion in report.criteria:
        _print_ratings(report, criterion)
    _print_voters(report)
    _table(
        "bias and agreement",
        ["criterion", "left chosen %", "95 %", "voters agree %", "on", "alpha"],
        [
            [
                CRITERION_LABELS[one.criterion],
                percent(one.position.share),
                interval_text(one.position.interval),
                percent(one.agreement.same),
                str(one.agreement.n),
                _number(one.agreement.alpha),
            ]
            for one in report.criteria
        ],
    )
    print_lines(_bias_lines(report))
    _print_undecided(report)
    if report.scores:
        _print_scores(report)
    if report.notes:
        print_lines(["", *report.notes])


def _print_ratings(report: VoteReport, criterion: CriterionReport) -> None:
    _table(
        f"{CRITERION_LABELS[criterion.criterion]}: Bradley-Terry rating (log-odds, mean 0)",
        ["method", "rating", "95 %", "won", "tied", "lost"],
        [
            [
                report.votes.runs[one.index].label,
                f"{one.rating:+.2f}",
                _range(one.interval),
                str(one.wins),
                str(one.ties),
                str(one.losses),
            ]
            for one in criterion.ratings.ratings
        ],
    )


def _print_voters(report: VoteReport) -> None:
    _table(
        "voters",
        ["voter", "votes", "skipped", "undone", "checks failed", "counted"],
        [
            [
                one.voter,
                str(one.votes),
                str(one.skips),
                str(one.undone),
                f"{one.failed_checks}/{one.checks}",
                "no" if one.left_out else "yes",
            ]
            for one in report.voters
        ],
    )


def _bias_lines(report: VoteReport) -> Iterable[str]:
    for one in report.criteria:
        found = one.position.interval
        if found is not None and not found[0] <= 0.5 <= found[1]:
            side = "left" if found[0] > 0.5 else "right"
            label = CRITERION_LABELS[one.criterion]
            yield f"{label}: voters prefer the {side} side; sides are drawn, so ratings lose contrast by it"


def _print_undecided(report: VoteReport) -> None:
    overall = next(one for one in report.criteria if one.criterion == OVERALL)
    undecided = [pair for pair in overall.pairs if not pair.decided]
    if not undecided:
        if overall.pairs:
            print_lines(["overall, every two methods are decided"])
        return
    _table(
        "overall, not decided: votes that would settle it (power 80 %, two-sided 5 %)",
        ["first", "second", "first preferred %", "votes", "votes needed"],
        [
            [
                pair.first.label,
                pair.second.label,
                percent(pair.preferred),
                str(pair.votes),
                f"> {MOST_VOTES}" if pair.needed is None else str(pair.needed),
            ]
            for pair in undecided
        ],
    )


def _print_scores(report: VoteReport) -> None:
    _table(
        f"agreement with the votes, overall ({report.protocol})",
        ["score", "pairs right %", "95 %", "votes", "tau"],
        [
            [
                one.label,
                percent(one.accuracy[OVERALL].share),
                interval_text(one.accuracy[OVERALL].interval),
                str(one.accuracy[OVERALL].n),
                _number(one.tau[OVERALL]),
            ]
            for one in report.scores
        ],
    )
    fitted = report.fitted
    if fitted is None or report.official_weights is None:
        return
    if fitted.none_because:
        print_lines([f"no weights are fitted to the votes: {fitted.none_because}"])
        return
    _table(
        "weights: official, and fitted to the votes (an opinion, not TotalScore)",
        ["component", "official", "fitted", "95 %"],
        [
            [
                COMPONENTS[name].label,
                f"{official:.2f}",
                f"{fitted.weights[name]:.2f}",
                _range(fitted.intervals[name]),
            ]
            for name, official in report.official_weights.items()
        ],
    )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table under a line of its own: titles here are longer than tables are wide."""
    print_lines(["", title])
    print_table(None, columns, rows)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _range(found: Interval | None) -> str:
    return NONE if found is None else f"[{found[0]:.2f}, {found[1]:.2f}]"


def _share_json(share: Share) -> dict[str, Any]:
    return {"share": share.share, "interval": share.interval, "n": share.n}


def votes_json(report: VoteReport) -> dict[str, Any]:
    """A report as JSON-serialisable data, numbers unrounded."""
    runs = report.votes.runs
    data: dict[str, Any] = {
        "track": report.ballot.track,
        "ballot": report.ballot.digest,
        "seed": report.ballot.seed,
        "votes": len(report.votes),
        "voters": [asdict(one) for one in report.voters],
        "criteria": {one.criterion: _criterion_json(report, one) for one in report.criteria},
        "notes": list(report.notes),
    }
    if report.scores and report.fitted is not None:
        data["protocol"] = report.protocol
        data["scores"] = {
            one.component: {
                "accuracy": {name: _share_json(share) for name, share in one.accuracy.items()},
                "kendall_tau": dict(one.tau),
            }
            for one in report.scores
        }
        data["weights"] = {
            "official": dict(report.official_weights or {}),
            "fitted": dict(report.fitted.weights),
            "fitted_intervals": dict(report.fitted.intervals),
            "votes": report.fitted.n,
            "none_because": report.fitted.none_because or None,
        }
    data["methods"] = [key.label for key in runs]
    return data


def _criterion_json(report: VoteReport, criterion: CriterionReport) -> dict[str, Any]:
    return {
        "ratings": [
            {
                "method": report.votes.runs[one.index].label,
                "rating": one.rating,
                "interval": one.interval,
                "wins": one.wins,
                "ties": one.ties,
                "losses": one.losses,
            }
            for one in criterion.ratings.ratings
        ],
        "pairs": [
            {**asdict(pair), "first": pair.first.label, "second": pair.second.label}
            for pair in criterion.pairs
        ],
        "position_bias": _share_json(criterion.position),
        "voter_agreement": asdict(criterion.agreement),
    }
