"""Aesthetics: goldens of pixels, tower, head and videos; the full-size tower; bad input; the tiny weights."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refbench.bench.errors import MissingWeights, SampleError, UserError
from refbench.bench.metric import Environment
from refbench.bench.sample import Sample
from refbench.bench.video import Video, VideoError, uniform_frames, write_video
from refbench.metrics.aesthetics import Aesthetics
from refbench.metrics.small import aesthetics as tiny

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

GOLDENS = Path(__file__).parents[1] / "goldens"
GOLDEN = json.loads((GOLDENS / "opens2v_eval" / "aesthetic.json").read_text())
SHARED = os.environ.get("REFBENCH_SHARED")
SAMPLE = Sample(id="singleobj_1", category="singleobj", prompt="", references=())
CLIP = "openai/clip-vit-large-patch14"
HEAD = "BestWishYsh/OpenS2V-Weight/aesthetic-model.pth"

specification = importlib.util.spec_from_file_location("golden_fill", GOLDENS / "fill.py")
assert specification is not None and specification.loader is not None
fill = importlib.util.module_from_spec(specification)
specification.loader.exec_module(fill)

# Sizes of openai/clip-vit-large-patch14 as its config.json gives them.
FULL_CONFIG = {
    "projection_dim": 768,
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
    },
}


def filled(keys: dict[str, list[int]]) -> dict[str, Any]:
    """Tensors filled by name, as the goldens' weights were."""
    return {
        key: torch.from_numpy(np.ascontiguousarray(fill.parameter(key, tuple(shape)))).reshape(shape)
        for key, shape in keys.items()
    }


@pytest.fixture(scope="module")
def golden_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The goldens' tiny CLIP and full-size head as files, in the layout of the published ones."""
    from safetensors.torch import save_file

    torch.set_num_threads(2)
    folder = tmp_path_factory.mktemp("weights")
    (folder / CLIP).mkdir(parents=True)
    (folder / HEAD).parent.mkdir(parents=True)
    config = {"model_type": "clip", "projection_dim": 768, "vision_config": GOLDEN["tiny_clip_config"]}
    (folder / CLIP / "config.json").write_text(json.dumps(config))
    # Published checkpoints hold a text side and a counter, which are left out.
    other = {
        "text_model.final_layer_norm.weight": torch.ones(4),
        "text_projection.weight": torch.ones(4, 4),
        "logit_scale": torch.tensor(4.6),
        "vision_model.embeddings.position_ids": torch.arange(257)[None],
    }
    save_file(filled(GOLDEN["tiny_clip_keys"]) | other, folder / CLIP / "model.safetensors")
    torch.save(filled(GOLDEN["head_keys"]), folder / HEAD)
    return folder


@pytest.fixture(scope="module")
def metric(golden_weights: Path) -> Aesthetics:
    made = Aesthetics()
    made.load(Environment(weights=golden_weights, threads=2))
    return made


# --- goldens ---------------------------------------------------------------------------------------------


def test_the_head() -> None:
    from refbench.metrics.nets.aesthetic_head import AestheticHead

    head = AestheticHead()
    head.load_state_dict(filled(GOLDEN["head_keys"]))
    head.eval()
    embeddings_ND = torch.from_numpy(fill.normal("aesthetic/embedding", (3, 768)))
    unit_ND = embeddings_ND / torch.linalg.vector_norm(embeddings_ND, dim=-1, keepdim=True)
    with torch.inference_mode():
        assert head(embeddings_ND).tolist() == pytest.approx(GOLDEN["head_on_raw_embedding"], abs=1e-5)
        assert head(unit_ND).tolist() == pytest.approx(GOLDEN["head_on_normalised_embedding"], abs=1e-5)
    assert {key: list(tensor.shape) for key, tensor in head.state_dict().items()} == GOLDEN["head_keys"]


