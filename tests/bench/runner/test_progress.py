"""How far long work is: the rate and the rest are those of this call."""

from __future__ import annotations

import pytest

from refbench.bench.runner import progress as module
from refbench.bench.runner.progress import Progress


def test_work_that_goes_on_counts_only_what_this_call_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with Progress("building", 1) as progress:
        progress.begin("net")
        for done in (501, 502, 503):
            progress.part(done, 1000)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "net: step 503/1000, 10.0 s each, 1:22:50 remaining"
