"""The alignment loss's teachers on tiny checkpoints of all four families, written as published ones are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
transformers = pytest.importorskip("transformers", reason="RefAlign needs the extra 'refalign'")

from fill import uint8_image  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from refbench.bench.errors import MissingWeights, UserError  # noqa: E402
from refbench.bench.weights.kind import TINY_MARKER  # noqa: E402
from refbench.refalign.teacher import TEACHERS, Teacher, TeacherSpec, get_teacher_spec, resample_tokens  # noqa: E402

FAMILIES = ("dinov3-vitb16", "dinov2-base", "siglip2-base", "clip-vit-large")
WIDTH = 32
SIZES = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# A key that the published file of each family has; transformers renames some of them while it reads.
PUBLISHED_KEY = {
    "dinov3-vitb16": "layer.1.attention.q_proj.weight",
    "dinov2-base": "encoder.layer.1.attention.attention.query.weight",
    "siglip2-base": "vision_model.encoder.layers.1.self_attn.q_proj.weight",
    "clip-vit-large": "vision_model.encoder.layers.1.self_attn.q_proj.weight",
}
HEIGHT, COLUMNS_PX = 32, 48


def tiny_model(name: str) -> Any:
    patch = TEACHERS[name].patch_px
    vision = {**SIZES, "patch_size": patch, "image_size": 4 * patch}
    text = {**SIZES, "vocab_size": 20, "max_position_embeddings": 8}
    if name.startswith("dinov3"):
        config = transformers.DINOv3ViTConfig(**vision, num_register_tokens=4)
        return transformers.DINOv3ViTModel(config)
    if name.startswith("dinov2"):
        return transformers.Dinov2Model(transformers.Dinov2Config(**vision))
    if name.startswith("siglip"):
        return transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text))
    return transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name in FAMILIES:
        torch.manual_seed(0)
        place = folder / TEACHERS[name].repository
        model = tiny_model(name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(place)
        (place / TINY_MARKER).touch()
    return folder


def pictures(height: int = HEIGHT, width: int = COLUMNS_PX, count: int = 2) -> torch.Tensor:
    return torch.from_numpy(
        np.stack([uint8_image(f"teacher.{number}", height, width) for number in range(count)])
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tiny_files_are_named_as_the_published_ones(name: str, weights: Path) -> None:
    with safe_open(weights / TEACHERS[name].repository / "model.safetensors", framework="pt") as file:
        assert PUBLISHED_KEY[name] in file.keys()  # noqa: SIM118 - not a mapping


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_the_normalised_pictures_last_hidden_state(name: str, weights: Path) -> None:
    teacher = Teacher.load(name, weights)
    patch = TEACHERS[name].patch_px
    rows, columns = 2, 3
    references = pictures(rows * patch, columns * patch)
    found = teacher.features(references, (rows, columns))

    spec = TEACHERS[name]
    unit = references.permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (spec.mean, spec.std))
    pixels = ((unit - mean) / std).float()
    settings = {} if name.startswith("dino") else {"interpolate_pos_encoding": True}
    # The whole model, both towers, read by transformers' own mapping.
    whole = transformers.AutoModel.from_pretrained(weights / spec.repository).eval()
    vision = getattr(whole, "vision_model", whole)
    with torch.no_grad():
        states = vision(pixels, **settings).last_hidden_state
    assert found.shape == (2, rows * columns, WIDTH) and found.dtype == torch.float32
    torch.testing.assert_close(found, states[:, -rows * columns :], atol=1e-5, rtol=0)
    leading = {"dinov3-vitb16": 5, "siglip2-base": 0}.get(name, 1)
    assert states.shape[1] == leading + rows * columns


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_and_in_evaluation_mode_whatever_a_parent_does(name: str, weights: Path) -> None:
    teacher = Teacher.load(name, weights)
    first = teacher.features(pictures(), (2, 3))
    parent = torch.nn.Sequential(torch.nn.Linear(2, 2), teacher)
    parent.train()
    assert parent[0].training and not any(module.training for module in teacher.modules())
    teacher.network.train()
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        second = teacher.features(pictures(), (2, 3))
    torch.testing.assert_close(second, first, atol=1e-6, rtol=0)
    assert not second.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_training_mode_would_change_dinov3(weights: Path) -> None:
    network = Teacher.load("dinov3-vitb16", weights).network
    pixels = torch.randn(1, 3, 32, 48)
    network.train()
    with torch.no_grad():
        one, other = (network(pixels).last_hidden_state for _ in range(2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["dinov3-vitb16", "dinov2-base", "siglip2-base"])
def test_the_state_before_the_final_norm_is_another(name: str, weights: Path) -> None:
    teacher = Teacher.load(name, weights)
    patch = teacher.patch_px
    norm = {"siglip2-base": "post_layernorm", "dinov2-base": "layernorm"}.get(name, "norm")
    seen = {}
    getattr(teacher.network, norm).register_forward_hook(
        lambda module, given, made: seen.update(before=given[0], after=made)
    )
    found = teacher.features(pictures(2 * patch, 3 * patch), (2, 3))
    torch.testing.assert_close(found, seen["after"][:, -6:])
    assert (found - seen["before"][:, -6:]).abs().max() > 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_that_does_not_divide_into_patches(name: str, weights: Path) -> None:
    teacher = Teacher.load(name, weights)
    asked = []
    teacher.network.register_forward_pre_hook(
        lambda module, given, keywords: asked.append(tuple(given[0].shape[-2:])), with_kwargs=True
    )
    assert teacher.features(pictures(480, 832, 1), (30, 52)).shape == (1, 1560, WIDTH)
    assert teacher.features(pictures(5, 50, 1), (2, 3)).shape == (1, 6, WIDTH)
    expected = [(480, 832), (16, 48)] if teacher.patch_px == 16 else [(476, 826), (14, 56)]
    assert asked == expected


def test_both_kinds_of_pixels_are_the_same(weights: Path) -> None:
    teacher = Teacher.load("dinov3-vitb16", weights)
    references = pictures()
    floating = references.permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(
        teacher.features(references, (2, 3)), teacher.features(floating, (2, 3)), atol=1e-5, rtol=0
    )
    for wrong in (
        references.permute(0, 3, 1, 2),
        floating[0],
        floating.permute(0, 2, 3, 1),
        references.int(),
    ):
        with pytest.raises(ValueError, match="references must be"):
            teacher.features(wrong, (2, 3))


def test_half_precision(weights: Path) -> None:
    exact = Teacher.load("dinov3-vitb16", weights).features(pictures(), (2, 3))
    half = Teacher.load("dinov3-vitb16", weights, dtype=torch.bfloat16).features(pictures(), (2, 3))
    assert half.dtype == torch.float32
    assert (half - exact).norm() < 0.05 * exact.norm()
    assert not torch.equal(half, exact)


def test_resampling() -> None:
    tokens = torch.randn(2, 6, 5)
    assert torch.equal(resample_tokens(tokens, (2, 3), (2, 3)), tokens)
    # Rows of a picture that is linear in its row stay linear, in the order row, column.
    linear = torch.arange(4.0)[:, None].expand(4, 3).reshape(1, 12, 1)
    halved = resample_tokens(linear, (4, 3), (2, 3))
    torch.testing.assert_close(halved, torch.tensor([0.5, 0.5, 0.5, 2.5, 2.5, 2.5]).reshape(1, 6, 1))


def test_published_specs() -> None:
    widths = {name: (spec.width, spec.patch_px) for name, spec in TEACHERS.items()}
    assert widths == {
        "dinov3-vitb16": (768, 16),
        "dinov3-vitl16": (1024, 16),
        "dinov2-base": (768, 14),
        "dinov2-large": (1024, 14),
        "siglip2-base": (768, 16),
        "clip-vit-large": (1024, 14),
    }
    assert isinstance(get_teacher_spec("dinov3-vitl16"), TeacherSpec)


def test_an_unknown_and_a_missing_teacher_are_one_clear_line(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(
        UserError, match=r"no teacher is called 'dinov4'; known: dinov3-vitb16, .*clip-vit-large$"
    ):
        Teacher.load("dinov4", weights)
    # The folder in the weights folder shadows a hub cache, of which this test must not know.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        with pytest.raises(
            MissingWeights, match=r"^teacher dinov3-vitl16: facebook/dinov3-vitl16\S+ is not on"
        ) as told:
            Teacher.load("dinov3-vitl16", tmp_path)
        assert "\n" not in str(told.value) and "--weights" in str(told.value)


def copied(weights: Path, target: Path, name: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    source = weights / TEACHERS[name].repository
    place = target / TEACHERS[name].repository
    place.mkdir(parents=True)
    (place / TINY_MARKER).touch()
    config, tensors = (
        json.loads((source / "config.json").read_text()),
        load_file(source / "model.safetensors"),
    )
    (place / "config.json").write_text(json.dumps(config))
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    return place, config, tensors


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_that_do_not_fit_are_named(name: str, weights: Path, tmp_path: Path) -> None:
    place, _, tensors = copied(weights, tmp_path, name)
    lost = tensors.pop(PUBLISHED_KEY[name])
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing \(\S+\)"):
        Teacher.load(name, tmp_path)
    save_file(
        {**tensors, PUBLISHED_KEY[name]: lost, "stranger.weight": lost.clone()},
        place / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(UserError, match=r"1 unexpected \(stranger.weight\)"):
        Teacher.load(name, tmp_path)
    save_file(
        {**tensors, PUBLISHED_KEY[name]: lost[:3].clone()},
        place / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(UserError, match=r"1 mismatched"):
        Teacher.load(name, tmp_path)


def test_position_numbers_of_older_files_are_no_fault(weights: Path, tmp_path: Path) -> None:
    place, _, tensors = copied(weights, tmp_path, "clip-vit-large")
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    found, expected = (
        Teacher.load("clip-vit-large", folder).features(pictures(), (2, 3)) for folder in (tmp_path, weights)
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_another_model_in_a_teachers_folder(weights: Path, tmp_path: Path) -> None:
    place, config, _ = copied(weights, tmp_path, "dinov2-base")
    (place / TINY_MARKER).unlink()
    with pytest.raises(UserError, match="is not dinov2-base: width 32 and patch 14 instead of 768 and 14"):
        Teacher.load("dinov2-base", tmp_path)
    (place / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(UserError, match="holds a model of type 'vit', not 'dinov2'"):
        Teacher.load("dinov2-base", tmp_path)
    (place / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: broken JSON"):
        Teacher.load("dinov2-base", tmp_path)


def test_a_damaged_file(weights: Path, tmp_path: Path) -> None:
    place, _, _ = copied(weights, tmp_path, "clip-vit-large")
    (place / "model.safetensors").write_bytes(b"12345")
    with pytest.raises(UserError, match="is damaged or no checkpoint"):
        Teacher.load("clip-vit-large", tmp_path)
