"""Figures that say whether a network ranks as it should."""

from __future__ import annotations

import numpy as np


def area_under_curve(own: np.ndarray, other: np.ndarray) -> float:
    """How often a value of `own` exceeds one of `other`, ties counting half: 0.5 is chance, 1 is perfect."""
    ordered = np.sort(other)
    below = np.searchsorted(ordered, own, side="left")
    up_to = np.searchsorted(ordered, own, side="right")
    return float((below + up_to).mean() / (2 * len(other)))
