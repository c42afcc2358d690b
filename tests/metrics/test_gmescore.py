"""GmeScore and its embedder against the goldens of `opens2v_eval/gme.npz`, on their tiny Qwen2-VL."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fill import uint8_image
from PIL import Image

from kit.goldens import GOLDENS, filled, read
from refbench.bench.environment import Environment
from refbench.bench.errors import MissingWeights, SampleError, UserError
from refbench.bench.sample import Sample
from refbench.bench.video import ALL_FRAMES, Video, write_video
from refbench.metrics.gmescore import GmeScore, GmeScorer, frame_groups, frame_scores
from refbench.metrics.small.byte_tokens import byte_symbols
from refbench.metrics.small.gmescore import write_tiny
from refbench.metrics.small.qwen2_vl import SPECIAL_TOKENS
from refbench.metrics.weights import GME_QWEN2_VL

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from refbench.metrics.nets import gme  # noqa: E402
from refbench.metrics.nets.gme import TEXT_INSTRUCTION, GmeEmbedder  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = read("opens2v_eval/gme.npz")
MANIFEST = read("opens2v_eval/manifests/gme_tiny_qwen2vl.json")
TEXTS: list[str] = MANIFEST["texts"]
EMBEDDING_TOLERANCE = MANIFEST["tolerances"]["embeddings_float32"]
SCORE_TOLERANCE = MANIFEST["tolerances"]["video_score"]
HALF_TOLERANCE = MANIFEST["tolerances"]["half_precision_run"]
LONG_TEXT = "".join(f"scene {number}: a dog runs past a tree. " for number in range(80))

# The script that came with the goldens is not a module of the tests.
specification = importlib.util.spec_from_file_location(
    "build_gme_tiny", GOLDENS / "opens2v_eval/gme_tiny/build_gme_tiny.py"
)
assert specification is not None and specification.loader is not None
build_gme_tiny = importlib.util.module_from_spec(specification)
specification.loader.exec_module(build_gme_tiny)


@pytest.fixture(scope="module")
def golden_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The goldens' model folder: weights filled by name, under the published key names."""
    folder = tmp_path_factory.mktemp("gme")
    build_gme_tiny.build(str(folder))
    save_file(filled(MANIFEST["keys_4_51"]), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def embedder(golden_folder: Path) -> GmeEmbedder:
    return GmeEmbedder.load(golden_folder, "cpu")


@pytest.fixture(scope="module")
def half_embedder(golden_folder: Path) -> GmeEmbedder:
    """As on a GPU: weights, embeddings and similarities in float16."""
    return GmeEmbedder.load(golden_folder, "cpu", dtype=torch.float16)


def golden_image(index: int) -> Image.Image:
    name, height, width = MANIFEST["images_name_height_width"][index]
    return Image.fromarray(uint8_image(name, height, width))


def error(embeddings: torch.Tensor, name: str) -> float:
    return float(np.abs(embeddings.float().numpy() - GOLDEN[name]).max())


def sample(prompt: str = TEXTS[0]) -> Sample:
    return Sample(id="faceobj_14", category="faceobj", prompt=prompt, references=())


def synthetic_video(path: Path, frames: int, height: int = 64, width: int = 96) -> Video:
    images = [uint8_image(f"gmescore/frame_{number}", height, width) for number in range(frames)]
    write_video(path, images, 15)
    return Video(path)


# The embedder


@pytest.mark.parametrize(
    ("golden", "instruction"),
    [
        ("text_default_instruction", None),
        ("text_with_instruction", TEXT_INSTRUCTION),
        ("text_left_padding", TEXT_INSTRUCTION),
    ],
)
def test_texts_are_the_goldens(embedder: GmeEmbedder, golden: str, instruction: str | None) -> None:
    assert MANIFEST["instruction"] == TEXT_INSTRUCTION
    assert error(embedder.embed_texts(TEXTS, instruction), f"{golden}_embedding") <= EMBEDDING_TOLERANCE


def test_long_text_is_cut_on_the_right(embedder: GmeEmbedder) -> None:
    embedding = embedder.embed_texts([LONG_TEXT], TEXT_INSTRUCTION)
    assert error(embedding, "text_truncated_embedding") <= EMBEDDING_TOLERANCE


@pytest.mark.parametrize(("index", "letter"), list(enumerate("abc")))
def test_images_are_the_goldens(embedder: GmeEmbedder, index: int, letter: str) -> None:
    embedding = embedder.embed_images([golden_image(index)])
    assert error(embedding, f"image_{letter}_embedding") <= EMBEDDING_TOLERANCE
    # Multimodal rope, the likeliest mistake, is far outside of the tolerance.
    assert error(embedding, f"image_{letter}_embedding_if_mrope_NOT_REFERENCE") > 0.03


def test_swapped_channels_would_be_seen(embedder: GmeEmbedder) -> None:
    red, green, blue = golden_image(1).split()
    assert error(embedder.embed_images([Image.merge("RGB", (blue, green, red))]), "image_b_embedding") > 0.1


def test_image_with_instruction_is_the_golden(embedder: GmeEmbedder) -> None:
    as_query = embedder.embed_images([golden_image(1)], TEXT_INSTRUCTION)
    assert error(as_query, "image_b_as_query_with_instruction_embedding") <= EMBEDDING_TOLERANCE


@pytest.mark.parametrize(("index", "letter"), list(enumerate("abc")))
def test_network_input_is_the_golden(embedder: GmeEmbedder, index: int, letter: str) -> None:
    image = golden_image(index)
    patches, grid = embedder.patches([image])
    values = patches.numpy()
    assert grid.tolist() == GOLDEN[f"image_{letter}_image_grid_thw"].tolist()
    assert values.shape == tuple(GOLDEN[f"image_{letter}_pixel_values_shape"])
    assert np.abs(values[::97, ::53] - GOLDEN[f"image_{letter}_pixel_values_sample"]).max() <= 1e-6
    ids = embedder.token_ids("", gme.image_token_count(image.height, image.width))
    assert ids == GOLDEN[f"image_{letter}_input_ids"][0].tolist()


def test_token_ids_of_texts_are_the_goldens(embedder: GmeEmbedder) -> None:
    for row, text in enumerate(TEXTS):
        mask = GOLDEN["text_with_instruction_attention_mask"][row].astype(bool)
        expected = GOLDEN["text_with_instruction_input_ids"][row][mask].tolist()
        assert embedder.token_ids(text, 0, TEXT_INSTRUCTION) == expected
    truncated = embedder.token_ids(LONG_TEXT, 0, TEXT_INSTRUCTION)
    assert truncated == GOLDEN["text_truncated_input_ids"][0].tolist()


@pytest.mark.parametrize("row", MANIFEST["resize_table"], ids=lambda row: "x".join(map(str, row["input_hw"])))
def test_both_resizes_follow_the_table(row: dict[str, Any]) -> None:
    assert gme.first_size(*row["input_hw"]) == tuple(row["fetch_image_hw"])
    assert gme.model_size(*row["input_hw"]) == tuple(row["model_hw"])
    assert gme.image_token_count(*row["input_hw"]) == row["image_tokens"]


def test_batches_equal_one_by_one(embedder: GmeEmbedder) -> None:
    images = [golden_image(index) for index in (2, 0, 1)]
    singles = torch.cat([embedder.embed_images([image]) for image in images])
    assert float((embedder.embed_images(images) - singles).abs().max()) <= 5e-7
    together, one_each = copy.copy(embedder), copy.copy(embedder)
    together.batch_tokens, one_each.batch_tokens = 100_000, 1
    assert float((together.embed_images(images) - singles).abs().max()) <= 5e-7
    assert torch.equal(one_each.embed_images(images), singles)


def test_batches_hold_every_input_once_and_keep_the_bound() -> None:
    lengths = [5, 1, 9, 9, 2, 30, 7]
    batches = list(gme.batches_by_length(lengths, 18))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 18 for batch in batches)
    assert len(batches) < len(lengths)
    assert list(gme.batches_by_length([], 18)) == []


