"""The scores of the videos that were voted on, under a protocol.

A component of one video is its clipped score on the scale 0..1, as the protocol has it; TotalScore stands for
the weighted sum over the components that the two videos of a pair have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from refbench.bench.dataset import domain_of
from refbench.bench.scores.aggregate import Scoreboard, scoreboard
from refbench.bench.scores.protocol import Protocol
from refbench.bench.scores.record import NOT_APPLICABLE, Record, RunKey
from refbench.reports.votes.comparisons import Comparisons


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """Component → per vote the first video's score minus the second's, NaN where one of the two has none.

    `applies_VC` is false where a component applies to neither video. `total` is the weighted sum, NaN where a
    component that applies is missing.
    """

    components: tuple[str, ...]
    differences_VC: np.ndarray
    applies_VC: np.ndarray
    total: np.ndarray

    @property
    def for_weights(self) -> np.ndarray:
        """The differences with 0 where a component does not apply: it says nothing of such a pair."""
        return np.where(self.applies_VC, self.differences_VC, 0.0)


def pair_scores(votes: Comparisons, records: Iterable[Record], protocol: Protocol) -> PairScores:
    """The scores of the videos of each vote."""
    domain = domain_of(votes.runs[0].track)
    columns = protocol.weighted_columns(domain)
    by_video: dict[tuple[RunKey, str, int], dict[str, Record]] = {}
    for record in records:
        by_video.setdefault((record.run, record.sample, record.seed), {})[record.metric] = record
    differences = np.full((len(votes), len(columns)), np.nan)
    applies = np.ones((len(votes), len(columns)), bool)
    for row in range(len(votes)):
        sample, seed = votes.samples[votes.sample[row]], int(votes.seed[row])
        first, second = (
            by_video.get((votes.runs[int(index)], sample, seed), {})
            for index in (votes.first[row], votes.second[row])
        )
        for place, column in enumerate(columns):
            both = [one.get(column.component.metric) for one in (first, second)]
            if all(one is not None and one.reason_kind == NOT_APPLICABLE for one in both):
                applies[row, place] = False
                continue
            clipped = [
                column.clip(one.value) if one is not None and one.value is not None else None for one in both
            ]
            if clipped[0] is not None and clipped[1] is not None:
                differences[row, place] = column.normalised(clipped[0]) - column.normalised(clipped[1])
    weights = protocol.weights(domain)
    weight_C = np.array([weights[column.component.name] for column in columns])
    return PairScores(
        components=tuple(column.component.name for column in columns),
        differences_VC=differences,
        applies_VC=applies,
        total=np.where(applies, differences, 0.0) @ weight_C,
    )


def method_scores(
    votes: Comparisons, groups: Mapping[RunKey, list[Record]], protocol: Protocol
) -> dict[str, dict[int, float | None]]:
    """Component (and `total`) → index of the run → its score over all its records; None: there is none."""
    boards: dict[int, Scoreboard] = {
        index: scoreboard(groups[key], protocol) for index, key in enumerate(votes.runs) if key in groups
    }
    names = [column.component.name for column in protocol.weighted_columns(domain_of(votes.runs[0].track))]
    found: dict[str, dict[int, float | None]] = {name: {} for name in names}
    for index, board in boards.items():
        for result in board.components:
            if result.component in found:
                found[result.component][index] = result.value
    found["total"] = {index: board.total for index, board in boards.items()}
    return found
