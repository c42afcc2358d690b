"""clip-t, clip-i and dino-i on tiny folders: arithmetic, what they look at, bad input, missing weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fill import uint8_image
from PIL import Image

from refbench.bench.dataset import load_track
from refbench.bench.environment import Environment
from refbench.bench.errors import MissingWeights, SampleError, UserError
from refbench.bench.metric import Metric
from refbench.bench.options import build_options
from refbench.bench.provenance import digest_of
from refbench.bench.sample import Reference, Sample
from refbench.bench.video import Video, VideoError, uniform_frames, write_video
from refbench.bench.weights.common import CLIP_VIT_L14, DINOV2_BASE
from refbench.metrics.clip_i import ClipImage
from refbench.metrics.clip_t import ClipText
from refbench.metrics.dino_i import DinoImage
from refbench.metrics.similarity import SimilarityMetric, SimilarityScorer
from refbench.metrics.small.similarity import write_tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

METRICS: tuple[type[SimilarityMetric], ...] = (ClipText, ClipImage, DinoImage)
CLIP, DINO = CLIP_VIT_L14.repository, DINOV2_BASE.repository
Loaded = dict[type[Metric], SimilarityScorer]


@pytest.fixture(scope="module")
def loaded(small_weights: Path) -> Loaded:
    torch.set_num_threads(2)
    return {metric: metric().load(Environment(weights=small_weights, threads=2)) for metric in METRICS}


def picture(name: str = "a") -> np.ndarray:
    return uint8_image(f"similarity/{name}", 90, 160)


def clip(path: Path, images: list[np.ndarray]) -> Video:
    write_video(path, images, 8, crf=1)
    return Video(path)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    for name in ("a", "b"):
        Image.fromarray(picture(name)).save(tmp_path / f"{name}.png")
    references = tuple(
        Reference(path=f"{name}.png", root=tmp_path, label="", kind="object") for name in ("a", "b")
    )
    return Sample(id="mine_1", category="mine", prompt="A cup on a table.", references=references)


@pytest.fixture
def video(tmp_path: Path) -> Video:
    return clip(tmp_path / "a.mp4", [np.roll(picture("c"), 13 * shift, axis=1) for shift in range(3)])


def unit(features: Any) -> np.ndarray:
    return (features / features.norm(dim=-1, keepdim=True)).detach().numpy()


def processed(folder: Path, images: list[Image.Image]) -> Any:
    """Pixels by transformers' own PIL processor, with the settings of the published preprocessor files."""
    dino = folder.name.startswith("dino")
    settings: dict[str, Any] = {
        "resample": Image.Resampling.BICUBIC,
        "crop_size": {"height": 224, "width": 224},
    }
    if dino:
        settings |= {"size": {"shortest_edge": 256}, "image_mean": [0.485, 0.456, 0.406]}
        settings |= {"image_std": [0.229, 0.224, 0.225]}
    else:
        settings |= {"size": {"shortest_edge": 224}, "image_mean": [0.48145466, 0.4578275, 0.40821073]}
        settings |= {"image_std": [0.26862954, 0.26130258, 0.27577711]}
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"image_processor_type": "BitImageProcessor" if dino else "CLIPImageProcessor", **settings}
        )
    )
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor(images=images, return_tensors="pt")["pixel_values"]


def test_the_arithmetic_of_clip(
    loaded: Loaded, small_weights: Path, sample: Sample, video: Video, tmp_path: Path
) -> None:
    """Against transformers' own path: its processor, its tokenizer, its get_*_features."""
    folder = Path(shutil.copytree(small_weights / CLIP, tmp_path / "clip"))
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)([sample.prompt], return_tensors="pt")
    frames = [Image.fromarray(frame) for frame in video.frames(uniform_frames(32))]
    references = [Image.fromarray(picture(name)) for name in ("a", "b")]
    with torch.inference_mode():
        outputs = [
            unit(model(pixel_values=processed(folder, images), **tokens).image_embeds)
            for images in (frames, references)
        ]
        text = unit(model(pixel_values=processed(folder, references), **tokens).text_embeds)[0]
    assert loaded[ClipText].score(sample, video).value == pytest.approx((outputs[0] @ text).mean(), abs=1e-5)
    score = loaded[ClipImage].score(sample, video)
    expected = outputs[0] @ outputs[1].T
    assert score.value == pytest.approx(expected.mean(), abs=1e-5)
    assert score.details["per_reference"] == pytest.approx(expected.mean(axis=0).tolist(), abs=1e-5)


def test_the_arithmetic_of_dino(
    loaded: Loaded, small_weights: Path, sample: Sample, video: Video, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small_weights / DINO, tmp_path / "dinov2"))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    frames = [Image.fromarray(frame) for frame in video.frames(uniform_frames(32))]
    references = [Image.fromarray(picture(name)) for name in ("a", "b")]
    with torch.inference_mode():
        outputs = [unit(model(processed(folder, images)).pooler_output) for images in (frames, references)]
    score = loaded[DinoImage].score(sample, video)
    assert score.value == pytest.approx((outputs[0] @ outputs[1].T).mean(), abs=1e-5)


