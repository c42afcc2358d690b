"""Hugging Face model folders: configs, indices, models of transformers and diffusers, wrong files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refbench.bench.errors import UserError
from refbench.bench.weights.hf_folder import (
    indexed_files,
    load_model,
    load_part,
    quiet_transformers,
    read_config,
    weight_digests,
    weight_files,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small DINOv2 as transformers writes it."""
    torch.manual_seed(0)
    transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, image_size=28)).save_pretrained(tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tensors of the folder in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def loaded(folder: Path, **settings: Any) -> Any:
    return load_model(transformers.Dinov2Model, folder, dtype=torch.float32, **settings)


def test_a_model_comes_ready_for_inference(folder: Path) -> None:
    model = loaded(folder)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    half = load_model(transformers.Dinov2Model, folder, dtype=torch.float16)
    assert half.dtype == torch.float16
    assert load_model(transformers.Dinov2Model, folder, dtype="auto").dtype == torch.float32


def test_a_model_of_diffusers_is_read_alike(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    made.save_pretrained(tmp_path)
    model = load_model(diffusers.AutoencoderKL, tmp_path, dtype=torch.float32)
    assert not model.training
    assert all(torch.equal(value, made.state_dict()[key]) for key, value in model.state_dict().items())
    tensors = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    del tensors["quant_conv.bias"]
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"AutoencoderKL: keys 1 missing \(quant_conv\.bias\)"):
        load_model(diffusers.AutoencoderKL, tmp_path, dtype=torch.float32)


def test_keys_that_do_not_fit_are_named(folder: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        del tensors["layernorm.weight"]
        tensors["layernorm.bias"] = torch.zeros(3)
        for number in range(5):
            tensors[f"surprise.{number}"] = torch.zeros(1)

    edit(folder, change)
    with pytest.raises(UserError) as caught:
        loaded(folder)
    text = str(caught.value)
    assert "\n" not in text and f"{folder} does not fit Dinov2Model" in text
    assert "1 missing (layernorm.weight)" in text and "1 mismatched" in text
    assert "5 unexpected (surprise.0, surprise.1, surprise.2 and 2 more)" in text


def test_what_may_be_absent_or_there_is_no_fault(folder: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        del tensors["layernorm.weight"]
        tensors["text_model.norm.weight"] = torch.zeros(1)
        tensors["vision_model.embeddings.position_ids"] = torch.arange(4)

    edit(folder, change)
    with pytest.raises(UserError, match=r"1 missing .* 1 unexpected \(text_model\.norm\.weight\)"):
        loaded(folder)
    assert loaded(folder, may_lack=("layernorm.",), may_hold=("text_model.",)) is not None


@pytest.mark.parametrize("damage", ["truncated", "no weights", "no config", "another config"])
def test_a_damaged_folder_is_one_line(folder: Path, damage: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    else:
        config.write_text("[")
    words = {"truncated": r"is truncated, 100 of", "no weights": "cannot be loaded"}
    with pytest.raises(UserError, match=words.get(damage, r"config\.json")) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


def test_a_part_that_is_not_there_is_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match=r"AutoImageProcessor of .* cannot be read") as caught:
        load_part(transformers.AutoImageProcessor, folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_is_not_made_up(folder: Path) -> None:
    """transformers makes an empty one of a folder without a vocabulary, which reads every text alike."""
    with pytest.raises(UserError, match=r"lacks its tokenizer \(.*vocab\.json"):
        load_part(transformers.CLIPTokenizer, folder)
    with pytest.raises(UserError, match="lacks its tokenizer"):
        load_part(transformers.Qwen2Tokenizer, folder)


def test_code_of_a_repository_is_not_run(folder: Path) -> None:
    """A config may name classes in files beside it."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(transformers.AutoModel, folder, dtype=torch.float32)
    assert not (folder / "ran").exists()


def test_configs_are_objects(folder: Path) -> None:
    assert read_config(folder)["model_type"] == "dinov2"
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="is no JSON object"):
        read_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="does not exist"):
        read_config(folder)


def test_safetensors_come_before_pickled_files(tmp_path: Path) -> None:
    assert weight_files(tmp_path) == []
    (tmp_path / "pytorch_model-2.bin").touch()
    (tmp_path / "pytorch_model-1.bin").touch()
    assert [file.name for file in weight_files(tmp_path)] == ["pytorch_model-1.bin", "pytorch_model-2.bin"]
    (tmp_path / "model.safetensors").touch()
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors"]
    assert list(weight_digests(tmp_path, "net")) == ["net/model.safetensors"]


def test_an_index_names_files_beside_it(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}})
    )
    assert indexed_files(index) == [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for content in ("[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'):
        index.write_text(content)
        with pytest.raises(UserError, match="is no shard index"):
            indexed_files(index)
    for name in ("../1.safetensors", "/1.safetensors", "below/1.safetensors", "..", ""):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match="outside of its folder"):
            indexed_files(index)


def test_transformers_speaks_again_afterwards() -> None:
    from transformers.utils import logging as speech

    before = speech.get_verbosity()
    speech.set_verbosity_info()
    speech.enable_progress_bar()
    try:
        with pytest.raises(ZeroDivisionError), quiet_transformers():
            assert speech.get_verbosity() == logging.ERROR
            assert not speech.is_progress_bar_enabled()
            raise ZeroDivisionError
        assert speech.get_verbosity() == logging.INFO
        assert speech.is_progress_bar_enabled()
    finally:
        speech.set_verbosity(before)
