"""Putting the training model together: the network to start from, LoRA adapters, projectors, plugins' parts.

Everything that is drawn (fresh projectors, adapters, a fresh network) follows from the seed alone.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from refbench.baselines.wan.adapters import BASE_DIGEST, BASE_MODEL
from refbench.baselines.wan.checkpoint import (
    WanCheckpoint,
    checkpoint_files,
    load_transformer,
    read_checkpoint,
    save_checkpoint,
    sharded_folder,
    stays_float32,
    take_extra_inputs,
)
from refbench.baselines.wan.experts import EXPERT_NOTE, PARTS, Expert, expert_by_name, recorded_expert
from refbench.baselines.wan.loading import find_network
from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.weights.catalogue import get_entry
from refbench.bench.weights.checkpoint import load_exactly, read_state_dict, write_tensors
from refbench.bench.weights.hf_folder import read_config
from refbench.bench.weights.store import require
from refbench.refalign.alignment import AlignmentConfig, AlignmentProjectors, ReferenceAlignment
from refbench.refalign.bases import EXPERT_OF, ExpertName, network_files
from refbench.refalign.data.draws import uniform
from refbench.refalign.losses import AlignmentLoss, LossModule, TokenWidths, own_code, place_of
from refbench.refalign.training.checkpoints import (
    ADAPTER,
    LOSSES,
    PROJECTORS,
    STATE,
    TRANSFORMER,
    Checkpoint,
    read_state,
)
from refbench.refalign.training.kernels import use_kernels
from refbench.refalign.training.model import NETWORK_INPUTS, TrainingModel
from refbench.refalign.training.parts import (
    active_inputs,
    check_blocks,
    frame_teacher_names,
    other_losses,
    teacher_names,
    token_widths,
)
from refbench.refalign.training.settings import RELEASED_PATCH, LoraConfig, TrainingConfig
from refbench.refalign.training.sharded import AVERAGE_PREFIX, MODEL_PREFIX, ShardedState
from refbench.refalign.transformer import RefAlignTransformer3DModel

ADAPTER_NAME = "default"
ADAPTER_FILE = "pytorch_lora_weights.safetensors"
# How the names of a training model's parameters begin.
NETWORK_NAME, PROJECTORS_NAME, LOSSES_NAME = "transformer.", "projectors.", "losses."


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """The weights that training starts from.

    `network`: None for a fresh one of `architecture`. `projectors`: under original names, None for fresh
    ones. `adapter`: the file of LoRA's weights, None for fresh ones. `losses`: the modules of other losses by
    `NAME.…`; what is not among them starts fresh.
    """

    architecture: Mapping[str, Any]
    network: WanCheckpoint | None
    projectors: Mapping[str, torch.Tensor] | None
    adapter: Path | None = None
    losses: Mapping[str, torch.Tensor] = field(default_factory=dict)


def starting_point(config: TrainingConfig, weights: Path | None, resumed: Checkpoint | None) -> StartingPoint:
    """Read the network that training starts from, or that it goes on with after `resumed`, in float32.

    With LoRA the frozen network is read in the run's precision. Raises MissingWeights for a network that is
    not on disk and UserError for one that cannot be read.
    """
    start = _network_to_start_from(config, weights, resumed)
    below = config.model.transformer if resumed is None else resumed.folder / TRANSFORMER
    if below is None or not other_losses(config):
        return start
    return replace(start, losses=_stored_losses(below))


def _stored_losses(network: Path) -> dict[str, torch.Tensor]:
    """The modules of losses in the checkpoint that a network is of, by `NAME.…`; empty where it has none."""
    shards = sharded_folder(network)
    if shards is None:
        file = network.parent / LOSSES
        return read_state_dict(file) if file.is_file() else {}
    stored = ShardedState(shards)
    keys = [MODEL_PREFIX + name for name in stored.names(MODEL_PREFIX) if name.startswith(LOSSES_NAME)]
    targets = {key: torch.empty(stored.shapes[key]) for key in keys}
    stored.read_into(targets, None)
    return _below(targets, MODEL_PREFIX + LOSSES_NAME)


def _network_to_start_from(
    config: TrainingConfig, weights: Path | None, resumed: Checkpoint | None
) -> StartingPoint:
    if resumed is not None and not config.lora.enabled:
        network = read_checkpoint(resumed.folder / TRANSFORMER, dtype=torch.float32, extra_inputs=True)
        return StartingPoint(
            architecture=network.config, network=network, projectors=network.projectors or None
        )
    adapter, projectors = None, None
    if resumed is not None:
        adapter = resumed.folder / ADAPTER / ADAPTER_FILE
        stored = resumed.folder / PROJECTORS
        projectors = read_state_dict(stored) if stored.is_file() else None
    half = config.lora.enabled and config.run.precision == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    if config.model.transformer is not None:
        _check_expert_of(config.model.transformer, config.model.expert)
        network = read_network(config.model.transformer, dtype=dtype, extra_inputs=True)
        return StartingPoint(
            architecture=network.config,
            network=network,
            projectors=projectors or network.projectors or None,
            adapter=adapter,
        )
    if config.model.random:
        repository = require(get_entry(config.model.base), weights)
        return StartingPoint(
            architecture=_stored_architecture(repository, config.model.expert),
            network=None,
            projectors=projectors,
            adapter=adapter,
        )
    patterns = network_files(config.model.expert)
    files = find_network(get_entry(config.model.base), patterns, weights)
    network = read_checkpoint(files[0].parent, dtype=dtype, files=files)
    return StartingPoint(architecture=network.config, network=network, projectors=projectors, adapter=adapter)


def read_network(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    average: bool = False,
    extra_inputs: bool = False,
) -> WanCheckpoint:
    """A network on disk: as `read_checkpoint` reads it, or the one in a sharded checkpoint of a run.

    Of a sharded checkpoint the network alone is read, in `dtype` at once (None: as it was trained), its
    moving average with `average`. Raises UserError as `read_checkpoint`, and where there is no average.
    """
    folder = sharded_folder(path)
    if folder is None:
        if average:
            raise UserError(
                f"{path} is no sharded checkpoint; its moving average is a network beside it, in ema/"
            )
        return read_checkpoint(path, dtype=dtype, extra_inputs=extra_inputs)
    stored = ShardedState(folder)
    averaged = set(stored.names(AVERAGE_PREFIX)) if average else set()
    if average and not averaged:
        raise UserError(f"{folder} holds no moving average; the run had ema.enabled=false")
    targets: dict[str, torch.Tensor] = {}
    for name in stored.names(MODEL_PREFIX):
        if name.startswith(LOSSES_NAME):
            continue
        key = (AVERAGE_PREFIX if name in averaged else MODEL_PREFIX) + name
        whole = dtype is None or stays_float32(name) or name.startswith(PROJECTORS_NAME)
        targets[key] = torch.empty(stored.shapes[key], dtype=torch.float32 if whole else dtype)
    stored.read_into(targets, None)
    state = {key.partition("/")[2]: value for key, value in targets.items()}
    tensors = _below(state, NETWORK_NAME)
    extra = take_extra_inputs(tensors, path, wanted=extra_inputs)
    return WanCheckpoint(
        tensors=tensors,
        config=stored.architecture,
        projectors=_projectors_of(folder.parent, state),
        source=path,
        extra_inputs=extra,
    )


def _projectors_of(checkpoint: Path, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The projectors of a sharded checkpoint under their original names, which follow from its recipe."""
    if not _below(state, PROJECTORS_NAME):
        return {}
    settings = read_state(checkpoint).config["alignment"]
    try:
        alignment = TypeAdapter(AlignmentConfig).validate_python(settings)
    except ValidationError as error:
        raise UserError(f"{checkpoint / STATE} is damaged: alignment: {first_fault(error)}") from None
    return projector_tensors(alignment, state)


