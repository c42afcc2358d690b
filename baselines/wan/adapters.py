"""LoRA adapters of Wan transformers on disk, read in the forms in which trainers write them
(`baselines.wan.added_adapters` puts them onto a network).

Read are the files of diffusers' `save_lora_weights`, of peft's `save_pretrained` (with the
`adapter_config.json` beside them), of DiffSynth, of ComfyUI (`lora_down`, `lora_up`, `alpha`, whole
differences `diff`, `diff_b`, `diff_m`), of musubi-tuner and of kohya's scripts, with Wan's names or those of
diffusers. A module's weight W becomes W + scale·up·down, where scale is alpha / rank; a whole difference is
added to its parameter. diffusers' own converters (0.42.1) pass over differences of norms and of whole
weights, so the names come from the family's one map (`baselines.wan.checkpoint`). A test holds names and
scales against these converters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from refbench.baselines.wan.checkpoint import PREFIX
from refbench.baselines.wan.experts import ADAPTERS, EXPERT_NOTE, EXPERTS
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import parse_json, read_json_object, shortlist
from refbench.bench.weights.checkpoint import (
    files_of_one_network,
    key_faults,
    read_metadata,
    read_state_dict,
    unwrapped_names,
)
from refbench.bench.weights.store import weights_fingerprint

# Beside the file of an adapter that peft saved.
CONFIG_FILE = "adapter_config.json"
# Where diffusers keeps the same settings: in the file's own metadata, with the name of the network's part.
METADATA_KEY = "lora_adapter_metadata"
METADATA_PREFIX = "transformer."
# What `refalign.training` writes into the metadata of its adapters.
BASE_MODEL, BASE_DIGEST = "base_model", "base_digest"
# A key by what it is: a module, what stands behind it, and the name that peft gave the adapter.
_NAME = r"(?:\.(?P<name>(?!weight$|bias$)[^.]+))?"
KEYS = {
    kind: re.compile(rf"(?P<module>.+)\.{end}")
    for kind, end in {
        "down": rf"(?:lora_A|lora_down|lora\.down){_NAME}\.weight",
        "up": rf"(?:lora_B|lora_up|lora\.up){_NAME}\.weight",
        "bias": rf"(?:lora_B|lora_up|lora\.up){_NAME}\.bias",
        "magnitude": rf"lora_magnitude_vector{_NAME}(?:\.weight)?",
        "alpha": "alpha",
        "diff": "diff",
        "diff_b": "diff_b",
        "diff_m": "diff_m",
    }.items()
}
# The parameters that a whole difference may be of, by the end of its key.
DIFFERENCE_OF = {"diff": (".weight", ""), "diff_b": (".bias",), "diff_m": (".modulation",)}
ADAPTER_PREFIX = re.compile(r"(?:base_model\.)?" + PREFIX.pattern)
# Before names with underscores in place of dots.
KOHYA_PREFIX = "lora_unet_"
# Parts of keys by which other kinds of adapters are known.
OTHER_KINDS = {
    ".lokr_": "a LoKr adapter",
    ".hada_": "a LoHa adapter",
    ".oft_": "an OFT adapter",
    ".boft_": "a BOFT adapter",
    ".ia3_": "an IA3 adapter",
    ".vera_": "a VeRA adapter",
    ".lora_E": "an AdaLoRA adapter",
    ".lora_mid": "a LoCon adapter with middle tensors",
    ".dora_scale": "a DoRA adapter in the form of LyCORIS",
}
# Of peft's settings those that change what the same tensors mean.
UNREAD_SETTINGS = (
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
# Ways to begin that leave the network below as it is; the others (PiSSA, OLoRA, LoftQ, …) change it.
PLAIN_BEGINNINGS = (None, True, False, "gaussian", "orthogonal", "eva")
SHOWN_VALUES = 4


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """What is added to a module's weight: scale·up·down; with `magnitude` (out,) DoRA's norms."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """The rank of the product."""
        return len(self.down)

    def difference(self, weight: torch.Tensor) -> torch.Tensor:
        """W' - W in float32 for the weight W (out, …) of the module, in its shape.

        W' is W + scale·up·down, with a magnitude m (DoRA) its rows scaled to the lengths m.
        """
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        difference = (self.scale * product).reshape(weight.shape)
        if self.magnitude is None:
            return difference
        before = weight.detach().float().to(difference.device)
        changed = before + difference
        lengths = changed.flatten(1).norm(dim=1)
        factors = (self.magnitude.float() / lengths).view(-1, *[1] * (weight.ndim - 1))
        return factors * changed - before


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter as its file has it, by the file's own names without prefixes.

    `differences` are whole, by (module, end of the key). `base_digest` is that of the network that it was
    trained on, `base_model` its name and `expert` which of two it is, where the file says so.
    """

    source: Path
    low_rank: Mapping[str, LowRank]
    differences: Mapping[tuple[str, str], torch.Tensor]
    base_model: str | None = None
    base_digest: str | None = None
    expert: str | None = None

    @property
    def is_dora(self) -> bool:
        """Whether it has DoRA's magnitudes."""
        return any(each.magnitude is not None for each in self.low_rank.values())

    def summary(self) -> str:
        """`48 modules, rank 16, alpha 8, scale 0.5; 3 whole differences`."""
        parts = []
        if self.low_rank:
            values = self.low_rank.values()
            parts.append(
                f"{_counted(len(self.low_rank), 'module')}, rank {_values(each.rank for each in values)}, "
                f"alpha {_values(each.scale * each.rank for each in values)}, "
                f"scale {_values(each.scale for each in values)}" + (", DoRA" if self.is_dora else "")
            )
        if self.differences:
            parts.append(_counted(len(self.differences), "whole difference"))
        return "; ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _values(values: Iterable[float]) -> str:
    different = [f"{value:g}" for value in sorted(set(values))]
    return "/".join(different) if len(different) <= SHOWN_VALUES else f"{different[0]} to {different[-1]}"


