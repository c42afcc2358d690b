"""The weights that come with the package: whole, marked, small enough, and able to do the main job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="generating and scoring need the extras 'metrics' and 'baselines'")
pytest.importorskip("diffusers", reason="generating needs the extra 'baselines'")

from refbench.bench.dataset import load_track
from refbench.bench.environment import Environment
from refbench.bench.files import read_json_object
from refbench.bench.method import Frames
from refbench.bench.runner.generating import make_method
from refbench.bench.scores.aggregate import scoreboards
from refbench.bench.video import Video, write_video
from refbench.bench.weights.kind import kind_of_folder
from refbench.bench.weights.store import sha256_of
from refbench.metrics.subject_confusion import SubjectConfusion
from refbench.mini.benchmark import write_mini_dataset
from refbench.mini.contest import CEILING, OURS, TEXT_ONLY, Contest
from refbench.mini.track import MINI
from refbench.mini.weights import TRAINED

pytestmark = pytest.mark.skipif(not TRAINED.is_dir(), reason="no trained weights are shipped yet")
METHODS = (CEILING, OURS, TEXT_ONLY, "static-reference", "noise")


def test_the_files_are_those_that_the_log_names() -> None:
    log = read_json_object(TRAINED / "build.json")
    files = {name: digest for part in log["parts"] for name, digest in part["files"].items()}
    assert files and {name: sha256_of(TRAINED / name) for name in files} == files
    repositories = {TRAINED.joinpath(*Path(name).parts[:2]) for name in files}
    assert {kind_of_folder(repository) for repository in repositories} == {"mini"}


def test_they_are_small() -> None:
    sizes = [path.stat().st_size for path in TRAINED.rglob("*") if path.is_file()]
    assert sum(sizes) <= 48 * 2**20 and max(sizes) <= 12 * 2**20


def test_a_small_contest_scores_everything_and_ranks(tmp_path: Path) -> None:
    contest = Contest(out=tmp_path, per_category=1, methods=METHODS, shuffled=False)
    done = contest.run()
    boards = {
        board.method: board for board in scoreboards([one for run in done.evaluated for one in run.records])
    }
    totals = {method: board.total for method, board in boards.items()}
    assert set(totals) == set(METHODS) and None not in totals.values()
    ordered = sorted(METHODS, key=lambda method: -(totals[method] or 0))
    assert ordered[0] == CEILING and ordered[-1] == "noise"


def test_subject_confusion_tells_the_people_of_a_scene_apart(tmp_path: Path) -> None:
    write_mini_dataset(tmp_path / "dataset")
    samples = {sample.id: sample for sample in load_track(MINI.name, tmp_path / "dataset").samples}
    sample = samples["multihuman_1"]
    made = make_method(CEILING).load(Environment()).generate(sample, 0)
    assert isinstance(made, Frames)
    write_video(tmp_path / "video.mp4", list(made.images), made.fps)
    video = Video(tmp_path / "video.mp4")
    scorer = SubjectConfusion().load(Environment(weights=TRAINED, threads=1))
    own = scorer.score(sample, video)
    turned = scorer.score(replace(sample, references=sample.references[::-1]), video)
    for score in (own, turned):
        assert (score.value, score.details["presence"]) == (0, 1)
    assert turned.details["margin"] == pytest.approx(own.details["margin"], abs=1e-6)
    stranger = samples["multihuman_3"].references[1]
    with_stranger = scorer.score(replace(sample, references=(sample.references[0], stranger)), video)
    assert [one["present"] for one in with_stranger.details["references"]] == [True, False]
