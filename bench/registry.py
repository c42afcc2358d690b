"""Registries: how metrics and methods are found by name.

Three ways in: a decorator (`@metrics.register`), the entry-point groups `refbench.metrics` and
`refbench.methods` (each value names a class, a module, or a package whose modules are imported), and
`--plugin FILE.py`. A module that fails to import costs itself alone and is named in `problems`.

The interface that metrics and methods are written against has a version, `INTERFACE_VERSION`; what is written
for an older one is refused with one line that says what to change (`docs/plugins.md`).
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from refbench.bench.errors import UserError, one_line
from refbench.bench.method import Method
from refbench.bench.metric import Metric

Registered = TypeVar("Registered")

# 1: `load()` made the object itself ready, which then scored or generated. 2: `load()` returns a Scorer or a
# Generator, and weights are declared as entries.
INTERFACE_VERSION = 2
# Import packages of version 1, which stood at the top level.
FORMER_PACKAGES = ("bench", "metrics", "baselines", "refalign", "reports")


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
        """Class decorator. Raises UserError when another class has the name already, for a class that is
        written for an older interface, and for one that lacks a method.
        """
        name = self._name_of(registered)
        outdated = _outdated(registered)
        if outdated is not None:
            raise UserError(f"the {self.kind} {name!r} ({_home(registered)}) {outdated}")
        lacking = sorted(getattr(registered, "__abstractmethods__", ()))
        if lacking:
            raise UserError(f"the {self.kind} {name!r} ({_home(registered)}) lacks {', '.join(lacking)}")
        existing = self._classes.get(self._key(name))
        if existing is not None and not _same_code(existing, registered):
            kinds = f"{self.kind}{'es' if self.kind.endswith('s') else 's'}"
            raise UserError(f"two {kinds} are called {name!r}: {_home(existing)} and {_home(registered)}")
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
            with self._noting_problems(point.value):
                self._load_point(point)

    def _load_point(self, point: EntryPoint) -> None:
        loaded = point.load()
        if isinstance(loaded, ModuleType):
            for module in pkgutil.iter_modules(getattr(loaded, "__path__", []), loaded.__name__ + "."):
                if not module.ispkg:
                    with self._noting_problems(module.name):
                        importlib.import_module(module.name)
        elif isinstance(loaded, type):
            self.register(loaded)
        else:
            raise TypeError(f"{point.value} is neither a class, a module nor a package")

    @contextmanager
    def _noting_problems(self, what: str) -> Iterator[None]:
        """Whatever the block raises becomes a line of `problems`."""
        try:
            yield
        except UserError as error:
            self.problems.append(f"{what}: {error}")
        except Exception as error:  # noqa: BLE001 - a module may fail in any way
            self.problems.append(f"{what}: {type(error).__name__}: {one_line(error)}")


def _home(registered: type) -> str:
    return f"{registered.__module__}.{registered.__qualname__}"


def _same_code(one: type, other: type) -> bool:
    """Whether two classes are one that was read twice: as a script and as a plugin for instance."""
    try:
        files = {inspect.getsourcefile(one), inspect.getsourcefile(other)}
    except (OSError, TypeError):
        files = set()
    return one.__qualname__ == other.__qualname__ and len(files) < 2


def _outdated(registered: type) -> str | None:
    """What a class has to change for the present interface, or None."""
    see = f"interface 1, this is {INTERFACE_VERSION}: see docs/plugins.md"
    if issubclass(registered, Metric) and hasattr(registered, "score"):
        return f"is written for {see}; move score() into a Scorer that load() returns"
    if issubclass(registered, Method) and hasattr(registered, "generate"):
        return f"is written for {see}; move generate() into a Generator that load() returns"
    owner = registered.declaration if issubclass(registered, Metric) else registered
    if any(isinstance(entry, str) for entry in getattr(owner, "weights", ())):
        return f"is written for {see}; weights are WeightEntry objects, not names"
    return None


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


def load_plugins(files: Iterable[Path]) -> list[ModuleType]:
    """Import each `--plugin FILE.py` once, so that its decorators register; the modules in the same order.

    A plugin that fails is a UserError that names its line.
    """
    modules = []
    for file in files:
        path = file.resolve()
        name = f"refbench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            modules.append(sys.modules[name])
            continue
        specification = importlib.util.spec_from_file_location(name, path)
        if not path.is_file() or specification is None or specification.loader is None:
            raise UserError(f"the plugin {file} is not a Python file")
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        try:
            specification.loader.exec_module(module)
        except Exception as error:  # noqa: BLE001 - a user's file may fail in any way
            del sys.modules[name]
            line = faulty_line(error, path)
            place = f"the plugin {file}" if line is None else f"the plugin {file}, line {line},"
            if isinstance(error, UserError):
                raise UserError(f"{place.removesuffix(',')}: {error}") from None
            fault = f"{type(error).__name__}: {one_line(error)}{_import_hint(error)}"
            raise UserError(f"{place} failed to load: {fault}") from None
        modules.append(module)
    return modules


def faulty_line(error: BaseException, file: Path) -> int | None:
    """The line of a Python file where an exception arose, or was passed on; None where it was not there."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return lines[-1] if lines else None


def _import_hint(error: Exception) -> str:
    """What to write instead of an import of version 1's packages; empty for anything else."""
    missing = error.name if isinstance(error, ImportError) else None
    former = (missing or "").partition(".")[0]
    if former not in FORMER_PACKAGES:
        return ""
    return f"; the packages stand below refbench now: import refbench.{former} (docs/plugins.md)"
