"""Random tensors that are a function of their name alone, for tiny checkpoints, and how those are written."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refbench.bench.weights.checkpoint import write_tensors
from refbench.bench.weights.store import TINY_MARKER

if TYPE_CHECKING:
    import torch


def random_parameter(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of the state-dict entry `key`: float32, so scaled that activations keep their size."""
    leaf = key.rpartition(".")[2]
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if leaf == "running_var":
        return (1 + 0.1 * np.abs(noise)).astype(np.float32)
    # `gamma` is the gain of the Wan VAE's norms, which carries its axes: (channels, 1, 1).
    if (leaf == "weight" and len(shape) == 1) or leaf == "gamma":
        return (1 + 0.1 * noise).astype(np.float32)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 100
    return (noise / math.sqrt(fan_in)).astype(np.float32)


def random_state_dict(module: torch.nn.Module, rename: Callable[[str], str] = str) -> dict[str, torch.Tensor]:
    """A value by name for each entry of a module (which may be on the meta device); counters are zero.

    `rename` gives the names that the entries are to have, which also decide on the values.
    """
    import torch

    state = {}
    for key, tensor in module.state_dict().items():
        name, shape = rename(key), tuple(tensor.shape)
        if tensor.is_floating_point():
            state[name] = torch.from_numpy(np.ascontiguousarray(random_parameter(name, shape))).reshape(shape)
        else:
            state[name] = torch.zeros(shape, dtype=tensor.dtype)
    return state


def save_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], name: str = "model.safetensors") -> None:
    """Write one safetensors file of a Hugging Face folder."""
    write_tensors(folder / name, tensors)


def marked_folder(folder: Path, repository: str) -> Path:
    """The folder of a repository's files below `folder`, made and marked as tiny."""
    place = folder / repository
    place.mkdir(parents=True, exist_ok=True)
    (place / TINY_MARKER).write_text("random weights for trying the pipeline; scores mean nothing\n")
    return place
