"""Checkpoints: tensors read safely and written whole, and loading that names every key that does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import shortlist

if TYPE_CHECKING:
    import torch

NAMED_KEYS = 3


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.safetensors` file, or of a PyTorch file read with `weights_only=True`, on the CPU.

    A wrapping `state_dict`, `model` or `module` entry is opened. Raises UserError for a missing, truncated or
    wrong file, and for one that holds more than tensors and plain containers (which could run code).
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"the checkpoint {path} does not exist") from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, which is not loaded ({one_line(error, 120)}); "
            "convert it to safetensors in an environment you trust"
        ) from None
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
        raise UserError(f"{path} is damaged or no checkpoint: {one_line(error, 160)}") from None
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a mapping of tensors")
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, making its folder; a full disk is an OSError, as for every other file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    try:
        save_file(contiguous, path, metadata={"format": "pt", **(metadata or {})})
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
