"""Wan transformers on disk: original and diffusers names, one file or shards, `.safetensors` or `.pth`.

One reader for all of them: it names every key that does not fit, strips the prefixes that trainers leave,
opens SwissArmyTransformer files (Kaleido's), casts while it reads (so a float32 file of 57 GB is never held
in float32), and keeps in float32 what diffusers keeps there (time embedder, modulation tables, norms), which
`from_single_file` of diffusers 0.42.1 does not.

The key map is Wan's (`wan/modules/model.py`, Wan-Video/Wan2.1@9737cba) against diffusers'
`WanTransformer3DModel`; a test holds it against diffusers' own converter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from refbench.baselines.wan.sat import is_sat, wan_tensors
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import read_json, replacing, shortlist, write_json
from refbench.bench.weights.checkpoint import (
    files_of_one_network,
    load_exactly,
    read_header,
    read_state_dict,
    read_tensors,
    unwrapped_names,
    write_tensors,
)
from refbench.bench.weights.store import weights_fingerprint

Naming = Literal["original", "diffusers"]

TOP_NAMES = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    # BindWeave's projection of its vision-language model's states.
    "text_projector": "condition_embedder.text_projector",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
ATTENTION_NAMES = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "k_img": "add_k_proj",
    "v_img": "add_v_proj",
    "norm_k_img": "norm_added_k",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
}
BLOCK_NAMES = {
    **{
        f"{old}.{leaf}": f"{new}.{ATTENTION_NAMES[leaf]}"
        for (old, new), leaf in product(
            {"self_attn": "attn1", "cross_attn": "attn2"}.items(), ATTENTION_NAMES
        )
    },
    # The one norm with weights: Wan counts it third, diffusers second.
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
    "before_proj": "proj_in",
    "after_proj": "proj_out",
}
BLOCK_KEY = re.compile(r"((?:vace_)?blocks\.\d+)\.(.+)")
# Prefixes that trainers and repackers leave before Wan's names, in any order.
PREFIX = re.compile(r"(?:(?:module|model|pipe|dit|diffusion_model|transformer|ema|ema_model)\.)*")
ANCHOR = "patch_embedding.weight"
VACE_ANCHOR = "vace_patch_embedding.weight"
PROJECTOR = ".input_mlp."
# Of features that a network was trained to take beside its latents (`refalign.reference_inputs`).
EXTRA_INPUT = re.compile(r"(?:^|\.)reference_inputs\.([^.]+)\.")
FLOAT32_PARTS = frozenset({"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"})
UNUSED_PART = "norm_added_q"
RELEASED_HEAD_DIM = 128
DEFAULT_EPS = 1e-6
MAX_SHARD = "5GB"
# The folder of a training run's checkpoint in shards, with optimiser and all, and what names its files.
SHARDED, SHARD_INDEX = "sharded", "index.json"


@dataclass(frozen=True, kw_only=True)
class WanCheckpoint:
    """A transformer's tensors under diffusers' names, its diffusers configuration, and, under their original
    names, the projectors of RefAlign's alignment loss where the file has them; `extra_inputs` are the tensors
    of inputs that were added to it in training, `reference_inputs.NAME.…`.
    """

    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    projectors: dict[str, torch.Tensor]
    source: Path
    extra_inputs: dict[str, torch.Tensor] = field(default_factory=dict)


def diffusers_key(key: str) -> str:
    """An original Wan key under diffusers' name; an unknown one is returned as it is."""
    return _renamed(key, TOP_NAMES, BLOCK_NAMES)


def original_key(key: str) -> str:
    """The inverse of `diffusers_key`."""
    return _renamed(
        key, {new: old for old, new in TOP_NAMES.items()}, {new: old for old, new in BLOCK_NAMES.items()}
    )


def _renamed(key: str, top: Mapping[str, str], block: Mapping[str, str]) -> str:
    match = BLOCK_KEY.fullmatch(key)
    head, rest, names = (f"{match[1]}.", match[2], block) if match else ("", key, top)
    parts = rest.split(".")
    for length in range(len(parts), 0, -1):
        renamed = names.get(".".join(parts[:length]))
        if renamed is not None:
            return head + ".".join([renamed, *parts[length:]])
    return key


def stays_float32(key: str) -> bool:
    """Whether the tensor of this diffusers key is kept in float32 in a half-precision model."""
    return not FLOAT32_PARTS.isdisjoint(key.split("."))


def sharded_folder(path: Path) -> Path | None:
    """The shards of a checkpoint, given by its folder or by that of its shards; None for anything else."""
    for folder in (path / SHARDED, path):
        if (folder / SHARD_INDEX).is_file() and folder.name == SHARDED:
            return folder
    return None


