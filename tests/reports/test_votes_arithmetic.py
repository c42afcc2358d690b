"""Ratings, intervals, power, agreement and fitted weights, held against simulated voters."""

from __future__ import annotations

import numpy as np
import pytest

from kit.voters import ballot_of, simulated
from refbench.reports.votes.agreement import (
    alpha,
    kendall_tau,
    pairwise_accuracy,
    position_bias,
    voter_agreement,
)
from refbench.reports.votes.ballot import Ballot
from refbench.reports.votes.comparisons import Comparisons, comparisons, summarise_voters
from refbench.reports.votes.fitted_weights import fit_weights
from refbench.reports.votes.power import votes_to_settle
from refbench.reports.votes.ratings import Ratings, connected, fit_ratings, rate
from refbench.reports.votes.resampling import mean_with_interval

STRENGTHS = {"d": 1.2, "a": 0.3, "c": -0.4, "b": -1.1}
VOTERS = tuple(f"voter {number}" for number in range(6))


def counted(ballot: Ballot, **arguments: object) -> Comparisons:
    """The comparisons of simulated voters, all of whom count."""
    return comparisons(simulated(ballot, STRENGTHS, VOTERS, **arguments), ballot, VOTERS)  # type: ignore[arg-type]


def overall(votes: Comparisons, *, resamples: int = 80) -> Ratings:
    return rate(
        votes.first, votes.second, votes.wins["overall"], votes.voter, votes.sample, len(votes.runs),
        resamples=resamples,
    )  # fmt: skip


def test_ratings_come_out_in_order_and_near_the_truth() -> None:
    votes = counted(ballot_of(STRENGTHS))
    found = overall(votes)
    assert [votes.runs[one.index].method for one in found.ratings] == ["d", "a", "c", "b"]
    for one in found.ratings:
        assert one.interval is not None
        assert one.interval[0] < STRENGTHS[votes.runs[one.index].method] < one.interval[1]
        assert one.interval[0] < one.rating < one.interval[1] < one.interval[0] + 1.5
        assert one.wins + one.ties + one.losses == 3 * 12 * len(VOTERS)


def test_two_methods_have_the_log_odds_of_their_votes() -> None:
    ratings = fit_ratings(np.array([[0.0, 30.0], [10.0, 0.0]]))
    assert ratings[0] - ratings[1] == pytest.approx(np.log(30.1 / 10.1), abs=1e-4)


def test_a_tie_is_half_a_win_for_both_and_draws_ratings_together() -> None:
    plain = overall(counted(ballot_of(STRENGTHS))).ratings
    tied = overall(counted(ballot_of(STRENGTHS), ties=0.5)).ratings
    assert sum(one.ties for one in tied) > 0 == sum(one.ties for one in plain)
    assert 0 < tied[0].rating - tied[-1].rating < plain[0].rating - plain[-1].rating
    first, second = np.zeros(8, int), np.ones(8, int)
    only_ties = rate(first, second, np.full(8, 0.5), np.arange(8) % 2, np.arange(8), 2, resamples=20)
    assert only_ties.ratings[0].rating == pytest.approx(0, abs=1e-9)


def test_a_method_that_always_wins_has_a_finite_rating() -> None:
    first, second, wins = np.zeros(30, int), np.ones(30, int), np.ones(30)
    found = rate(first, second, wins, np.arange(30) % 3, np.arange(30), 2, resamples=20)
    assert np.isfinite(found.ratings[0].rating) and found.ratings[0].rating > 2


def test_methods_that_no_vote_connects_are_told_apart() -> None:
    assert connected([(0, 1), (2, 3), (1, 0)]) == ((0, 1), (2, 3))
    assert connected([(0, 1), (2, 3), (3, 1)]) == ((0, 1, 2, 3),)


