"""A plan over many seeds: what depends on a sample alone is computed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from refbench.bench.environment import Environment
from refbench.bench.runner.plan import Digests, Plan, ScoringOutcome, make_plan, selected_metrics
from refbench.bench.runs.folder import VideoFolder
from refbench.bench.sample import Sample
from refbench.bench.scores.record import Record, RecordKey, RunKey, latest

SEEDS = (0, 1, 2)
SAMPLES = [Sample(id=f"faceobj_{n}", category="faceobj", prompt="a hat", references=()) for n in (1, 2)]
FOLDER = VideoFolder(
    info=None,
    videos={(one.id, seed): Path(f"{one.id}_{seed}.mp4") for one in SAMPLES for seed in SEEDS},
    errors={},
    unknown=(),
    seeds=SEEDS,
)


def planned(held: dict[RecordKey, Record], variant: str = "plain") -> Plan:
    return make_plan(
        run_key=RunKey("m", "open-domain", variant),
        samples=SAMPLES,
        folder=FOLDER,
        chosen=selected_metrics("motion-amplitude", {}),
        held=held,
        environment=Environment(),
        memory_gib=8,
    )


def test_samples_are_digested_once_and_values_looked_up_by_inputs_where_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digested: list[str] = []
    digest, inputs = Sample.digest, []

    def counted(sample: Sample, uses: frozenset[str]) -> str:
        digested.append(sample.id)
        return digest(sample, uses)  # type: ignore[arg-type]

    monkeypatch.setattr(Sample, "digest", counted)
    monkeypatch.setattr(Digests, "video", lambda self, sample, seed: f"{sample.id} {seed}")
    monkeypatch.setattr(Digests, "remarks", lambda self, sample_id, seed: ())
    plan = planned({})
    assert len(plan.jobs) == 6
    assert digested == ["faceobj_1", "faceobj_2"]
    held = latest(plan.record(job, ScoringOutcome(value=0.5)) for job in plan.jobs)
    looked_up = "refbench.bench.runner.plan._by_inputs"
    with monkeypatch.context() as patch:
        patch.setattr(looked_up, lambda records: inputs.append(records))
        assert planned(held).per_metric["motion-amplitude"].cached == 6
    assert not inputs
    # Another variant with the same videos takes the values over.
    assert planned(held, "scored-shuffled").per_metric["motion-amplitude"].reused == 6
