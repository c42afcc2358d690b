"""Checkpoints: tensors read safely and written whole, and loading that names every key that does not fit.

Nothing is read before the file's header was: it says what a file is (whatever its suffix), whether it is
whole, and how much memory its tensors take, which may be at most 1 GB more than the file itself.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal

from refbench.bench.console import inform
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import read_json, regular_size, shortlist, visible

if TYPE_CHECKING:
    import torch

NAMED_KEYS = 3
# The largest single file that is known has 57 GB: a transformer of 14 billion parameters in float32.
LARGEST_WEIGHTS_BYTES = 128 * 2**30
# What tensors may take beyond the size of their file.
SPARE_BYTES = 10**9
# Of 1,300 tensors a header has 0.2 MB. A pickle may hold a log of losses beside them.
LARGEST_HEADER_BYTES = 24 * 2**20
LARGEST_PICKLE_BYTES = 256 * 2**20

Form = Literal["safetensors", "archive", "pickle"]
WEIGHT_SUFFIXES = (".safetensors", ".sft", ".pth", ".pt", ".bin", ".ckpt")
INDEX_SUFFIX = ".index.json"
# What trainers write beside a network, by the beginning of its name.
TRAINER_FILES = ("optimizer", "scheduler", "sampler", "scaler", "training_args", "rng_state", "random_states")
SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
WRAPPERS = ("state_dict", "model", "module")
# Parts of a key that torch.compile, FSDP and activation checkpointing put before a wrapped module's names.
WRAPPER_PARTS = re.compile(
    r"(?:(?<=^)|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# What an exponential moving average and DDP put before all names.
LEADING_PARTS = ("ema.", "ema_model.", "module.")
PICKLED_NAME = re.compile(r"GLOBAL (\S+)")

# How formats begin. What is not one of ours is said; a web page may begin with spaces.
SAFETENSORS_START = re.compile(rb".{8}\{", re.DOTALL)
ARCHIVE_START = b"PK\x03\x04"
PICKLE_START = b"\x80"
FOREIGN_STARTS = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file; run git lfs pull, or download it",
    b"GGUF": "it is a GGUF file, which is not read; take the safetensors or PyTorch file",
    b"\x89HDF": "it is an HDF5 file (Keras), which is not read; take the safetensors or PyTorch file",
    b"\x1f\x8b": "it is compressed with gzip; unpack it",
}
WEB_PAGE = "it is a web page in place of the file; download it again (a licence or login may be asked for)"
# Steps of a pickle: 1,300 tensors take 50,000; each takes at most 220 bytes.
MOST_PICKLE_STEPS = 4_000_000
# PyTorch's format before 1.6: magic number, version, system, content, names of the data that follow.
PICKLES_OF_A_FILE = 5
# Bytes of an element, of safetensors' dtypes that have whole bytes.
ELEMENT_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
DTYPE_WORDS = {"bfloat": "BF", "float8_": "F8_", "float": "F", "complex": "C", "uint": "U", "int": "I"}
# Beside weights in fp8: without these factors the weights mean nothing.
FP8_SCALES = ("scaled_fp8", "scale_weight", "weight_scale", "weight_scale_inv")
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32")


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A tensor as a file describes it: dtype as safetensors spells it (`F32`, `BF16`), shape and bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def read_header(path: Path) -> dict[str, TensorHeader]:
    """What a checkpoint holds, by key, without reading its tensors (of PyTorch's format before 1.6: with it).

    Raises UserError that says what is wrong: no file, not a checkpoint and what it is instead, a truncated
    one, one that takes more memory than its size allows, one that holds more than tensors.
    """
    form, size_bytes = _form_and_size(path)
    if form == "safetensors":
        return _safetensors_header(path, size_bytes)
    _check_pickle(path, form, size_bytes)
    header = _headers_of(_tensors_in(_load_pickled(path, "meta"), path))
    _check_memory(header, path, size_bytes)
    return header


def read_state_dict(path: Path, *, plain_names: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, or of a PyTorch file read with `weights_only=True`, on the CPU.

    The format is found from the content. A wrapping `state_dict`, `model` or `module` entry is opened, or the
    one entry that holds tensors, which is said. With `plain_names` the prefixes of wrappers are left out of
    the keys (see `unwrapped_names`). Raises UserError as `read_header` does, and for quantised weights.
    """
    tensors = dict(read_tensors(path))
    if not plain_names:
        return tensors
    names = unwrapped_names(tensors, path)
    return {names[key]: value for key, value in tensors.items()}


def read_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """As `read_state_dict`, one tensor at a time: of a safetensors file no more is in memory than the caller
    keeps.
    """
    form, size_bytes = _form_and_size(path)
    if form != "safetensors":
        yield from _pickled_tensors(path, form, size_bytes).items()
        return
    from safetensors import safe_open

    header = _safetensors_header(path, size_bytes)
    _refuse_quantised(header, path)
    try:
        with safe_open(path, framework="pt") as file:
            for key in header:
                yield key, file.get_tensor(key)
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
        raise _damaged(path, one_line(error, 160)) from None


def read_metadata(path: Path) -> dict[str, str]:
    """The notes in a safetensors file's header; of other files none. Raises UserError as `read_header`."""
    form, size_bytes = _form_and_size(path)
    if form != "safetensors":
        return {}
    _safetensors_header(path, size_bytes)
    with path.open("rb") as file:
        notes = json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__")
    return {str(name): str(value) for name, value in notes.items()} if isinstance(notes, dict) else {}


def _pickled_tensors(path: Path, form: Form, size_bytes: int) -> dict[str, torch.Tensor]:
    if form == "archive":
        _refuse_quantised(read_header(path), path)
        return _tensors_in(_load_pickled(path, "cpu"), path, say=inform)
    # Its header cannot be read without its data.
    _check_pickle(path, form, size_bytes)
    tensors = _tensors_in(_load_pickled(path, "cpu"), path, say=inform)
    header = _headers_of(tensors)
    _refuse_quantised(header, path)
    _check_memory(header, path, size_bytes)
    return tensors


def unwrapped_names(keys: Iterable[str], source: object) -> dict[str, str]:
    """Key → the key without what wrappers and averages put into it.

    `_orig_mod.` (torch.compile), `_fsdp_wrapped_module.` and `_checkpoint_wrapped_module.` are left out
    wherever they stand, `ema.`, `ema_model.` and `module.` where all keys begin with them. Raises UserError
    where two keys would become one.
    """
    stored = list(keys)
    names = {key: WRAPPER_PARTS.sub("", key) for key in stored}
    for leading in LEADING_PARTS:
        if names and all(name.startswith(leading) for name in names.values()):
            names = {key: name.removeprefix(leading) for key, name in names.items()}
    by_name: dict[str, str] = {}
    for key, name in names.items():
        other = by_name.setdefault(name, key)
        if other != key:
            raise UserError(f"{source} holds two networks: {one_line(other, 80)} and {one_line(key, 80)}")
    return names


def files_of_one_network(
    folder: Path, *, anchor: str | None = None, among: Iterable[Path] | None = None
) -> list[Path]:
    """The files of the one network that a folder holds, in name order.

    What an index (`*.index.json`) names, else one file, or all shards: `NAME-00001-of-00006.SUFFIX`, or files
    whose names differ in a number alone and that have no key in common. Hidden files and those of optimisers
    and other training state are passed over. `anchor` is the end of a key that only the wanted network has:
    of several candidates those without it are passed over. With `among` only these files of the folder count,
    and an index that names some of them. Raises UserError for no file, for a shard that is not there, and
    with the list where several networks remain: which is meant nobody can say.
    """
    if not folder.is_dir():
        raise UserError(f"the checkpoint folder {folder} does not exist")
    indexes = visible(folder, f"*{INDEX_SUFFIX}")
    if among is not None:
        among = set(among)
        indexes = [index for index in indexes if not among.isdisjoint(indexed_files(index))]
    if len(indexes) > 1:
        raise _several(folder, [path.name for path in indexes])
    if indexes:
        files = indexed_files(indexes[0])
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise UserError(f"{folder} lacks {shortlist(absent, NAMED_KEYS)}, which {indexes[0].name} names")
        return files
    networks: dict[str, list[Path]] = {}
    for path in visible(folder) if among is None else sorted(among):
        if path.suffix in WEIGHT_SUFFIXES and not path.name.startswith(TRAINER_FILES):
            shard = SHARD_NAME.fullmatch(path.name)
            name = f"{shard['stem']}-*-of-{shard['count']}{shard['suffix']}" if shard else path.name
            networks.setdefault(name, []).append(path)
    if not networks:
        raise UserError(f"{folder} holds no {', '.join(WEIGHT_SUFFIXES[:-1])} or {WEIGHT_SUFFIXES[-1]} file")
    if len(networks) > 1:
        networks = _numbered_parts_joined(networks)
    if len(networks) > 1 and anchor is not None:
        with_anchor = {
            name: files
            for name, files in networks.items()
            if any(key.endswith(anchor) for file in files for key in read_header(file))
        }
        networks = with_anchor or networks
    if len(networks) > 1:
        raise _several(folder, networks)
    (files,) = networks.values()
    shard = SHARD_NAME.fullmatch(files[0].name)
    if shard and len(files) != int(shard["count"]):
        raise UserError(f"{folder} holds {len(files)} of {int(shard['count'])} shards of {shard['stem']}")
    return files


def _numbered_parts_joined(networks: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """The candidates, those joined that are parts of one: their names differ in a number alone, and no key is
    in two of them.
    """
    groups: dict[str, list[str]] = {}
    for name in networks:
        groups.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    joined: dict[str, list[Path]] = {}
    for pattern, names in groups.items():
        files = [file for name in names for file in networks[name]]
        keys = [key for file in files for key in read_header(file)] if len(names) > 1 else []
        if keys and len(keys) == len(set(keys)):
            joined[pattern] = files
        else:
            joined |= {name: networks[name] for name in names}
    return joined


def _several(folder: Path, names: Iterable[str]) -> UserError:
    return UserError(
        f"{folder} holds several networks: {shortlist(names, 8)}; name the file itself, or leave one there"
    )


def indexed_files(index: Path) -> list[Path]:
    """The weight files that an index (`*.index.json`) names, in name order; they need not be there.

    Raises UserError for a file that is no index and for one that names files outside of its folder.
    """
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} is no shard index: it has no weight_map")
    files = sorted({str(name) for name in names.values()})
    for name in files:
        if name in ("", "..") or Path(name).name != name:
            raise UserError(f"{index} names {one_line(name, 80)!r}, which lies outside of its folder")
    return [index.parent / name for name in files]


def check_module_memory(
    module: torch.nn.Module, headers: Iterable[Mapping[str, TensorHeader]], source: object
) -> None:
    """See that a module (on the meta device) takes at most 1 GB more than the headers of its weights declare.

    A configuration whose sizes are not those of the weights beside it would take all memory before any key
    could be compared. Parameters count as float32, buffers as they are. Raises UserError.
    """
    declared = sum(math.prod(tensor.shape) for header in headers for tensor in header.values())
    parameters = sum(parameter.numel() for parameter in module.parameters())
    buffers_bytes = sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())
    if 4 * (parameters - declared) + buffers_bytes > SPARE_BYTES:
        raise UserError(
            f"{source} does not fit its weights: its configuration asks for {parameters:,} parameters "
            f"({buffers_bytes / 1e9:.1f} GB of buffers), its weight files hold {declared:,}"
        )


