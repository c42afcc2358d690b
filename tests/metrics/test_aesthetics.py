"""Aesthetics: goldens of pixels, head and videos; bad input; small weights, wrong and missing ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fill import normal, uint8_image
from PIL import Image

from kit.goldens import crc, filled, read
from refbench.bench.environment import Environment
from refbench.bench.errors import MissingWeights, SampleError, UserError
from refbench.bench.sample import Sample
from refbench.bench.video import Video, VideoError, uniform_frames, write_video
from refbench.bench.weights.common import CLIP_VIT_L14
from refbench.metrics.aesthetics import Aesthetics, AestheticScorer
from refbench.metrics.weights import OPENS2V_WEIGHT

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

GOLDEN = read("opens2v_eval/aesthetic.json")
SAMPLE = Sample(id="singleobj_1", category="singleobj", prompt="", references=())
CLIP = CLIP_VIT_L14.repository
HEAD = f"{OPENS2V_WEIGHT.repository}/aesthetic-model.pth"


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
    tensors = filled(GOLDEN["tiny_clip_keys"]) | other
    save_file(tensors, folder / CLIP / "model.safetensors", metadata={"format": "pt"})
    torch.save(filled(GOLDEN["head_keys"]), folder / HEAD)
    return folder


@pytest.fixture(scope="module")
def scorer(golden_weights: Path) -> AestheticScorer:
    return Aesthetics().load(Environment(weights=golden_weights, threads=2))


# --- goldens ---------------------------------------------------------------------------------------------


def test_the_head() -> None:
    from refbench.metrics.nets.aesthetic_head import AestheticHead

    head = AestheticHead()
    head.load_state_dict(filled(GOLDEN["head_keys"]))
    head.eval()
    embeddings_ND = torch.from_numpy(normal("aesthetic/embedding", (3, 768)))
    unit_ND = embeddings_ND / torch.linalg.vector_norm(embeddings_ND, dim=-1, keepdim=True)
    with torch.inference_mode():
        assert head(embeddings_ND).tolist() == pytest.approx(GOLDEN["head_on_raw_embedding"], abs=1e-5)
        assert head(unit_ND).tolist() == pytest.approx(GOLDEN["head_on_normalised_embedding"], abs=1e-5)
    assert {key: list(tensor.shape) for key, tensor in head.state_dict().items()} == GOLDEN["head_keys"]


@pytest.mark.parametrize("case", GOLDEN["images"], ids=lambda case: case["image"][-7:])
def test_pictures_through_the_whole_scorer(case: dict[str, Any], scorer: AestheticScorer) -> None:
    pixels = scorer.crop.pixels(Image.fromarray(uint8_image(case["image"], *case["hw"])))
    assert crc(pixels) == case["pixel_crc32"]
    assert float(pixels.mean(dtype=np.float64)) == pytest.approx(case["pixel_mean"], abs=1e-6)
    corners = pixels[0][np.ix_((0, 111, 223), (0, 111, 223))]
    np.testing.assert_allclose(
        corners, case["pixel_at_rows_0_111_223_cols_0_111_223_channel_0"], atol=1e-6, rtol=0
    )
    embedding_D = scorer.tower.embed(torch.from_numpy(pixels[None]))[0]
    assert embedding_D[:8].tolist() == pytest.approx(case["embedding_first_8"], abs=1e-5)
    norm = float(torch.linalg.vector_norm(embedding_D))
    assert norm == pytest.approx(case["embedding_norm_before_normalising"], abs=1e-5)
    assert float(embedding_D.sum()) == pytest.approx(case["embedding_sum"], abs=1e-4)
    assert scorer.frame_scores(pixels[None])[0] == pytest.approx(case["score"], abs=1e-5)


def test_a_batch_of_pictures(scorer: AestheticScorer) -> None:
    pictures = [Image.fromarray(uint8_image(case["image"], *case["hw"])) for case in GOLDEN["images"]]
    scores = scorer.frame_scores(np.stack([scorer.crop.pixels(picture) for picture in pictures]))
    assert scores.tolist() == pytest.approx(GOLDEN["batch_scores"], abs=1e-5)
    assert float(scores.mean()) == pytest.approx(GOLDEN["batch_mean_as_video_score"], abs=1e-5)


def test_the_golden_would_catch_torchvision_s_crop(scorer: AestheticScorer) -> None:
    """open_clip's own transform crops a picture of image_b's size one pixel further right."""
    from open_clip import image_transform

    transform = image_transform(224, is_train=False)
    differences = []
    for case in GOLDEN["images"]:
        picture = Image.fromarray(uint8_image(case["image"], *case["hw"]))
        differences.append(np.abs(transform(picture).numpy() - scorer.crop.pixels(picture)).max())
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


@pytest.mark.parametrize("sample_id", ["faceobj_14", "singleface_3"])
def test_the_sample_videos(sample_id: str, scorer: AestheticScorer, opens2v: Path) -> None:
    golden = GOLDEN["video_scores_with_the_tiny_clip"]["scores"][sample_id]
    score = scorer.score(SAMPLE, Video(opens2v / "videos" / f"{sample_id}.mp4"))
    assert score.value == pytest.approx(golden["video_score"], abs=1e-5)
    assert score.details["frame_scores"] == pytest.approx(golden["frame_scores"], abs=1e-5)


# --- videos and small weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(small_weights: Path) -> AestheticScorer:
    return Aesthetics().load(Environment(weights=small_weights, threads=2))


def clip(path: Path, frames: int) -> Video:
    image = uint8_image("aesthetic/clip", 96, 128)
    write_video(path, [np.roll(image, 11 * shift, axis=1) for shift in range(frames)], 8)
    return Video(path)


@pytest.mark.parametrize("frames", [1, 5, 40])
def test_a_video_is_the_mean_of_its_32_frames(frames: int, small: AestheticScorer, tmp_path: Path) -> None:
    video = clip(tmp_path / "a.mp4", frames)
    pixels = [small.crop.pixels(Image.fromarray(frame)) for frame in video.frames(uniform_frames(32))]
    expected = small.frame_scores(np.stack(pixels)).tolist()
    score = small.score(SAMPLE, video)
    assert len(expected) == 32
    assert score.details["frame_scores"] == pytest.approx(expected, abs=1e-5)
    assert score.value == pytest.approx(float(np.mean(expected)), abs=1e-5)
    assert 4 < score.value < 7


@dataclass
class CountingTower:
    """Passes pictures on and remembers how many came at a time."""

    tower: Any
    batches: list[int] = field(default_factory=list)

    def embed(self, pixels: Any) -> Any:
        self.batches.append(len(pixels))
        return self.tower.embed(pixels)


def test_a_repeated_frame_is_embedded_once(small: AestheticScorer, tmp_path: Path) -> None:
    tower = CountingTower(small.tower)
    replace(small, tower=tower).score(SAMPLE, clip(tmp_path / "a.mp4", 5))
    assert tower.batches == [5]


def test_a_video_that_cannot_be_read(small: AestheticScorer, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(VideoError):
        small.score(SAMPLE, Video(tmp_path / "a.mp4"))


def test_an_endless_strip_is_refused_in_words(small: AestheticScorer) -> None:
    with pytest.raises(SampleError, match="too narrow"):
        small.crop.pixels(Image.new("RGB", (1, 400)))


def test_provenance_marks_small_weights(small: AestheticScorer, scorer: AestheticScorer) -> None:
    provenance = small.provenance()
    assert (provenance["dtype"], provenance["batch_size"]) == ("float32", 32)
    assert len(provenance["weights"]) == 2
    assert all(digest.startswith("tiny:") for digest in provenance["weights"].values())
    assert not any(digest.startswith("tiny:") for digest in scorer.provenance()["weights"].values())


def test_a_closed_scorer_holds_no_memory(small_weights: Path) -> None:
    """Whoever still refers to it: the next metric of a worker needs the room."""
    scorer = Aesthetics().load(Environment(weights=small_weights))
    scorer.close()
    networks = (scorer.tower.model, scorer.head)
    assert all(value.is_meta for network in networks for value in network.parameters())


@pytest.mark.weights
@pytest.mark.parametrize("sample_id", ["faceobj_14", "singleface_3"])
def test_the_released_weights_give_the_published_score(
    sample_id: str, opens2v: Path, released_weights: Path
) -> None:
    published = json.loads((opens2v / "official_scores" / "aesthetic_score.json").read_text())[sample_id]
    scorer = Aesthetics().load(Environment(threads=2, weights=released_weights))
    score = scorer.score(SAMPLE, Video(opens2v / "videos" / f"{sample_id}.mp4"))
    assert score.value == pytest.approx(published["aes_score"], abs=1e-3)


# --- weights that are missing or wrong -------------------------------------------------------------------


@pytest.fixture
def copied(golden_weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_weights, tmp_path / "weights"))


@pytest.mark.parametrize(
    ("missing", "named"),
    [(HEAD, "aesthetic-model.pth"), (f"{CLIP}/model.safetensors", "model.safetensors"), (CLIP, CLIP)],
)
@pytest.mark.usefixtures("no_hub")
def test_missing_weights_are_named(missing: str, named: str, copied: Path) -> None:
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
    scorer = Aesthetics().load(Environment(weights=copied))
    assert "opens2v-weight/sac+logos+ava1-l14-linearMSE.pth" in scorer.provenance()["weights"]


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
    save_file(tensors, weights, metadata={"format": "pt"})
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