def checkpoint_files(path: Path) -> list[Path]:
    """The weight files of a checkpoint: the file itself, or those of the one network that a folder holds.

    Raises UserError as `files_of_one_network`: with the list where there are several; and for a training
    run's checkpoint in shards.
    """
    if sharded_folder(path) is not None:
        raise UserError(
            f"{path} is a training run's checkpoint in shards; refbench convert {path} OUT --to original "
            "writes its network"
        )
    return [path] if path.is_file() else files_of_one_network(path, anchor=ANCHOR)


def network_fingerprint(files: Sequence[Path]) -> str:
    """The digest of a network's files in one folder, by which an adapter names the network below it."""
    return weights_fingerprint(files[0].parent, [Path(file.name) for file in files])


def read_checkpoint(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    files: list[Path] | None = None,
    extra_inputs: bool = False,
) -> WanCheckpoint:
    """Read a Wan transformer of either naming.

    Args:
        path: a file, or a folder with or without `config.json`.
        dtype: floating-point tensors are cast to it, except those that stay in float32; None keeps theirs.
        files: of the folder, only these.
        extra_inputs: whether the caller makes the inputs that were added to the network in training.

    Raises UserError for a damaged file, an unknown prefix, a file without a Wan transformer, and a network
    with extra inputs that the caller does not make.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in files or checkpoint_files(path):
        for key, value in _tensors_of(file, dtype):
            if key in tensors:
                raise UserError(f"{path} holds two networks: {one_line(key, 80)} is in two of its files")
            tensors[key] = value
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    extra = take_extra_inputs(tensors, path, wanted=extra_inputs)
    prefix = _prefix(tensors, path)
    tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    projectors = {key: tensors.pop(key) for key in list(tensors) if PROJECTOR in key}
    renamed = {diffusers_key(key): value for key, value in tensors.items() if UNUSED_PART not in key}
    folder = path if path.is_dir() else path.parent
    return WanCheckpoint(
        tensors=renamed,
        config=_config(renamed, _stored_config(folder), path),
        projectors=projectors,
        source=path,
        extra_inputs={key.removeprefix(prefix): value for key, value in extra.items()},
    )


def take_extra_inputs(
    tensors: dict[str, torch.Tensor], source: Path, *, wanted: bool
) -> dict[str, torch.Tensor]:
    """Take the tensors of inputs that were added to a network in training out of its others.

    Raises UserError where there are any and they are not `wanted`.
    """
    extra = {key: tensors.pop(key) for key in list(tensors) if EXTRA_INPUT.search(key)}
    names = sorted({match[1] for key in extra if (match := EXTRA_INPUT.search(key))})
    if names and not wanted:
        raise UserError(
            f"{source} was trained with an extra input ({', '.join(names)}), which is not made here; "
            "without it this is another network than the trained one. Only refbench train --plugin takes it"
        )
    return extra


def _prefix(keys: Iterable[str], path: Path) -> str:
    """What stands before Wan's names. Raises UserError for something unknown, and for two networks."""
    found = [
        key.removesuffix(ANCHOR) for key in keys if key.endswith(ANCHOR) and not key.endswith(VACE_ANCHOR)
    ]
    if not found:
        raise UserError(f"{path} is no Wan transformer: it has no {ANCHOR}")
    if len(found) > 1:
        raise UserError(
            f"{path} holds {len(found)} networks, under the prefixes {shortlist(map(repr, found))}; "
            "save one of them alone"
        )
    if not PREFIX.fullmatch(found[0]):
        raise UserError(f"{path}: the keys' prefix {one_line(found[0], 60)!r} is unknown")
    return found[0]