def test_embeddings_are_unit_vectors_on_the_cpu(embedder: GmeEmbedder) -> None:
    embeddings = embedder.embed_texts(TEXTS)
    assert embeddings.shape == (3, 64) and embeddings.dtype == torch.float32
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3), atol=1e-6)
    assert embedder.embed_images([]).shape == (0, 64)


def test_half_precision_is_near_the_golden(half_embedder: GmeEmbedder) -> None:
    texts = half_embedder.embed_texts(TEXTS, TEXT_INSTRUCTION)
    assert texts.dtype == torch.float16
    assert error(texts, "half_text_with_instruction_embedding") <= HALF_TOLERANCE
    image = half_embedder.embed_images([golden_image(1)])
    assert error(image, "half_image_b_embedding") <= HALF_TOLERANCE


# The score


def test_frame_scores_and_mean_are_the_goldens(embedder: GmeEmbedder) -> None:
    text_D = embedder.embed_texts([TEXTS[0]], TEXT_INSTRUCTION)[0]
    scores = frame_scores(text_D, embedder.embed_images([golden_image(index) for index in range(3)]))
    assert np.abs(scores.numpy() - GOLDEN["score_text0_per_image"]).max() <= SCORE_TOLERANCE
    assert abs(float(scores.mean()) - float(GOLDEN["score_text0_mean"])) <= SCORE_TOLERANCE