@pytest.mark.parametrize("metric", [ClipImage, DinoImage])
def test_a_still_of_its_reference_is_alike(
    metric: type[Metric], loaded: Loaded, sample: Sample, tmp_path: Path
) -> None:
    still = clip(tmp_path / "still.mp4", [picture("a")] * 3)
    score = loaded[metric].score(sample, still)
    same, other = score.details["per_reference"]
    assert same == pytest.approx(1, abs=0.01) and other < same
    assert -1 <= score.value <= 1


def test_clip_t_looks_at_the_prompt(loaded: Loaded, sample: Sample, video: Video) -> None:
    first = loaded[ClipText].score(sample, video)
    other = loaded[ClipText].score(replace(sample, prompt="A dog in the snow."), video)
    assert first.value != pytest.approx(other.value, abs=1e-4)
    assert first.details["prompt_cut_off"] is False
    assert len(first.details["frame_scores"]) == 32


def test_only_77_tokens_of_a_prompt_count(loaded: Loaded, sample: Sample, video: Video) -> None:
    # The tiny tokenizer has one token per byte: 75 between start and end.
    longer, longest = (replace(sample, prompt="abcdefghijklmno" * 5 + end) for end in ("x", "yz" * 50))
    scores = [loaded[ClipText].score(each, video) for each in (longer, longest)]
    assert scores[0] == scores[1]
    assert scores[0].details["prompt_cut_off"] is True
    fitting = loaded[ClipText].score(replace(sample, prompt="abcdefghijklmno" * 5), video)
    assert fitting.details["prompt_cut_off"] is False


@dataclass
class CountingEncoder:
    """Passes everything on and remembers how many pictures came at a time."""

    encoder: Any
    batches: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def embed(self, pixels_NCHW: np.ndarray) -> np.ndarray:
        self.batches.append(len(pixels_NCHW))
        vectors: np.ndarray = self.encoder.embed(pixels_NCHW)
        return vectors


@pytest.mark.parametrize("metric", METRICS)
def test_a_repeated_frame_is_encoded_once(
    metric: type[Metric], loaded: Loaded, sample: Sample, video: Video
) -> None:
    encoder = CountingEncoder(loaded[metric].encoder)
    replace(loaded[metric], encoder=encoder).score(sample, video)
    assert encoder.batches == ([3] if metric is ClipText else [2, 3])


@pytest.mark.parametrize("metric", [ClipImage, DinoImage])
def test_without_references_there_is_nothing_to_compare(
    metric: type[Metric], loaded: Loaded, sample: Sample, video: Video
) -> None:
    bare = replace(sample, references=())
    assert metric().not_applicable(sample) is None
    assert metric().not_applicable(bare) == "no references"
    with pytest.raises(SampleError, match="no references"):
        loaded[metric].score(bare, video)


@pytest.mark.parametrize("metric", [ClipImage, DinoImage])
def test_bad_references(
    metric: type[Metric], loaded: Loaded, sample: Sample, video: Video, tmp_path: Path
) -> None:
    plain = loaded[metric].score(sample, video)
    image = Image.fromarray(picture("a"))
    Image.merge("RGBA", (*image.split(), Image.new("L", image.size, 30))).save(tmp_path / "a.png")
    assert loaded[metric].score(sample, video) == plain
    image.convert("CMYK").save(tmp_path / "a.jpg")
    cmyk = replace(sample, references=(replace(sample.references[0], path="a.jpg"),))
    assert -1 <= loaded[metric].score(cmyk, video).value <= 1
    (tmp_path / "a.png").unlink()
    with pytest.raises(SampleError, match="is missing"):
        loaded[metric].score(sample, video)
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(SampleError, match="cannot be read"):
        loaded[metric].score(sample, video)


