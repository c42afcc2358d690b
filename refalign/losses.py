"""The interface of alignment losses: what one asks for, what it is given, and what it returns.

A loss pulls tokens of chosen blocks, of the references or of the noisy video, towards frozen teachers'
features. An `AlignmentLoss` is light: a declaration, options, what it needs. `build()` returns its
`LossModule`, which holds the trained projectors and turns tokens into named terms, one value for each sample:

    loss of a sample = flow matching + sum over losses of loss(terms)

RefAlign's own loss (`refalign.alignment.ReferenceAlignment`) is one of them. A file registers its own with
`@losses.register`, `refbench train --plugin FILE.py` loads it; `examples/repa.py` is complete, and
docs/training.md says what may be relied on.

Teachers see references at their own size, and of a clip the frames 0, 4, 8, …: one for each latent frame.
Wan's VAE packs the first frame alone and then four into one; latent frame k > 0 holds the frames 4k-3 to 4k,
of which the teacher sees the last one, so that all are four frames apart.

Shapes: B samples, C channels of the generator, D channels of a teacher, T tokens of all references, V tokens
of the video in the order latent frame, row, column.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import torch
from pydantic import TypeAdapter
from torch import nn

from refbench.bench.errors import MissingWeights, SampleError, UserError, one_line
from refbench.bench.registry import Registry, faulty_line

NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class LossDeclaration:
    """What a loss says of itself.

    `name` is that of its settings (`losses.NAME.…`) and of its columns: NAME in the log is what it adds to
    the training loss, NAME_TERM each of its `terms`. Both are of a–z, 0–9 and `_`.
    """

    name: str
    terms: tuple[str, ...]
    summary: str
    source: str


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The settings that every loss has; a loss with more inherits from this. Raises ValueError."""

    enabled: bool = False
    """Whether the run takes the loss."""

    weight: float = 1.0
    """Its weight beside flow matching; 0: measured and not trained."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must be 0 or positive, {self.weight} is not")


@dataclass(frozen=True, kw_only=True)
class LossNeeds:
    """What a loss is given: tokens after these blocks (from 0 on) of the references and of the noisy video,
    and features of these teachers of the references and of the clip's frames.
    """

    reference_blocks: tuple[int, ...] = ()
    video_blocks: tuple[int, ...] = ()
    reference_teachers: tuple[str, ...] = ()
    frame_teachers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TokenWidths:
    """`generator`: C; `teachers`: D of each teacher asked for."""

    generator: int
    teachers: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """What the losses see of a batch.

    Tokens are by block: `reference_tokens` (B,T,C), `video_tokens` (B,V,C), in the dtype of the network.
    Features are by teacher, in the dtype of training and without gradient: `reference_features` (B,T,D), zero
    for padding and where the references are dropped; `frame_features` (B,V,D) of the clean clip, on the grid
    of the video's tokens. `subject_BT`: the number of the reference that a token belongs to, -1 for padding.
    `timesteps_B` on 0..1000 (1000 is pure noise), `sigmas_B` in 0..1. `grid`: latent frames, rows and columns
    of tokens of the video; a reference has the same rows and columns.
    """

    reference_tokens: Mapping[int, torch.Tensor]
    video_tokens: Mapping[int, torch.Tensor]
    reference_features: Mapping[str, torch.Tensor]
    frame_features: Mapping[str, torch.Tensor]
    subject_BT: torch.Tensor
    timesteps_B: torch.Tensor
    sigmas_B: torch.Tensor
    grid: tuple[int, int, int]


class LossModule(nn.Module, ABC):
    """A loss ready for training: its projectors, and its terms.

    Parameters are trained with the network, each in every call; they are drawn from the run's seed. Buffers
    are not kept in checkpoints and therefore refused. Nothing may be drawn in a call: a resumed run would
    differ.
    """

    @abstractmethod
    def terms(self, inputs: LossInputs) -> dict[str, torch.Tensor]:
        """The declared terms by name, (B,) each, floating-point; neither weighted nor gated."""

    def loss(self, terms: Mapping[str, torch.Tensor], inputs: LossInputs, *, weight: float) -> torch.Tensor:
        """What is added to each sample's training loss, (B,): the sum of the terms times `weight`."""
        return weight * torch.stack(list(terms.values())).sum(dim=0)

    def applies(self, inputs: LossInputs) -> torch.Tensor:
        """(B,) bool: for which samples the terms mean something; the log's means are over those."""
        return torch.ones_like(inputs.timesteps_B, dtype=torch.bool)


class Extension(ABC):
    """What losses and network inputs share: a declaration with a name, and options."""

    declaration: ClassVar[Any]
    Options: ClassVar[type]

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "declaration" not in cls.__dict__:
            return
        for name in (cls.declaration.name, *getattr(cls.declaration, "terms", ())):
            if not NAME.fullmatch(name):
                raise UserError(f"{cls.__name__}: a name is of a-z, 0-9 and _, {one_line(name, 60)!r} is not")
        _check_options(cls.__name__, cls.Options)