def noted_expert(path: Path) -> Expert | None:
    """Which of two experts a network on disk is by what its files, or the run's state beside its shards, say;
    None for a whole network and where they do not say.
    """
    folder = sharded_folder(path)
    if folder is None:
        return recorded_expert(checkpoint_files(path))
    return EXPERT_OF.get(read_state(folder.parent).config.get("model", {}).get("expert"))


def _check_expert_of(path: Path, expert: ExpertName | None) -> None:
    """Raises UserError for a network that is the other expert's than the one to be trained, or one expert's
    where a whole network is to be trained.
    """
    recorded = noted_expert(path)
    found = recorded or (None if expert is None else expert_by_name(path))
    wanted = None if expert is None else EXPERT_OF[expert]
    if found is None or found == wanted:
        return
    how = "by its name" if recorded is None else "as its file says"
    trained = "it has to be named as model.expert" if wanted is None else f"model.expert={expert}"
    raise UserError(f"model.transformer={path} is the {found} expert {how}; {trained}")


def _stored_architecture(repository: Path, expert: ExpertName | None) -> dict[str, Any]:
    stored = read_config(repository / PARTS[1 if expert == "low" else 0])
    known = inspect.signature(RefAlignTransformer3DModel.__init__).parameters
    return {key: value for key, value in stored.items() if key in known}


