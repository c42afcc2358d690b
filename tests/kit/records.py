"""Records with little to say."""

from __future__ import annotations

import random
from typing import Any

from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.record import Provenance, Record


def record(metric: str, sample: str, value: float | None = None, **fields: Any) -> Record:
    """A record with little to say: method `m`, track `open-domain`, seed 0 unless given."""
    defaults: dict[str, Any] = {
        "method": "m",
        "track": "open-domain",
        "category": sample.rpartition("_")[0],
        "reason": None if value is not None else "failed: test",
        "provenance": Provenance(metric_version="1"),
    }
    return Record(metric=metric, sample=sample, value=value, **(defaults | fields))


def full_records(samples: int = 12, seed: int = 0, **fields: Any) -> list[Record]:
    """Every component for every sample; FaceSim does not apply to every third, NexusScore to every fourth."""
    generator = random.Random(seed)
    made = []
    for number in range(1, samples + 1):
        for component in COMPONENTS.values():
            value: float | None = generator.uniform(component.worst, component.best)
            reason = None
            if (component.name == "facesim" and number % 3 == 0) or (
                component.name == "nexusscore" and number % 4 == 0
            ):
                value, reason = None, "not_applicable: test"
            made.append(record(component.metric, f"singleobj_{number}", value, reason=reason, **fields))
    return made
