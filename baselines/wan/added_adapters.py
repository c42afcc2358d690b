"""Putting adapters onto a network: whole or not at all, at a strength, several at once.

At strength s a weight W becomes W + s·(W' - W), where W' is what the adapter alone makes of W; several add
up. For a plain low-rank product that is W + s·scale·up·down, which peft's layers compute beside the module;
a whole difference is added to its parameter. DoRA's weight is no sum: alone at full strength peft computes
it, else s·(W' - W) goes into the parameter.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from refbench.baselines.wan.adapter_option import ChosenAdapter
from refbench.baselines.wan.adapters import (
    DIFFERENCE_OF,
    KOHYA_PREFIX,
    Adapter,
    LowRank,
    read_adapter,
)
from refbench.baselines.wan.checkpoint import diffusers_key, original_key
from refbench.bench.errors import UserError, one_line
from refbench.bench.weights.checkpoint import key_faults

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class AddedAdapter:
    """An adapter and the strength that it is put on with."""

    adapter: Adapter
    strength: float = 1.0

    @classmethod
    def read(cls, chosen: ChosenAdapter) -> AddedAdapter:
        """The adapter that an option names. Raises UserError as `read_adapter`."""
        return cls(adapter=read_adapter(chosen.path), strength=chosen.strength)


def add_adapters(network: Any, adapters: Sequence[AddedAdapter]) -> None:
    """Put adapters onto a diffusers network.

    Raises UserError, before anything is changed, for what has no place in the network or another shape.
    """
    place = _Places(network)
    found = [place.of(one.adapter) for one in adapters]
    sums: dict[str, torch.Tensor] = {}

    def add(name: str, difference: torch.Tensor) -> None:
        sums[name] = difference if name not in sums else sums[name] + difference

    beside = []
    for one, (modules, differences) in zip(adapters, found, strict=True):
        for name, difference in differences.items():
            add(name, one.strength * difference.float())
        if one.adapter.is_dora and (len(adapters) > 1 or one.strength != 1):
            for module, low_rank in modules.items():
                weight = place.parameters[f"{module}.weight"]
                add(f"{module}.weight", one.strength * low_rank.difference(weight))
        elif modules:
            beside.append((one, modules))
    names = [_inject(network, modules, one.adapter.source, one.strength) for one, modules in beside]
    if len(names) > 1:
        network.set_adapter(names)
    with torch.no_grad():
        for name, difference in sums.items():
            parameter = place.parameters[name]
            parameter.copy_(parameter.float() + difference.to(parameter.device))


def _inject(network: Any, modules: Mapping[str, LowRank], source: Path, strength: float) -> str:
    """Put peft's layers beside modules; returns the name that diffusers gave the adapter."""
    state = {}
    for module, each in modules.items():
        state[f"{module}.lora_A.weight"], state[f"{module}.lora_B.weight"] = each.down, each.up
        if each.magnitude is not None:
            # As peft has it: (out,) of a linear layer, (1, out, 1, …) of a convolution.
            inner = each.down.ndim - 2
            state[f"{module}.lora_magnitude_vector"] = (
                each.magnitude.view(1, -1, *[1] * inner) if inner else each.magnitude
            )
    known = set(getattr(network, "peft_config", {}))
    try:
        with warnings.catch_warnings():
            # Several adapters are meant.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            network.load_lora_adapter(state, prefix=None)
    except Exception as error:  # noqa: BLE001 - peft and diffusers raise many kinds
        raise UserError(f"the adapter {source} does not fit: {one_line(error, 200)}") from None
    (name,) = set(network.peft_config) - known
    absent = []
    for module, each in modules.items():
        layer = network.get_submodule(module)
        if name not in getattr(layer, "scaling", {}):
            absent.append(module)
        else:
            layer.scaling[name] = each.scale * strength
    if absent:
        raise UserError(f"the adapter {source} does not fit: {key_faults({'not applied': absent})}")
    return str(name)


class _Places:
    """Where an adapter's names are in a network, and what has no place; see `add_adapters`."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.parameters = dict(network.named_parameters())
        self._modules = {name for name, _ in network.named_modules() if name}
        self._underscored: dict[str, str] = {
            spelling.replace(".", "_"): name
            for name in self._modules
            for spelling in (name, original_key(name))
        }
        self.faults: dict[str, list[str]] = {}
        self._network_name = type(network).__name__

    def of(self, adapter: Adapter) -> tuple[dict[str, LowRank], dict[str, torch.Tensor]]:
        """An adapter's low-rank products by module and its whole differences by parameter.

        Raises UserError that names what has no place, comes twice, or has another shape.
        """
        self.faults = {}
        modules = self.once({name: self.module(name) for name in adapter.low_rank}, adapter.low_rank)
        parameters = self.once(
            {name: self.parameter(*name) for name in adapter.differences}, adapter.differences
        )
        self.check_shapes(modules, parameters)
        if self.faults:
            raise UserError(
                f"the adapter {adapter.source} does not fit {self._network_name}: keys {self.fault_text()}"
            )
        return modules, parameters

    def _dotted(self, name: str) -> str:
        """A name of the file as diffusers has it."""
        if name.startswith(KOHYA_PREFIX):
            return self._underscored.get(name.removeprefix(KOHYA_PREFIX), name)
        return diffusers_key(name)

    def module(self, name: str) -> str:
        """The module of the network with a weight; else a fault is kept."""
        found = self._dotted(name)
        if found not in self._modules or f"{found}.weight" not in self.parameters:
            self._fault("without a place", name)
        return found

    def parameter(self, module: str, kind: str) -> str:
        """The parameter of the network that a whole difference is of; else a fault is kept."""
        for end in DIFFERENCE_OF[kind]:
            found = diffusers_key(self._dotted(module) + end)
            if found in self.parameters:
                return found
        self._fault("without a place", f"{module}.{kind}")
        return f"{module}.{kind}"

    def once(self, places: Mapping[Any, str], values: Mapping[Any, Value]) -> dict[str, Value]:
        """Place → value; a fault is kept where two names have one place."""
        found: dict[str, Value] = {}
        for name, place in places.items():
            if place in found:
                self._fault("given twice", place)
            found[place] = values[name]
        return found

    def check_shapes(self, modules: Mapping[str, LowRank], parameters: Mapping[str, torch.Tensor]) -> None:
        """Keep a fault for each tensor of another shape."""
        for name, each in modules.items():
            weight = self.parameters.get(f"{name}.weight")
            if weight is None:
                continue
            out, *inner = weight.shape
            down, up = (each.rank, *inner), (out, each.rank, *[1] * (weight.ndim - 2))
            self._compare(f"{name} down", each.down, down)
            self._compare(f"{name} up", each.up, up)
            if each.magnitude is not None:
                self._compare(f"{name} magnitude", each.magnitude, (out,))
        for name, difference in parameters.items():
            if name in self.parameters:
                self._compare(name, difference, tuple(self.parameters[name].shape))

    def _compare(self, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != shape:
            self._fault("of a wrong shape", f"{name} {tuple(tensor.shape)} instead of {shape}")

    def _fault(self, fault: str, name: str) -> None:
        self.faults.setdefault(fault, []).append(name)

    def fault_text(self) -> str:
        """The faults with the first names of each."""
        return key_faults(self.faults)
