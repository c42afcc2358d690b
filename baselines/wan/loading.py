"""Loading a generator's networks: their files are found, read, checked against the method, and put into the
sampling loop.

Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline

from refbench.baselines.wan.adapters import check_adapter_base, check_adapter_expert
from refbench.baselines.wan.added_adapters import AddedAdapter, add_adapters
from refbench.baselines.wan.checkpoint import (
    ANCHOR,
    WanCheckpoint,
    checkpoint_files,
    load_transformer,
    network_fingerprint,
    read_checkpoint,
)
from refbench.baselines.wan.experts import check_experts, recorded_expert
from refbench.baselines.wan.sampler import WanSampler
from refbench.baselines.wan.schedules import make_scheduler
from refbench.baselines.wan.step_cache import NO_CACHE, parse_ratios, switch_on
from refbench.baselines.wan.t5 import load_text_encoder, load_tokenizer
from refbench.bench.errors import MissingWeights, UserError, one_line
from refbench.bench.files import shortlist, visible
from refbench.bench.weights.checkpoint import files_of_one_network
from refbench.bench.weights.hf_folder import load_model, load_part
from refbench.bench.weights.store import how_to_get, locate, require, weights_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from refbench.baselines.wan.codec import WanCodec
    from refbench.baselines.wan.spec import WanOptions, WanSettings, WanSpec
    from refbench.bench.weights.entry import WeightEntry

BASE_PARTS = ("tokenizer", "text_encoder", "vae")
IMAGE_PARTS = ("image_encoder", "image_processor")


@dataclass(frozen=True, kw_only=True)
class TransformerFiles:
    """The files of a transformer, and its folder or its one file."""

    path: Path
    files: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path) -> TransformerFiles:
        """Those of a checkpoint: a file, or a folder with one network."""
        return cls(path=path, files=tuple(checkpoint_files(path)))


@dataclass(frozen=True, kw_only=True)
class NetworkFiles:
    """Where a method's networks are: its transformer or its two experts, high noise first, and the folder of
    the base models.
    """

    transformers: tuple[TransformerFiles, ...]
    base: Path


def find_networks(
    spec: WanSpec, weights: Path | None, *, own_transformers: tuple[Path | None, ...]
) -> NetworkFiles:
    """The files of a method's networks in the folder of weights; `own_transformers` are other checkpoints, or
    None, for each of them.

    Raises MissingWeights and UserError, which say what is not there, and UserError for experts whose names
    say that they are swapped.
    """
    base = find_base(spec.weights.base, weights, image_branch=spec.network.image_branch)
    patterns: tuple[tuple[str, ...], ...] = (spec.weights.transformer_files,)
    if spec.boundary is not None:
        patterns = expert_patterns(spec, weights)
    found = []
    for own, names in zip(own_transformers, patterns, strict=True):
        if own is not None:
            found.append(TransformerFiles.of(own))
        else:
            files = find_network(spec.weights.transformer, names, weights)
            found.append(TransformerFiles(path=files[0].parent, files=tuple(files)))
    if spec.boundary is not None:
        check_experts([(one.path, *one.files) for one in found])
    else:
        _refuse_expert(spec, found[0])
    return NetworkFiles(transformers=tuple(found), base=base)


def _refuse_expert(spec: WanSpec, transformer: TransformerFiles) -> None:
    """Raises UserError for one of two experts in the place of a whole network."""
    expert = recorded_expert(transformer.files)
    if expert is not None:
        raise UserError(
            f"{transformer.path} is the {expert} expert of two, as it says itself; {spec.name} has one "
            "network (RefAlign's methods take it with --set base=wan2.2-t2v-a14b)"
        )


def find_base(entry: WeightEntry, weights: Path | None, *, image_branch: bool) -> Path:
    """The folder of the base models; MissingWeights says what to pull."""
    folder = require(entry, weights)
    try:
        check_base(folder, image_branch=image_branch)
    except MissingWeights as error:
        raise MissingWeights(f"{error}; {how_to_get(entry)}") from None
    return folder


def find_network(entry: WeightEntry, patterns: tuple[str, ...], weights: Path | None) -> list[Path]:
    """The files of an entry that hold the transformer; MissingWeights says what to pull."""
    folder = require(entry, weights)
    try:
        return network_files(folder, patterns)
    except MissingWeights as error:
        raise MissingWeights(f"{error}; {how_to_get(entry)}") from None


def expert_patterns(spec: WanSpec, weights: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The patterns of the two experts' files in the naming that the repository on disk has: never one expert
    of one naming and the other of another.
    """
    namings = list(zip(spec.weights.transformer_files, spec.weights.low_noise_files, strict=True))
    folder = locate(spec.weights.transformer, weights_folder(weights))
    found = [names for names in namings if folder and any(visible(folder, name) for name in names)]
    high, low = (found or namings)[0]
    return (high,), (low,)


