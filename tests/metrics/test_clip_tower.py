"""CLIP's image tower: the goldens at full size, a whole CLIP and its image half, folders that lack a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fill import uint8_image
from PIL import Image

from kit.goldens import fill_network, filled, read
from refbench.bench.errors import UserError
from refbench.metrics.nets.pixels import CLIP_MEAN, CLIP_STD, CropRule
from refbench.metrics.weights import CLIP_VIT_B32

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from refbench.metrics.nets.clip import ClipImageTower  # noqa: E402
from refbench.metrics.nets.yolo_world.image_prompt import ReferenceEncoder  # noqa: E402

GOLDEN = read("opens2v_eval/aesthetic.json")
# Sizes of openai/clip-vit-large-patch14 as its config.json gives them.
FULL = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}


@pytest.fixture(scope="module")
def full_tower() -> ClipImageTower:
    """The full-size tower, filled by name, with Aesthetics' attention."""
    from transformers.initialization import no_init_weights

    config = transformers.CLIPVisionConfig(**FULL, attn_implementation="eager")
    with no_init_weights():
        model = transformers.CLIPVisionModelWithProjection(config)
    return ClipImageTower(model=fill_network(model))


def test_the_full_size_tower(full_tower: ClipImageTower) -> None:
    from refbench.metrics.nets.aesthetic_head import AestheticHead

    names = GOLDEN["tiny_clip_keys"]
    # Width 64 → 1024, MLP 256 → 4096; 257 positions, 3 channels, patch 14 and projection 768 stay.
    grown = {64: 1024, 256: 4096}
    expected = {key: [grown.get(size, size) for size in shape] for key, shape in names.items()}
    shapes = {key: list(tensor.shape) for key, tensor in full_tower.model.state_dict().items()}
    assert {key: shapes[key] for key in names} == expected
    assert shapes.keys() == {
        key.replace(".layers.0.", f".layers.{layer}.") for key in names for layer in range(24)
    }

    golden = GOLDEN["open_clip_and_newer_transformers"]["full_ViT-L-14_filled_embedding"]
    # The first of the golden's two pictures: one forward pass of 24 layers is slow enough.
    case = GOLDEN["images"][0]
    crop = CropRule(resized_px=full_tower.side_px, crop_px=full_tower.side_px, mean=CLIP_MEAN, std=CLIP_STD)
    pixels = crop.pixels(Image.fromarray(uint8_image(case["image"], *case["hw"])))
    embeddings_ND = full_tower.embed(torch.from_numpy(pixels[None]))
    # The exact GELU would be off by 0.04.
    assert embeddings_ND[0, :8].tolist() == pytest.approx(golden["first_8"][0], abs=1e-5)
    norm = torch.linalg.vector_norm(embeddings_ND)
    assert float(norm) == pytest.approx(golden["norm"][0], abs=1e-4)
    assert float(embeddings_ND.sum()) == pytest.approx(golden["sum"][0], abs=1e-3)
    head = AestheticHead()
    head.load_state_dict(filled(GOLDEN["head_keys"]))
    with torch.inference_mode():
        assert float(head.eval()(embeddings_ND / norm)) == pytest.approx(golden["score"][0], abs=1e-5)


def test_a_whole_clip_and_its_image_half_load_alike(small_weights: Path, tmp_path: Path) -> None:
    """Published folders hold the text tower too, and old ones pickled weights with position ids."""
    from safetensors.torch import load_file

    folder = small_weights / CLIP_VIT_B32.repository
    pictures = [Image.fromarray(uint8_image("picture", 80, 60))]
    half = ReferenceEncoder.load(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.final_layer_norm.weight"] = torch.ones(32)
    tensors["logit_scale"] = torch.tensor(4.6)
    tensors["vision_model.embeddings.position_ids"] = torch.arange(50)[None]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    whole = ReferenceEncoder.load(tmp_path)
    torch.testing.assert_close(whole.embed(pictures), half.embed(pictures), atol=0, rtol=0)


def test_the_config_of_an_image_half_is_read(small_weights: Path, tmp_path: Path) -> None:
    """A folder that transformers wrote of the image half alone has no vision_config."""
    folder = small_weights / CLIP_VIT_B32.repository
    whole = ClipImageTower.load(folder)
    whole.model.save_pretrained(tmp_path)
    half = ClipImageTower.load(tmp_path)
    assert (half.side_px, half.width) == (whole.side_px, whole.width)
    pixels = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
    torch.testing.assert_close(half.embed(pixels), whole.embed(pixels), atol=0, rtol=0)


@pytest.mark.parametrize("absent", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_an_incomplete_clip_folder_is_a_user_error(small_weights: Path, tmp_path: Path, absent: str) -> None:
    for file in (small_weights / CLIP_VIT_B32.repository).iterdir():
        if file.name != absent:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError) as caught:
        ReferenceEncoder.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"model_type": "clip"}', "no vision_config"),
        ('{"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}', "the activation 'gelu'"),
        ('{"model_type": "clip", "vision_config": {"hidden_size": "wide"}}', "describes no CLIP"),
    ],
)
def test_a_config_that_is_no_clip_s_is_named(
    content: str, says: str, small_weights: Path, tmp_path: Path
) -> None:
    weights: Any = (small_weights / CLIP_VIT_B32.repository / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=says):
        ClipImageTower.load(tmp_path)
