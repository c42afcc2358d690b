"""Loading the networks of a Wan generator from folders on disk. Nothing is downloaded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from refbench.baselines.wan.checkpoint import INDEX_PATTERN, indexed_files, load_transformer, read_checkpoint
from refbench.baselines.wan.sampler import WanSampler
from refbench.baselines.wan.schedules import make_scheduler
from refbench.bench.errors import MissingWeights, UserError, one_line
from refbench.bench.weights.store import CATALOGUE, how_to_get, require

if TYPE_CHECKING:
    from refbench.baselines.wan.spec import WanOptions, WanSettings, WanSpec

BASE_PARTS = ("tokenizer", "text_encoder", "vae")
IMAGE_PARTS = ("image_encoder", "image_processor")


def find_base(name: str, weights: Path | None, *, image_branch: bool) -> Path:
    """The folder of a catalogue entry with the base models; MissingWeights says what to pull."""
    place = require(name, weights)
    try:
        check_base(place, image_branch=image_branch)
    except MissingWeights as error:
        raise MissingWeights(f"{error}; {how_to_get(CATALOGUE[name])}") from None
    return place


def find_network(name: str, patterns: tuple[str, ...], weights: Path | None) -> list[Path]:
    """The files of a catalogue entry that hold the transformer; MissingWeights says what to pull."""
    place = require(name, weights)
    try:
        return network_files(place, patterns)
    except MissingWeights as error:
        raise MissingWeights(f"{error}; {how_to_get(CATALOGUE[name])}") from None


def network_files(place: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files below a repository's folder that hold the transformer.

    Raises MissingWeights when there is none, UserError when one that a shard index names is not there.
    """
    found = [path for pattern in patterns for path in sorted(place.glob(pattern))]
    if not found:
        raise MissingWeights(f"{place} lacks {' or '.join(patterns)}")
    for index in sorted(found[0].parent.glob(INDEX_PATTERN)):
        shards = indexed_files(index)
        if not set(shards).isdisjoint(found):
            return shards
    return found


def check_base(place: Path, *, image_branch: bool) -> None:
    """Raises MissingWeights for the first part that a base repository's folder lacks."""
    for part in BASE_PARTS + (IMAGE_PARTS if image_branch else ()):
        if not (place / part).is_dir():
            raise MissingWeights(f"{place} has no {part.replace('_', ' ')} (folder {part})")


def load_sampler(
    spec: WanSpec,
    settings: WanSettings,
    options: WanOptions,
    *,
    network_class: Any,
    transformer: Path,
    files: list[Path] | None,
    base: Path,
    dtype: torch.dtype,
    any_size: bool,
) -> WanSampler:
    """All models of a method on the CPU.

    `transformer` is a file or folder (of which only `files`); with `any_size` the network need not have the
    spec's width and depth (made-up tiny weights, a user's own checkpoint). Raises UserError for a checkpoint
    of another method and for anything damaged.
    """
    checkpoint = read_checkpoint(transformer, dtype=dtype, files=files)
    expected: dict[str, object] = {"in_channels": spec.network.in_channels}
    if not any_size:
        expected["num_layers"] = spec.network.layers
        expected["ffn_dim"] = spec.network.ffn_width
    if ("image_dim" in checkpoint.config and checkpoint.config["image_dim"] is not None) != (
        spec.network.image_branch
    ):
        has = "has no" if spec.network.image_branch else "has an"
        raise UserError(f"{transformer} is a checkpoint of another method: it {has} image branch")
    if bool(spec.network.extra_blocks) != ("vace_layers" in checkpoint.config):
        has = "has no" if spec.network.extra_blocks else "has a"
        raise UserError(f"{transformer} is a checkpoint of another method: it {has} VACE branch")
    network = load_transformer(network_class, checkpoint, expected=expected)
    parts = load_base(base, dtype=dtype, image_branch=spec.network.image_branch)
    if parts["text_encoder"].config.d_model != checkpoint.config["text_dim"]:
        raise UserError(
            f"the text encoder in {base} gives {parts['text_encoder'].config.d_model} features, "
            f"{transformer} takes {checkpoint.config['text_dim']}"
        )
    image_dim = checkpoint.config["image_dim"]
    if image_dim is not None and parts["image_encoder"].config.hidden_size != image_dim:
        raise UserError(
            f"the image encoder in {base} gives {parts['image_encoder'].config.hidden_size} features, "
            f"{transformer} takes {image_dim}"
        )
    if options.adapter is not None:
        add_adapter(network, options.adapter)
    if options.attention_backend is not None:
        set_attention_backend(network, options.attention_backend)
    if options.compile:
        network.compile_repeated_blocks()
    scheduler = make_scheduler(settings.solver, settings.shift)
    return WanSampler(transformer=network, scheduler=scheduler, **parts)


