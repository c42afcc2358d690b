"""What several metrics of one process hold together: loaded once, its memory given back with the last holder.

State of the process on purpose: two metrics of one worker must not hold 7 billion parameters twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """Something that gives its memory back."""

    def close(self) -> None: ...


Held = TypeVar("Held", bound=Closable)


class Shared(Generic[Held]):
    """Things by key, each with the number of its holders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Hashable, tuple[Held, int]] = {}

    def hold(self, key: Hashable, load: Callable[[], Held]) -> Held:
        """The thing of this key, loaded by its first holder; every call is to be matched by a `release`."""
        with self._lock:
            thing, holders = self._held.get(key) or (load(), 0)
            self._held[key] = (thing, holders + 1)
            return thing

    def release(self, thing: Held) -> None:
        """Take back one `hold`; the last one closes the thing. Without a holder nothing happens."""
        with self._lock:
            for key, (held, holders) in list(self._held.items()):
                if held is not thing:
                    continue
                if holders > 1:
                    self._held[key] = (held, holders - 1)
                else:
                    del self._held[key]
                    held.close()


def stamps(files: Iterable[Path]) -> tuple[tuple[Path, int, int], ...]:
    """What says that files are still the same, as a part of a key: path, time of the last change, size."""
    found = ((file.resolve(), file.stat()) for file in files)
    return tuple((path, status.st_mtime_ns, status.st_size) for path, status in found)
