"""Many records in little memory.

A record as pydantic makes it takes about 4.7 KiB: of the records of one store most hold the same few names,
digests, weights and package versions, each a copy of its own, in dictionaries of their own. Here equal ones
become one object, and an instance's fields are kept as Python keeps those of any other object: one table of
names for all. That is less than 1 KiB where the details hold little.
"""

from __future__ import annotations

from itertools import repeat
from operator import itemgetter
from typing import Any, TypeVar

from pydantic import BaseModel

from refbench.bench.scores.record import Provenance, Record

Model = TypeVar("Model", bound=BaseModel)

# What equals another value of these types is of the same type, and nobody can change it.
SHARED_TYPES = (str, str | None, int, int | None)
# Equal provenances stand near each other in a store: of so many the last ones are looked through.
MOST_PROVENANCES = 10_000


def _shared_fields(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name, field in model.model_fields.items() if field.annotation in SHARED_TYPES)


RECORD_FIELDS = _shared_fields(Record)
PROVENANCE_FIELDS = _shared_fields(Provenance)
_record_values = itemgetter(*RECORD_FIELDS)
_provenance_values = itemgetter(*PROVENANCE_FIELDS)
ALL_SET: dict[type[BaseModel], set[str]] = {model: set(model.model_fields) for model in (Record, Provenance)}


class CompactRecords:
    """Makes equal records out of records; what is equal in those of one instance is one object.

    Nothing may therefore be changed in the `weights` and `packages` of their provenances.
    """

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}
        self._texts: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        self._provenances: dict[tuple[Any, ...], Provenance] = {}
        self._fields_set: dict[frozenset[str], set[str]] = {}

    def compact(self, record: Record) -> Record:
        """An equal record that shares what it can with those before it."""
        fields = record.__dict__.copy()
        self._share(fields, RECORD_FIELDS, _record_values(fields))
        fields["provenance"] = self._provenance(record.provenance)
        return _instance(Record, fields, self._shared_set(Record, record.model_fields_set))

    def _provenance(self, provenance: Provenance) -> Provenance:
        values = _provenance_values(provenance.__dict__)
        weights, packages = self._shared_texts(provenance.weights), self._shared_texts(provenance.packages)
        fields_set = self._shared_set(Provenance, provenance.model_fields_set)
        # Of equal texts only one is at hand now, so that it can be told by its identity.
        key = (*values, id(weights), id(packages), id(fields_set))
        found = self._provenances.get(key)
        if found is None:
            if len(self._provenances) == MOST_PROVENANCES:
                self._provenances.clear()
            fields = provenance.__dict__.copy()
            self._share(fields, PROVENANCE_FIELDS, values)
            fields["weights"], fields["packages"] = weights, packages
            found = self._provenances[key] = _instance(Provenance, fields, fields_set)
        return found

    def _share(self, fields: dict[str, Any], names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        fields.update(zip(names, map(self._values.setdefault, values, values), strict=True))

    def _shared_texts(self, texts: dict[str, str]) -> dict[str, str]:
        return self._texts.setdefault(tuple(texts.items()), texts)

    def _shared_set(self, model: type[BaseModel], names: set[str]) -> set[str]:
        # Extra fields are forbidden, so that all of them are as many as the model has.
        if len(names) == len(model.model_fields):
            return ALL_SET[model]
        return self._fields_set.setdefault(frozenset(names), names)


def _instance(model: type[Model], fields: dict[str, Any], fields_set: set[str]) -> Model:
    """An instance with these values, as validation leaves it but for where they lie in memory."""
    made = model.__new__(model)
    # A dictionary as a whole would stay one; `any` runs through to the end, as nothing is returned.
    any(map(object.__setattr__, repeat(made), fields, fields.values()))
    object.__setattr__(made, "__pydantic_fields_set__", fields_set)
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made
