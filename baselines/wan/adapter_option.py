"""Which adapters the option `adapter` names and how strongly each is put on. No torch here.

`a.safetensors:0.8,b.safetensors`: files or folders separated by commas, each with a strength behind a colon
where it is not 1. At strength s a weight becomes W + s·(W' - W), where W' is what the adapter alone at full
strength makes of W; several adapters add up, whatever their order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ChosenAdapter:
    """An adapter's file or folder and its strength: 0 is none of it, 1 all of it."""

    path: Path
    strength: float = 1.0


def chosen_adapters(value: Path | str | None) -> tuple[ChosenAdapter, ...]:
    """The adapters that an option's value names, in its order; none for None.

    A value that is the path of something on disk is that one adapter, commas and colons in its name included.
    Raises ValueError for an empty name, a strength that is no finite number, and a file that comes twice.
    """
    if value is None:
        return ()
    text = str(value)
    if text and Path(text).exists():
        return (ChosenAdapter(path=Path(text)),)
    chosen = tuple(_chosen(part.strip(), text) for part in text.split(","))
    paths = [one.path for one in chosen]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"adapter: {path} comes twice; name it once, with the sum of the strengths")
    return chosen


def _chosen(part: str, text: str) -> ChosenAdapter:
    name, colon, number = part.rpartition(":")
    if colon and not Path(part).exists():
        try:
            strength = float(number)
        except ValueError:
            # `C:\adapters\a.safetensors`, or a name that is not there: whoever opens it says so.
            return ChosenAdapter(path=Path(part))
        if not math.isfinite(strength):
            raise ValueError(f"adapter: the strength of {name} must be a finite number, {number} is not")
        part = name
    else:
        strength = 1.0
    if not part:
        raise ValueError(f"adapter is FILE:strength,FILE:strength,…, not {text!r}")
    return ChosenAdapter(path=Path(part), strength=strength)
