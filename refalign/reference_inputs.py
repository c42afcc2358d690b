"""The interface of reference inputs: features of the references that the network takes beside their latents.

A `ReferenceInput` is light: a declaration, options, the teachers it needs. `build()` returns a module that
turns the teachers' features into what is added to the reference tokens behind the patch embedding. (A wider
patch embedding that takes features along its channels is such a sum, written apart.) The module is part of
the network: it is trained, averaged and saved with it, and generation needs it, so a generator that does not
make the input refuses the network (`baselines.wan.checkpoint`).

A file registers its own with `@reference_inputs.register`; `examples/vae_and_teacher.py` is complete.

Shapes: B samples, C channels of the generator, D channels of a teacher, N references, T tokens of all
references, h and w latent rows and columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from refbench.bench.errors import UserError
from refbench.bench.registry import Registry
from refbench.refalign.losses import Extension, TokenWidths, own_code, place_of


@dataclass(frozen=True, kw_only=True)
class InputDeclaration:
    """What a reference input says of itself; `name` is that of its settings (`reference_inputs.NAME.…`)."""

    name: str
    summary: str
    source: str


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """The setting that every reference input has; one with more inherits from this."""

    enabled: bool = False
    """Whether the network takes the input."""


@dataclass(frozen=True, kw_only=True)
class ReferenceFeatures:
    """What a reference input is given.

    `latents_BCNhw`: clean reference latents, zero for padding and where the references are dropped; their C
    is that of latents. `features`: of each teacher asked for (B,T,D), zero in the same places, on the grid of
    the reference tokens. `subject_BT`: the number of the reference that a token belongs to, -1 for padding.
    """

    latents_BCNhw: torch.Tensor
    features: Mapping[str, torch.Tensor]
    subject_BT: torch.Tensor


class ReferenceInput(Extension):
    """An input with its options, before anything is built.

    `Options` is a frozen dataclass that inherits from `InputOptions`.
    """

    declaration: ClassVar[InputDeclaration]
    Options: ClassVar[type] = InputOptions

    @abstractmethod
    def teachers(self) -> tuple[str, ...]:
        """The teachers whose features of the references it takes."""

    @abstractmethod
    def build(self, widths: TokenWidths) -> nn.Module:
        """A module with fresh weights that maps `ReferenceFeatures` to what is added, (B,T,C).

        Zero where the references are dropped: use no biases there, or guidance sees another null condition.
        """


reference_inputs: Registry[ReferenceInput] = Registry(
    "reference input", "refbench.reference_inputs", lambda one: one.declaration.name
)


def guarded_addition(
    one: ReferenceInput, module: nn.Module, given: ReferenceFeatures, channels: int
) -> torch.Tensor:
    """What an input adds to the reference tokens, (B,T,C). Raises UserError, with file and line, for what its
    code raises and for anything but (B,T,`channels`) floating-point values.
    """
    what, code = f"the reference input {one.declaration.name!r}", type(module).forward
    with own_code(what, code):
        added: Any = module(given)
    wanted = (*given.subject_BT.shape, channels)
    if not isinstance(added, torch.Tensor) or tuple(added.shape) != wanted or not added.is_floating_point():
        found = tuple(added.shape) if isinstance(added, torch.Tensor) else type(added).__name__
        raise UserError(f"{what} ({place_of(code)}) returned {found}, not floating-point values {wanted}")
    return added