def adapter_file(path: Path) -> Path:
    """The file of an adapter: itself, or the one in its folder. Raises UserError for none and for several."""
    if path.is_file():
        return path
    files = files_of_one_network(path)
    if len(files) > 1:
        raise UserError(f"the adapter {path} must be one file, it is {len(files)}")
    return files[0]


def adapter_digest(path: Path, strength: float = 1.0) -> str:
    """The digest of an adapter's file, what it does and how strongly, for the card.

    Raises UserError as `read_adapter`.
    """
    file = adapter_file(path).resolve()
    strongly = "" if strength == 1 else f"; strength {strength:g}"
    return f"{weights_fingerprint(file.parent, [file])} ({read_adapter(path).summary()}{strongly})"


def read_adapter(path: Path) -> Adapter:
    """Read an adapter.

    Args:
        path: a file, or a folder with one.

    The scale is that of the module's `alpha` in the file, else of peft's settings in the file's metadata or
    in the `adapter_config.json` beside it, else 1. Raises UserError for other kinds of adapters, for several
    in one file, for keys that mean nothing, and for settings that do not fit the tensors.
    """
    file = adapter_file(path)
    state = read_state_dict(file)
    names = unwrapped_names(state, file)
    adapters: set[str] = set()
    found: dict[str, dict[str, torch.Tensor]] = {}
    unknown = []
    for stored, key in names.items():
        kind, module, name = _parsed(key)
        if kind is None:
            unknown.append(stored)
            continue
        if kind in found.setdefault(module, {}):
            raise UserError(f"the adapter {file} holds two adapters: {one_line(stored, 80)} comes twice")
        found[module][kind] = state[stored]
        adapters |= {name} if name is not None else set()
    _refuse_unknown(unknown, file)
    if len(adapters) > 1:
        raise UserError(f"the adapter {file} holds several adapters: {shortlist(sorted(adapters))}")
    if not found:
        raise UserError(f"the adapter {file} holds no tensors")
    metadata = read_metadata(file)
    settings = _Settings.of(file, metadata)
    reading = _Reading(file, settings)
    for module, tensors in found.items():
        reading.take(module, tensors)
    reading.check()
    return Adapter(
        source=file,
        low_rank=reading.low_rank,
        differences=reading.differences,
        base_model=metadata.get(BASE_MODEL),
        base_digest=metadata.get(BASE_DIGEST),
        expert=metadata.get(EXPERT_NOTE),
    )


def _parsed(key: str) -> tuple[str | None, str, str | None]:
    """(what a key is, its module without prefixes, the adapter's name); (None, …) for an unknown one."""
    for kind, pattern in KEYS.items():
        match = pattern.fullmatch(key)
        if match is not None:
            module = ADAPTER_PREFIX.sub("", match["module"], count=1)
            return kind, module, match.groupdict().get("name")
    return None, key, None


def _refuse_unknown(keys: list[str], file: Path) -> None:
    for part, kind in OTHER_KINDS.items():
        known = next((key for key in keys if part in key), None)
        if known is not None:
            raise UserError(f"{file} is {kind} ({one_line(known, 80)}), which cannot be read")
    if keys:
        raise UserError(f"the adapter {file} holds keys that are no LoRA's: {key_faults({'unknown': keys})}")


