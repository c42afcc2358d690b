"""The small aesthetic predictor: its labels, its training, its files as the metric reads them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra 'refalign'")
pytest.importorskip("transformers", reason="training needs the extra 'refalign'")

from PIL import Image  # noqa: E402

from refbench.bench.environment import Environment  # noqa: E402
from refbench.metrics.aesthetics import Aesthetics  # noqa: E402
from refbench.mini.training import aesthetics, damage  # noqa: E402
from refbench.mini.training.aesthetics import CLEAN_SCORE, PART, RUINED_SCORE, AestheticsLearner  # noqa: E402
from refbench.mini.training.build import Build, make_part  # noqa: E402
from refbench.mini.training.seen import normalised, sample_of, written  # noqa: E402
from refbench.mini.world.render import Rendering, render  # noqa: E402
from refbench.mini.world.scene import random_scene  # noqa: E402


@pytest.fixture(scope="module")
def rendering() -> Rendering:
    return render(random_scene("training", random.Random(0)))


def test_its_files_are_what_the_metric_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aesthetics, "CLIPS_PER_STEP", 2)
    files = []
    for name in ("first", "second"):
        build = Build(root=tmp_path / name, scale=1e-6)
        done = make_part(build, PART, lambda done, total: None)
        files.append(done["files"])
    assert files[0] == files[1]
    assert set(done["measured"]) >= {"correlation", "correlation_blur", "correlation_warp"}
    scorer = Aesthetics().load(Environment(weights=build.weights))
    with written(np.zeros((9, 64, 64, 3), np.uint8)) as video:
        assert np.isfinite(scorer.score(sample_of(), video).value)
    sizes = [path.stat().st_size for path in build.weights.rglob("*.*")]
    assert sum(sizes) < 2_000_000
    assert all(digest.startswith("mini:") for digest in scorer.provenance()["weights"].values())


def test_training_sees_what_the_metric_sees(tmp_path: Path, rendering: Rendering) -> None:
    learner = AestheticsLearner()
    pixels_F3HW = normalised(rendering.video_FHWC)
    build = Build(root=tmp_path, scale=1e-6)
    aesthetics.write(build, learner.network)
    scorer = Aesthetics().load(Environment(weights=build.weights))
    same = np.stack([scorer.crop.pixels(Image.fromarray(frame)) for frame in rendering.video_FHWC])
    np.testing.assert_allclose(pixels_F3HW.numpy(), same, atol=1e-6)
    with torch.no_grad():
        expected = learner.network.float().eval()(pixels_F3HW)
    np.testing.assert_allclose(scorer.frame_scores(same), expected, atol=1e-3)


def test_labels_lie_between_ruined_and_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aesthetics, "CLIPS_PER_STEP", 3)
    pixels_B3HW, scores_B = AestheticsLearner().examples(random.Random(0), 0.0)
    assert pixels_B3HW.shape == (3 * aesthetics.FRAMES_OF_CLIP, 3, 64, 64)
    assert scores_B.min() >= RUINED_SCORE and scores_B.max() == CLEAN_SCORE


def test_no_strength_is_no_damage(rendering: Rendering) -> None:
    for degrade in (damage.doubled, damage.recoloured):
        assert np.array_equal(degrade(rendering.video_FHWC, 0.0, random.Random(0)), rendering.video_FHWC)
        assert not np.array_equal(degrade(rendering.video_FHWC, 1.0, random.Random(1)), rendering.video_FHWC)


def test_a_ruined_video_shows_nothing(rendering: Rendering) -> None:
    generator = random.Random(0)
    for _ in range(6):
        shown = damage.ruined(rendering.video_FHWC, generator)
        one_colour = bool((shown == shown[:1, :1, :1]).all())
        assert shown.shape == rendering.video_FHWC.shape and (one_colour or shown.std() > 60)