@pytest.mark.parametrize("case", GOLDEN["images"], ids=lambda case: case["image"][-7:])
def test_pictures_through_the_whole_scorer(case: dict[str, Any], metric: Aesthetics) -> None:
    from refbench.metrics.nets.clip_tower import image_embeddings

    pixels = metric._crop.pixels(Image.fromarray(fill.uint8_image(case["image"], *case["hw"])))
    assert zlib.crc32(pixels.tobytes()) == case["pixel_crc32"]
    assert float(pixels.mean(dtype=np.float64)) == pytest.approx(case["pixel_mean"], abs=1e-6)
    corners = pixels[0][np.ix_((0, 111, 223), (0, 111, 223))]
    np.testing.assert_allclose(
        corners, case["pixel_at_rows_0_111_223_cols_0_111_223_channel_0"], atol=1e-6, rtol=0
    )
    embedding_D = image_embeddings(metric._tower, pixels[None])[0]
    assert embedding_D[:8].tolist() == pytest.approx(case["embedding_first_8"], abs=1e-5)
    norm = float(torch.linalg.vector_norm(embedding_D))
    assert norm == pytest.approx(case["embedding_norm_before_normalising"], abs=1e-5)
    assert float(embedding_D.sum()) == pytest.approx(case["embedding_sum"], abs=1e-4)
    assert metric.frame_scores(pixels[None])[0] == pytest.approx(case["score"], abs=1e-5)


def test_a_batch_of_pictures(metric: Aesthetics) -> None:
    pictures = [Image.fromarray(fill.uint8_image(case["image"], *case["hw"])) for case in GOLDEN["images"]]
    scores = metric.frame_scores(np.stack([metric._crop.pixels(picture) for picture in pictures]))
    assert scores.tolist() == pytest.approx(GOLDEN["batch_scores"], abs=1e-5)
    assert float(scores.mean()) == pytest.approx(GOLDEN["batch_mean_as_video_score"], abs=1e-5)


def test_the_golden_would_catch_torchvision_s_crop(metric: Aesthetics) -> None:
    """open_clip's own transform crops a picture of image_b's size one pixel further right."""
    from open_clip import image_transform

    transform = image_transform(224, is_train=False)
    differences = []
    for case in GOLDEN["images"]:
        picture = Image.fromarray(fill.uint8_image(case["image"], *case["hw"]))
        differences.append(np.abs(transform(picture).numpy() - metric._crop.pixels(picture)).max())
    golden = GOLDEN["open_clip_and_newer_transformers"][
        "pixel_values_max_abs_and_mean_abs_difference_per_image"
    ]
    assert differences == pytest.approx([pair[0] for pair in golden["open_clip_eval_transform"]], abs=1e-4)
    assert max(differences) > 0.01


@pytest.mark.parametrize("count", sorted(map(int, GOLDEN["frame_indices_32"])))
def test_the_frames_that_are_looked_at(count: int) -> None:
    policy = uniform_frames(32)
    assert policy.indices is not None
    assert list(policy.indices(count, count)) == GOLDEN["frame_indices_32"][str(count)]


@pytest.mark.skipif(not SHARED, reason="needs the two sample videos (REFBENCH_SHARED)")
@pytest.mark.parametrize("sample_id", ["faceobj_14", "singleface_3"])
def test_the_sample_videos(sample_id: str, metric: Aesthetics) -> None:
    golden = GOLDEN["video_scores_with_the_tiny_clip"]["scores"][sample_id]
    video = Video(Path(str(SHARED)) / "data" / "opens2v_eval" / "videos" / f"{sample_id}.mp4")
    score = metric.score(SAMPLE, video)
    assert score.value == pytest.approx(golden["video_score"], abs=1e-5)
    assert score.details["frame_scores"] == pytest.approx(golden["frame_scores"], abs=1e-5)


# --- the tower at full size ------------------------------------------------------------------------------


def test_the_tower_is_open_clip_s_quick_gelu_vit_l_14() -> None:
    import open_clip

    from refbench.metrics.nets.clip_tower import build_tower

    settings = open_clip.get_model_config("ViT-L-14-quickgelu")
    with torch.device("meta"):
        ours = build_tower(FULL_CONFIG)
        theirs = open_clip.model.CLIP(**settings).visual
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == {
        key: tensor.shape for key, tensor in theirs.state_dict().items()
    }
    assert str(ours) == str(theirs)
    assert "QuickGELU" in str(ours)