def _form_and_size(path: Path) -> tuple[Form, int]:
    """The format of a checkpoint from its first bytes, and its size; UserError for anything else."""
    if not path.exists():
        raise UserError(f"the checkpoint {path} does not exist")
    if path.is_dir():
        raise UserError(f"the checkpoint {path} is a folder; name the file in it")
    size_bytes = regular_size(path, LARGEST_WEIGHTS_BYTES)
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    if not start:
        raise _damaged(path, "it is empty")
    for foreign, what in FOREIGN_STARTS.items():
        # The length that safetensors begin with may look like two letters of another format.
        if start.startswith(foreign) and (len(foreign) > 2 or not SAFETENSORS_START.match(start)):
            raise _damaged(path, what)
    if SAFETENSORS_START.match(start):
        return "safetensors", size_bytes
    if start.startswith(ARCHIVE_START):
        return "archive", size_bytes
    if start.startswith(PICKLE_START):
        return "pickle", size_bytes
    if start.lstrip().startswith(b"<"):
        raise _damaged(path, WEB_PAGE)
    raise _damaged(path, f"it begins like neither safetensors nor PyTorch's files ({start[:8]!r})")


def _damaged(path: Path, cause: str) -> UserError:
    return UserError(f"{path} is damaged or no checkpoint: {cause}")