@pytest.mark.parametrize(("taste", "quality"), [(0.0, 0.0), (0.4, 0.4)])
def test_intervals_hold_the_truth_in_about_95_of_100_studies(taste: float, quality: float) -> None:
    """Sixty studies of six voters and thirty samples; voters differ in taste, samples in quality."""
    truth = np.array([0.8, 0.1, -0.9])
    # What a vote of a random voter on a random sample prefers: spread flattens the logistic curve.
    seen = truth / np.sqrt(1 + 0.346 * 2 * (taste**2 + quality**2))
    held = []
    for study in range(1000, 1060):
        generator = np.random.default_rng(study)
        tastes = truth + generator.normal(0, taste, (6, 3))
        qualities = generator.normal(0, quality, (30, 3))
        voter, sample = (one.ravel() for one in np.meshgrid(np.arange(6), np.arange(30), indexing="ij"))
        twos = np.array([(0, 1), (1, 2), (2, 0)])[np.arange(30) % 3]
        first, second = twos[sample].T
        worth = tastes[voter] + qualities[sample]
        rows = np.arange(len(voter))
        chance = 1 / (1 + np.exp(worth[rows, second] - worth[rows, first]))
        wins = (generator.random(len(rows)) < chance).astype(float)
        found = rate(first, second, wins, voter, sample, 3, resamples=60)
        for one in found.ratings:
            assert one.interval is not None
            held.append(one.interval[0] <= seen[one.index] <= one.interval[1])
    assert 0.91 <= np.mean(held) <= 0.99


def test_few_voters_of_different_taste_give_wide_intervals() -> None:
    """Ninety votes of three voters who each always say the same say no more than three votes."""
    voter = np.repeat(np.arange(3), 30)
    values = np.array([1.0, 1.0, 0.0])[voter]
    share, interval = mean_with_interval(values, voter, np.tile(np.arange(30), 3))
    assert share == pytest.approx(2 / 3) and interval == (0.0, 1.0)
    alone, narrow = mean_with_interval(values, np.arange(90), np.arange(90))
    assert narrow is not None and narrow[1] - narrow[0] < 0.25 and alone == share


def test_a_single_voter_is_resampled_by_samples_alone() -> None:
    values = np.arange(40) % 2.0
    share, interval = mean_with_interval(values, np.zeros(40, int), np.arange(40))
    assert interval is not None and share == 0.5 and interval[0] < 0.4 < 0.6 < interval[1]
    assert mean_with_interval(values[:1], np.zeros(1, int), np.zeros(1, int)) == (0.0, None)
    assert mean_with_interval(np.full(3, np.nan), np.arange(3), np.arange(3)) == (None, None)


def test_the_same_votes_give_the_same_intervals() -> None:
    votes = counted(ballot_of(STRENGTHS))
    assert overall(votes).ratings == overall(votes).ratings


def test_position_bias_is_found_where_it_is_and_nowhere_else() -> None:
    ballot = ballot_of(STRENGTHS)
    fair = position_bias(counted(ballot), "overall")
    biased = position_bias(counted(ballot, left_bias=0.8), "overall")
    assert fair.interval is not None and biased.interval is not None
    assert fair.interval[0] < 0.5 < fair.interval[1]
    assert biased.interval[0] > 0.5 and biased.share == pytest.approx(0.65, abs=0.06)
    assert fair.n == 72 * len(VOTERS)


@pytest.mark.parametrize(("preferred", "ties"), [(0.65, 0.0), (0.7, 0.3)])
def test_the_number_of_votes_that_settle_a_pair_is_that_of_a_simulation(
    preferred: float, ties: float
) -> None:
    needed = votes_to_settle(preferred, ties)
    assert needed is not None
    won = preferred - ties / 2

    def power(votes: int) -> float:
        found = []
        for study in range(60):
            generator = np.random.default_rng(study)
            wins = generator.choice([1.0, 0.5, 0.0], p=[won, ties, 1 - won - ties], size=votes)
            voter, sample = np.arange(votes) % 20, np.arange(votes)
            rated = rate(np.zeros(votes, int), np.ones(votes, int), wins, voter, sample, 2, resamples=50)
            interval = rated.difference(0, 1)[1]
            found.append(interval is not None and (interval[0] > 0 or interval[1] < 0))
        return float(np.mean(found))

    assert power(round(needed / 1.5)) < 0.8 < power(round(1.5 * needed))


def test_votes_to_settle_in_known_cases() -> None:
    # The usual formula for one proportion against a half: (1.96 * 0.5 + 0.84 * 0.4583)^2 / 0.2^2.
    assert votes_to_settle(0.7) == votes_to_settle(0.3) == 47
    assert votes_to_settle(0.5) is None
    assert votes_to_settle(0.5001) is None
    assert votes_to_settle(0.6, ties=1.0) is None
    assert (votes_to_settle(1.0) or 99) <= 5


