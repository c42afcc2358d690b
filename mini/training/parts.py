"""All parts of a build, in the order in which they need each other."""

from __future__ import annotations

from refbench.mini.training import base, finetune, latents, teacher, vae
from refbench.mini.training.build import Part

PARTS: tuple[Part, ...] = (vae.PART, teacher.PART, latents.PART, base.PART, *finetune.PARTS)
