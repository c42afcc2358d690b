"""Metrics of one turn look for subjects and faces once, and score as they do alone, to the last bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fill import uint8_image
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("insightface")
pytest.importorskip("transformers")

from refbench.bench.environment import Environment
from refbench.bench.runner.scoring import ScoringJob, ScoringOutcome, ScoringWorker
from refbench.bench.sample import Reference, Sample, category_of, kind_of
from refbench.bench.video import write_video
from refbench.metrics.nets.faces import FaceFinder
from refbench.metrics.nets.sharing import Shared, stamps
from refbench.metrics.nets.yolo_world.image_prompt_detector import ImagePromptDetector

NAMES = ("nexusscore", "facesim", "subject-confusion")
LABELS = ("Woman", "Cup", "")


def person(name: str) -> np.ndarray:
    """A picture bright enough for the tiny face detector."""
    return (110 + 0.55 * uint8_image(f"facesim/{name}", 96, 128)).astype(np.uint8)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Sample, Path]]:
    """Two samples of a person, a cup and a reference without a label, with a video of six frames each."""
    root = tmp_path_factory.mktemp("shared")
    made = []
    for sample_id in ("humanobj_1", "faceobj_1"):
        references = []
        for number, label in enumerate(LABELS):
            path = f"{sample_id}/{label.lower() or 'nameless'}/{number}.png"
            (root / path).parent.mkdir(parents=True)
            Image.fromarray(person(f"{sample_id} {number}")).save(root / path)
            references.append(Reference(path=path, root=root, label=label, kind=kind_of(path)))
        references[0] = replace(references[0], kind="person")
        video = root / f"{sample_id}.mp4"
        write_video(video, [np.roll(person(f"{sample_id} 0"), 9 * turn, axis=1) for turn in range(6)], 8)
        sample = Sample(
            id=sample_id, category=category_of(sample_id), prompt="", references=tuple(references)
        )
        made.append((sample, video))
    return made


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many frames are looked at for subjects and for faces."""
    counted: Counter[str] = Counter()
    detect, find_all = ImagePromptDetector.detect, FaceFinder.find_all

    def counted_detect(self: Any, frames: Any, prompts: Any) -> Any:
        counted["subjects"] += len(frames)
        return detect(self, frames, prompts)

    def counted_find_all(self: Any, image: Any) -> Any:
        counted["faces"] += 1
        return find_all(self, image)

    monkeypatch.setattr(ImagePromptDetector, "detect", counted_detect)
    monkeypatch.setattr(FaceFinder, "find_all", counted_find_all)
    return counted


def outcomes(
    names: tuple[str, ...], samples: list[tuple[Sample, Path]], weights: Path
) -> dict[tuple[str, str], ScoringOutcome]:
    """What one worker makes of all metrics, video by video, as an evaluation orders its jobs."""
    worker = ScoringWorker({}, Environment(weights=weights, threads=1))
    try:
        return {
            (name, sample.id): worker.work(
                ScoringJob(turn=1, metric=name, sample=sample, seed=0, video=video)
            )
            for sample, video in samples
            for name in names
        }
    finally:
        worker.close()


def test_scores_are_those_of_each_metric_alone_and_everything_is_looked_at_once(
    samples: list[tuple[Sample, Path]], small_weights: Path, looks: Counter[str]
) -> None:
    alone: dict[tuple[str, str], ScoringOutcome] = {}
    for name in NAMES:
        alone |= outcomes((name,), samples, small_weights)
    assert all(outcome.value is not None for outcome in alone.values())
    confusion = alone["subject-confusion", "humanobj_1"].details
    assert {"pictures", "faces"} <= confusion.keys()
    # Six frames of each video, for NexusScore and FaceSim once and for subject-confusion once.
    assert looks == {"subjects": 2 * 2 * 6, "faces": 2 * 2 * 6}
    for order in permutations(NAMES):
        looks.clear()
        together = outcomes(order, samples, small_weights)
        assert together == alone
        assert looks == {"subjects": 2 * 6, "faces": 2 * 6}


def test_a_video_is_looked_at_anew_for_other_references(
    samples: list[tuple[Sample, Path]], small_weights: Path, looks: Counter[str]
) -> None:
    (sample, video), (other, _) = samples
    exchanged = replace(sample, references=other.references)
    found = outcomes(("nexusscore",), [(sample, video), (exchanged, video)], small_weights)
    assert looks["subjects"] == 2 * 6
    assert found == outcomes(("nexusscore",), [(exchanged, video)], small_weights)


class Closed:
    """Counts how often it is closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_what_is_shared_is_loaded_once_and_closed_by_its_last_holder() -> None:
    shared: Shared[Closed] = Shared()
    one = shared.hold("a", Closed)
    assert shared.hold("a", Closed) is one and shared.hold("b", Closed) is not one
    shared.release(one)
    assert one.closed == 0
    shared.release(one)
    shared.release(one)
    assert one.closed == 1 and shared.hold("a", Closed) is not one


def test_a_file_that_has_changed_is_another(tmp_path: Path) -> None:
    file = tmp_path / "network"
    file.write_bytes(b"1")
    before = stamps([file])
    assert stamps([file]) == before
    file.write_bytes(b"22")
    assert stamps([file]) != before
