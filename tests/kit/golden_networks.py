"""Networks and inputs of the generators' goldens, rebuilt from names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fill import normal, parameter

from refbench.baselines.wan.checkpoint import diffusers_key

GOLDENS = Path(__file__).parents[1] / "goldens"
PROJECTOR = "input_mlp"


def read(name: str) -> Any:
    """A golden JSON file, or the arrays of an .npz."""
    path = GOLDENS / name
    return np.load(path) if path.suffix == ".npz" else json.loads(path.read_text())


def original_state(shapes: Mapping[str, list[int]]) -> dict[str, torch.Tensor]:
    """A state dict under original Wan names, filled by name."""
    return {key: torch.from_numpy(parameter(key, tuple(shape))) for key, shape in shapes.items()}


def diffusers_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """An original text-to-video configuration as diffusers names it."""
    return {
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["dim"] // config["num_heads"],
        "in_channels": config["in_dim"],
        "out_channels": config["out_dim"],
        "text_dim": config["text_dim"],
        "freq_dim": config["freq_dim"],
        "ffn_dim": config["ffn_dim"],
        "num_layers": config["num_layers"],
        "eps": config["eps"],
    }


def network(
    network_class: Any, shapes: Mapping[str, list[int]], config: Mapping[str, Any], **changes: Any
) -> Any:
    """A filled network of a tiny original configuration, without projectors, in evaluation mode."""
    state = {key: value for key, value in original_state(shapes).items() if PROJECTOR not in key}
    for key in changes.pop("scaled", ()):
        if key in state:
            state[key] = state[key] * 1e-3
    model = network_class(**diffusers_config(config), **changes)
    model.load_state_dict({diffusers_key(key): value for key, value in state.items()}, strict=True)
    return model.eval()


def named(prefix: str, name: str, shape: tuple[int, ...], **arguments: float) -> torch.Tensor:
    """An input: noise that is a function of its name."""
    return torch.from_numpy(normal(f"{prefix}.{name}", shape, **arguments))


def worst(found: torch.Tensor | np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; shapes must agree."""
    found = np.asarray(found.detach() if isinstance(found, torch.Tensor) else found, dtype=np.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max())