def build_model(
    config: TrainingConfig,
    start: StartingPoint,
    teacher_widths: Sequence[int],
    frame_widths: Sequence[int] = (),
) -> TrainingModel:
    """The training model on the CPU. Raises UserError for what does not fit."""
    model = empty_model(config, start.architecture, teacher_widths, frame_widths, network=start.network)
    if model.projectors is not None and start.projectors is not None:
        model.projectors.load_original_state_dict(start.projectors, "the checkpoint to start from")
    for name, module in model.losses.items():
        below = _below(start.losses, f"{name}.")
        if below:
            load_exactly(module, below, f"the module of the loss {name!r} to start from")
    if start.adapter is not None:
        _load_adapter(model.transformer, start.adapter)
    for parameter in model.parameters():
        # Sums on a CPU follow the memory's alignment, which tensors inside of a file share with no others: a
        # resumed run would differ in the last bit.
        parameter.data = parameter.data.clone()
    return model


def empty_model(
    config: TrainingConfig,
    architecture: Mapping[str, Any],
    teacher_widths: Sequence[int],
    frame_widths: Sequence[int] = (),
    *,
    network: WanCheckpoint | None = None,
) -> TrainingModel:
    """The training model with the weights of `network` (None: fresh ones) and fresh projectors and adapters,
    on torch's default device.

    Widths are in the order of `teacher_names` and `frame_teacher_names`. Raises UserError for blocks that the
    network does not have, for tokens of another size, and for what a plugin's loss or input does wrong.
    """
    # A configuration that does not name it has the class's default.
    patch = tuple(architecture.get("patch_size", (1, RELEASED_PATCH, RELEASED_PATCH)))
    if patch != (1, config.model.patch, config.model.patch):
        raise UserError(
            f"the network makes a token of {'×'.join(map(str, patch))} latents; give model.patch={patch[-1]}"
        )
    check_blocks(config, architecture["num_layers"])
    width = architecture["num_attention_heads"] * architecture["attention_head_dim"]
    widths = token_widths(config, width, teacher_widths, frame_widths)
    if network is None:
        with _seeded(config, "network"):
            transformer = RefAlignTransformer3DModel(**architecture)
    else:
        transformer = load_transformer(RefAlignTransformer3DModel, network)
    if config.run.gradient_checkpointing:
        transformer.enable_gradient_checkpointing(RECOMPUTERS[config.run.recompute])
    _add_inputs(transformer, config, widths, network)
    if config.lora.enabled:
        with _seeded(config, "adapter"):
            _add_adapter(transformer, config.lora)
    use_kernels(transformer, config.run)
    projectors = None
    if config.alignment.enabled:
        with _seeded(config, "projectors"):
            projectors = ReferenceAlignment(config.alignment).build(widths)
    model = TrainingModel(
        transformer,
        projectors,
        config.alignment,
        losses=[(loss, _loss_module(config, loss, widths)) for loss in other_losses(config)],
        inputs=active_inputs(config),
        teachers=teacher_names(config),
        frame_teachers=frame_teacher_names(config),
    )
    model.train()
    return model