def _tensors_of(path: Path, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in _plainly_named(path):
        if dtype is not None and value.is_floating_point():
            island = stays_float32(diffusers_key(PREFIX.sub("", key, count=1)))
            value = value.to(torch.float32 if island else dtype)
        yield key, value


def _plainly_named(path: Path) -> Iterable[tuple[str, torch.Tensor]]:
    """A file's tensors without what wrappers put into their names, those of SwissArmyTransformer under
    Wan's.
    """
    header = read_header(path)
    if is_sat(header):
        return wan_tensors(read_state_dict(path)).items()
    names = unwrapped_names(header, path)
    return ((names[key], value) for key, value in read_tensors(path))


def _stored_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _config(tensors: Mapping[str, torch.Tensor], stored: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """diffusers' configuration, from the shapes, and from `config.json` what shapes cannot say."""

    def shape(key: str) -> tuple[int, ...]:
        if key not in tensors:
            raise UserError(f"{source} is no whole Wan transformer: it has no {original_key(key)}")
        return tuple(tensors[key].shape)

    width, in_channels, *patch = shape(ANCHOR)
    heads = stored.get("num_heads") or stored.get("num_attention_heads") or width // RELEASED_HEAD_DIM
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(
            f"{source}: {width} channels do not divide into {heads} heads; put its config.json beside it"
        )
    image = "condition_embedder.image_embedder.norm1.weight"
    config = {
        "patch_size": tuple(patch),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": in_channels,
        "out_channels": shape("proj_out.weight")[0] // (patch[0] * patch[1] * patch[2]),
        "text_dim": shape("condition_embedder.text_embedder.linear_1.weight")[1],
        "freq_dim": shape("condition_embedder.time_embedder.linear_1.weight")[1],
        "ffn_dim": shape("blocks.0.ffn.net.0.proj.weight")[0],
        "num_layers": _count(tensors, "blocks"),
        "eps": stored.get("eps", DEFAULT_EPS),
        "image_dim": shape(image)[0] if image in tensors else None,
        "added_kv_proj_dim": width if image in tensors else None,
    }
    if VACE_ANCHOR in tensors:
        layers = stored.get("vace_layers")
        count = _count(tensors, "vace_blocks")
        # Every second layer of 30, every fifth of 40.
        step = config["num_layers"] // count
        config["vace_layers"] = list(layers) if layers else list(range(0, config["num_layers"], step))
        config["vace_in_channels"] = shape(VACE_ANCHOR)[1]
    return config


def _count(tensors: Mapping[str, torch.Tensor], blocks: str) -> int:
    pattern = re.compile(rf"{blocks}\.(\d+)\.")
    return 1 + max((int(match[1]) for key in tensors if (match := pattern.match(key))), default=-1)


def load_transformer(
    model_class: Any,
    checkpoint: WanCheckpoint,
    *,
    expected: Mapping[str, object] | None = None,
) -> Any:
    """A model of `model_class` with the checkpoint's tensors, in evaluation mode, on the CPU.

    `expected` are entries of the configuration that the method relies on; a checkpoint of another method is a
    UserError that names them, and so is every key that is missing, unexpected or of another shape.
    """
    for name, value in (expected or {}).items():
        found = checkpoint.config.get(name)
        if found != value:
            raise UserError(
                f"{checkpoint.source} is a checkpoint of another method: its {name} is {found}, not {value}"
            )
    with torch.device("meta"):
        model = model_class(**checkpoint.config)
    load_exactly(model, checkpoint.tensors, checkpoint.source)
    _restore_buffers(model)
    return model.eval()


def _restore_buffers(model: torch.nn.Module) -> None:
    """Compute what no checkpoint holds: the rotary tables that diffusers keeps as buffers."""
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    for module in model.modules():
        if isinstance(module, WanRotaryPosEmbed):
            fresh = WanRotaryPosEmbed(module.attention_head_dim, module.patch_size, module.max_seq_len)
            for name, buffer in fresh.named_buffers():
                module.register_buffer(name, buffer, persistent=False)


def save_checkpoint(
    state: Mapping[str, torch.Tensor],
    folder: Path,
    *,
    naming: Naming,
    config: Mapping[str, Any],
    projectors: Mapping[str, torch.Tensor] | None = None,
    class_name: str = "WanTransformer3DModel",
    notes: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a transformer (tensors under diffusers' names) as sharded safetensors with its `config.json`.

    Projectors can only be kept under original naming. `notes` stand in the metadata of each file. Everything
    is written under temporary names first, so that a full disk leaves nothing half done. Returns the weight
    files; raises UserError for projectors in a diffusers folder.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    if projectors and naming == "diffusers":
        raise UserError("a diffusers folder has no place for projectors; convert to original naming instead")
    tensors = {original_key(key) if naming == "original" else key: value for key, value in state.items()}
    tensors |= dict(projectors or {})
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    split = split_torch_state_dict_into_shards(tensors, filename_pattern=pattern, max_shard_size=MAX_SHARD)
    texts = {"config.json": {"_class_name": class_name, **_plain(config)}}
    if naming == "original":
        texts["config.json"] = original_config(config)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        texts["diffusion_pytorch_model.safetensors.index.json"] = index
    with ExitStack() as files:
        # Left in reverse order: an index gets its name when all its shards have theirs.
        for name, content in texts.items():
            write_json(files.enter_context(replacing(folder / name)), content)
        for name, keys in split.filename_to_tensors.items():
            partial = files.enter_context(replacing(folder / name))
            write_tensors(partial, {key: tensors[key] for key in keys}, notes)
    return [folder / name for name in split.filename_to_tensors]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def original_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration as the `config.json` of Wan's own repositories."""
    result = {
        "_class_name": "WanModel",
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        "ffn_dim": config["ffn_dim"],
        "freq_dim": config["freq_dim"],
        "in_dim": config["in_channels"],
        "out_dim": config["out_channels"],
        "num_heads": config["num_attention_heads"],
        "num_layers": config["num_layers"],
        "text_dim": config["text_dim"],
        "text_len": 512,
        "eps": config.get("eps", DEFAULT_EPS),
        "model_type": "i2v" if config.get("image_dim") else "vace" if "vace_layers" in config else "t2v",
    }
    if "vace_layers" in config:
        result |= {
            "_class_name": "VaceWanModel",
            "vace_layers": list(config["vace_layers"]),
            "vace_in_dim": config["vace_in_channels"],
        }
    return result
