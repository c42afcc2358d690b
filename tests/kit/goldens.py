"""Goldens of the original implementations: reading them, and networks filled by their entries' names."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from fill import parameter

GOLDENS = Path(__file__).parents[1] / "goldens"


def read(name: str) -> Any:
    """A golden JSON file by its path below tests/goldens, or the arrays of an .npz by name."""
    path = GOLDENS / name
    if path.suffix != ".npz":
        return json.loads(path.read_text())
    with np.load(path) as arrays:
        return dict(arrays)


def filled(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Tensors filled by name, as the goldens' weights were; several at a time, since they take seconds."""
    import torch

    def one(item: tuple[str, Sequence[int]]) -> Any:
        key, shape = item
        return torch.from_numpy(np.ascontiguousarray(parameter(key, tuple(shape)))).reshape(tuple(shape))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(shapes, threads.map(one, shapes.items()), strict=True))


def fill_network(network: Any) -> Any:
    """The network with every entry filled by its name, in evaluation mode, without gradients."""
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    network.load_state_dict(filled(shapes), strict=True, assign=True)
    return network.eval().requires_grad_(False)


def crc(array: np.ndarray) -> int:
    """The checksum that goldens hold of an array."""
    return zlib.crc32(np.ascontiguousarray(array).tobytes())
