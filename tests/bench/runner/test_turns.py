"""What is loaded together, where models run, and frames that are decoded ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.records import full_records, record
from refbench.bench.console import licence_notes, total_lines
from refbench.bench.environment import Environment, resolve_device
from refbench.bench.errors import UserError
from refbench.bench.metric import Metric, Score, Scorer
from refbench.bench.registry import metrics
from refbench.bench.runner.plan import Plan, RunKey, abilities, make_plan
from refbench.bench.runner.scoring import ScoringJob, ScoringOutcome, ScoringWorker
from refbench.bench.runner.turns import WORKING_GIB, needed_gib, turns
from refbench.bench.runs.folder import VideoFolder
from refbench.bench.sample import Sample
from refbench.bench.scores.aggregate import scoreboard
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.official_files import export_scores
from refbench.bench.scores.protocol import get_protocol
from refbench.bench.scores.record import Provenance, Record, RecordKey
from refbench.bench.streams import mapped, read_ahead
from refbench.bench.video import ALL_FRAMES, Video, VideoError, uniform_frames
from refbench.bench.weights.catalogue import get_entry
from refbench.bench.weights.kind import TINY_MARKER

V11 = get_protocol("opens2v-1.1")


def every_metric() -> list[Metric]:
    return [metrics.get(name)() for name in metrics.names()]


@given(st.floats(0.1, 60))
def test_turns_hold_every_metric_once_and_fit(memory_gib: float) -> None:
    groups = turns(every_metric(), memory_gib)
    names = sorted(metric.declaration.name for group in groups for metric in group)
    assert names == metrics.names()
    for group in groups:
        largest = max(needed_gib([metric]) for metric in group)
        assert needed_gib(group) <= max(memory_gib - WORKING_GIB, largest)


def test_metrics_that_share_gme_are_loaded_together_whatever_the_memory() -> None:
    both = [metrics.get("nexusscore")(), metrics.get("gmescore")()]
    assert needed_gib(both) == needed_gib(both[:1])
    assert len(turns(both, 1.0)) == 1
    assert len(turns(every_metric(), 100)) == 1
    assert len(turns(every_metric(), 20)) > 1


def test_devices() -> None:
    assert resolve_device("auto", needs_torch=False) == "cpu"
    assert resolve_device("cpu", needs_torch=True) == "cpu"
    assert resolve_device("auto", needs_torch=True) in ("cpu", "cuda")
    with pytest.raises(UserError, match="needs torch"):
        resolve_device("cuda", needs_torch=False)
    with pytest.raises(UserError, match="cannot be used"):
        resolve_device("cuda:99", needs_torch=True)


class SpyScorer(Scorer):
    """Notes that it was closed."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def score(self, sample: Sample, video: Video) -> Score:
        return Score(value=float(video.probe.frames))

    def close(self) -> None:
        self.log.append("close")


class Spy(Metric):
    """Notes that it was loaded."""

    declaration = metrics.get("motion-amplitude").declaration

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def load(self, environment: Environment) -> Scorer:
        self.log.append("load")
        return SpyScorer(self.log)