def set_attention_backend(network: Any, name: str) -> None:
    """Have one network attend through a back-end of diffusers. Raises UserError for one that is not there."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    # diffusers makes it the whole process's default as well, which would hold for the next method too.
    default, _ = Registry.get_active_backend()
    try:
        network.set_attention_backend(name)
    except Exception as error:  # noqa: BLE001 - each backend fails in its own way
        raise UserError(f"attention_backend: {one_line(error, 200)}") from None
    finally:
        Registry.set_active_backend(default)


def load_base(place: Path, *, dtype: torch.dtype, image_branch: bool = False) -> dict[str, Any]:
    """Tokenizer, text encoder in `dtype`, VAE in float32, and the image parts of a diffusers folder."""
    from diffusers import AutoencoderKLWan
    from transformers import CLIPImageProcessorPil, CLIPVisionModel, UMT5EncoderModel

    check_base(place, image_branch=image_branch)
    parts = {
        "tokenizer": load_tokenizer(place / "tokenizer"),
        "text_encoder": from_folder(UMT5EncoderModel, place / "text_encoder", dtype=dtype),
        "vae": from_folder(AutoencoderKLWan, place / "vae", torch_dtype=torch.float32),
    }
    if image_branch:
        parts["image_encoder"] = from_folder(CLIPVisionModel, place / "image_encoder", dtype=torch.float32)
        parts["image_processor"] = from_folder(CLIPImageProcessorPil, place / "image_processor")
    # A regression of transformers 5 (issue 43992) once left the tied embedding at zero, which gives the same
    # features for every prompt and no error.
    if not bool(parts["text_encoder"].get_input_embeddings().weight.any()):
        raise UserError(f"the text encoder in {place} has an embedding of zeros: it was not read whole")
    for name in ("text_encoder", "vae", *(("image_encoder",) if image_branch else ())):
        parts[name].eval().requires_grad_(False)
    return parts


def load_tokenizer(folder: Path) -> Any:
    """UMT5's tokenizer, from `tokenizer.json` as it is.

    The class that the folder names (T5's) is rebuilt by transformers 5 with T5's own rules, which loses
    UMT5's byte fallback: a character outside of the vocabulary becomes unknown instead of its bytes.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    whole = (folder / "tokenizer.json").is_file()
    return from_folder(PreTrainedTokenizerFast if whole else AutoTokenizer, folder)


def from_folder(part_class: Any, folder: Path, **settings: Any) -> Any:
    """A part of a model by its class, from a folder on disk. Raises UserError when it cannot be read."""
    from transformers.utils import logging

    # What matters of a load is raised; a bar per part only disturbs the runner's own.
    logging.disable_progress_bar()
    try:
        return part_class.from_pretrained(folder, local_files_only=True, **settings)
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
        raise UserError(f"{folder} cannot be loaded: {one_line(error, 200)}") from None


def add_adapter(network: Any, folder: Path) -> None:
    """Put a LoRA adapter (a peft or diffusers safetensors file, or its folder) onto a network."""
    files = [folder] if folder.is_file() else sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise UserError(f"the adapter {folder} must be one .safetensors file, found {len(files)}")
    try:
        network.load_lora_adapter(str(files[0].parent), weight_name=files[0].name, prefix=None)
    except Exception as error:  # noqa: BLE001 - peft and diffusers raise many kinds
        raise UserError(f"the adapter {files[0]} does not fit: {one_line(error, 200)}") from None


def chosen_dtype(name: str, device: str) -> torch.dtype:
    """The dtype of an option: `auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def noise_generator(
    seed: int, sample_id: str, *, key: str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator of a sample's noise: seeded by the seed alone, or (`key` is `sample`) by both."""
    if key == "sample":
        digest = hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
    return torch.Generator(device).manual_seed(seed)


def place_models(sampler: WanSampler, device: str, offload: str) -> None:
    """Put the models where they run. Raises UserError for offloading without a GPU."""
    if offload == "none":
        sampler.to(device)
        return
    if not device.startswith("cuda"):
        raise UserError("offload keeps models off a GPU between uses; on the CPU leave it at none")
    if offload == "model":
        sampler.enable_model_cpu_offload(device=device)
    else:
        sampler.enable_group_offload(
            onload_device=torch.device(device),
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=True,
        )
