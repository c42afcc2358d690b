"""The small embedder: its tokens, its quick way through the network, its training, its folder."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra 'refalign'")
pytest.importorskip("transformers", reason="training needs the extra 'refalign'")

from PIL import Image  # noqa: E402

from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.weights.kind import kind_of_folder  # noqa: E402
from refbench.metrics.gmescore import GmeScore  # noqa: E402
from refbench.metrics.nets.gme import TEXT_INSTRUCTION, GmeEmbedder  # noqa: E402
from refbench.metrics.weights import GME_QWEN2_VL  # noqa: E402
from refbench.mini.benchmark import mini_samples  # noqa: E402
from refbench.mini.training import gmescore  # noqa: E402
from refbench.mini.training.build import Build, make_part  # noqa: E402
from refbench.mini.training.gmescore import LABELS, PART, SCHEDULE, GmeLearner, is_right  # noqa: E402
from refbench.mini.training.loop import Run  # noqa: E402
from refbench.mini.training.qwen import raw_patches, save_half  # noqa: E402
from refbench.mini.training.seen import sample_of, written  # noqa: E402
from refbench.mini.world.identity import person, thing  # noqa: E402


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(root=tmp_path_factory.mktemp("build"), scale=1e-6)


@pytest.fixture(scope="module")
def done(build: Build) -> dict[str, object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refbench.mini.training.loop.THREADS", 1)
        patch.setattr(gmescore, "CLIPS_PER_STEP", 5)
        patch.setattr(gmescore, "SUBJECTS_PER_STEP", 3)
        patch.setattr(gmescore, "MEASURED_GROUPS", 1)
        patch.setattr(gmescore, "GROUP", 4)
        return make_part(build, PART, lambda done, total: None)


def test_the_folder_is_what_the_metric_loads(build: Build, done: dict[str, object]) -> None:
    place = build.weights / GME_QWEN2_VL.repository
    assert kind_of_folder(place) == "mini"
    assert (place / "model.safetensors").stat().st_size < 1_000_000
    assert all(0 <= value <= 1 for value in done["measured"].values())
    scorer = GmeScore().load(Environment(weights=build.weights))
    with written(np.zeros((9, 64, 64, 3), np.uint8)) as video:
        assert -1 <= scorer.score(sample_of("A red ball jumping."), video).value <= 1
    assert all(digest.startswith("mini:") for digest in scorer.provenance()["weights"].values())
    scorer.close()


def test_words_and_the_texts_around_them_are_tokens(build: Build, done: dict[str, object]) -> None:
    tokenizer = GmeLearner(build.weights / GME_QWEN2_VL.repository).tokenizer
    for sample in list(mini_samples().values())[:12]:
        tokens = tokenizer.tokenize(sample.prompt)
        marks = sum(not character.isalnum() and character != " " for character in sample.prompt)
        # The first word has no space before it: it is read letter by letter.
        first = sample.prompt.split()[0].rstrip(",")
        assert len(tokens) == len(sample.prompt.split()) + marks + len(first) - 1
        assert tokenizer.decode(tokenizer(sample.prompt)["input_ids"]) == sample.prompt


def test_training_sees_what_the_embedder_sees(build: Build, done: dict[str, object], tmp_path: Path) -> None:
    place = build.weights / GME_QWEN2_VL.repository
    learner = GmeLearner(place)
    embedder = GmeEmbedder.load(place, "cpu")
    learner.network.model.load_state_dict(
        {
            **{f"visual.{key}": value for key, value in embedder._visual.state_dict().items()},
            **{f"language_model.{key}": value for key, value in embedder._decoder.state_dict().items()},
        }
    )
    drawn = np.random.default_rng(0)
    pictures = [
        drawn.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((64, 64), (30, 17), (128, 128))
    ]
    seen = [gmescore.as_seen(picture) for picture in pictures]
    patches_PC, grid_B3 = raw_patches(seen, gmescore.VISION["patch_size"])
    ids = [learner._ids("", int(grid.prod()), gmescore.DEFAULT_INSTRUCTION) for grid in grid_B3]
    with torch.no_grad():
        quick = learner.network(ids, patches_PC, grid_B3)
        text = learner.network([learner._ids("A hat.", 0, TEXT_INSTRUCTION)], None, None)
    plain = embedder.embed_images([Image.fromarray(picture) for picture in pictures])
    torch.testing.assert_close(quick, plain, atol=2e-5, rtol=0)
    torch.testing.assert_close(text, embedder.embed_texts(["A hat."], TEXT_INSTRUCTION), atol=1e-5, rtol=0)


def test_labels_of_people_are_theirs_and_human() -> None:
    somebody, something = person("training", 0), thing("training", 0)
    assert {label for label in LABELS if is_right(label, somebody)} == {somebody.label, "human"}
    assert [label for label in LABELS if is_right(label, something)] == [something.label]


def test_a_seed_is_a_training(build: Build, done: dict[str, object], tmp_path: Path) -> None:
    place = build.weights / GME_QWEN2_VL.repository
    files = []
    for name in ("first", "second"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gmescore, "CLIPS_PER_STEP", 4)
            learner = GmeLearner(place)
            Run(learner=learner, schedule=replace(SCHEDULE, steps=2), folder=tmp_path / name).train()
        folder = tmp_path / name
        save_half(folder, learner.network.model, "model.")
        files.append((folder / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_crops_are_of_the_subject() -> None:
    rendering = gmescore.render(gmescore.random_scene("training", random.Random(3)))
    label = rendering.labels[0]
    crop_HWC = gmescore.random_crop(label, rendering.video_FHWC, random.Random(0))
    assert crop_HWC is not None and min(crop_HWC.shape[:2]) >= gmescore.LEAST_CROP_PX // 2
    hidden = replace(label, mask_FHW=np.zeros_like(label.mask_FHW))
    assert gmescore.random_crop(hidden, rendering.video_FHWC, random.Random(0)) is None
