"""The protocol mini-1.0: the official rules between the drawn world's extremes, for mini weights alone."""

from __future__ import annotations

import math

import pytest

from kit.mini_records import contest_records
from refbench.bench.scores.aggregate import scoreboards
from refbench.bench.scores.protocol import OPENS2V_1_1, protocol_names, protocol_of
from refbench.mini.protocol import MINI_1_0


def test_the_track_names_it_and_official_tracks_keep_theirs() -> None:
    assert protocol_of("mini") is MINI_1_0
    assert protocol_of("open-domain") is OPENS2V_1_1 and protocol_of("suite-of-mine") is OPENS2V_1_1
    assert protocol_of("mini", "opens2v-1.1") is OPENS2V_1_1
    assert "mini-1.0" in protocol_names()


def test_weights_are_the_official_ones() -> None:
    assert MINI_1_0.open_weights == OPENS2V_1_1.open_weights
    assert [column.component for column in MINI_1_0.columns] == [
        column.component for column in OPENS2V_1_1.columns
    ]


@pytest.mark.parametrize("official", OPENS2V_1_1.columns, ids=lambda column: column.component.name)
def test_rules_are_the_official_ones_at_their_own_ends(official) -> None:  # type: ignore[no-untyped-def]
    own = next(column for column in MINI_1_0.columns if column.component is official.component)
    span, own_span = official.best - official.worst, own.best - own.worst
    for share in (-0.5, 0.25, 0.5, 1.5):
        expected = official.clip(official.worst + share * span)
        found = own.clip(own.worst + share * own_span)
        if official.component.name.startswith("motion") and share < 0:
            # The absolute value: ranges that do not begin at 0 fold elsewhere.
            continue
        assert expected is not None and found is not None
        assert own.normalised(found) == pytest.approx(official.normalised(expected))
    assert math.isnan(own.clip(math.nan))  # type: ignore[arg-type]
    if official.clip(0) is None:
        assert own.clip(0) is None


def test_a_total_is_of_mini_weights_and_the_local_judge_alone() -> None:
    (mini,) = scoreboards(contest_records("m", 0.5))
    assert mini.protocol == "mini-1.0" and mini.total == pytest.approx(0.5, abs=0.01)
    for weights in ("tiny:00", "00"):
        (other,) = scoreboards(contest_records("m", 0.5, weights=weights))
        assert other.total is None and other.unofficial
    (official,) = scoreboards(contest_records("m", 0.5), "opens2v-1.1")
    assert official.total is None and "mini weights" in " ".join(official.unofficial)
