"""Validation videos are scored by the harness' own metrics, and training does not notice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("cv2", reason="the metric needs the extra 'metrics'")

import refbench.refalign.training.validation_scores as validation_scores  # noqa: E402
from kit.training import SHORT_RUN, files_of, logged_steps  # noqa: E402
from refbench.bench.dataset import Track  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.runner.plan import selected_metrics  # noqa: E402
from refbench.bench.scores.results import scoreboards  # noqa: E402
from refbench.refalign.training.recipes import build_config  # noqa: E402
from refbench.refalign.training.run import TrainingPaths, train  # noqa: E402
from refbench.refalign.training.settings import TrainingConfig  # noqa: E402
from refbench.refalign.training.validation_scores import ValidationScores  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

WATCHED = ("validation.every=1", "validation.steps=1", "validation.samples=singleobj_1,faceobj_2")
LAST = "checkpoints/step-00000002"


@pytest.fixture
def config(dataset: Path) -> TrainingConfig:
    metrics = "validation.metrics=motion-amplitude,clip-t"
    changes = [*SHORT_RUN, *WATCHED, metrics, f"validation.dataset={dataset}", "run.max_steps=2"]
    return build_config("tiny", changes)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_scores_of_validation_videos(
    config: TrainingConfig, weights: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the log, the curves and a store; what has no weights is said before the first step, once."""
    drawn = build_config("tiny", ["log.tensorboard=true"]).log
    config = replace(config, log=replace(drawn, every=1))
    train(config, TrainingPaths(out=tmp_path / "out", weights=weights, data=clips), resume=False)
    said = capsys.readouterr().err
    lacking = "validation.metrics: clip-t cannot run and is left out: "
    assert said.count(lacking) == 1 and said.index(lacking) < said.index("step 1/2")
    found = [row for row in rows(tmp_path / "out") if "scores" in row]
    assert [row["validation_step"] for row in found] == [1, 2]
    figure = found[0]["scores"]["motion-amplitude"]
    assert (figure["counted"], figure["expected"], figure["is_component"]) == (2, 2, True)
    assert f"validation at step 1: motion-amplitude {figure['value']:.4f} (2/2)" in said
    boards = scoreboards(tmp_path / "out" / "validation-scores")
    assert [board.method for board in boards] == ["step-00000001", "step-00000002"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (event,) = (tmp_path / "out/curves").rglob("events*")
    curves = EventAccumulator(str(event))
    curves.Reload()
    stored = {item.step: item.value for item in curves.Scalars("validation/motion-amplitude")}
    assert stored[1] == pytest.approx(figure["value"]) and len(stored) == 2


def test_training_goes_on_as_without_scores(
    config: TrainingConfig, weights: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics set threads and draw numbers, and may fail: neither weights nor losses change."""
    plain = replace(config, validation=replace(config.validation, metrics=()))
    train(plain, TrainingPaths(out=tmp_path / "plain", weights=weights, data=clips), resume=False)

    def fails(*given: Any, **named: Any) -> None:
        torch.set_num_threads(2)
        torch.manual_seed(99)
        raise UserError("not enough memory")

    monkeypatch.setattr(validation_scores, "evaluate", fails)
    before = torch.get_num_threads()
    train(config, TrainingPaths(out=tmp_path / "scored", weights=weights, data=clips), resume=False)
    assert torch.get_num_threads() == before
    events = [row["event"] for row in rows(tmp_path / "scored") if "event" in row]
    assert "validation scores at step 1 failed: not enough memory" in events
    assert logged_steps(tmp_path / "scored") == logged_steps(tmp_path / "plain")
    assert files_of(tmp_path / "scored" / LAST) == files_of(tmp_path / "plain" / LAST)


def test_scores_of_steps_that_are_made_again_are_dropped(
    config: TrainingConfig, weights: Path, clips: Path, tmp_path: Path
) -> None:
    paths = TrainingPaths(out=tmp_path, weights=weights, data=clips)
    train(config, paths, resume=False)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"validation_step": 3, "scores": {}}\n')
    train(config, paths, resume=True)
    assert [row["validation_step"] for row in rows(tmp_path) if "scores" in row] == [1, 2]


def test_metrics_that_are_refused(config: TrainingConfig, weights: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"validation: metrics score the validation videos: give every, too"):
        build_config("tiny", ["validation.metrics=clip-t"])
    unknown = replace(config, validation=replace(config.validation, metrics=("clip-x",)))
    with pytest.raises(UserError, match=r"unknown metric 'clip-x'; did you mean clip-"):
        train(unknown, TrainingPaths(out=tmp_path, weights=weights, data=clips), resume=False)
    assert not (tmp_path / "log.jsonl").exists()


def test_figures_of_what_is_no_component(tmp_path: Path) -> None:
    """Raw means over the videos that have a value, of those that should."""
    from kit.records import record

    track = Track(name="open-domain", samples=(), domain="open-domain")
    scores = ValidationScores(["dino-i", "clip-t"], track, tmp_path, None, torch.device("cpu"))
    scores._metrics = selected_metrics("dino-i,gmescore", {})
    records = [
        record("dino-i", "singleobj_1", 0.5),
        record("dino-i", "singleobj_2", 0.25),
        record("dino-i", "faceobj_1", reason="failed: no frame"),
        record("dino-i", "faceobj_2", reason="not_applicable: no reference"),
        record("gmescore", "singleobj_1", reason="missing_video"),
    ]
    raw, component = scores._figures(records)
    assert raw.text == "dino-i 0.3750 (2/3)" and not raw.is_component
    assert component.text.startswith("gmescore – (0/") and component.value is None