def _recomputed_without_attention(block: torch.nn.Module, *inputs: Any) -> Any:
    """A block's result; in backward everything but its attention is computed again."""
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    def policy(context: Any, operator: Any, *arguments: Any, **settings: Any) -> CheckpointPolicy:
        # Of torch `_scaled_dot_product_*_attention*`, of the libraries `flash_attn::*` and the like.
        kept = any(part in str(operator) for part in ("attention", "attn"))
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return checkpoint(
        block,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: create_selective_checkpoint_contexts(policy),
    )


# How blocks are computed again, by `run.recompute`; None: as diffusers does.
RECOMPUTERS: dict[str, Callable[..., Any] | None] = {
    "blocks": None,
    "without_attention": _recomputed_without_attention,
}


def _loss_module(config: TrainingConfig, loss: AlignmentLoss, widths: TokenWidths) -> LossModule:
    """A loss's module, fresh. Raises UserError for what is none, and for one that keeps buffers."""
    what = f"the loss {loss.declaration.name!r}"
    with _seeded(config, f"losses/{loss.declaration.name}"), own_code(what, type(loss)):
        module: Any = loss.build(widths)
    if not isinstance(module, LossModule):
        told = f"{what} ({place_of(type(loss).build)})"
        raise UserError(f"{told}: build() returned {type(module).__name__}, not a LossModule")
    _check_no_buffers(what, module)
    built: LossModule = module
    return built


def _add_inputs(
    transformer: Any, config: TrainingConfig, widths: TokenWidths, network: WanCheckpoint | None
) -> None:
    """Give the network the modules of its reference inputs, fresh or with the weights that it came with.

    Raises UserError for a network that came with others, and with LoRA, which would leave them untrained.
    """
    chosen = active_inputs(config)
    names = [one.declaration.name for one in chosen]
    stored = {} if network is None else _below(network.extra_inputs, f"{NETWORK_INPUTS}.")
    for name in sorted({key.partition(".")[0] for key in stored} - set(names)):
        assert network is not None
        raise UserError(
            f"{network.source} was trained with the extra input {name!r}; give its --plugin and "
            f"{NETWORK_INPUTS}.{name}.enabled=true"
        )
    if not chosen:
        return
    if config.lora.enabled:
        raise UserError(
            f"lora.enabled=true trains adapters alone, and {NETWORK_INPUTS}.{names[0]} adds weights to the "
            "network; train the network"
        )
    modules = nn.ModuleDict()
    for one in chosen:
        name = one.declaration.name
        what = f"the reference input {name!r}"
        with _seeded(config, f"{NETWORK_INPUTS}/{name}"), own_code(what, type(one)):
            module: Any = one.build(widths)
        if not isinstance(module, nn.Module):
            told = f"{what} ({place_of(type(one).build)})"
            raise UserError(f"{told}: build() returned {type(module).__name__}, not a module")
        _check_no_buffers(what, module)
        below = _below(stored, f"{name}.")
        if below:
            assert network is not None
            load_exactly(module, below, network.source)
        modules[name] = module
    transformer.add_module(NETWORK_INPUTS, modules)


def _check_no_buffers(what: str, module: nn.Module) -> None:
    name = next((name for name, _ in module.named_buffers()), None)
    if name is not None:
        raise UserError(
            f"{what} ({place_of(type(module))}) keeps the buffer {name!r}, which checkpoints do not hold; "
            "make it a constant or a parameter"
        )


@contextmanager
def _seeded(config: TrainingConfig, what: str) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(uniform(f"{config.run.seed}/{what}") * 2**53))
        yield