def test_a_worker_loads_once_per_turn(
    make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setattr("refbench.bench.runner.scoring.make_metric", lambda name, options: Spy(log))
    worker = ScoringWorker({}, Environment())
    sample = Sample(id="a_1", category="a", prompt="", references=())
    clip = make_clip(frames=3)
    for turn, metric in ((0, "one"), (0, "two"), (0, "one"), (1, "two")):
        outcome = worker.work(ScoringJob(turn=turn, metric=metric, sample=sample, seed=0, video=clip))
        assert outcome.value == 3
    worker.close()
    assert log == ["load", "load", "close", "close", "load", "close"]


def test_frames_decoded_ahead_are_the_same_frames(make_clip: Callable[..., Path]) -> None:
    clip = make_clip(frames=11)
    for policy in (ALL_FRAMES, uniform_frames(4), uniform_frames(30)):
        plain = list(Video(clip).frames(policy))
        ahead = list(Video(clip, ahead=3).frames(policy))
        assert len(plain) == len(ahead)
        assert all(np.array_equal(a, b) for a, b in zip(plain, ahead, strict=True))
    (clip.parent / "broken.mp4").write_bytes(clip.read_bytes()[:-300])
    with pytest.raises(VideoError):
        list(Video(clip.parent / "broken.mp4", ahead=3).frames(ALL_FRAMES))


def test_reading_ahead_is_bounded_and_ends_when_closed() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    before = threading.active_count()
    ahead = read_ahead(items(), 3)
    assert next(ahead) == 0
    time.sleep(0.2)
    # One handed out, three waiting, one in the thread's hand.
    assert len(made) <= 5
    ahead.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_an_error_comes_where_it_happened() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise VideoError("broken")

    ahead = read_ahead(items(), 5)
    assert next(ahead) == 1
    with pytest.raises(VideoError, match="broken"):
        next(ahead)


def test_mapped_keeps_the_order_and_its_bounds() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = mapped(lambda number: number * number, items(), 3)
    assert next(results) == 0
    assert len(taken) <= 8
    assert list(results) == [number * number for number in range(1, 100)]
    with pytest.raises(ZeroDivisionError):
        list(mapped(lambda number: 1 // (number - 5), range(10), 2))


def gme_plan(clip: Path, weights: Path, held: dict[RecordKey, Record]) -> Plan:
    """The plan of GmeScore for one video."""
    chosen = [metrics.get("gmescore")()]
    return make_plan(
        run_key=RunKey(method="m", track="open-domain"),
        samples=[Sample(id="a_1", category="a", prompt="p", references=())],
        folder=VideoFolder(info=None, videos={("a_1", 0): clip}, errors={}, unknown=(), seeds=(0,)),
        chosen=chosen,
        held=held,
        able=abilities(chosen, Environment(weights=weights)),
        memory_gib=100,
    )


@pytest.mark.parametrize(
    ("was_tiny", "is_tiny", "to_score"), [(True, False, 1), (False, True, 1), (True, True, 0)]
)
def test_scores_of_tiny_weights_do_not_stand_for_real_ones(
    tmp_path: Path, make_clip: Callable[..., Path], was_tiny: bool, is_tiny: bool, to_score: int
) -> None:
    entry = get_entry("gme-qwen2-vl-7b")
    place = tmp_path / "weights" / entry.repository
    place.mkdir(parents=True)
    (place / "config.json").touch()
    if is_tiny:
        (place / TINY_MARKER).touch()
    clip = make_clip("a_1.mp4")
    first = gme_plan(clip, tmp_path / "weights", {})
    digest = "tiny:00" if was_tiny else "00"
    scored = first.record(first.jobs[0], ScoringOutcome(value=0.5, provenance={"weights": {"gme": digest}}))
    assert len(gme_plan(clip, tmp_path / "weights", {scored.key: scored}).jobs) == to_score


def test_a_score_is_not_given_up_where_the_weights_are_not(
    tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    """Scored on a machine with weights, looked at again on one without: the value stands."""
    entry = get_entry("gme-qwen2-vl-7b")
    (tmp_path / "weights" / entry.repository).mkdir(parents=True)
    (tmp_path / "weights" / entry.repository / "config.json").touch()
    clip = make_clip("a_1.mp4")
    first = gme_plan(clip, tmp_path / "weights", {})
    scored = first.record(first.jobs[0], ScoringOutcome(value=0.5))
    without = gme_plan(clip, tmp_path / "nowhere", {scored.key: scored})
    assert without.settled == [] and without.jobs == []
    assert without.per_metric["gmescore"].cached == 1
    (missing,) = gme_plan(clip, tmp_path / "nowhere", {}).settled
    assert missing.reason_kind == "missing_weights"


def marked(records: list[Record], metric: str, **changes: object) -> list[Record]:
    return [one.model_copy(update=changes) if one.metric == metric else one for one in records]


@pytest.mark.parametrize(
    ("metric", "changes", "reason"),
    [
        ("naturalscore", {"details": {"unofficial": "local judge Q"}}, "local judge Q"),
        (
            "gmescore",
            {"provenance": Provenance(metric_version="1", weights={"gme": "tiny:00"})},
            "tiny random weights in gmescore",
        ),
    ],
)
def test_unofficial_scores_have_no_total_score(
    tmp_path: Path, metric: str, changes: dict[str, object], reason: str
) -> None:
    records = full_records()
    official = scoreboard(records, V11)
    board = scoreboard(marked(records, metric, **changes), V11)
    assert official.total is not None and official.unofficial == ()
    assert board.total is None and board.total_interval is None and board.strict_total is None
    assert board.unofficial == (reason,)
    assert board.unofficial_total == official.total
    assert total_lines(board, strict=False)[0].startswith(f"TotalScore: not available, unofficial: {reason}")
    incomplete = [one for one in marked(records, metric, **changes) if one.metric != "aesthetics"]
    assert reason in scoreboard(incomplete, V11).notes
    exported = export_scores(marked(records, metric, **changes), tmp_path)
    assert exported.notes == [f"no merged file: {reason}"]
    assert not (tmp_path / "Open-Domain.json").exists()


def test_the_licence_of_facesim_is_said_with_a_total_that_holds_it() -> None:
    board = scoreboard(full_records(), V11)
    assert licence_notes([board]) == [COMPONENTS["facesim"].licence_note]
    assert licence_notes([scoreboard([record("facesim", "singleface_1", 0.5)], V11)]) == []
