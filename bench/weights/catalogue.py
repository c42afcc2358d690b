"""The weight catalogue: the union of what metrics, methods and training declare, with who uses what.

A metric or method declares its weights itself; what belongs to neither (RefAlign's teachers) is declared
through the entry-point group `refbench.weights`, whose values are `Declared` objects. Plugins are part of the
catalogue once they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points

from refbench.bench.errors import UserError, one_line
from refbench.bench.registry import methods, metrics
from refbench.bench.weights.entry import WeightEntry

GROUP = "refbench.weights"
KINDS = ("metric", "generator", "teacher")


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Weights with the name of who uses them."""

    user: str
    entries: tuple[WeightEntry, ...]


@dataclass(frozen=True, kw_only=True)
class CatalogueRow:
    """A repository and who loads it: names of metrics and methods, sorted, or another user."""

    entry: WeightEntry
    used_by: tuple[str, ...]


def catalogue() -> dict[str, CatalogueRow]:
    """All known weights by name: those of metrics first, then generators, then teachers, each sorted.

    Raises UserError where two declarations give one name to different weights.
    """
    return joined(declarations())


def declarations() -> Iterator[Declared]:
    """Who declares which weights."""
    for name in metrics.names():
        declaration = metrics.get(name).declaration
        yield Declared(user=name, entries=(*declaration.weights, *declaration.optional_weights))
    for name in methods.names():
        yield Declared(user=name, entries=methods.get(name).weights)
    for point in entry_points(group=GROUP):
        yield point.load()


def joined(declared: Iterable[Declared]) -> dict[str, CatalogueRow]:
    """The union of declarations; see `catalogue`."""
    entries: dict[str, WeightEntry] = {}
    users: dict[str, list[str]] = {}
    for declaration in declared:
        for entry in declaration.entries:
            known = entries.setdefault(entry.name, entry)
            if known != entry:
                raise UserError(
                    f"two different weights are called {one_line(entry.name, 60)}: "
                    f"one of {users[entry.name][0]}, one of {declaration.user}"
                )
            users.setdefault(entry.name, []).append(declaration.user)
    ordered = sorted(entries.values(), key=lambda entry: (KINDS.index(entry.kind), entry.name))
    return {
        entry.name: CatalogueRow(entry=entry, used_by=tuple(dict.fromkeys(users[entry.name])))
        for entry in ordered
    }


def get_entry(name: str) -> WeightEntry:
    """The catalogue's entry by name or repository; an unknown one is a UserError."""
    known = catalogue()
    for row in known.values():
        if name in (row.entry.name, row.entry.repository):
            return row.entry
    raise UserError(
        f"no weights are called {one_line(name, 60)!r}; known: {', '.join(known)} "
        "(and those of a plugin with --plugin FILE)"
    )
