"""Random weights that are a function of their name alone."""

from __future__ import annotations

import zlib

import numpy as np


def scaled_noise(key: str, shape: tuple[int, ...], gain: float = 1.0) -> np.ndarray:
    """Value of the state-dict entry `key`, float32: scales near 1, biases near 0, matrices of noise.

    `gain` is the factor on a matrix's variance: 1 where activations keep their size, 2 where they halve it.
    """
    state = np.random.RandomState(zlib.crc32(key.encode()))
    noise: np.ndarray = np.asarray(state.standard_normal(shape), dtype=np.float32)
    if len(shape) > 1:
        return noise * np.float32((gain / np.prod(shape[1:])) ** 0.5)
    if key.endswith("running_var"):
        return np.ones(shape, np.float32)
    is_scale = key.endswith("weight")
    # A scalar's arithmetic leaves the array type.
    return np.asarray(np.float32(1 if is_scale else 0) + np.float32(0.1) * noise)