@pytest.mark.parametrize("name", MANIFEST["video_scores"]["scores"])
def test_half_precision_mean_is_rounded_to_float16(name: str) -> None:
    expected = MANIFEST["video_scores"]["scores"][name]
    scores = torch.tensor(expected["half_precision_first_8_frames"], dtype=torch.float16)
    assert float(scores.mean()) == expected["half_precision_mean_of_first_8"]


@pytest.mark.parametrize("name", MANIFEST["video_scores"]["scores"])
def test_sample_videos_have_the_golden_scores(embedder: GmeEmbedder, name: str, opens2v: Path) -> None:
    expected = MANIFEST["video_scores"]["scores"][name]
    video = Video(opens2v / "videos" / f"{name}.mp4")
    score = GmeScorer(embedder=embedder).score(sample(), video)
    assert abs(score.value - expected["video_score"]) <= SCORE_TOLERANCE
    assert score.details["frame_scores"] == pytest.approx(expected["frame_scores"], abs=SCORE_TOLERANCE)


def test_sample_video_in_half_precision(half_embedder: GmeEmbedder, opens2v: Path) -> None:
    expected = MANIFEST["video_scores"]["scores"]["faceobj_14"]["half_precision_first_8_frames"]
    images, repeats = next(frame_groups(Video(opens2v / "videos" / "faceobj_14.mp4")))
    assert repeats == [1] * 8
    text_D = half_embedder.embed_texts([TEXTS[0]], TEXT_INSTRUCTION)[0]
    scores = frame_scores(text_D, half_embedder.embed_images(images))
    assert scores.tolist() == pytest.approx(expected, abs=HALF_TOLERANCE)


def test_score_is_the_mean_over_32_frames(embedder: GmeEmbedder, tmp_path: Path) -> None:
    video = synthetic_video(tmp_path / "long.mp4", 40)
    score = GmeScorer(embedder=embedder).score(sample(), video)
    text_D = embedder.embed_texts([TEXTS[0]], TEXT_INSTRUCTION)[0]
    indices = np.floor(np.linspace(0, 39, 32)).astype(int)
    frames = list(video.frames(ALL_FRAMES))
    expected = [
        float(embedder.embed_images([Image.fromarray(frames[index])])[0] @ text_D) for index in indices
    ]
    assert np.abs(np.subtract(score.details["frame_scores"], expected)).max() <= 1e-6
    assert score.value == pytest.approx(float(np.mean(expected)), abs=1e-6)


def test_prompt_is_embedded_once_and_each_distinct_frame_once(embedder: GmeEmbedder, tmp_path: Path) -> None:
    video = synthetic_video(tmp_path / "short.mp4", 5)
    texts, images = embedder.texts_embedded, embedder.images_embedded
    score = GmeScorer(embedder=embedder).score(sample(), video)
    assert embedder.texts_embedded - texts == 1
    assert embedder.images_embedded - images == 5
    assert len(score.details["frame_scores"]) == 32
    assert score.value == pytest.approx(float(np.mean(score.details["frame_scores"])), abs=1e-6)


def test_groups_are_bounded_and_count_repeats(tmp_path: Path) -> None:
    video = synthetic_video(tmp_path / "clip.mp4", 20)
    groups = list(frame_groups(video))
    assert all(len(images) == len(repeats) <= 8 for images, repeats in groups)
    assert sum(sum(repeats) for _, repeats in groups) == 32
    assert sum(len(images) for images, _ in groups) == 20


def test_number_that_is_not_finite_is_a_failed_sample(
    embedder: GmeEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = copy.copy(embedder)
    monkeypatch.setattr(broken, "embed_images", lambda images: torch.full((len(images), 64), float("nan")))
    with pytest.raises(SampleError, match="not finite"):
        GmeScorer(embedder=broken).score(sample(), synthetic_video(tmp_path / "clip.mp4", 2))


def test_unreadable_video_is_a_failed_sample(embedder: GmeEmbedder, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(SampleError, match="cannot be decoded"):
        GmeScorer(embedder=embedder).score(sample(), Video(tmp_path / "bad.mp4"))


# Loading


def test_metric_loads_the_small_weights_and_says_so(small_weights: Path, tmp_path: Path) -> None:
    environment = Environment(weights=small_weights)
    assert GmeScore().unavailable(environment) is None
    scorer = GmeScore().load(environment)
    video = synthetic_video(tmp_path / "clip.mp4", 3)
    first, other = (scorer.score(sample(prompt), video).value for prompt in ("A cat.", "Snow falls."))
    assert -1 <= first <= 1 and first != other
    provenance = scorer.provenance()
    assert provenance["dtype"] == "float32"
    (digest,) = provenance["weights"].values()
    assert digest.startswith("tiny:") and len(digest) == len("tiny:") + 64
    scorer.close()


def test_tiny_weights_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tiny(tmp_path / name)
    files = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()}
        for name in ("a", "b")
    ]
    assert files[0] == files[1]
    assert "REFBENCH_TINY" in files[0]