@pytest.fixture(scope="module")
def full_tower() -> Any:
    """The full-size tower with the goldens' weights, filled under the names of transformers."""
    from refbench.bench.weights.checkpoint import load_exactly
    from refbench.metrics.nets.clip_tower import build_tower, open_clip_tensors

    names = GOLDEN["tiny_clip_keys"]
    # Width 64 → 1024, MLP 256 → 4096; 257 positions, 3 channels, patch 14 and projection 768 stay.
    grown = {64: 1024, 256: 4096}
    sizes = {key: [grown.get(size, size) for size in shape] for key, shape in names.items()}
    layer = {key: shape for key, shape in sizes.items() if ".layers.0." in key}
    for number in range(3, 24):
        sizes |= {key.replace(".layers.0.", f".layers.{number}."): shape for key, shape in layer.items()}
    with torch.device("meta"):
        tower = build_tower(FULL_CONFIG)
    load_exactly(
        tower, open_clip_tensors(filled(sizes), 24, "the filled checkpoint"), "the filled checkpoint"
    )
    return tower.eval().requires_grad_(False)


def test_the_full_size_tower(full_tower: Any, metric: Aesthetics) -> None:
    from refbench.metrics.nets.clip_tower import crop_rule, image_embeddings

    golden = GOLDEN["open_clip_and_newer_transformers"]["full_ViT-L-14_filled_embedding"]
    # The first of the golden's two pictures: one forward pass of 24 layers is slow enough.
    case = GOLDEN["images"][0]
    pixels = crop_rule(full_tower).pixels(Image.fromarray(fill.uint8_image(case["image"], *case["hw"])))
    embeddings_ND = image_embeddings(full_tower, pixels[None])
    # The README measured 4e-6 between open_clip and transformers; exact GELU would be off by 0.04.
    np.testing.assert_allclose(embeddings_ND[0, :8].numpy(), golden["first_8"][0], atol=1e-5, rtol=0)
    norm = torch.linalg.vector_norm(embeddings_ND)
    assert float(norm) == pytest.approx(golden["norm"][0], abs=1e-4)
    assert float(embeddings_ND.sum()) == pytest.approx(golden["sum"][0], abs=1e-3)
    with torch.inference_mode():
        assert float(metric._head(embeddings_ND / norm)) == pytest.approx(golden["score"][0], abs=1e-5)


# --- videos and tiny weights -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_metric(tiny_weights: Path) -> Aesthetics:
    made = Aesthetics()
    made.load(Environment(weights=tiny_weights, threads=2))
    return made


def clip(path: Path, frames: int) -> Video:
    image = fill.uint8_image("aesthetic/clip", 96, 128)
    write_video(path, [np.roll(image, 11 * shift, axis=1) for shift in range(frames)], 8)
    return Video(path)


@pytest.mark.parametrize("frames", [1, 5, 40])
def test_a_video_is_the_mean_of_its_32_frames(frames: int, tiny_metric: Aesthetics, tmp_path: Path) -> None:
    video = clip(tmp_path / "a.mp4", frames)
    pixels = [tiny_metric._crop.pixels(Image.fromarray(frame)) for frame in video.frames(uniform_frames(32))]
    expected = tiny_metric.frame_scores(np.stack(pixels)).tolist()
    score = tiny_metric.score(SAMPLE, video)
    assert len(expected) == 32
    assert score.details["frame_scores"] == pytest.approx(expected, abs=1e-5)
    assert score.value == pytest.approx(float(np.mean(expected)), abs=1e-5)
    assert 4 < score.value < 7


