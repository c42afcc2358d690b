"""`refbench convert`: both namings, all layouts, nothing lost, and errors that say what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")

from diffusers import WanTransformer3DModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from kit.golden_networks import original_state, read  # noqa: E402
from refbench.baselines.wan.checkpoint import load_transformer, read_checkpoint, save_checkpoint  # noqa: E402
from refbench.bench.cli.main import app  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.weights.checkpoint import read_state_dict  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402

WEIGHTS = read("refalign/dit_tiny.json")["weights"]
ORIGINAL = original_state(WEIGHTS)
PLAIN = {key: value for key, value in ORIGINAL.items() if "input_mlp" not in key}
CONFIG = '{"num_heads": 4, "eps": 1e-06}'


def convert(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {
        key: value for file in folder.glob("*.safetensors") for key, value in read_state_dict(file).items()
    }


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(CONFIG)
    save_file(ORIGINAL, folder / "stage1.safetensors")
    return folder / "stage1.safetensors"


def test_there_and_back_is_the_same(file: Path, tmp_path: Path) -> None:
    said = convert(file, tmp_path / "diffusers", "--to", "diffusers", "--drop-projectors")
    assert "1 file(s)" in said and "projectors: left out" in said
    folder = tmp_path / "diffusers"
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "WanTransformer3DModel" and config["num_attention_heads"] == 4
    # diffusers itself reads it.
    network = WanTransformer3DModel.from_pretrained(folder)
    assert network.config.attention_head_dim == 24
    same(stored(folder), dict(network.state_dict()))
    convert(folder, tmp_path / "original", "--to", "original")
    same(stored(tmp_path / "original"), PLAIN)
    checkpoint = read_checkpoint(tmp_path / "original")
    again = load_transformer(RefAlignTransformer3DModel, checkpoint)
    assert again.config.num_attention_heads == 4


def test_projectors_are_kept_in_original_naming(file: Path, tmp_path: Path) -> None:
    assert "projectors: kept" in convert(file, tmp_path / "kept", "--to", "original")
    same(stored(tmp_path / "kept"), ORIGINAL)
    convert(file, tmp_path / "dropped", "--to", "original", "--drop-projectors")
    same(stored(tmp_path / "dropped"), PLAIN)


@pytest.mark.parametrize("prefix", ["module.", "dit.", "model.", "model.pipe.dit.", "pipe.dit."])
def test_prefixes_of_trainers(file: Path, tmp_path: Path, prefix: str) -> None:
    save_file({f"{prefix}{key}": value for key, value in ORIGINAL.items()}, file)
    convert(file, tmp_path / "out", "--to", "original")
    same(stored(tmp_path / "out"), ORIGINAL)


def test_shards_and_pickles(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_transformer(RefAlignTransformer3DModel, read_checkpoint(file))
    monkeypatch.setattr("refbench.baselines.wan.checkpoint.MAX_SHARD", "200KB")
    sharded = tmp_path / "sharded"
    files = save_checkpoint(network.state_dict(), sharded, naming="original", config=dict(network.config))
    assert len(files) > 2
    convert(sharded, tmp_path / "shards-out", "--to", "original")
    assert (tmp_path / "shards-out" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    same(stored(tmp_path / "shards-out"), PLAIN)
    torch.save({"state_dict": PLAIN}, file.with_name("model.pth"))
    convert(file.with_name("model.pth"), tmp_path / "pth-out", "--to", "original")
    same(stored(tmp_path / "pth-out"), PLAIN)


def test_half_precision_keeps_its_islands(file: Path, tmp_path: Path) -> None:
    convert(file, tmp_path / "half", "--to", "diffusers", "--drop-projectors", "--dtype", "bfloat16")
    found = stored(tmp_path / "half")
    assert found["blocks.0.attn1.to_q.weight"].dtype == torch.bfloat16
    assert found["blocks.0.scale_shift_table"].dtype == torch.float32
    assert found["condition_embedder.time_embedder.linear_1.weight"].dtype == torch.float32


def lacks(file: Path) -> None:
    save_file({key: value for key, value in PLAIN.items() if key != "blocks.2.ffn.0.weight"}, file)


def foreign(file: Path) -> None:
    save_file({**PLAIN, "blocks.0.adaln.weight": torch.zeros(2)}, file)


def misshapen(file: Path) -> None:
    save_file({**PLAIN, "blocks.1.self_attn.q.weight": torch.zeros(96, 95)}, file)


def prefixed(file: Path) -> None:
    save_file({f"net.{key}": value for key, value in PLAIN.items()}, file)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lacks, r"1 missing \(blocks\.2\.ffn\.net\.0\.proj\.weight\)"),
        (foreign, r"1 unexpected \(blocks\.0\.adaln\.weight\)"),
        (misshapen, r"of a wrong shape \(blocks\.1\.attn1\.to_q\.weight \(96, 95\) instead of \(96, 96\)\)"),
        (prefixed, r"the keys' prefix 'net\.' is unknown"),
        (lambda file: file.write_bytes(b"no"), r"is damaged or no checkpoint"),
        (lambda file: save_file({"a": torch.zeros(1)}, file), r"is no Wan transformer"),
        (lambda file: file.unlink(), r"does not exist"),
    ],
)
def test_what_does_not_fit_is_named(
    file: Path, tmp_path: Path, spoil: Callable[[Path], Any], text: str
) -> None:
    spoil(file)
    with pytest.raises(UserError, match=text):
        convert(file, tmp_path / "out", "--to", "diffusers")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_converted_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"holds 6 projector tensors, .* add --drop-projectors"):
        convert(file, tmp_path / "out", "--to", "diffusers")
    with pytest.raises(UserError, match=r"unknown naming 'diffuser'; did you mean diffusers"):
        convert(file, tmp_path / "out", "--to", "diffuser")
    with pytest.raises(UserError, match=r"unknown dtype 'bf16'"):
        convert(file, tmp_path / "out", "--to", "original", "--dtype", "bf16")
    with pytest.raises(UserError, match=r"exists already; name a new folder"):
        convert(file, file.parent, "--to", "original")

    def full(*arguments: Any, **settings: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match=r"could not be written: No space left on device$"):
        convert(file, tmp_path / "out", "--to", "original")
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["train", "tiny", "--data", "x"],
        ["prepare", "tiny", "--data", "x"],
        ["convert", "a", "b", "--to", "original"],
    ],
)
def test_without_the_packages_it_is_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On an installation of the core alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "refbench.bench.environment.find_spec", lambda name: None if name == "torch" else name
    )
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UserError)
    assert str(done.exception).endswith("needs torch; pip install 'refalign-bench[refalign]'")
