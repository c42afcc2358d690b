"""Records of the track mini as a contest writes them, with chosen quality."""

from __future__ import annotations

from kit.records import record
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.record import Provenance, Record
from refbench.mini.protocol import MINI_1_0
from refbench.mini.track import MINI

SAMPLES = tuple(sorted(MINI.sample_ids, key=lambda name: int(name.rpartition("_")[2])))[:16]
JUDGED = {"unofficial": "local judge", "judge": "local"}


def contest_records(
    method: str, quality: float, variant: str = "plain", *, weights: str = "mini:00", **qualities: float
) -> list[Record]:
    """A record of each component and sample, at `quality` of its range (`qualities`: of one component), a
    little higher for some samples.
    """
    made = []
    for place, sample in enumerate(SAMPLES):
        for column in MINI_1_0.columns:
            name = column.component.name
            share = qualities.get(name, quality) + 0.01 * (place % 3 - 1)
            judged = name == "naturalscore"
            made.append(
                record(
                    COMPONENTS[name].metric,
                    sample,
                    column.worst + share * (column.best - column.worst),
                    method=method,
                    track=MINI.name,
                    variant=variant,
                    details=JUDGED if judged else {},
                    provenance=Provenance(metric_version="1", weights={"network": weights}),
                )
            )
    return made