def _check_options(owner: str, options: Any) -> None:
    """Raises UserError for options that cannot be settings of a run."""
    known = {one.name for one in fields(options)} if is_dataclass(options) else set()
    if not isinstance(options, type) or "enabled" not in known:
        raise UserError(f"{owner}.Options must be a dataclass that inherits from LossOptions or InputOptions")
    try:
        TypeAdapter(dict[str, Any]).dump_python(asdict(options()), mode="json")
        for hint in get_type_hints(options).values():
            TypeAdapter(hint)
    except Exception as error:  # noqa: BLE001 - a user's class may fail in any way
        reason = one_line(error, 160)
        raise UserError(f"{owner}.Options needs plain values with defaults as fields: {reason}") from None


class AlignmentLoss(Extension):
    """A loss with its options, before anything is built.

    `Options` is a frozen dataclass that inherits from `LossOptions`; its fields are settings of the run,
    changed as `losses.NAME.FIELD=VALUE` and compared when a run is resumed.
    """

    declaration: ClassVar[LossDeclaration]
    Options: ClassVar[type] = LossOptions

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "declaration" not in cls.__dict__:
            return
        if not cls.declaration.terms:
            raise UserError(f"the loss {cls.declaration.name!r} declares no terms")
        if "weight" not in {one.name for one in fields(cls.Options)}:
            raise UserError(f"{cls.__name__}.Options has no weight; it has to inherit from LossOptions")

    @abstractmethod
    def needs(self) -> LossNeeds:
        """What the loss is to be given under its options."""

    @abstractmethod
    def build(self, widths: TokenWidths) -> LossModule:
        """The loss with fresh projectors, on torch's default device."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns in the log: the name, then `NAME_TERM` of each term."""
        name = self.declaration.name
        return (name, *(f"{name}_{term}" for term in self.declaration.terms))


losses: Registry[AlignmentLoss] = Registry("loss", "refbench.losses", lambda loss: loss.declaration.name)


def place_of(code: Any) -> str:
    """`FILE, line N` of a class or function."""
    code = inspect.unwrap(code)
    file = inspect.getsourcefile(code)
    function = getattr(code, "__code__", None)
    line = function.co_firstlineno if function is not None else inspect.getsourcelines(code)[1]
    return f"{file}, line {line}"


@contextmanager
def own_code(what: str, code: Any) -> Iterator[None]:
    """Whatever `code`, a class or function from a user's file, raises in the block becomes one line that
    names `what`, the file and the line.

    What has a meaning of its own passes as it is: UserError, SampleError, MissingWeights, exhausted memory.
    """
    try:
        yield
    except (UserError, SampleError, MissingWeights, torch.OutOfMemoryError):
        raise
    except Exception as error:
        file = inspect.getsourcefile(inspect.unwrap(code)) or ""
        line = faulty_line(error, Path(file))
        place = place_of(code) if line is None else f"{file}, line {line}"
        raise UserError(f"{what} ({place}) failed: {type(error).__name__}: {one_line(error)}") from error


def guarded_terms(loss: AlignmentLoss, module: LossModule, inputs: LossInputs) -> dict[str, torch.Tensor]:
    """The terms of a loss from a user's file. Raises UserError, with file and line, for what it raises and
    for terms that are not those declared, one floating-point value for each sample.
    """
    what, code = f"the loss {loss.declaration.name!r}", type(module).terms
    with own_code(what, code):
        terms = module.terms(inputs)
    told = f"{what} ({place_of(code)}) returned"
    if not isinstance(terms, dict) or not terms:
        raise UserError(f"{told} no terms: a mapping of names to values (B,) is wanted")
    if set(terms) != set(loss.declaration.terms):
        names, declared = ", ".join(map(str, terms)), ", ".join(loss.declaration.terms)
        raise UserError(f"{told} the terms {names}, its declaration names {declared}")
    for name, value in terms.items():
        _check_values(f"{told} for the term {name!r}", value, inputs)
    return {name: terms[name] for name in loss.declaration.terms}


def guarded_loss(
    loss: AlignmentLoss, module: LossModule, terms: Mapping[str, torch.Tensor], inputs: LossInputs
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a loss from a user's file adds to each sample, (B,), and for which samples it applies, (B,) bool.

    Raises UserError as `guarded_terms`.
    """
    what, code = f"the loss {loss.declaration.name!r}", type(module)
    with own_code(what, code):
        added_B = module.loss(terms, inputs, weight=loss.options.weight)
        applies_B = module.applies(inputs)
    _check_values(f"{what} ({place_of(code.loss)}): loss() returned", added_B, inputs)
    if not isinstance(applies_B, torch.Tensor) or applies_B.shape != inputs.timesteps_B.shape:
        raise UserError(f"{what} ({place_of(code.applies)}): applies() must return (B,) booleans")
    return added_B, applies_B


def _check_values(told: str, value: Any, inputs: LossInputs) -> None:
    wanted = tuple(inputs.timesteps_B.shape)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise UserError(f"{told} {kind}, not floating-point values")
    if tuple(value.shape) != wanted:
        raise UserError(f"{told} the shape {tuple(value.shape)}, not {wanted}: one value for each sample")
