"""A repository of weights as data, and the patterns of the files that model folders hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["metric", "generator", "teacher"]

# A model folder of the hub.
MODEL_FILES = ("config.json", "model.safetensors|pytorch_model.bin")
# What a generator in original format takes from a diffusers folder: everything but its transformer.
BASE_FILES = (
    "vae/config.json",
    "vae/*.safetensors",
    "text_encoder/config.json",
    "text_encoder/*.safetensors",
    "tokenizer/tokenizer.json|tokenizer/spiece.model",
)
TRANSFORMER_FILES = ("transformer/config.json", "transformer/*.safetensors")
IMAGE_FILES = (
    "image_encoder/config.json",
    "image_encoder/*.safetensors",
    "image_processor/preprocessor_config.json",
)


@dataclass(frozen=True, kw_only=True)
class WeightEntry:
    """A repository of weights on the hub.

    `required` are the files without which nothing loads: paths below the repository's folder, `*` for any
    name, alternatives separated by `|`. `only` are the patterns that a pull is restricted to where most of a
    repository is not needed. `memory_gib` are the parameters in the dtype they run in, for planning.
    `made_by` is the command that makes weights which no hub has. `revision` and `licence` are empty
    where they were not verified: shown as unverified, and recorded at the first pull. Licences of generators
    are those that their repositories state; a hub's card may say more.
    """

    name: str
    repository: str
    holds: str
    kind: Kind = "metric"
    memory_gib: float = 0.0
    required: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    revision: str = ""
    licence: str = ""
    made_by: str = ""