@dataclass(frozen=True)
class _Settings:
    """peft's settings of an adapter and where they stand; without any the scale is 1."""

    values: Mapping[str, Any]
    source: str

    @classmethod
    def of(cls, file: Path, metadata: Mapping[str, str]) -> _Settings | None:
        beside = file.parent / CONFIG_FILE
        if METADATA_KEY in metadata:
            source = f"{file}: its metadata"
            values = parse_json(metadata[METADATA_KEY], source)
            if not isinstance(values, dict):
                raise UserError(f"{source} is no JSON object")
            values = {name.removeprefix(METADATA_PREFIX): value for name, value in values.items()}
        elif beside.is_file():
            source, values = str(beside), read_json_object(beside)
        else:
            return None
        kind = values.get("peft_type", "LORA")
        if kind != "LORA":
            raise UserError(f"{source} is of a {one_line(kind, 40)} adapter, which cannot be read")
        unread = [name for name in UNREAD_SETTINGS if values.get(name)]
        if values.get("init_lora_weights") not in PLAIN_BEGINNINGS:
            unread.append("init_lora_weights")
        if unread:
            shown = ", ".join(f"{name}={one_line(json.dumps(values[name]), 40)}" for name in unread)
            raise UserError(f"{source} asks for what cannot be done: {shown}")
        return cls(values, source)

    def scale(self, module: str, rank: int) -> float:
        """The scale of a module. Raises UserError for another rank than its tensors', and for no number."""
        try:
            expected = int(self._of_module("rank_pattern", "r", module, rank))
            alpha = float(self._of_module("alpha_pattern", "lora_alpha", module, rank))
        except (TypeError, ValueError, AttributeError, re.error) as error:
            raise UserError(f"{self.source} is damaged: {one_line(error, 120)}") from None
        if expected != rank:
            raise UserError(f"{self.source} says rank {expected}, {one_line(module, 80)} has {rank}")
        return alpha / (math.sqrt(rank) if self.values.get("use_rslora") else rank)

    def _of_module(self, pattern: str, name: str, module: str, default: float) -> Any:
        from peft.utils.other import get_pattern_key

        by_module = self.values.get(pattern) or {}
        key = get_pattern_key(by_module.keys(), module)
        return by_module.get(key, self.values.get(name, default))


@dataclass
class _Reading:
    """The tensors of an adapter's modules, as they are put together."""

    file: Path
    settings: _Settings | None
    low_rank: dict[str, LowRank] = field(default_factory=dict)
    differences: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    single: list[str] = field(default_factory=list)

    def take(self, module: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """One module's tensors by kind."""
        for kind in DIFFERENCE_OF.keys() & tensors.keys():
            self.differences[module, kind] = tensors[kind]
        down, up = tensors.get("down"), tensors.get("up")
        if down is None or up is None:
            self.single += [f"{module} {kind}" for kind in tensors if kind not in DIFFERENCE_OF]
            return
        scale = self._scale(module, down.shape[0] if down.ndim else 0, tensors.get("alpha"))
        magnitude = tensors.get("magnitude")
        self.low_rank[module] = LowRank(
            down=down, up=up, scale=scale, magnitude=None if magnitude is None else magnitude.reshape(-1)
        )
        if "bias" in tensors:
            if "diff_b" in tensors:
                raise UserError(f"the adapter {self.file} has two biases for {one_line(module, 80)}")
            self.differences[module, "diff_b"] = tensors["bias"].float() * scale

    def _scale(self, module: str, rank: int, alpha: torch.Tensor | None) -> float:
        if rank == 0:
            raise UserError(f"the adapter {self.file}: {one_line(module, 80)} has rank 0")
        if alpha is not None:
            if alpha.numel() != 1:
                raise UserError(f"the adapter {self.file}: the alpha of {one_line(module, 80)} is no number")
            scale = float(alpha) / rank
        else:
            scale = 1.0 if self.settings is None else self.settings.scale(module, rank)
        if not math.isfinite(scale):
            raise UserError(f"the adapter {self.file}: the scale of {one_line(module, 80)} is {scale}")
        return scale

    def check(self) -> None:
        """Raises UserError for tensors without their partner."""
        if any(each.magnitude is not None for each in self.low_rank.values()):
            self.single += [
                f"{module} without magnitude"
                for module, each in self.low_rank.items()
                if each.magnitude is None
            ]
        if self.single:
            raise UserError(
                f"the adapter {self.file} is not whole: {key_faults({'without their partner': self.single})}"
            )


def check_adapter_base(adapter: Adapter, network: Path, digest: str) -> None:
    """Raises UserError for an adapter whose file says that it was trained on another network."""
    if adapter.base_digest is not None and adapter.base_digest != digest:
        raise UserError(
            f"the adapter {adapter.source} was trained on {one_line(adapter.base_model or 'another', 80)} "
            f"({one_line(adapter.base_digest, 40)}), not on {network} ({one_line(digest, 40)}); give that "
            "network with --set transformer=PATH, or --set adapter_base=any to put it onto this one"
        )


def check_adapter_expert(adapter: Adapter, number: int) -> None:
    """Raises UserError for an adapter in the place of expert `number` whose file says that it was trained on
    the other one.
    """
    if adapter.expert not in (None, EXPERTS[number]):
        raise UserError(
            f"the adapter {adapter.source} is the {one_line(adapter.expert, 40)} expert's, as it says "
            f"itself, but stands in the {EXPERTS[number]} one's place ({ADAPTERS[number]}): they are swapped"
        )