def test_tiny_weights_have_the_published_key_names(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    keys = set(load_file(tmp_path / GME_QWEN2_VL.repository / "model.safetensors"))
    assert keys <= set(MANIFEST["keys_4_51"])
    assert {"lm_head.weight", "model.embed_tokens.weight", "visual.patch_embed.proj.weight"} <= keys


def test_tiny_tokenizer_is_byte_level() -> None:
    expected = build_gme_tiny.byte_ids()
    symbols = byte_symbols()
    assert len(symbols) == 256 and symbols == {
        symbol: rank for rank, symbol in enumerate(build_gme_tiny.alphabet())
    }
    assert expected[ord("A")] == symbols["A"]
    assert tuple(build_gme_tiny.SPECIAL) == SPECIAL_TOKENS


def test_model_is_shared_until_its_last_holder_lets_go(
    small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = GmeEmbedder.load
    monkeypatch.setattr(GmeEmbedder, "load", lambda *place: loads.append(place) or load(*place))
    environment = Environment(weights=small_weights)
    scorer = GmeScore().load(environment)
    other = gme.shared_embedder(environment)
    assert other is scorer.embedder
    scorer.close()
    assert gme.shared_embedder(environment) is other
    gme.release_embedder(other)
    assert other.embed_texts(["still there"]).shape == (1, 64)
    gme.release_embedder(other)
    assert len(loads) == 1
    # Nobody holds it: nothing happens.
    gme.release_embedder(other)
    anew = gme.shared_embedder(environment)
    assert anew is not other
    assert len(loads) == 2
    gme.release_embedder(anew)


@pytest.mark.usefixtures("no_hub")
def test_missing_weights_are_named(tmp_path: Path) -> None:
    environment = Environment(weights=tmp_path)
    metric = GmeScore()
    assert "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct" in (metric.unavailable(environment) or "")
    with pytest.raises(MissingWeights, match="refbench weights pull"):
        metric.load(environment)


def damaged(folder: Path, fault: str) -> Path:
    write_tiny(folder)
    place = folder / GME_QWEN2_VL.repository
    weights = place / "model.safetensors"
    tensors = load_file(weights)
    if fault == "missing":
        del tensors["model.layers.0.mlp.up_proj.weight"]
    elif fault == "unexpected":
        tensors["model.surprise.weight"] = torch.zeros(2)
    elif fault == "mismatched":
        tensors["model.norm.weight"] = torch.zeros(3)
    save_file(tensors, weights, metadata={"format": "pt"})
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif fault == "another model":
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    elif fault == "no tokenizer":
        (place / "tokenizer.json").write_text("{")
    return place


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missing", "1 missing .*up_proj"),
        ("unexpected", "1 unexpected .*surprise"),
        ("mismatched", "1 mismatched .*model.language_model.norm.weight"),
        ("truncated", "is truncated"),
        ("another model", "type bert, not qwen2_vl"),
        ("no tokenizer", "cannot be read"),
    ],
)
def test_damaged_folder_is_one_clear_line(tmp_path: Path, fault: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        GmeEmbedder.load(damaged(tmp_path, fault), "cpu")
    assert "\n" not in str(caught.value)


def test_language_head_is_not_needed(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    weights = tmp_path / GME_QWEN2_VL.repository / "model.safetensors"
    whole = GmeEmbedder.load(weights.parent, "cpu").embed_texts(TEXTS)
    tensors = load_file(weights)
    del tensors["lm_head.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    assert torch.equal(GmeEmbedder.load(weights.parent, "cpu").embed_texts(TEXTS), whole)


def test_importing_the_metric_imports_no_model_library() -> None:
    code = (
        "import sys, refbench.metrics.gmescore, refbench.metrics.naturalscore;"
        "print([name for name in ('torch', 'transformers', 'cv2', 'PIL', 'openai') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