def _add_adapter(transformer: Any, config: LoraConfig) -> None:
    try:
        from peft import LoraConfig as PeftConfig
    except ImportError:
        raise UserError("lora.enabled=true needs peft; pip install peft") from None
    transformer.requires_grad_(False)
    try:
        transformer.add_adapter(
            PeftConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                target_modules=list(config.targets),
                use_rslora=config.rslora,
                use_dora=config.dora,
            ),
            adapter_name=ADAPTER_NAME,
        )
    except ValueError as error:
        raise UserError(f"lora.targets: {one_line(error, 200)}") from None
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _load_adapter(transformer: Any, file: Path) -> None:
    from peft import set_peft_model_state_dict

    report = set_peft_model_state_dict(transformer, read_state_dict(file), adapter_name=ADAPTER_NAME)
    absent = [key for key in report.missing_keys if ".lora_" in key]
    if absent or report.unexpected_keys:
        raise UserError(f"{file} does not fit: keys {', '.join([*absent, *report.unexpected_keys][:3])}")


def save_network(
    folder: Path,
    model: TrainingModel,
    config: TrainingConfig,
    state: Mapping[str, torch.Tensor],
    *,
    base_digest: str | None = None,
) -> None:
    """Write the network (with LoRA its adapter), the projectors, and the modules of other losses out of the
    training model's whole `state`.

    The network in original naming with the projectors; an adapter as diffusers and peft read it, with the
    name and the digest of the network below it in the file's metadata.
    """
    network = _below(state, NETWORK_NAME)
    projectors = {} if model.projectors is None else projector_tensors(model.config, state)
    # In a file of their own, where nothing can take them for RefAlign's projectors.
    others = _below(state, LOSSES_NAME)
    if others:
        write_tensors(folder / LOSSES, others)
    if config.lora.enabled:
        below = {BASE_MODEL: str(config.model.transformer or config.model.base)}
        if base_digest is not None:
            below[BASE_DIGEST] = base_digest
        below |= expert_notes(config)
        save_adapter(folder / ADAPTER, model, network, below)
        if projectors:
            write_tensors(folder / PROJECTORS, projectors)
        return
    save_checkpoint(
        network,
        folder / TRANSFORMER,
        naming="original",
        config=plain_config(model.transformer),
        projectors=projectors or None,
        notes=expert_notes(config),
    )


def expert_notes(config: TrainingConfig) -> dict[str, str]:
    """What the files of a network or an adapter say of the expert that it is; nothing of a whole network."""
    expert = config.model.expert
    return {} if expert is None else {EXPERT_NOTE: EXPERT_OF[expert]}


def plain_config(network: Any) -> dict[str, Any]:
    """A network's configuration without diffusers' own notes."""
    return {key: value for key, value in network.config.items() if not key.startswith("_")}


def save_adapter(
    folder: Path, model: TrainingModel, network: Mapping[str, torch.Tensor], notes: Mapping[str, str]
) -> None:
    """Write the adapter among a network's tensors, with `notes` among the file's metadata."""
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from peft import get_peft_model_state_dict

    transformer = model.transformer
    settings = transformer.peft_config[ADAPTER_NAME].to_dict()
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    adapter = get_peft_model_state_dict(transformer, state_dict=dict(network), adapter_name=ADAPTER_NAME)
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(settings, sort_keys=True), **notes}
    write_tensors(folder / ADAPTER_FILE, adapter, metadata)


def projector_tensors(config: AlignmentConfig, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The projectors of a training model's whole state under their original names."""
    own = _below(state, PROJECTORS_NAME)
    # Shards have no original names: a whole copy of the module has.
    widths = [own[f"by_teacher.{number}.0.2.weight"].shape[0] for number in range(len(config.teachers))]
    with torch.device("meta"):
        whole = AlignmentProjectors(
            config, width=own["by_teacher.0.0.0.weight"].shape[1], teacher_widths=widths
        )
    whole.load_state_dict(own, assign=True)
    return whole.original_state_dict()


def _below(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
