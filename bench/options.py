"""Options of metrics and methods: frozen dataclasses filled from `--set key=value`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from refbench.bench.errors import UserError, one_line


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of something that has none."""


def build_options(options_type: type, values: Mapping[str, str], owner: str) -> Any:
    """An instance of the dataclass `options_type` from text values.

    Raises UserError for an unknown key, a value of the wrong type, and a missing required option; an options
    class may raise ValueError in `__post_init__` for values that do not fit.
    """
    from pydantic import TypeAdapter, ValidationError

    known = {field.name: field for field in fields(options_type)}
    for key in values:
        if key not in known:
            raise UserError(f"{owner} has no option {key!r}; it has: {', '.join(known) or 'none'}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
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