def _truncated(path: Path, size_bytes: int, whole_bytes: int) -> UserError:
    return _damaged(
        path, f"it is truncated, {size_bytes:,} of {whole_bytes:,} bytes are there; download it again"
    )


def _safetensors_header(path: Path, size_bytes: int) -> dict[str, TensorHeader]:
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > LARGEST_HEADER_BYTES:
            raise _damaged(path, f"its header is said to have {header_bytes:,} bytes")
        if 8 + header_bytes > size_bytes:
            raise _truncated(path, size_bytes, 8 + header_bytes)
        text = file.read(header_bytes)
    try:
        content = json.loads(text)
        header = {
            str(name): _tensor_header(entry) for name, entry in content.items() if name != "__metadata__"
        }
        data_bytes = max((int(content[name]["data_offsets"][1]) for name in header), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise _damaged(path, f"its header is not to be read: {one_line(error, 120)}") from None
    whole_bytes = 8 + header_bytes + data_bytes
    if size_bytes < whole_bytes:
        raise _truncated(path, size_bytes, whole_bytes)
    if size_bytes > whole_bytes:
        raise _damaged(path, f"it has {size_bytes - whole_bytes:,} bytes that its header does not declare")
    _check_memory(header, path, size_bytes)
    return header


def _tensor_header(entry: Mapping[str, Any]) -> TensorHeader:
    """One entry of a safetensors header; ValueError where it contradicts itself."""
    dtype, shape = str(entry["dtype"]), tuple(int(length) for length in entry["shape"])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    if min((*shape, begin, end - begin), default=0) < 0:
        raise ValueError(f"negative sizes: {entry}")
    if dtype in ELEMENT_BYTES and math.prod(shape) * ELEMENT_BYTES[dtype] != end - begin:
        raise ValueError(f"a tensor of {dtype} {list(shape)} has {end - begin} bytes")
    return TensorHeader(dtype=dtype, shape=shape, bytes=end - begin)


def _check_pickle(path: Path, form: Form, size_bytes: int) -> None:
    """See that unpickling cannot take more memory than a file's size allows."""
    if form == "archive":
        _count_steps(io.BytesIO(_pickle_in_archive(path, size_bytes)), path, pickles=1)
    else:
        with path.open("rb") as file:
            _count_steps(file, path, pickles=PICKLES_OF_A_FILE)


def _count_steps(file: IO[bytes], path: Path, *, pickles: int) -> None:
    """Read the steps of pickles without doing them; UserError for too many, and for a `bytearray`."""
    steps = 0
    for _ in range(pickles):
        try:
            for step, argument, _position in pickletools.genops(file):
                steps += 1
                if steps > MOST_PICKLE_STEPS:
                    raise _damaged(path, f"its list of tensors has more than {MOST_PICKLE_STEPS:,} entries")
                if step.name == "GLOBAL" and str(argument).endswith(" bytearray"):
                    # The one thing that may be called and takes as much memory as it is told to.
                    raise UserError(f"{path} holds more than tensors (bytearray), which is not loaded")
        except (ValueError, UnicodeDecodeError):
            # Not whole, or not of this format: torch says so.
            return


def _pickle_in_archive(path: Path, size_bytes: int) -> bytes:
    """The pickle of a PyTorch archive, after a look at the sizes of all its entries."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            declared = sum(entry.file_size for entry in entries)
            if declared > size_bytes + SPARE_BYTES:
                raise _too_large(path, size_bytes, declared)
            pickles = [entry for entry in entries if PurePosixPath(entry.filename).name == "data.pkl"]
            if len(pickles) != 1 or len({entry.filename for entry in entries}) < len(entries):
                raise _damaged(path, "it is a zip archive of something else; unpack it")
            if pickles[0].file_size > LARGEST_PICKLE_BYTES:
                raise _damaged(path, f"its list of tensors has {pickles[0].file_size:,} bytes")
            return archive.read(pickles[0])
    except Exception as error:
        if isinstance(error, UserError):
            raise
        if not zipfile.is_zipfile(path):
            raise _damaged(
                path, "it is truncated, the end of its archive is missing; download it again"
            ) from None
        raise _damaged(path, one_line(error, 120)) from None


def _load_pickled(path: Path, device: str) -> Any:
    """What a PyTorch file holds, with `weights_only=True`; on the device `meta` without data."""
    import torch

    try:
        # By its name torch takes a file for safetensors, whatever it holds.
        with path.open("rb") if path.suffix == ".safetensors" else nullcontext(path) as source:
            return torch.load(source, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        named = PICKLED_NAME.search(str(error))
        raise UserError(
            f"{path} holds more than tensors, which is not loaded "
            f"({named[1] if named else one_line(error, 120)}); "
            "convert it to safetensors in an environment you trust"
        ) from None
    except EOFError:
        raise _damaged(path, "it is truncated; download it again") from None
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
        raise _damaged(path, one_line(error, 160)) from None


def _tensors_in(
    content: Any, path: Path, *, say: Callable[[str], object] | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of a PyTorch file's content, out of the mappings that trainers wrap around them.

    `say` is told which one was opened where its name is none of the usual ones. Raises UserError for several
    networks.
    """
    import torch

    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            keys = content[wrapper].keys()
            same = [
                key for key, value in content.items() if isinstance(value, Mapping) and value.keys() == keys
            ]
            if len(same) > 1 and _holds_tensors(content[wrapper]):
                raise _several_entries(path, same)
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a mapping of tensors")
    if not _holds_tensors(content) and content:
        networks = [key for key, value in content.items() if _holds_tensors(value)]
        if len(networks) != 1:
            raise _several_entries(
                path, networks or content, "several networks" if networks else "no network"
            )
        content = content[networks[0]]
        if say is not None:
            say(f"{path}: the network under the key {_key_text(networks[0])} is read, the only one in it")
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _several_entries(path: Path, keys: Iterable[object], what: str = "several networks") -> UserError:
    return UserError(
        f"{path} holds {what} under the keys {shortlist(map(_key_text, keys))}; "
        "save the tensors of one network alone"
    )


def _holds_tensors(content: object) -> bool:
    import torch

    return isinstance(content, Mapping) and any(isinstance(value, torch.Tensor) for value in content.values())


def _key_text(key: object) -> str:
    return one_line(key, 40)


def _headers_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorHeader]:
    return {
        key: TensorHeader(
            dtype=_dtype_name(value.dtype),
            shape=tuple(value.shape),
            bytes=value.numel() * value.element_size(),
        )
        for key, value in tensors.items()
    }


