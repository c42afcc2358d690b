"""How far long work is: the rate and the rest are those of this call."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from refbench.bench.runner import progress


def test_work_that_goes_on_counts_only_what_this_call_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.Progress("building", 1) as bar:
        bar.begin("net")
        for done in (501, 502, 503):
            bar.part(done, 1000)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "net: step 503/1000, 10.0 s each, 1:22:50 remaining"


def test_long_samples_report_their_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress("generating x", 3) as bar:
        bar.begin("faceobj_14")
        now[0] += 20.0
        bar.part(0, 50)
        for step in range(1, 7):
            now[0] += 3.0
            bar.part(step, 50)
        bar.step()
        bar.begin("faceobj_15")
        now[0] += 4.0
        bar.part(1, 50)
    assert capsys.readouterr().err.splitlines() == [
        # Twenty seconds before the first step do not slow its rate, and lines are ten seconds apart.
        "faceobj_14: step 1/50, 3.0 s each, 0:02:27 remaining",
        "faceobj_14: step 5/50, 3.0 s each, 0:02:15 remaining",
    ]


def test_a_terminal_shows_a_second_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(force_terminal=True, width=120, file=io.StringIO())
    monkeypatch.setattr(progress, "console", lambda stderr: screen)
    with progress.Progress("generating x", 2) as bar:
        bar.begin("faceobj_14")
        bar.part(12, 50)
        assert bar._bar is not None
        inner = bar._bar.tasks[-1]
        assert (inner.description, inner.completed, inner.total) == ("faceobj_14", 12, 50)
        bar.step()
        assert [task.description for task in bar._bar.tasks] == ["generating x"]
