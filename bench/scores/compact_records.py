"""Many records, read quickly and held in little memory.

A record as pydantic makes it takes about 4.7 KiB: of the records of one store most hold the same few names,
digests, weights and package versions, each a copy of its own, in dictionaries of their own. Here equal ones
become one object, and an instance's fields are kept as Python keeps those of any other object: one table of
names for all. That is less than 1 KiB where the details hold little.

What is a record is the model's to say. Its word is remembered: a line whose parts are those of lines that it
took before (fields, their types, names, reasons, weights, packages) is not shown to it again.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from operator import itemgetter
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json

from refbench.bench.scores.record import Provenance, Record

Model = TypeVar("Model", bound=BaseModel)

# What equals another value of these types is of the same type, and nobody can change it.
SHARED_TYPES = (str, str | None, int, int | None)
# The fields of a record whose value matters beside its type: of those that were taken once, what stands here.
CHECKED_FIELDS = ("schema_version", "method", "track", "variant", "reason")
# Equal provenances stand near each other in a store: of so many the last ones are looked through.
MOST_PROVENANCES = 1000


def _shared_fields(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name, field in model.model_fields.items() if field.annotation in SHARED_TYPES)


RECORD_FIELDS = _shared_fields(Record)
PROVENANCE_FIELDS = _shared_fields(Provenance)
_record_values = itemgetter(*RECORD_FIELDS)
_provenance_values = itemgetter(*PROVENANCE_FIELDS)
_own_values = itemgetter(*(name for name in Record.model_fields if name != "provenance"))
_checked_values = itemgetter(*CHECKED_FIELDS)
_ALL_RECORD_FIELDS = list(Record.model_fields)
_ALL_PROVENANCE_FIELDS = list(Provenance.model_fields)
_ALL_SET: dict[type[BaseModel], set[str]] = {model: set(model.model_fields) for model in (Record, Provenance)}


class CompactRecords:
    """Makes records; what is equal in those of one instance is one object.

    Nothing may therefore be changed in the `weights` and `packages` of their provenances.
    """

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}
        self._texts: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        self._provenances: dict[tuple[Any, ...], Provenance] = {}
        self._fields_set: dict[frozenset[str], set[str]] = {}
        self._forms: set[tuple[type, ...]] = set()
        self._checked: set[tuple[Any, ...]] = set()

    def from_line(self, line: bytes) -> Record:
        """The record that a line of JSON holds. Raises pydantic's ValidationError where it holds none."""
        return self._as_before(line) or self.compact(Record.model_validate_json(line))

    def compact(self, record: Record) -> Record:
        """An equal record that shares what it can with those before it."""
        fields, inner = record.__dict__.copy(), record.provenance.__dict__
        self._checked.add(_checked_values(fields))
        self._forms.add(_form(fields, inner))
        weights, packages = self._shared_texts(inner["weights"]), self._shared_texts(inner["packages"])
        inner_set = self._shared_set(Provenance, record.provenance.model_fields_set)
        fields["provenance"] = self._provenance(inner.copy(), weights, packages, inner_set)
        return self._record(fields, self._shared_set(Record, record.model_fields_set))

    def _as_before(self, line: bytes) -> Record | None:
        """The record of a line that can be no other than the model would make; None where it must judge."""
        try:
            # A number that is none (NaN) is refused; one beyond the largest becomes infinite.
            fields = from_json(line, allow_inf_nan=False)
            inner = fields["provenance"]
            weights = self._texts[tuple(inner["weights"].items())]
            packages = self._texts[tuple(inner["packages"].items())]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if [*fields] != _ALL_RECORD_FIELDS or [*inner] != _ALL_PROVENANCE_FIELDS:
            return None
        # Types first: among values of any kind 1, 1.0 and true are equal.
        if _form(fields, inner) not in self._forms or _checked_values(fields) not in self._checked:
            return None
        value = fields["value"]
        if (value is None) == (fields["reason"] is None) or (value is not None and not math.isfinite(value)):
            return None
        fields["provenance"] = self._provenance(inner, weights, packages, _ALL_SET[Provenance])
        return self._record(fields, _ALL_SET[Record])

    def _record(self, fields: dict[str, Any], fields_set: set[str]) -> Record:
        values = _record_values(fields)
        fields.update(zip(RECORD_FIELDS, map(self._values.setdefault, values, values), strict=True))
        return _instance(Record, fields, fields_set)

    def _provenance(
        self,
        fields: dict[str, Any],
        weights: dict[str, str],
        packages: dict[str, str],
        fields_set: set[str],
    ) -> Provenance:
        values = _provenance_values(fields)
        # Of equal dictionaries only one is at hand now, so that it can be told by its identity.
        key = (*values, id(weights), id(packages), id(fields_set))
        found = self._provenances.get(key)
        if found is None:
            if len(self._provenances) == MOST_PROVENANCES:
                self._provenances.clear()
            shared = map(self._values.setdefault, values, values)
            fields.update(zip(PROVENANCE_FIELDS, shared, strict=True), weights=weights, packages=packages)
            found = self._provenances[key] = _instance(Provenance, fields, fields_set)
        return found

    def _shared_texts(self, texts: dict[str, str]) -> dict[str, str]:
        return self._texts.setdefault(tuple(texts.items()), texts)

    def _shared_set(self, model: type[BaseModel], names: set[str]) -> set[str]:
        # Extra fields are forbidden, so that all of them are as many as the model has.
        if len(names) == len(model.model_fields):
            return _ALL_SET[model]
        return self._fields_set.setdefault(frozenset(names), names)


@contextmanager
def collecting_nothing() -> Iterator[None]:
    """While many records are read or gone through: Python looks for garbage after every few hundred new
    objects, which takes a fifth of the time and finds that all of them are still there.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _form(fields: dict[str, Any], inner: dict[str, Any]) -> tuple[type, ...]:
    """The types of a record's fields but the last, the provenance, and of the provenance's fields."""
    return (*map(type, _own_values(fields)), *map(type, inner.values()))


def _instance(model: type[Model], fields: dict[str, Any], fields_set: set[str]) -> Model:
    """An instance with these values, as validation leaves it but for where they lie in memory."""
    made = model.__new__(model)
    # A dictionary as a whole would stay one; `any` runs through to the end, as nothing is returned.
    any(map(object.__setattr__, repeat(made), fields, fields.values()))
    object.__setattr__(made, "__pydantic_fields_set__", fields_set)
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made
