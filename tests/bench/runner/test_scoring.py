"""The scoring worker: what of a metric's faults ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from refbench.bench.devices import Place
from refbench.bench.environment import Environment
from refbench.bench.errors import UserError
from refbench.bench.runner.executors import ProcessPoolExecutor
from refbench.bench.runner.scoring import ScoringJob, ScoringOutcome, ScoringWorkerFactory
from refbench.bench.sample import Sample

PLUGIN = """
import errno
from refbench.bench.metric import Metric, MetricDeclaration, Scorer
from refbench.bench.registry import metrics


class FullDisk(Scorer):
    def score(self, sample, video):
        raise OSError(errno.ENOSPC, "No space left on device")


@metrics.register
class DummyCaching(Metric):
    declaration = MetricDeclaration(
        name="dummy-caching", version="1", summary="keeps its answers on a full disk", source="a test"
    )

    def load(self, environment):
        return FullDisk()
"""


def test_a_full_disk_ends_an_evaluation_and_is_no_samples_fault(tmp_path: Path) -> None:
    plugin = tmp_path / "caching_plugin.py"
    plugin.write_text(PLUGIN)
    # In a worker process: the registry of this one keeps what it has.
    factory = ScoringWorkerFactory(options={}, environment=Environment(), plugins=(plugin,))
    sample = Sample(id="singleobj_1", category="singleobj", prompt="", references=())
    job = ScoringJob(turn=1, metric="dummy-caching", sample=sample, seed=0, video=tmp_path / "x.mp4")
    with pytest.raises(UserError, match=r"dummy-caching: .* No space left on device"):
        list(ProcessPoolExecutor[ScoringJob, ScoringOutcome]([Place()]).run(factory, [job]))
