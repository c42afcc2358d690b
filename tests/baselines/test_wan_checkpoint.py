"""Wan checkpoints on disk: the key map both ways, full-size manifests, prefixes, shards, precise
complaints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from diffusers import WanTransformer3DModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from kit.golden_networks import diffusers_config, original_state, read  # noqa: E402
from refbench.baselines.wan import checkpoint as wan_checkpoint  # noqa: E402
from refbench.baselines.wan.checkpoint import (  # noqa: E402
    checkpoint_files,
    diffusers_key,
    load_transformer,
    original_key,
    read_checkpoint,
    save_checkpoint,
)
from refbench.baselines.wan.loading import network_files  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402

TINY = read("refalign/dit_tiny.json")
HEADS = {"num_heads": 4}


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return original_state(TINY["weights"])


@pytest.fixture
def file(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", ["refalign_1.3b", "refalign_14b"])
def test_full_size_manifests(name: str) -> None:
    """Every key and shape of the released networks, on the meta device."""
    manifest = read(f"refalign/manifests/{name}.json")
    config = manifest["config"]
    with torch.device("meta"):
        model = RefAlignTransformer3DModel(**diffusers_config(config))
    wanted = {
        key: shape for key, shape in manifest["shapes"].items() if key not in manifest["projector_keys"]
    }
    found = {original_key(key): list(value.shape) for key, value in model.state_dict().items()}
    assert found == wanted
    assert len(found) == manifest["n_keys_without_projectors"]
    parameters = sum(value.numel() for value in model.parameters())
    assert parameters == manifest["n_parameters_without_projectors"]


def test_the_key_map_is_the_library_s_and_has_an_inverse() -> None:
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    keys = {
        *(key for key in read("refalign/manifests/refalign_14b.json")["shapes"] if "input_mlp" not in key),
        *read("baselines/vace_model.json")["weights"],
        *read("baselines/i2v_model.json")["magref"]["weights"],
    }
    markers = {key: torch.tensor([number]) for number, key in enumerate(sorted(keys))}
    library = {int(value): key for key, value in convert_wan_transformer_to_diffusers(dict(markers)).items()}
    assert {int(value): diffusers_key(key) for key, value in markers.items()} == library
    assert all(original_key(diffusers_key(key)) == key for key in keys)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "dit.",
        "model.",
        "model.pipe.",
        "pipe.dit.",
        "model.diffusion_model.",
        "_orig_mod.",
        "_fsdp_wrapped_module.",
        "ema.",
        "module.ema.",
        "model._fsdp_wrapped_module._orig_mod.",
        "ema.module._orig_mod.",
        "module._orig_mod.dit.",
    ],
)
def test_known_prefixes(tmp_path: Path, state: dict[str, torch.Tensor], prefix: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "model.pth")
    found = read_checkpoint(tmp_path / "model.pth")
    assert sorted(found.projectors) == sorted(key for key in state if "input_mlp" in key)
    model = load_transformer(RefAlignTransformer3DModel, found)
    assert torch.equal(model.blocks[1].attn2.to_out[0].weight, state["blocks.1.cross_attn.o.weight"])


def test_shards_and_half_precision(tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: Any) -> None:
    monkeypatch.setattr(wan_checkpoint, "MAX_SHARD", "200KB")
    tensors = {diffusers_key(key): value for key, value in state.items() if "input_mlp" not in key}
    projectors = {key: value for key, value in state.items() if "input_mlp" in key}
    source = read_checkpoint_of(tmp_path / "plain", state)
    files = save_checkpoint(
        tensors, tmp_path / "original", naming="original", config=source.config, projectors=projectors
    )
    assert len(files) > 2
    again = read_checkpoint(tmp_path / "original", dtype=torch.bfloat16)
    assert again.projectors.keys() == projectors.keys()
    model = load_transformer(RefAlignTransformer3DModel, again)
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert model.scale_shift_table.dtype == model.blocks[0].norm2.weight.dtype == torch.float32
    assert model.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert not any(buffer.is_meta for buffer in model.buffers())
    save_checkpoint(tensors, tmp_path / "diffusers", naming="diffusers", config=source.config)
    theirs = WanTransformer3DModel.from_pretrained(tmp_path / "diffusers")
    assert all(torch.equal(theirs.state_dict()[key], value) for key, value in tensors.items())
    with pytest.raises(UserError, match="no place for projectors"):
        save_checkpoint(
            tensors, tmp_path / "x", naming="diffusers", config=source.config, projectors=projectors
        )


def read_checkpoint_of(folder: Path, state: dict[str, torch.Tensor]) -> Any:
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(HEADS))
    return read_checkpoint(folder)


def test_a_full_disk_leaves_nothing_half_done(
    tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: Any
) -> None:
    source = read_checkpoint_of(tmp_path / "plain", state)
    tensors = dict(source.tensors)
    monkeypatch.setattr(wan_checkpoint, "MAX_SHARD", "200KB")
    save_checkpoint(tensors, tmp_path / "out", naming="original", config=source.config)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    written = []

    def full(*arguments: Any, **settings: Any) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(arguments[1])
        save_file(*arguments, **settings)

    monkeypatch.setattr("safetensors.torch.save_file", full)
    changed = {key: value + 1 for key, value in tensors.items()}
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(changed, tmp_path / "out", naming="original", config=source.config)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_complaints_name_keys(file: Path, state: dict[str, torch.Tensor]) -> None:
    def complaint(changed: dict[str, torch.Tensor]) -> str:
        save_file(changed, file)
        with pytest.raises(UserError) as caught:
            load_transformer(RefAlignTransformer3DModel, read_checkpoint(file))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    missing = dict(state)
    del missing["blocks.2.ffn.2.bias"]
    assert "1 missing (blocks.2.ffn.net.2.bias)" in complaint(missing)
    assert "1 unexpected (blocks.0.surprise)" in complaint(state | {"blocks.0.surprise": torch.zeros(2)})
    wrong = complaint(state | {"blocks.3.modulation": torch.zeros(1, 5, 96)})
    assert "blocks.3.scale_shift_table (1, 5, 96) instead of (1, 6, 96)" in wrong
    strange = {f"what.{key}": value for key, value in state.items()}
    assert "prefix 'what.' is unknown" in complaint(strange)
    assert "is no Wan transformer" in complaint({"weight": torch.zeros(2)})


def test_a_checkpoint_of_another_method(file: Path) -> None:
    with pytest.raises(UserError, match="another method: its in_channels is 16, not 36"):
        load_transformer(WanTransformer3DModel, read_checkpoint(file), expected={"in_channels": 36})


def test_damaged_and_absent_files(tmp_path: Path, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged or no checkpoint"):
        read_checkpoint(file)
    with pytest.raises(UserError, match="does not exist"):
        checkpoint_files(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.safetensors"):
        checkpoint_files(tmp_path / "empty")
    index = tmp_path / "empty/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "shard-1.safetensors"}}))
    with pytest.raises(UserError, match=r"lacks shard-1\.safetensors"):
        checkpoint_files(tmp_path / "empty")
    index.write_text(json.dumps({"weight_map": {"a": "../file.safetensors"}}))
    with pytest.raises(UserError, match="outside of its folder"):
        checkpoint_files(tmp_path / "empty")
    index.write_text("[]")
    with pytest.raises(UserError, match="is no shard index"):
        checkpoint_files(tmp_path / "empty")


def test_heads_that_shapes_cannot_say(file: Path) -> None:
    (file.parent / "config.json").unlink()
    with pytest.raises(UserError, match=r"put its config\.json beside it"):
        read_checkpoint(file)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"patch_embedding.weight": torch.zeros(2, 2, 1, 2, 2), "x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="holds more than tensors"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


def test_prefixes_inside_of_names_and_half_precision(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """FSDP and activation checkpointing wrap single blocks; what stays in float32 is known by its plain
    name.
    """
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    wrapped = {
        key.replace("blocks.1.", "blocks.1._fsdp_wrapped_module._checkpoint_wrapped_module."): value
        for key, value in state.items()
    }
    save_file({f"_orig_mod.{key}": value for key, value in wrapped.items()}, tmp_path / "model.safetensors")
    found = read_checkpoint(tmp_path, dtype=torch.bfloat16)
    model = load_transformer(RefAlignTransformer3DModel, found)
    assert model.blocks[1].attn1.to_q.weight.dtype == torch.bfloat16
    assert model.blocks[1].scale_shift_table.dtype == torch.float32
    assert torch.equal(model.blocks[1].scale_shift_table, state["blocks.1.modulation"])


def test_two_networks_in_one_file_are_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    both = {f"{prefix}{key}": value for prefix in ("ema.", "model.") for key, value in state.items()}
    save_file({key: value.clone() for key, value in both.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"holds 2 networks, under the prefixes 'ema\.', 'model\.'"):
        read_checkpoint(tmp_path / "model.safetensors")
    torch.save({"model": state, "ema": state, "step": 3}, tmp_path / "run.pth")
    with pytest.raises(UserError, match="several networks under the keys model, ema"):
        read_checkpoint(tmp_path / "run.pth")


def test_the_one_network_under_a_key_is_read_and_said(
    tmp_path: Path, state: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    torch.save({"generator_ema": state, "step": 3}, tmp_path / "model.pt")
    load_transformer(RefAlignTransformer3DModel, read_checkpoint(tmp_path / "model.pt"))
    assert "model.pt: the network under the key generator_ema is read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names",
    [
        ("step-10000.safetensors", "step-9000.safetensors"),
        ("ema.safetensors", "model.safetensors"),
        ("model.fp16.safetensors", "model.safetensors"),
        ("model.pth", "model.safetensors"),
    ],
)
def test_several_networks_in_a_folder_are_refused(
    tmp_path: Path, state: dict[str, torch.Tensor], names: tuple[str, ...]
) -> None:
    for name in names:
        (torch.save if name.endswith(".pth") else save_file)(state, tmp_path / name)
    with pytest.raises(UserError) as caught:
        read_checkpoint(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds several networks: {', '.join(names)}; name the file itself, or leave one there"
    )
    with pytest.raises(UserError, match="several networks"):
        network_files(tmp_path, ("*.[ps]*",))
    # By its own name each of them is read.
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    assert read_checkpoint(tmp_path / names[0]).tensors


def test_one_network_beside_training_state_and_an_index(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    save_file(state, tmp_path / "b.safetensors")
    save_file({"exp_avg": torch.ones(2)}, tmp_path / "optimizer.safetensors")
    (tmp_path / "._b.safetensors").write_bytes(b"\0")
    assert checkpoint_files(tmp_path) == [tmp_path / "b.safetensors"]
    save_file({key: value + 1 for key, value in state.items()}, tmp_path / "a.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(state, "b.safetensors")})
    )
    assert network_files(tmp_path, ("*.safetensors",)) == [tmp_path / "b.safetensors"]
    key = "patch_embedding.weight"
    assert torch.equal(read_checkpoint(tmp_path).tensors[key], state[key])


@pytest.mark.parametrize("pattern", ["part{}.safetensors", "model-{:05d}-of-00002.safetensors"])
def test_parts_without_an_index_are_one_network(
    tmp_path: Path, state: dict[str, torch.Tensor], pattern: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    keys = sorted(state)
    files = [tmp_path / pattern.format(number) for number in (1, 2)]
    for file, part in zip(files, (keys[:30], keys[30:]), strict=True):
        save_file({key: state[key] for key in part}, file)
    assert checkpoint_files(tmp_path) == network_files(tmp_path, ("*.safetensors",)) == files
    load_transformer(RefAlignTransformer3DModel, read_checkpoint(tmp_path))
    save_file({key: state[key] for key in keys[29:]}, files[1])
    with pytest.raises(UserError, match=r"holds two networks|is no whole Wan transformer"):
        read_checkpoint(tmp_path)


def test_the_true_cause_is_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    file = tmp_path / "model.safetensors"

    def complaint() -> str:
        with pytest.raises(UserError) as caught:
            read_checkpoint(tmp_path)
        return str(caught.value)

    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    assert "it is a Git LFS pointer" in complaint()
    file.write_bytes(b"GGUF\3\0\0\0" + bytes(40))
    assert "it is a GGUF file" in complaint()
    key = "blocks.0.ffn.0.weight"
    save_file(state | {key: state[key].to(torch.int8)}, file)
    assert f"quantised weights (integers: {key})" in complaint()
    scaled = {key: state[key].to(torch.float8_e4m3fn), "blocks.0.ffn.0.scale_weight": torch.ones(1)}
    save_file(state | scaled, file)
    assert "quantised weights (scaled fp8: blocks.0.ffn.0.scale_weight)" in complaint()
    file.unlink()
    # Another name for safetensors, and safetensors under PyTorch's name.
    for name in ("model.sft", "model.pth"):
        save_file(state, tmp_path / name)
        assert read_checkpoint(tmp_path).tensors
        (tmp_path / name).unlink()
