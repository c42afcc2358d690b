"""Checkpoints: what a file is, whether it is whole and what it would take is known before it is read."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints need torch")
pytest.importorskip("safetensors", reason="checkpoints need safetensors")

from safetensors.torch import save_file  # noqa: E402

from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.weights.checkpoint import (  # noqa: E402
    TensorHeader,
    check_module_memory,
    files_of_one_network,
    read_header,
    read_metadata,
    read_state_dict,
    unwrapped_names,
    write_tensors,
)

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2, dtype=torch.bfloat16)}
HEADERS = {
    "a.weight": TensorHeader(dtype="F32", shape=(2, 3), bytes=24),
    "a.bias": TensorHeader(dtype="BF16", shape=(2,), bytes=4),
}


def old_format(tensors: Any, path: Path) -> None:
    """As PyTorch wrote before 1.6."""
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "safetensors": save_file,
    "archive": torch.save,
    "pickle": old_format,
}


def refusal(path: Path) -> str:
    """What both readers say."""
    said = []
    for read in (read_header, read_state_dict):
        with pytest.raises(UserError) as caught:
            read(path)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    return said[0]


def safetensors_file(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("suffix", [".safetensors", ".sft", ".pth", ".bin"])
def test_a_file_is_read_by_what_it_is_not_by_its_suffix(tmp_path: Path, form: str, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    WRITERS[form](TENSORS, path)
    assert read_header(path) == HEADERS
    found = read_state_dict(path)
    assert found.keys() == TENSORS.keys()
    assert all(
        torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in TENSORS.items()
    )


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 28577\n"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (LFS_POINTER, "it is a Git LFS pointer, not the file; run git lfs pull, or download it"),
        (b"GGUF\x03\0\0\0{\0\0\0\0\0\0\0" + bytes(64), "it is a GGUF file, which is not read"),
        (b"\n <!DOCTYPE html><html>Log in</html>", "it is a web page in place of the file"),
        (b"\x1f\x8b\x08" + bytes(20), "it is compressed with gzip; unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "it is an HDF5 file (Keras)"),
        (b"", "it is empty"),
        (b"\0\1\2\3", "it begins like neither safetensors nor PyTorch's files"),
        (b"\x80\x02K\x01.", "Invalid magic number"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_a_file_is_instead_is_said(tmp_path: Path, suffix: str, content: bytes, cause: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    said = refusal(path)
    assert said.startswith(f"{path} is damaged or no checkpoint: ")
    assert cause in said


@pytest.mark.timeout(60)
def test_a_folder_a_pipe_and_nothing_are_no_checkpoints(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"the checkpoint {tmp_path} is a folder; name the file in it"
    os.mkfifo(tmp_path / "pipe.pth")
    assert refusal(tmp_path / "pipe.pth") == f"{tmp_path / 'pipe.pth'} is a named pipe, not a file"
    assert refusal(tmp_path / "none.pth") == f"the checkpoint {tmp_path / 'none.pth'} does not exist"
    with (tmp_path / "sparse.pth").open("wb") as file:
        file.truncate(200 * 2**30)
    assert "is larger than 128 GiB" in refusal(tmp_path / "sparse.pth")


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.97])
def test_a_truncated_download_is_called_so(tmp_path: Path, form: str, part: float) -> None:
    path = tmp_path / "model.bin"
    WRITERS[form]({f"block.{number}": torch.ones(64) for number in range(20)}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    said = refusal(path)
    assert "truncated" in said or "corrupted" in said, said
    if form == "safetensors":
        assert f"{path.stat().st_size:,} of " in said


def test_safetensors_headers_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    # A terabyte in a hundred bytes: of the whole file nothing but its end is missing.
    said = refusal(safetensors_file(path, {"w": entry("F32", [2**38], 0, 2**40)}))
    assert "it is truncated" in said and "of 1,099,511," in said
    assert "a tensor of F32 [4096] has 4 bytes" in refusal(
        safetensors_file(path, {"w": entry("F32", [4096], 0, 4)}, b"0123")
    )
    assert "negative sizes" in refusal(safetensors_file(path, {"w": entry("F32", [-1], 0, -4)}))
    assert "3 bytes that its header does not declare" in refusal(
        safetensors_file(path, {"w": entry("U8", [4], 0, 4)}, b"0123456")
    )
    assert "its header is said to have 9,223,372,036,854,775,808 bytes" in refusal(
        safetensors_file(path, {}, length=2**63)
    )
    for broken in (b"{", b'{"w": 3}', b'{"w": {"dtype": "F32"}}', b'{"w": [[[['):
        assert "its header is not to be read" in refusal(safetensors_file(path, broken))
    # Two tensors of the same bytes add up to more than the file.
    shared = {f"w{number}": entry("U8", [10**6], 0, 10**6) for number in range(2000)}
    assert "would take 2.0 GB" in refusal(safetensors_file(path, shared, bytes(10**6)))


def zip_bomb(path: Path) -> None:
    """An archive as PyTorch writes it, with data that its table of contents gives 3 GB when unpacked."""
    torch.save(TENSORS, path)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.writestr(f"{path.stem}/data/2", bytes(10**6))
        archive.infolist()[-1].file_size = 3 * 10**9


def expanded(path: Path) -> None:
    """One number that says to be 10^12."""
    torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, path)


def byte_array(path: Path) -> None:
    """A pickle that asks for 10^12 bytes by a function that `weights_only` allows."""

    class Asks:
        def __reduce__(self) -> Any:
            return (bytearray, (10**12,))

    torch.save({"w": torch.zeros(1), "x": Asks()}, path)


def old_byte_array(path: Path) -> None:
    class Asks:
        def __reduce__(self) -> Any:
            return (bytearray, (10**12,))

    old_format({"w": torch.zeros(1), "x": Asks()}, path)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (zip_bomb, "would take 3.0 GB"),
        (expanded, "would take 4000.0 GB"),
        (byte_array, "holds more than tensors (bytearray)"),
        (old_byte_array, "holds more than tensors (bytearray)"),
    ],
)
def test_what_would_take_more_memory_than_the_file_is_refused_from_the_header(
    tmp_path: Path, write: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "model.pth"
    write(path)
    assert path.stat().st_size < 20 * 10**6
    assert said in refusal(path)


def test_archives_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.safetensors", b"x")
    assert "it is a zip archive of something else; unpack it" in refusal(path)
    # The reader of torch and that of Python might see two different ones of two entries of one name.
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            archive.writestr("model/data.pkl", pickle.dumps({}, protocol=2))
    assert "it is a zip archive of something else" in refusal(path)


def test_a_pickle_of_too_many_steps_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refbench.bench.weights.checkpoint.MOST_PICKLE_STEPS", 1000)
    content = io.BytesIO()
    torch.save({str(number): number for number in range(1000)}, content)
    (tmp_path / "model.pth").write_bytes(content.getvalue())
    assert "its list of tensors has more than 1,000 entries" in refusal(tmp_path / "model.pth")


def test_code_in_a_pickle_is_named(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"w": Evil()}, tmp_path / "model.pth")
    said = refusal(tmp_path / "model.pth")
    assert "holds more than tensors, which is not loaded (posix.mkdir); convert it to safetensors" in said
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("form", ["safetensors", "archive", "pickle"])
@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"a.weight": torch.zeros(2, 2, dtype=torch.int8)}, "integers: a.weight"),
        ({"a.qweight": torch.zeros(2, 2, dtype=torch.int32)}, "integers: a.qweight"),
        ({"a.weight": torch.zeros(2, 2, dtype=torch.uint8), "a.weight.absmax": torch.zeros(1)}, "integers"),
        (
            {"a.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn), "a.scale_weight": torch.ones(1)},
            "scaled fp8: a.scale_weight",
        ),
        (
            {"a.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn), "scaled_fp8": torch.ones(2)},
            "scaled fp8: scaled_fp8",
        ),
    ],
)
def test_quantised_weights_are_named(
    tmp_path: Path, form: str, tensors: dict[str, torch.Tensor], named: str
) -> None:
    path = tmp_path / "model.bin"
    if form == "pickle" and any(value.dtype == torch.float8_e4m3fn for value in tensors.values()):
        pytest.skip("the format is older than fp8")
    WRITERS[form](tensors, path)
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    assert f"holds quantised weights ({named}" in str(caught.value)
    assert str(caught.value).endswith("take the file in bfloat16, float16 or float32")


def test_counters_and_plain_fp8_are_read(tmp_path: Path) -> None:
    tensors = {
        "norm.num_batches_tracked": torch.zeros((), dtype=torch.int64),
        "position_ids": torch.arange(3),
        "mask": torch.ones(2, dtype=torch.bool),
        "a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert read_state_dict(tmp_path / "model.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module", "generator", "model_state_dict", "ema"])
def test_the_mapping_that_holds_the_tensors_is_opened(tmp_path: Path, wrapper: str) -> None:
    torch.save({"epoch": 3, "optimizer": {"state": {0: {}}}, wrapper: TENSORS}, tmp_path / "model.pth")
    assert read_state_dict(tmp_path / "model.pth").keys() == TENSORS.keys()


def test_wrappers_that_leave_a_choice_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"net": TENSORS, "ema": TENSORS, "epoch": 3}, path)
    assert refusal(path).endswith(
        "holds several networks under the keys net, ema; save the tensors of one network alone"
    )
    torch.save({"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}, path)
    assert "holds no network under the keys state, param_groups" in refusal(path)
    torch.save([torch.zeros(2)], path)
    assert "holds a list, not a mapping of tensors" in refusal(path)


@pytest.mark.parametrize(
    "stored",
    [
        "_orig_mod.blocks.0.q.weight",
        "_fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.q.weight",
        "ema.blocks.0.q.weight",
        "module._orig_mod.blocks.0._checkpoint_wrapped_module.q.weight",
        "ema.module.blocks.0.q.weight",
        "blocks.0.q.weight",
    ],
)
def test_known_prefixes_are_understood(tmp_path: Path, stored: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({stored: torch.ones(2)}, path)
    assert list(read_state_dict(path)) == [stored]
    assert list(read_state_dict(path, plain_names=True)) == ["blocks.0.q.weight"]


def test_prefixes_are_left_where_they_say_which_network(tmp_path: Path) -> None:
    keys = ["ema.q", "model.q", "my_orig_mod.q", "not_ema.q"]
    assert unwrapped_names(keys, "a file") == {key: key for key in keys}
    assert unwrapped_names([], "a file") == {}
    with pytest.raises(UserError, match=r"a file holds two networks: q and _orig_mod\.q"):
        unwrapped_names(["q", "_orig_mod.q"], "a file")


ANCHOR = "patch_embedding.weight"
NETWORK = {"patch_embedding.weight": torch.ones(2), "head.weight": torch.ones(2)}


def network_folder(folder: Path, *names: str, tensors: dict[str, torch.Tensor] = NETWORK) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (torch.save if Path(name).suffix in (".pth", ".pt", ".bin") else save_file)(tensors, folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("step-10000.safetensors", "step-9000.safetensors"),
        ("ema.safetensors", "model.safetensors"),
        ("model.fp16.safetensors", "model.safetensors"),
        ("model.pth", "model.safetensors"),
        ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.pt"),
    ],
)
def test_several_networks_in_a_folder_are_refused_with_the_list(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    folder = network_folder(tmp_path / "run", *names)
    for anchor in (None, ANCHOR):
        with pytest.raises(UserError) as caught:
            files_of_one_network(folder, anchor=anchor)
        listed = ", ".join(names) if len(names) == 2 else "model-*-of-00002.safetensors, model.pt"
        assert str(caught.value) == (
            f"{folder} holds several networks: {listed}; name the file itself, or leave one there"
        )


def test_what_an_index_names_is_taken(tmp_path: Path) -> None:
    folder = network_folder(tmp_path / "run", "b.safetensors", "a.safetensors", "ema.safetensors")
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    # What a Mac leaves beside each file.
    (folder / "._model.safetensors.index.json").write_bytes(b"\0\5\x16\7")
    assert files_of_one_network(folder) == [folder / "a.safetensors", folder / "b.safetensors"]
    (folder / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks b\.safetensors, which model\.safetensors\.index\.json names"):
        files_of_one_network(folder)
    (folder / "model.fp16.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"several networks: model\.fp16\.safetensors\.index\.json, model\."):
        files_of_one_network(folder)


def test_one_network_beside_other_files(tmp_path: Path) -> None:
    training = network_folder(tmp_path / "training", "model.safetensors", "optimizer.bin", "scheduler.bin")
    (training / "._model.safetensors").write_bytes(b"\0\5\x16\7")
    (training / "random_states_0.pkl").write_bytes(b"\x80")
    assert files_of_one_network(training) == [training / "model.safetensors"]
    # As Wan's own repositories are: the VAE and the text encoder beside the transformer.
    wan = network_folder(tmp_path / "wan", "diffusion_pytorch_model.safetensors")
    network_folder(wan, "Wan2.1_VAE.pth", "models_t5.pth", tensors={"encoder.weight": torch.ones(2)})
    assert files_of_one_network(wan, anchor=ANCHOR) == [wan / "diffusion_pytorch_model.safetensors"]
    with pytest.raises(UserError, match="several networks"):
        files_of_one_network(wan)
    shards = network_folder(
        tmp_path / "shards", *(f"Phantom_Wan_14B-0000{number}-of-00003.safetensors" for number in (3, 1, 2))
    )
    assert files_of_one_network(shards) == sorted(shards.iterdir())
    (shards / "Phantom_Wan_14B-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="holds 2 of 3 shards of Phantom_Wan_14B"):
        files_of_one_network(shards)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no \.safetensors, \.sft, \.pth, \.pt, \.bin or \.ckpt file"):
        files_of_one_network(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        files_of_one_network(tmp_path / "nowhere")


def test_a_module_that_its_weights_do_not_bear_out_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"weight": torch.zeros(8, 8), "bias": torch.zeros(8)})
    headers = [read_header(tmp_path / "model.safetensors")]
    with torch.device("meta"):
        check_module_memory(torch.nn.Linear(8, 8), headers, "a folder")
        # 0.9 GB more is within what may be taken.
        check_module_memory(torch.nn.Linear(15000, 15000), headers, "a folder")
        with pytest.raises(
            UserError, match=r"a folder does not fit its weights: .* 4,295,032,832 parameters"
        ):
            check_module_memory(torch.nn.Linear(65536, 65536), headers, "a folder")
        swollen = torch.nn.Linear(8, 8)
        swollen.register_buffer("position_ids", torch.zeros(10**9, dtype=torch.int64), persistent=False)
        with pytest.raises(UserError, match=r"\(8\.0 GB of buffers\)"):
            check_module_memory(swollen, headers, "a folder")


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_have_the_permissions_of_the_mask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "model.safetensors", TENSORS)
        (tmp_path / "text").write_text("")
    finally:
        os.umask(before)
    modes = {(tmp_path / name).stat().st_mode & 0o777 for name in ("model.safetensors", "text")}
    assert modes == {0o666 & ~mask}


def test_notes_of_a_header(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, TENSORS, {"base_model": "x"})
    assert read_metadata(path) == {"format": "pt", "base_model": "x"}
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    assert read_metadata(path) == {}
    torch.save(TENSORS, tmp_path / "model.pth")
    assert read_metadata(tmp_path / "model.pth") == {}
    with pytest.raises(UserError, match="does not exist"):
        read_metadata(tmp_path / "nowhere")