def _dtype_name(dtype: torch.dtype) -> str:
    """A dtype of torch as safetensors spells it: `torch.bfloat16` is `BF16`."""
    name = str(dtype).removeprefix("torch.")
    for word, letters in DTYPE_WORDS.items():
        if name.startswith(word):
            return (letters + name.removeprefix(word)).upper().removesuffix("FN")
    return name.upper()


def _check_memory(header: Mapping[str, TensorHeader], path: Path, size_bytes: int) -> None:
    """Tensors may share or repeat their data: a small file can describe what fits no machine."""
    declared = sum(tensor.bytes for tensor in header.values())
    if declared > size_bytes + SPARE_BYTES:
        raise _too_large(path, size_bytes, declared)


def _too_large(path: Path, size_bytes: int, declared_bytes: int) -> UserError:
    return UserError(
        f"{path} is not loaded: it has {size_bytes / 1e9:.3f} GB and would take {declared_bytes / 1e9:.1f} GB"
    )


def _refuse_quantised(header: Mapping[str, TensorHeader], path: Path) -> None:
    """Raises UserError for weights that mean nothing without the scales beside them."""
    eight_bit_floats = any(tensor.dtype.startswith("F8") for tensor in header.values())
    for key, tensor in header.items():
        leaf = key.rpartition(".")[2]
        if leaf in ("weight", "qweight") and tensor.dtype in INTEGERS:
            what = "integers"
        elif leaf in FP8_SCALES and eight_bit_floats:
            what = "scaled fp8"
        else:
            continue
        raise UserError(
            f"{path} holds quantised weights ({what}: {one_line(key, 80)}), which are not read; "
            "take the file in bfloat16, float16 or float32"
        )


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, making its folder; a full disk is an OSError, as for every other file, and so
    are its permissions: those that the user's mask leaves (the library's are the owner's alone).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    path.touch()
    mode = path.stat().st_mode & 0o777
    try:
        save_file(contiguous, path, metadata={"format": "pt", **(metadata or {})})
        path.chmod(mode)
    except SafetensorError as error:
        raise OSError(one_line(error, 200)) from None


