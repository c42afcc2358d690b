"""Registries: how metrics and methods are found by name.

Three ways in: a decorator (`@metrics.register`), the entry-point groups `metrics` and
`refbench.methods` (each value names a class, a module, or a package whose modules are imported), and
`--plugin FILE.py`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from refbench.bench.errors import UserError, one_line
from refbench.bench.method import Method
from refbench.bench.metric import Metric

Registered = TypeVar("Registered")


class Registry(Generic[Registered]):
    """Classes by name. Entry points are loaded at the first look-up; names are matched without case, `_` as
    `-`.
    """

    def __init__(self, kind: str, group: str, name_of: Callable[[type[Registered]], str]) -> None:
        self.kind = kind
        self.group = group
        self.problems: list[str] = []
        self._name_of = name_of
        self._classes: dict[str, type[Registered]] = {}
        self._loaded = False

    def register(self, registered: type[Registered]) -> type[Registered]:
        """Class decorator. Raises UserError when another class has the name already."""
        name = self._name_of(registered)
        existing = self._classes.get(self._key(name))
        if existing is not None and existing.__qualname__ != registered.__qualname__:
            raise UserError(
                f"two {self.kind}s are called {name!r}: {_home(existing)} and {_home(registered)}"
            )
        self._classes[self._key(name)] = registered
        return registered

    def get(self, name: str) -> type[Registered]:
        """The class of that name; an unknown one is a UserError that offers the nearest known names."""
        self._load_entry_points()
        found = self._classes.get(self._key(name))
        if found is None:
            raise UserError(unknown_name(self.kind, name, self.names(), self.problems))
        return found

    def names(self) -> list[str]:
        """All known names, sorted."""
        self._load_entry_points()
        return sorted(self._name_of(registered) for registered in self._classes.values())

    @staticmethod
    def _key(name: str) -> str:
        return name.lower().replace("_", "-")

    def _load_entry_points(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for point in entry_points(group=self.group):
            try:
                self._load_point(point)
            except Exception as error:  # noqa: BLE001 - somebody else's package may fail in any way
                self.problems.append(f"{point.value}: {type(error).__name__}: {one_line(error)}")

    def _load_point(self, point: EntryPoint) -> None:
        loaded = point.load()
        if isinstance(loaded, ModuleType):
            for module in pkgutil.iter_modules(getattr(loaded, "__path__", []), loaded.__name__ + "."):
                if not module.ispkg:
                    importlib.import_module(module.name)
        elif isinstance(loaded, type):
            self.register(loaded)
        else:
            raise TypeError(f"{point.value} is neither a class, a module nor a package")


def _home(registered: type) -> str:
    return f"{registered.__module__}.{registered.__qualname__}"


def unknown_name(kind: str, name: str, known: Iterable[str], problems: Iterable[str] = ()) -> str:
    """The message for an unknown name: the nearest known ones, else all of them, and what failed to load."""
    names = list(known)
    by_key = {Registry._key(candidate): candidate for candidate in names}
    near = [by_key[key] for key in difflib.get_close_matches(Registry._key(name), by_key, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
    failed = "".join(f"; not loaded: {problem}" for problem in problems)
    return f"unknown {kind} {one_line(name, 60)!r}; {hint}{failed}"


metrics: Registry[Metric] = Registry("metric", "refbench.metrics", lambda metric: metric.declaration.name)
methods: Registry[Method] = Registry("method", "refbench.methods", lambda method: method.name)


def load_plugins(files: Iterable[Path]) -> None:
    """Import each `--plugin FILE.py` once, so that its decorators register; a failing one is a UserError."""
    for file in files:
        path = file.resolve()
        name = f"refbench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            continue
        specification = importlib.util.spec_from_file_location(name, path)
        if not path.is_file() or specification is None or specification.loader is None:
            raise UserError(f"the plugin {file} is not a Python file")
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        try:
            specification.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"the plugin {file} failed to load: {type(error).__name__}: {one_line(error)}"
            ) from None