def network_files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files below a repository's folder that hold the transformer: those of the first pattern that any
    fit.

    Raises MissingWeights when there is none, UserError for several networks and for a shard that is not
    there.
    """
    found = next(filter(None, (visible(folder, pattern) for pattern in patterns)), [])
    if not found:
        raise MissingWeights(f"{folder} lacks {' or '.join(patterns)}")
    if len({path.parent for path in found}) > 1:
        names = shortlist(path.relative_to(folder).as_posix() for path in found)
        raise UserError(f"{folder} holds several networks: {names}; leave one there")
    return files_of_one_network(found[0].parent, anchor=ANCHOR, among=found)


def check_base(folder: Path, *, image_branch: bool) -> None:
    """Raises MissingWeights for the first part that a base repository's folder lacks."""
    for part in BASE_PARTS + (IMAGE_PARTS if image_branch else ()):
        if not (folder / part).is_dir():
            raise MissingWeights(f"{folder} has no {part.replace('_', ' ')} (folder {part})")


def load_sampler(
    spec: WanSpec,
    settings: WanSettings,
    options: WanOptions,
    files: NetworkFiles,
    *,
    network_class: Any,
    codec_class: Callable[..., WanCodec],
    device: torch.device,
    dtype: torch.dtype,
    any_size: bool,
) -> WanSampler:
    """The loop over a method's networks, which are still on the CPU and shall run on `device`.

    With `any_size` the network need not have the spec's width and depth (tiny random weights, a user's own
    checkpoint). Raises UserError for a checkpoint of another method, for an adapter that was trained on
    another network or does not fit, and for anything damaged.
    """
    adapters = [[AddedAdapter.read(one) for one in chosen] for chosen in options.adapters]
    if spec.boundary is not None:
        for number, added in enumerate(adapters):
            for one in added:
                check_adapter_expert(one.adapter, number)
    if options.adapter_base == "same":
        for added, transformer in zip(adapters, files.transformers, strict=True):
            digest = network_fingerprint(transformer.files) if added else ""
            for one in added:
                check_adapter_base(one.adapter, transformer.path, digest)
    expected: dict[str, object] = {"in_channels": spec.network.in_channels}
    if not any_size:
        expected["num_layers"] = spec.network.layers
        expected["ffn_dim"] = spec.network.ffn_width
    networks, checkpoints = [], []
    for transformer in files.transformers:
        checkpoint = read_checkpoint(transformer.path, dtype=dtype, files=list(transformer.files))
        _check_branches(spec, checkpoint)
        networks.append(load_transformer(network_class, checkpoint, expected=expected))
        checkpoints.append(checkpoint)
    parts = load_base(files.base, dtype=dtype, image_branch=spec.network.image_branch)
    for checkpoint in checkpoints:
        _check_widths(checkpoint, parts, files.base)
    for network, added in zip(networks, adapters, strict=True):
        add_adapters(network, added)
        if options.attention_backend is not None:
            set_attention_backend(network, options.attention_backend)
        if options.compile:
            network.compile_repeated_blocks()
        if options.cache != NO_CACHE:
            ratios = parse_ratios(options.cache_ratios)
            switch_on(network, options.cache, steps=settings.steps, ratios=ratios)
    return WanSampler(
        codec=codec_class(**parts, device=device, dtype=dtype, cleans_prompts=spec.cleans_prompts),
        transformer=networks[0],
        low_noise_transformer=None if spec.boundary is None else networks[1],
        boundary=spec.boundary,
        scheduler=make_scheduler(settings.solver, settings.shift),
        has_step_cache=options.cache != NO_CACHE,
    )


