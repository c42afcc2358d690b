"""Model folders of the Hugging Face hub: what is in them is checked before memory is taken for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="model folders need torch")
transformers = pytest.importorskip("transformers", reason="model folders need transformers")

from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.weights.hf_folder import load_model, weight_files  # noqa: E402

SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """DINOv2 with a width of eight."""
    config = transformers.Dinov2Config(**SIZES)
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def change(**entries: object) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | entries))

    return changed


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
    )


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "preprocessor_config.json")


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def test_a_folder_is_loaded_by_its_class_and_by_an_automatic_one(folder: Path) -> None:
    for model_class in (transformers.Dinov2Model, transformers.AutoModel):
        model = load_model(model_class, folder, dtype=torch.float32)
        assert model.config.hidden_size == 8 and not model.training
    (folder / "._model.safetensors").write_bytes(b"\0\5\x16\7")
    assert weight_files(folder) == [folder / "model.safetensors"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            change(hidden_size=65536),
            r"does not fit its weights: its configuration asks for [\d,]{14,} parameters",
        ),
        (change(num_hidden_layers=10**9), r"does not fit its weights: num_hidden_layers is 1,000,000,000"),
        (change(mlp_ratio=10**9), r"does not fit its weights"),
        (pointer, r"it is a Git LFS pointer, not the file"),
        (pipe, r"preprocessor_config\.json is a named pipe, not a file"),
        (cut, r"it is truncated, [\d,]+ of [\d,]+ bytes are there"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(folder)

    def never(*arguments: object, **settings: object) -> None:
        raise AssertionError("the library was asked to load it")

    monkeypatch.setattr(transformers.Dinov2Model, "from_pretrained", never)
    with pytest.raises(UserError, match=said):
        load_model(transformers.Dinov2Model, folder, dtype=torch.float32)


def test_a_diffusers_folder_is_held_against_its_weights_too(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    sizes = {"block_out_channels": (8,), "norm_num_groups": 2, "latent_channels": 2}
    diffusers.AutoencoderKL(**sizes).save_pretrained(tmp_path)
    assert load_model(diffusers.AutoencoderKL, tmp_path, dtype=torch.float32).config.latent_channels == 2
    change(block_out_channels=(8 * 4096,))(tmp_path)
    with pytest.raises(UserError, match="does not fit its weights"):
        load_model(diffusers.AutoencoderKL, tmp_path, dtype=torch.float32)