def load_exactly(
    module: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    source: object,
    *,
    ignored_prefixes: Iterable[str] = (),
) -> None:
    """Load `tensors` into `module` (assigning, so that a meta-device module becomes real).

    Every key must fit in name and shape; `ignored_prefixes` are keys of the checkpoint that the module does
    not need. Raises UserError that names the first missing, unexpected and wrongly shaped keys and counts the
    others.
    """
    ignored = tuple(ignored_prefixes)
    expected = module.state_dict()
    given = {key: value for key, value in tensors.items() if not (ignored and key.startswith(ignored))}
    faults = key_faults(
        {
            "missing": expected.keys() - given.keys(),
            "unexpected": given.keys() - expected.keys(),
            "of a wrong shape": [
                f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
                for key in expected.keys() & given.keys()
                if given[key].shape != expected[key].shape
            ],
        }
    )
    if faults:
        raise UserError(f"{source} does not fit {type(module).__name__}: keys {faults}")
    module.load_state_dict(given, assign=True)


def key_faults(keys_by_fault: Mapping[str, Iterable[object]]) -> str:
    """`2 missing (a, b); 1 unexpected (c)`: each fault that has keys, with the first ones; empty for none."""
    named = {fault: sorted(map(str, keys)) for fault, keys in keys_by_fault.items()}
    return "; ".join(
        f"{len(keys)} {fault} ({shortlist(keys, NAMED_KEYS)})" for fault, keys in named.items() if keys
    )
