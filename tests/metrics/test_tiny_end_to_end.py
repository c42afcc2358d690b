"""All seven components on mp4s through the real loading code, with tiny random weights, on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refbench.bench.cli.main import app
from refbench.bench.dataset import load_track
from refbench.bench.environment import Environment
from refbench.bench.method import Frames
from refbench.bench.runner.generating import make_method
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.store import read_records
from refbench.bench.video import write_video
from refbench.mini.demo import write_demo_dataset

pytest.importorskip("torch", reason="the learned metrics need the extra 'metrics'")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-weights")
    assert CliRunner().invoke(app, ["weights", "make-tiny", str(folder)]).exit_code == 0
    return folder


def evaluate(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    words = ["evaluate", *map(str, arguments), "--out", str(tmp_path / "results"), "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    board: dict[str, Any] = json.loads(done.stdout)[0]
    return board


def check(board: dict[str, Any], store: Path) -> None:
    """Every component has a value that counts, every learned one is marked, and nothing is a TotalScore."""
    for name, component in COMPONENTS.items():
        result = board["components"][name]
        assert result["scored"] - result["dropped"] >= 1, (name, result)
        scored = [r for r in read_records(store) if r.metric == component.metric and r.value is not None]
        assert all(r.provenance.is_tiny == (name != "motion_amplitude") for r in scored), name
    assert board["total_score"] is None
    assert board["unofficial_total"] is not None
    assert any("tiny" in text for text in board["unofficial"])
    assert any("local judge" in text for text in board["unofficial"])


LOCAL_JUDGE = ("--set", "naturalscore.backend=local")


def test_the_two_real_videos(shared: Path, tiny: Path, tmp_path: Path) -> None:
    data = shared / "data/opens2v_eval"
    board = evaluate(
        tmp_path, data / "videos", "--name", "t", "--track", "open-domain", "--dataset", data,
        "--weights", tiny, *LOCAL_JUDGE,
    )  # fmt: skip
    check(board, tmp_path / "results/t/open-domain.jsonl")
    assert board["components"]["motion_amplitude"]["score"] == pytest.approx(0.1945268139243126, abs=1e-15)


def test_drawn_videos_from_the_repository_alone(tiny: Path, tmp_path: Path) -> None:
    write_demo_dataset(tmp_path / "dataset")
    track = load_track("open-domain", tmp_path / "dataset")
    method = make_method("pan-reference", {"width": "416", "height": "240", "num_frames": "9"})
    generator = method.load(Environment())
    (tmp_path / "videos").mkdir()
    for name in ("faceobj_1", "humanobj_1"):
        sample = track.sample(name)
        assert sample is not None
        made = generator.generate(sample, 0)
        assert isinstance(made, Frames)
        write_video(tmp_path / f"videos/{name}.mp4", made.images, made.fps)
    base = (
        tmp_path / "videos",
        "--name",
        "t",
        "--dataset",
        tmp_path / "dataset",
        "--weights",
        tiny,
        *LOCAL_JUDGE,
    )
    board = evaluate(tmp_path, *base)
    store = tmp_path / "results/t/open-domain.jsonl"
    check(board, store)
    # Nothing is scored twice, and two metrics at a time give the same scores as all together.
    before = store.read_bytes()
    assert evaluate(tmp_path, *base) == board
    assert store.read_bytes() == before
    small = evaluate(tmp_path / "turns", *base, "--memory-gib", 1)
    assert small == board


def test_the_plan_says_turns_and_costs(
    tiny: Path, tmp_path: Path, videos: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-test-key")
    plan = evaluate_plan(
        tmp_path, videos, "--name", "t", "--dataset", dataset, "--weights", tiny, "--memory-gib", 23,
        "--judge-model", "gpt-test", "--judge-budget", 1,
        "--set", "naturalscore.price_in=2.5", "--set", "naturalscore.price_out=10",
    )  # fmt: skip
    together = next(turn for turn in plan["turns"] if "gmescore" in turn)
    assert "nexusscore" in together
    assert sum(map(len, plan["turns"])) == 7
    (forecast,) = plan["forecasts"]
    assert forecast.startswith("judge gpt-test: up to 18 requests, 288 images")
    assert "about $0." in forecast
    assert "sk-a-test-key" not in json.dumps(plan)


def evaluate_plan(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    words = ["evaluate", *map(str, arguments), "--out", str(tmp_path / "results"), "--dry-run", "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


@pytest.mark.usefixtures("no_hub")
def test_without_weights_each_metric_says_what_is_missing(
    tmp_path: Path, videos: Path, dataset: Path
) -> None:
    board = evaluate(tmp_path, videos, "--name", "t", "--dataset", dataset)
    assert board["components"]["motion_amplitude"]["scored"] == 6
    reasons = {
        r.metric: str(r.reason)
        for r in read_records(tmp_path / "results/t/open-domain.jsonl")
        if r.reason_kind == "missing_weights"
    }
    assert len(reasons) == 6
    assert "refbench weights pull one-align" in reasons["motion-smoothness"]
    assert "OPENAI_API_KEY" in reasons["naturalscore"]
    assert board["total_score"] is None
