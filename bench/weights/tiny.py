"""Tiny checkpoints in the real formats: who writes them, and random tensors that are a function of their name
alone.

Packages named by the entry-point group `refbench.tiny_weights`, and plugins, have modules with a function
`write_tiny(folder)`, which writes complete small checkpoints below a folder of weights.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import replacing, visible, write_text
from refbench.bench.weights.checkpoint import write_tensors
from refbench.bench.weights.kind import MARKERS, TINY_MARKER, WeightsKind, kind_of_folder
from refbench.bench.weights.store import is_tiny

if TYPE_CHECKING:
    import torch


TINY_GROUP = "refbench.tiny_weights"
MARK_TEXTS: Mapping[WeightsKind, str] = {
    "tiny": "random weights for trying the pipeline; scores mean nothing\n",
    "mini": "weights trained in the drawn world; scores mean nothing outside of it\n",
}


@dataclass(frozen=True, kw_only=True)
class TinyWritten:
    """How many sets of tiny weights were written, and which were not: writer → the package it lacks."""

    sets: int
    lacking: Mapping[str, str]


def write_tiny_weights(folder: Path, plugins: Iterable[ModuleType] = ()) -> TinyWritten:
    """Write the tiny weights of all installed metrics and methods, and of these plugins, below `folder`.

    What needs a package that is not installed is left out and named. Raises UserError where the folder holds
    weights that are not tiny. A call that was interrupted can be repeated.
    """
    for place in visible(folder, "*/*"):
        if place.is_dir() and not is_tiny(place):
            raise UserError(f"{place} holds other weights ({TINY_MARKER} is missing): choose another folder")
    sets = 0
    lacking: dict[str, str] = {}
    for module in (*_writers(), *plugins):
        write = getattr(module, "write_tiny", None)
        if write is None:
            continue
        try:
            write(folder)
            sets += 1
        except ModuleNotFoundError as error:
            # An installation of the metrics or of the generators alone makes its own part.
            lacking[module.__name__.rpartition(".")[2]] = str(error.name)
    return TinyWritten(sets=sets, lacking=lacking)


def _writers() -> Iterator[ModuleType]:
    """The modules of the packages that the entry points name."""
    for point in entry_points(group=TINY_GROUP):
        try:
            package = point.load()
        except ImportError as error:
            raise UserError(f"{point.value} does not load: {one_line(error)}") from None
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            yield importlib.import_module(module.name)


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


def marked_folder(folder: Path, repository: str, kind: WeightsKind = "tiny") -> Path:
    """The folder of a repository's files below `folder`, made and marked as tiny or as mini.

    The folder comes with its mark: without one it would be taken for other weights when this was interrupted.
    """
    place = folder / repository
    if not place.is_dir():
        with replacing(place) as partial:
            partial.mkdir()
            write_text(partial / MARKERS[kind], MARK_TEXTS[kind])
    elif kind_of_folder(place) != kind:
        write_text(place / MARKERS[kind], MARK_TEXTS[kind])
    return place
