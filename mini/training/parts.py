"""All parts of a build, in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Collection

from refbench.bench.errors import UserError
from refbench.bench.registry import unknown_name
from refbench.mini.training import (
    aesthetics,
    base,
    clip_b32,
    facesim,
    finetune,
    gmescore,
    latents,
    motion_smoothness,
    naturalscore,
    nexusscore,
    teacher,
    vae,
)
from refbench.mini.training.build import Part

PARTS: tuple[Part, ...] = (
    vae.PART,
    teacher.PART,
    latents.PART,
    base.PART,
    *finetune.PARTS,
    gmescore.PART,
    aesthetics.PART,
    motion_smoothness.PART,
    naturalscore.PART,
    facesim.PART,
    clip_b32.PART,
    nexusscore.PART,
)


def chosen_parts(names: Collection[str]) -> list[Part]:
    """The parts of these names with all that they need, in order; without names all. Raises UserError."""
    by_name = {part.name: part for part in PARTS}
    unknown = next((name for name in names if name not in by_name), None)
    if unknown is not None:
        raise UserError(unknown_name("part", unknown, by_name))
    wanted = set(names or by_name)
    for part in reversed(PARTS):
        if part.name in wanted:
            wanted |= set(part.needs)
    return [part for part in PARTS if part.name in wanted]
