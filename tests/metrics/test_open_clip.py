"""clip-t and clip-i by CLIPs in open_clip's own format: the same numbers, bad folders, missing ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fill import uint8_image
from PIL import Image

from refbench.bench.environment import Environment
from refbench.bench.errors import MissingWeights, UserError
from refbench.bench.options import build_options
from refbench.bench.provenance import package_versions
from refbench.bench.sample import Reference, Sample
from refbench.bench.video import Video, uniform_frames, write_video
from refbench.bench.weights.common import CLIP_VIT_L14
from refbench.metrics.clip_i import ClipImage
from refbench.metrics.clip_t import ClipText
from refbench.metrics.nets.pixels import CLIP_MEAN, CLIP_STD
from refbench.metrics.similarity import SimilarityMetric
from refbench.metrics.small.clip import IMAGE_PX, SMALL_L14

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from safetensors.torch import load_file, save_file  # noqa: E402

REPOSITORY = "somebody/CLIP-small"
LAYERS, WIDTH = 2, 32
# The halves of SMALL_L14 in open_clip's words; its text half has open_clip's own tokens.
CONFIG = {
    "model_cfg": {
        "embed_dim": SMALL_L14["projection_dim"],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": IMAGE_PX,
            "layers": LAYERS,
            "width": WIDTH,
            "head_width": WIDTH // SMALL_L14["vision_config"]["num_attention_heads"],
            "patch_size": SMALL_L14["vision_config"]["patch_size"],
            "mlp_ratio": SMALL_L14["vision_config"]["intermediate_size"] / WIDTH,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    },
    "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD},
}


@pytest.fixture(scope="module")
def weights(small_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image half of the small CLIP as a checkpoint of open_clip, with a random text half."""
    folder = tmp_path_factory.mktemp("open-clip") / REPOSITORY
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    state = open_clip.model.CLIP(**CONFIG["model_cfg"]).state_dict()
    theirs = load_file(small_weights / CLIP_VIT_L14.repository / "model.safetensors")
    for name, source in image_half_names().items():
        found = torch.cat([theirs[key] for key in source])
        state[name] = found.T if name == "visual.proj" else found
    tensors = {name: value.contiguous() for name, value in state.items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder.parents[1]


def image_half_names() -> dict[str, tuple[str, ...]]:
    """open_clip's names of the image half → the Hugging Face names, of which several are joined."""
    outer = {
        "class_embedding": "vision_model.embeddings.class_embedding",
        "positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "ln_post.weight": "vision_model.post_layernorm.weight",
        "ln_post.bias": "vision_model.post_layernorm.bias",
        "proj": "visual_projection.weight",
    }
    parts = {
        "ln_1": ("layer_norm1",),
        "ln_2": ("layer_norm2",),
        "attn.in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attn.out_proj": ("self_attn.out_proj",),
        "mlp.c_fc": ("mlp.fc1",),
        "mlp.c_proj": ("mlp.fc2",),
    }
    names = {f"visual.{ours}": (theirs,) for ours, theirs in outer.items()}
    for layer in range(LAYERS):
        for ours, theirs in parts.items():
            for leaf in ("weight", "bias"):
                joint = "_" if ours == "attn.in_proj" else "."
                names[f"visual.transformer.resblocks.{layer}.{ours}{joint}{leaf}"] = tuple(
                    f"vision_model.encoder.layers.{layer}.{part}.{leaf}" for part in theirs
                )
    return names


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    for name in ("a", "b"):
        Image.fromarray(uint8_image(f"open_clip/{name}", 90, 160)).save(tmp_path / f"{name}.png")
    references = tuple(
        Reference(path=f"{name}.png", root=tmp_path, label="", kind="object") for name in ("a", "b")
    )
    return Sample(id="mine_1", category="mine", prompt="A cup on a table.", references=references)


@pytest.fixture
def video(tmp_path: Path) -> Video:
    image = uint8_image("open_clip/c", 90, 160)
    write_video(tmp_path / "c.mp4", [np.roll(image, 13 * shift, axis=1) for shift in range(3)], 8, crf=1)
    return Video(tmp_path / "c.mp4")


def made(metric: type[SimilarityMetric], model: str | Path = REPOSITORY) -> SimilarityMetric:
    return metric(build_options(metric.Options, {"model": str(model)}, "the metric"))


def test_the_same_weights_in_either_format_score_alike(
    weights: Path, small_weights: Path, sample: Sample, video: Video
) -> None:
    """A crop of 160×90 pixels is the same by both rules; what is left are float32 roundings."""
    ours = ClipImage().load(Environment(weights=small_weights)).score(sample, video)
    theirs = made(ClipImage).load(Environment(weights=weights)).score(sample, video)
    assert theirs.value == pytest.approx(ours.value, abs=1e-5)
    assert theirs.details["per_reference"] == pytest.approx(ours.details["per_reference"], abs=1e-5)


def test_the_arithmetic_of_clip_t(weights: Path, sample: Sample, video: Video) -> None:
    """Against open_clip's own model, tokenizer and transform."""
    name = f"local-dir:{weights / REPOSITORY}"
    model, transform = open_clip.create_model_from_pretrained(name)
    frames = [transform(Image.fromarray(frame)) for frame in video.frames(uniform_frames(32))]
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack(frames), normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(name)([sample.prompt]), normalize=True)[0]
    score = made(ClipText).load(Environment(weights=weights)).score(sample, video)
    assert score.details["frame_scores"] == pytest.approx((images @ text).tolist(), abs=1e-5)
    assert score.details["prompt_cut_off"] is False


