"""The small rater of windows: its labels under the official arithmetic, its training, its files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra 'refalign'")
pytest.importorskip("sentencepiece", reason="the tokenizer needs the extra 'metrics'")

from refbench.bench.environment import Environment  # noqa: E402
from refbench.metrics.motion_smoothness import (  # noqa: E402
    ONE_ALIGN,
    MotionSmoothness,
    normalised_pixels,
    smoothness,
)
from refbench.mini.training import motion_smoothness  # noqa: E402
from refbench.mini.training.build import Build, make_part  # noqa: E402
from refbench.mini.training.loop import seeded  # noqa: E402
from refbench.mini.training.measures import rank_correlation  # noqa: E402
from refbench.mini.training.motion_smoothness import PART, SMOOTH_RATING, new_rater, ratings  # noqa: E402
from refbench.mini.training.seen import clips, normalised, sample_of, written  # noqa: E402
from refbench.mini.world.degrade import DEGRADATIONS  # noqa: E402


@pytest.mark.parametrize("kind", ["flicker", "jitter", "warp"])
def test_ratings_rank_by_strength_in_the_official_arithmetic(kind: str) -> None:
    rows = []
    for rendering, generator in clips("training", 6, "test"):
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
            video_FHWC = DEGRADATIONS[kind](rendering.video_FHWC, strength, generator)
            rated = ratings(rendering.video_FHWC, video_FHWC, strength)
            rows.append((-strength, smoothness(rated.tolist())))
            assert strength or smoothness(rated.tolist()) == 1
    assert rank_correlation(*zip(*rows, strict=True)) > 0.7


def test_what_does_not_jump_is_smooth() -> None:
    generator = random.Random(0)
    for rendering, _ in clips("training", 3, "test"):
        darker = rendering.video_FHWC // 2
        assert smoothness(ratings(rendering.video_FHWC, darker, 0.0).tolist()) == 1
        video_FHWC, rating_F = motion_smoothness.damaged(rendering.video_FHWC, generator)
        assert video_FHWC.shape == rendering.video_FHWC.shape and rating_F.shape == (9,)
        assert rating_F[0] <= SMOOTH_RATING + 0.1 and (rating_F > 0.5).all()


def test_its_files_are_what_the_metric_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motion_smoothness, "VIDEOS_PER_STEP", 2)
    files = []
    for name in ("first", "second"):
        build = Build(root=tmp_path / name, scale=1e-6)
        done = make_part(build, PART, lambda done, total: None)
        files.append(done["files"])
    assert files[0] == files[1] and len(files[0]) == 3
    assert set(done["measured"]) == {
        "answered",
        "correlation",
        "correlation_flicker",
        "correlation_jitter",
        "correlation_warp",
    }
    place = build.weights / ONE_ALIGN.repository
    assert (place / "model.safetensors").stat().st_size < 2_000_000
    scorer = MotionSmoothness().load(Environment(weights=build.weights))
    with written(np.zeros((9, 64, 64, 3), np.uint8)) as video:
        assert scorer.score(sample_of(), video).value == 1
    assert all(digest.startswith("mini:") for digest in scorer.provenance()["weights"].values())


def test_training_sees_what_the_metric_sees() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    same = np.stack([normalised_pixels(frame, 64) for frame in frames])
    np.testing.assert_allclose(normalised(frames).numpy(), same, atol=1e-6)


def test_windows_are_rated_one_by_one_as_in_training() -> None:
    with seeded("test", 0):
        network = new_rater().eval()
    with torch.no_grad():
        vectors = network.encode_frames(torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert vectors.shape == (3, motion_smoothness.QUERY_GRID**2 + 1, 96) and bool(
        torch.isfinite(vectors).all()
    )
    assert vectors.std() > 0.01
