"""Options of metrics and methods: frozen dataclasses filled from `--set key=value`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from itertools import pairwise
from typing import Any

from refbench.bench.errors import UserError, one_line

REQUIRED = "required"


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of something that has none."""


@dataclass(frozen=True, kw_only=True)
class OptionDescription:
    """An option as `methods show` and `metrics show` print it; `default` is `required` for none."""

    name: str
    type: str
    default: str
    meaning: str

    @property
    def required(self) -> bool:
        """Whether the option has no default."""
        return self.default == REQUIRED


def describe_options(options_type: type) -> list[OptionDescription]:
    """The options of a dataclass in order, each with the text that stands under its field in the source."""
    meanings = _field_texts(options_type)
    return [
        OptionDescription(
            name=field.name,
            type=field.type.__name__ if isinstance(field.type, type) else str(field.type),
            default=REQUIRED if _is_required(field) else str(field.default),
            meaning=meanings.get(field.name, ""),
        )
        for field in fields(options_type)
    ]


def _field_texts(options_type: type) -> dict[str, str]:
    """Field name → the string literal that follows it, of the class and those that it inherits from."""
    texts: dict[str, str] = {}
    for parent in reversed(options_type.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(parent))
        except (OSError, TypeError):
            # A built-in class, or one that was made without a file.
            continue
        body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
        for field, text in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                texts[field.target.id] = " ".join(text.value.value.split())
    return texts


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def build_options(options_type: type, values: Mapping[str, Any], owner: str) -> Any:
    """An instance of the dataclass `options_type` from text values (or values of the right type).

    Raises UserError for an unknown key, a value of the wrong type, and a missing required option; an options
    class may raise ValueError in `__post_init__` for values that do not fit.
    """
    from pydantic import TypeAdapter, ValidationError

    known = {field.name: field for field in fields(options_type)}
    for key in values:
        if key not in known:
            raise UserError(f"{owner} has no option {key!r}; it has: {', '.join(known) or 'none'}")
    for name, field in known.items():
        if name not in values and _is_required(field):
            raise UserError(f"{owner} needs --set {name}=…")
    try:
        return TypeAdapter(options_type).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "options"
        raise UserError(f"{owner}: {key}: {one_line(first['msg'].removeprefix('Value error, '))}") from None


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """`["key=value", …]` as a mapping; raises UserError for anything else or a key given twice."""
    result: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise UserError(f"--set takes key=value, not {assignment!r}")
        if key in result:
            raise UserError(f"--set {key} was given twice")
        result[key] = value
    return result


def assignments_by_owner(
    assignments: list[str], owners: str = "method's or metric's"
) -> dict[str, dict[str, str]]:
    """`["NAME.key=value", …]` as options by the method's or metric's name, which may hold a dot (vace-1.3b).

    `owners` is whose name is meant, for the message. Raises UserError as `parse_assignments`, and where the
    name is missing.
    """
    result: dict[str, dict[str, str]] = {}
    for key, value in parse_assignments(assignments).items():
        owner, dot, option = key.rpartition(".")
        if not dot:
            raise UserError(f"--set {key} needs the {owners} name before it: NAME.{key}=…")
        result.setdefault(owner, {})[option] = value
    return result