@pytest.mark.parametrize(("words", "cut_off"), [(75, False), (76, True), (200, True)])
def test_a_prompt_beyond_the_context_is_cut_off(
    words: int, cut_off: bool, weights: Path, sample: Sample, video: Video
) -> None:
    # "cat" is one token; start and end take two of the 77.
    scorer = made(ClipText).load(Environment(weights=weights))
    score = scorer.score(replace(sample, prompt="cat " * words), video)
    assert score.details["prompt_cut_off"] is cut_off


def test_a_folder_may_be_named_and_is_recorded(weights: Path, sample: Sample, video: Video) -> None:
    by_path = made(ClipImage, weights / REPOSITORY)
    scorer = by_path.load(Environment())
    assert scorer.score(sample, video) == made(ClipImage).load(Environment(weights=weights)).score(
        sample, video
    )
    assert list(scorer.provenance()["weights"]) == [f"{weights / REPOSITORY}/open_clip_model.safetensors"]
    assert by_path.settings() == {"model": str(weights / REPOSITORY)}
    scorer.close()


def test_a_pickled_checkpoint_loads_too(weights: Path, tmp_path: Path, sample: Sample, video: Video) -> None:
    folder = Path(shutil.copytree(weights / REPOSITORY, tmp_path / "model"))
    torch.save(load_file(folder / "open_clip_model.safetensors"), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_model.safetensors").unlink()
    scorer = made(ClipImage, folder).load(Environment())
    assert scorer.score(sample, video) == made(ClipImage).load(Environment(weights=weights)).score(
        sample, video
    )


def test_records_state_open_clip_where_it_computed_the_score() -> None:
    for metric in (ClipText, ClipImage):
        assert metric(metric.Options()).packages() == metric.declaration.packages
        assert "open_clip_torch" in package_versions(made(metric).packages())


@pytest.mark.usefixtures("no_hub")
def test_missing_parts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Environment(weights=tmp_path)
    assert "hf download somebody/CLIP-small" in str(made(ClipText).unavailable(nowhere))
    with pytest.raises(MissingWeights, match=REPOSITORY):
        made(ClipText).load(nowhere)
    (tmp_path / REPOSITORY).mkdir(parents=True)
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        assert name in str(made(ClipText).unavailable(nowhere))
        (tmp_path / REPOSITORY / name).write_text("{}")
    assert made(ClipText).unavailable(nowhere) is None
    monkeypatch.setattr(
        "refbench.bench.environment.find_spec", lambda name: None if name == "open_clip" else 1
    )
    assert "open_clip" in str(made(ClipText).unavailable(nowhere))


def changed(part: str, **values: Any) -> Callable[[Path], object]:
    """Writes the config with other values in one of its parts."""

    def write(folder: Path) -> None:
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"][part] |= values
        (folder / "open_clip_config.json").write_text(json.dumps(config))

    return write


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no json": (lambda folder: (folder / "open_clip_config.json").write_text("{"), "broken JSON"),
    "no model": (lambda folder: (folder / "open_clip_config.json").write_text("{}"), "no model_cfg"),
    "half a model": (
        lambda folder: (folder / "open_clip_config.json").write_text('{"model_cfg": {"text_cfg": {}}}'),
        "lacks text_cfg or vision_cfg",
    ),
    "text tower of the hub": (
        changed("text_cfg", hf_model_name="roberta-base"),
        "takes a tower from the hub",
    ),
    "image tower of the hub": (
        changed("vision_cfg", timm_model_name="hf-hub:a/b"),
        "takes a tower from the hub",
    ),
    "foreign code": (
        changed("text_cfg", hf_tokenizer_name="a/b", tokenizer_kwargs={"trust_remote_code": True}),
        "asks for code",
    ),
    "other sizes": (changed("vision_cfg", layers=3), "cannot be loaded by open_clip"),
    "truncated": (
        lambda folder: (folder / "open_clip_model.safetensors").write_bytes(b"short"),
        "cannot be loaded by open_clip",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_folder_is_one_line(fault: str, weights: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(weights / REPOSITORY, tmp_path / "model"))
    damage, says = FAULTS[fault]
    damage(folder)
    with pytest.raises(UserError, match=says) as caught:
        made(ClipText, folder).load(Environment())
    assert "\n" not in str(caught.value)