def test_a_repeated_frame_is_embedded_once(
    tiny_metric: Aesthetics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    frame_scores = tiny_metric.frame_scores
    monkeypatch.setattr(
        tiny_metric, "frame_scores", lambda pixels: (batches.append(len(pixels)), frame_scores(pixels))[1]
    )
    tiny_metric.score(SAMPLE, clip(tmp_path / "a.mp4", 5))
    assert batches == [5]


def test_a_video_that_cannot_be_read(tiny_metric: Aesthetics, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(VideoError):
        tiny_metric.score(SAMPLE, Video(tmp_path / "a.mp4"))


def test_an_endless_strip_is_refused_in_words(tiny_metric: Aesthetics) -> None:
    with pytest.raises(SampleError, match="too narrow"):
        tiny_metric._crop.pixels(Image.new("RGB", (1, 400)))


def test_provenance_marks_tiny_weights(tiny_metric: Aesthetics, metric: Aesthetics) -> None:
    provenance = tiny_metric.provenance()
    assert (provenance["dtype"], provenance["batch_size"]) == ("float32", 32)
    assert len(provenance["weights"]) == 2
    assert all(digest.startswith("tiny:") for digest in provenance["weights"].values())
    assert not any(digest.startswith("tiny:") for digest in metric.provenance()["weights"].values())


@pytest.mark.weights
@pytest.mark.skipif(
    not (SHARED and os.environ.get("REFBENCH_WEIGHTS")),
    reason="needs the released weights (REFBENCH_WEIGHTS) and the sample videos (REFBENCH_SHARED)",
)
@pytest.mark.parametrize("sample_id", ["faceobj_14", "singleface_3"])
def test_the_released_weights_give_the_published_score(sample_id: str) -> None:
    dataset = Path(str(SHARED)) / "data" / "opens2v_eval"
    published = json.loads((dataset / "official_scores" / "aesthetic_score.json").read_text())[sample_id]
    made = Aesthetics()
    made.load(Environment(threads=2))
    score = made.score(SAMPLE, Video(dataset / "videos" / f"{sample_id}.mp4"))
    assert score.value == pytest.approx(published["aes_score"], abs=1e-3)


# --- weights that are missing or wrong -------------------------------------------------------------------


@pytest.fixture
def copied(golden_weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_weights, tmp_path / "weights"))


@pytest.mark.parametrize(
    ("missing", "named"),
    [(HEAD, "aesthetic-model.pth"), (f"{CLIP}/model.safetensors", "model.safetensors"), (CLIP, CLIP)],
)
def test_missing_weights_are_named(
    missing: str, named: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(copied / "cache"))
    environment = Environment(weights=copied)
    assert Aesthetics().unavailable(environment) is None
    path = copied / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    reason = Aesthetics().unavailable(environment)
    assert reason is not None and named in reason and "refbench weights pull" in reason
    with pytest.raises(MissingWeights):
        Aesthetics().load(environment)


def test_the_head_is_found_under_its_first_name(copied: Path) -> None:
    (copied / HEAD).rename((copied / HEAD).with_name("sac+logos+ava1-l14-linearMSE.pth"))
    made = Aesthetics()
    made.load(Environment(weights=copied))
    assert "opens2v-weight/sac+logos+ava1-l14-linearMSE.pth" in made.provenance()["weights"]


@pytest.mark.parametrize("fault", ["truncated", "missing", "unknown", "shape", "gelu", "config", "head"])
def test_wrong_files_are_one_line(fault: str, copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights, config = copied / CLIP / "model.safetensors", copied / CLIP / "config.json"
    tensors = load_file(weights)
    if fault == "missing":
        del tensors["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    if fault == "unknown":
        tensors["vision_model.encoder.layers.9.layer_norm1.bias"] = torch.zeros(64)
    if fault == "shape":
        tensors["vision_model.post_layernorm.bias"] = torch.zeros(3)
    save_file(tensors, weights)
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    if fault == "gelu":
        config.write_text(config.read_text().replace("quick_gelu", "gelu"))
    if fault == "config":
        config.write_text('{"model_type": "clip"}')
    if fault == "head":
        torch.save({"layers.0.weight": torch.zeros(1024, 768)}, copied / HEAD)
    with pytest.raises(UserError) as caught:
        Aesthetics().load(Environment(weights=copied))
    assert "\n" not in str(caught.value)