def test_careless_voters_are_left_out_and_the_others_are_not() -> None:
    ballot = ballot_of(STRENGTHS, checks=12)
    lines = simulated(ballot, STRENGTHS, VOTERS, careless=["voter 3"])
    summaries = {one.voter: one for one in summarise_voters(lines, ballot)}
    assert {name for name, one in summaries.items() if one.left_out} == {"voter 3"}
    assert summaries["voter 3"].failed_checks > 4 and summaries["voter 0"].failed_checks == 0
    assert {one.checks for one in summaries.values()} == {12}
    assert {one.votes for one in summaries.values()} == {72}
    kept = summarise_voters(lines, ballot, keep_inattentive=True)
    assert not any(one.left_out for one in kept)


def test_checks_are_no_comparisons() -> None:
    ballot = ballot_of(STRENGTHS, checks=9)
    assert len(counted(ballot)) == 72 * len(VOTERS)


def test_agreement_between_voters() -> None:
    ballot = ballot_of({"a": 0, "b": 0}, samples=20)
    strong = comparisons(simulated(ballot, {"a": 9, "b": -9}, VOTERS), ballot, VOTERS)
    chance = comparisons(simulated(ballot, {"a": 0, "b": 0}, VOTERS), ballot, VOTERS)
    full, none = voter_agreement(strong, "text"), voter_agreement(chance, "text")
    assert full.same == 1 and full.alpha == pytest.approx(1) and full.n == 20 * 15
    assert none.same == pytest.approx(0.5, abs=0.1) and none.alpha == pytest.approx(0, abs=0.1)


def test_alpha_of_a_published_example() -> None:
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: nominal data with gaps."""
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[float(value) for value in unit if value is not None] for unit in zip(*rows, strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert alpha([[1.0, 1.0], [1.0]]) is None


def test_a_score_that_votes_follow_is_right_and_its_opposite_wrong() -> None:
    ballot = ballot_of(STRENGTHS)
    votes = counted(ballot)
    worth = np.array([STRENGTHS[key.method] for key in votes.runs])
    difference = worth[votes.first] - worth[votes.second]
    right = pairwise_accuracy(votes, "overall", difference)
    wrong = pairwise_accuracy(votes, "overall", -difference)
    assert right.share is not None and wrong.share is not None and right.interval is not None
    assert right.share == pytest.approx(1 - wrong.share) and right.interval[0] > 0.6
    assert pairwise_accuracy(votes, "overall", np.zeros(len(votes))).share == 0.5
    some = pairwise_accuracy(votes, "overall", np.where(votes.sample < 3, np.nan, difference))
    assert some.n == 72 * len(VOTERS) * 9 // 12
    ratings = {one.index: one.rating for one in overall(votes).ratings}
    assert kendall_tau(dict(enumerate(worth)), ratings) == 1
    assert kendall_tau(dict(enumerate(-worth)), ratings) == -1
    assert kendall_tau({0: 1.0, 1: 0.5, 2: None}, ratings) is None


def test_fitted_weights_find_the_component_that_votes_follow() -> None:
    generator = np.random.default_rng(5)
    x = generator.normal(0, 1, (600, 3))
    wins = (generator.random(600) < 1 / (1 + np.exp(-x @ np.array([1.5, 0.5, 0.0])))).astype(float)
    voter, sample = np.arange(600) % 6, np.arange(600) // 6
    fitted = fit_weights(("a", "b", "c"), x, wins, voter, sample, resamples=60)
    assert sum(fitted.weights.values()) == pytest.approx(1) and fitted.n == 600
    assert fitted.weights["a"] == pytest.approx(0.75, abs=0.1)
    intervals = fitted.intervals
    assert intervals["a"] is not None and intervals["a"][0] < 0.75 < intervals["a"][1]
    assert intervals["c"] is not None and intervals["c"][0] == 0
    x[:590, 0] = np.nan
    few = fit_weights(("a", "b", "c"), x, wins, voter, sample)
    assert few.weights == {} and "10 votes" in few.none_because
    against = fit_weights(("b",), -np.abs(x[:, 1:2]), np.ones(600), voter, sample)
    assert against.weights == {} and "no component" in against.none_because