def _check_branches(spec: WanSpec, checkpoint: WanCheckpoint) -> None:
    """Raises UserError for a checkpoint with an image or a VACE branch too many or too few."""
    branches = (
        ("an image branch", spec.network.image_branch, checkpoint.config["image_dim"] is not None),
        ("a VACE branch", bool(spec.network.extra_blocks), "vace_layers" in checkpoint.config),
    )
    for name, wanted, found in branches:
        if wanted != found:
            has = f"it has {name}" if found else f"it has no {name.partition(' ')[2]}"
            raise UserError(f"{checkpoint.source} is a checkpoint of another method: {has}")


def _check_widths(checkpoint: WanCheckpoint, parts: dict[str, Any], base: Path) -> None:
    """Raises UserError for encoders whose features have another width than the transformer takes."""
    widths = [("text encoder", parts["text_encoder"].config.d_model, checkpoint.config["text_dim"])]
    if checkpoint.config["image_dim"] is not None:
        given = parts["image_encoder"].config.hidden_size
        widths.append(("image encoder", given, checkpoint.config["image_dim"]))
    for name, given, taken in widths:
        if given != taken:
            raise UserError(f"the {name} in {base} gives {given} features, {checkpoint.source} takes {taken}")


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


def load_base(folder: Path, *, dtype: torch.dtype, image_branch: bool = False) -> dict[str, Any]:
    """The parts of a codec by name, on the CPU: tokenizer, text encoder in `dtype`, VAE in float32, and with
    `image_branch` image encoder in float32 and image processor.
    """
    from diffusers import AutoencoderKLWan
    from transformers import CLIPImageProcessorPil, CLIPVisionModel, UMT5EncoderModel

    check_base(folder, image_branch=image_branch)
    parts = {
        "tokenizer": load_tokenizer(folder / "tokenizer"),
        "text_encoder": load_text_encoder(UMT5EncoderModel, folder / "text_encoder", dtype=dtype),
        "vae": load_model(AutoencoderKLWan, folder / "vae", dtype=torch.float32),
    }
    if image_branch:
        parts["image_encoder"] = load_model(CLIPVisionModel, folder / "image_encoder", dtype=torch.float32)
        parts["image_processor"] = load_part(CLIPImageProcessorPil, folder / "image_processor")
    return parts


class WanModels(DiffusionPipeline):
    """A generator's networks as diffusers' offloading takes them, in the order in which they are used: of two
    experts the low-noise one (`transformer_2`) takes the high-noise one's place on the GPU once a video.

    No video is made through it: its pipelines are what diffusers' model and group offload are written for.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->transformer_2->vae"
    _optional_components = ("image_encoder", "transformer_2")

    def __init__(
        self,
        text_encoder: Any,
        transformer: Any,
        vae: Any,
        image_encoder: Any = None,
        transformer_2: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            text_encoder=text_encoder,
            transformer=transformer,
            transformer_2=transformer_2,
            vae=vae,
            image_encoder=image_encoder,
        )


def models_of(sampler: WanSampler) -> WanModels:
    """The networks of a loop."""
    return WanModels(
        transformer=sampler.transformer,
        transformer_2=sampler.low_noise_transformer,
        **sampler.codec.models,
    )
