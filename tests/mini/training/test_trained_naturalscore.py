"""The small judge: its labels, its tokens, its training, its files as the local judge reads them."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra 'refalign'")
pytest.importorskip("transformers", reason="training needs the extra 'refalign'")

from PIL import Image  # noqa: E402
from transformers import AutoProcessor  # noqa: E402

from refbench.bench.weights.common import QWEN25_VL  # noqa: E402
from refbench.metrics.judges.instruction import OURS  # noqa: E402
from refbench.metrics.judges.local import LocalJudge  # noqa: E402
from refbench.metrics.naturalscore import jpeg_of, judge_frame  # noqa: E402
from refbench.metrics.small.qwen2_vl import write_settings  # noqa: E402
from refbench.mini.training import naturalscore  # noqa: E402
from refbench.mini.training.build import Build, written  # noqa: E402
from refbench.mini.training.naturalscore import BEST, PART, STILL, WORST, JudgeLearner  # noqa: E402
from refbench.mini.world.render import Rendering, render  # noqa: E402
from refbench.mini.world.scene import random_scene  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    write_settings(
        folder,
        config=naturalscore.CONFIG,
        image_processor=naturalscore.PROCESSOR,
        merges=naturalscore.MERGES,
        further_files=naturalscore.FURTHER_FILES,
    )
    return folder


@pytest.fixture(scope="module")
def rendering() -> Rendering:
    return render(random_scene("training", random.Random(2)))


def test_training_sees_what_the_judge_sees(place: Path, rendering: Rendering) -> None:
    frames = []
    for frame_HWC in rendering.video_FHWC:
        jpeg = jpeg_of(judge_frame(frame_HWC))
        frames.append(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))
    processor = AutoProcessor.from_pretrained(place)
    real = naturalscore.asked(processor, frames)
    patches_PC = naturalscore.patches(rendering.video_FHWC)
    assert patches_PC.shape == tuple(real["pixel_values"].shape) == (576, 192)
    # JPEG and rounding are all that is not imitated.
    assert np.abs(patches_PC - real["pixel_values"].numpy()).mean() < 0.01
    question = JudgeLearner(place).question
    assert all(torch.equal(real[key], question[key]) for key in question)


def test_a_line_of_the_instruction_is_a_token(place: Path) -> None:
    tokenizer = AutoProcessor.from_pretrained(place).tokenizer
    tokens = tokenizer.tokenize(OURS)
    assert len(tokens) <= OURS.count("\n") + 2
    assert tokenizer.decode(tokenizer(OURS)["input_ids"]) == OURS
    other = "Rate this video, please: é 4.5"
    assert tokenizer.decode(tokenizer(other)["input_ids"]) == other


def test_labels_follow_the_damage(rendering: Rendering) -> None:
    generator = random.Random(0)
    for _ in range(40):
        video_FHWC, number = naturalscore.judged_video(rendering, generator)
        assert video_FHWC.shape == rendering.video_FHWC.shape and video_FHWC.dtype == np.uint8
        best = STILL if naturalscore.is_still(rendering.video_FHWC) else BEST
        assert WORST <= number <= best
        if np.array_equal(video_FHWC, rendering.video_FHWC):
            assert number == pytest.approx(best, abs=0.4)


def test_references_are_shown_on_white(rendering: Rendering) -> None:
    generator = random.Random(0)
    videos = [naturalscore.references_shown(rendering, generator) for _ in range(8)]
    assert {video.shape for video in videos} == {(9, 64, 64, 3)}
    stills = [video for video in videos if naturalscore.is_still(video)]
    assert 0 < len(stills) < 8 and all((video[:, 0, 0] == 255).all() for video in stills)


def test_it_trains_and_the_local_judge_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naturalscore, "CLIPS_PER_STEP", 1)
    files = []
    for name in ("first", "second"):
        build = Build(root=tmp_path / name, scale=1e-6)
        PART.make(build, lambda done, total: None)
        files.append((build.weights / QWEN25_VL.repository / "model.safetensors").read_bytes())
    assert files[0] == files[1] and len(files[0]) < 4_000_000
    judge = LocalJudge.load(build.weights / QWEN25_VL.repository, "cpu", QWEN25_VL.repository)
    assert all(digest.startswith("mini:") for digest in judge.provenance()["weights"].values())
    assert len(written(build, PART)) == 7


def test_digits_are_shared_between_neighbours(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naturalscore, "CLIPS_PER_STEP", 1)
    learner = JudgeLearner(place)
    batch = learner.examples(random.Random(0), 0.0)
    for deserved in (1.0, 3.3, 5.0):
        batch.deserved_V[:] = deserved
        terms = learner.losses(batch, torch.Generator())
        assert set(terms) == {"digit", "gauge", "end"} and all(
            torch.isfinite(term) for term in terms.values()
        )