@pytest.mark.parametrize("metric", METRICS)
def test_a_video_that_cannot_be_read(
    metric: type[Metric], loaded: Loaded, sample: Sample, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        loaded[metric].score(sample, Video(tmp_path / "a.mp4"))


@pytest.mark.parametrize("metric", METRICS)
def test_they_are_supplementary_and_named(metric: type[Metric]) -> None:
    from refbench.bench.registry import metrics

    assert metric.declaration.component is None
    assert metrics.get(metric.declaration.name) is metric


# --- backbones and weights -------------------------------------------------------------------------------


def test_another_backbone_is_an_option(
    small_weights: Path, sample: Sample, video: Video, tmp_path: Path
) -> None:
    for owner, name, metric in (
        ("openai", "clip-vit-base-patch32", ClipText),
        ("openai", "clip-vit-base-patch32", ClipImage),
        ("facebook", "dinov2-small", DinoImage),
    ):
        source = DINO if metric is DinoImage else CLIP
        shutil.copytree(small_weights / source, tmp_path / "w" / owner / name, dirs_exist_ok=True)
        value = f"{owner}/{name}" if metric is DinoImage else name
        made = metric(build_options(metric.Options, {"backbone": value}, "test"))
        scorer = made.load(Environment(weights=tmp_path / "w"))
        assert -1 <= scorer.score(sample, video).value <= 1
        assert f"{owner}/{name}/model.safetensors" in scorer.provenance()["weights"]
        assert made.settings() != metric().settings()


def test_settings_of_earlier_records_stay_current() -> None:
    """The digests that version 0.1 stored: an option that came later and is not used must not change them."""
    assert ClipText().settings() == ClipImage().settings() == {"backbone": "clip-vit-large-patch14"}
    assert DinoImage().settings() == {"backbone": "facebook/dinov2-base"}
    digest = digest_of({"backbone": "clip-vit-large-patch14"})
    assert digest == "0a461bba9eb2efb10334f68928c5a2ea111ce7f1f59f98b8d08e4f308af17bf5"


def test_dinov3_loads_by_the_same_code(sample: Sample, video: Video, tmp_path: Path) -> None:
    folder = tmp_path / "w" / "facebook" / "dinov3-vits16-pretrain-lvd1689m"
    config = transformers.DINOv3ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, patch_size=16
    )
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    model.save_pretrained(folder)
    made = DinoImage(build_options(DinoImage.Options, {"backbone": f"facebook/{folder.name}"}, "test"))
    scorer = made.load(Environment(weights=tmp_path / "w"))
    pixels = np.stack([scorer.encoder.pixels(Image.fromarray(picture("a")))])
    with torch.inference_mode():
        pooled = unit(model(torch.from_numpy(pixels)).pooler_output)
    np.testing.assert_allclose(scorer.encoder.embed(pixels), pooled, atol=1e-6)
    assert -1 <= scorer.score(sample, video).value <= 1


@pytest.mark.parametrize(
    ("metric", "value"), [(ClipText, "clip-vit-huge"), (DinoImage, "dinov2-base"), (DinoImage, "a/b/c")]
)
def test_an_unknown_backbone_is_refused(metric: type[Metric], value: str) -> None:
    with pytest.raises(UserError, match="backbone"):
        build_options(metric.Options, {"backbone": value}, "the metric")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("metric", METRICS)
def test_missing_weights_are_named(metric: type[Metric], small_weights: Path, tmp_path: Path) -> None:
    assert metric().unavailable(Environment(weights=small_weights)) is None
    reason = metric().unavailable(Environment(weights=tmp_path))
    repository = DINO if metric is DinoImage else CLIP
    assert reason is not None and repository in reason and "refbench weights pull" in reason
    with pytest.raises(MissingWeights, match=repository):
        metric().load(Environment(weights=tmp_path))
    (tmp_path / repository).mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        reason = metric().unavailable(Environment(weights=tmp_path))
        assert reason is not None and name in reason
        (tmp_path / repository / name).write_text("{}")
    assert metric().unavailable(Environment(weights=tmp_path)) is None


@pytest.mark.parametrize("fault", ["truncated", "missing key", "another model", "no json"])
@pytest.mark.parametrize("metric", METRICS)
def test_wrong_files_are_one_line(
    metric: type[Metric], fault: str, small_weights: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    repository = DINO if metric is DinoImage else CLIP
    folder = Path(shutil.copytree(small_weights / repository, tmp_path / repository))
    file = folder / "model.safetensors"
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:3000])
    elif fault == "missing key":
        tensors = load_file(file)
        tensors.popitem()
        save_file(tensors, file, metadata={"format": "pt"})
    else:
        (folder / "config.json").write_text("{" if fault == "no json" else '{"model_type": "bert"}')
    with pytest.raises(UserError) as caught:
        metric().load(Environment(weights=tmp_path))
    assert "\n" not in str(caught.value)


def test_provenance_marks_small_weights(loaded: Loaded) -> None:
    for metric in loaded.values():
        provenance = metric.provenance()
        assert (provenance["dtype"], provenance["batch_size"]) == ("float32", 32)
        assert provenance["weights"]
        assert all(digest.startswith("tiny:") for digest in provenance["weights"].values())


def test_small_weights_are_the_same_each_time(small_weights: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    for repository in (CLIP, DINO):
        for file in (small_weights / repository).iterdir():
            assert (tmp_path / repository / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("metric", METRICS)
def test_small_weights_give_a_value_on_the_sample_videos(
    metric: type[Metric], loaded: Loaded, opens2v: Path
) -> None:
    sample = load_track("open-domain", opens2v).sample("faceobj_14")
    assert sample is not None
    score = loaded[metric].score(sample, Video(opens2v / "videos" / "faceobj_14.mp4"))
    assert -1 <= score.value <= 1
    if metric is not ClipText:
        assert len(score.details["per_reference"]) == len(sample.references) == 3
