"""Streams of items that threads prepare ahead of their use: in order, bounded, and ended when closed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import count, islice
from queue import Empty, SimpleQueue
from threading import Condition, Event, Thread
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items in the same order, up to `depth` of them made by a thread before they are asked for.

    What `items` raises is raised here in its place; closing this iterator ends the thread.
    """
    # Of two simple queues neither has a lock that one thread could hold while the system lets it wait.
    made: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
    places: SimpleQueue[None] = SimpleQueue()
    for _ in range(depth):
        places.put(None)
    stopped = Event()

    def put(entry: tuple[bool, Any]) -> None:
        while not stopped.is_set():
            with suppress(Empty):
                places.get(timeout=0.05)
                made.put(entry)
                return

    def produce() -> None:
        try:
            for item in items:
                put((True, item))
                if stopped.is_set():
                    return
            put((False, None))
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks for the next item
            put((False, error))

    thread = Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            more, content = made.get()
            places.put(None)
            if not more:
                break
            yield content
        if content is not None:
            raise content
    finally:
        stopped.set()
        thread.join()


class Budget:
    """Bytes that the streams which share it may hold together."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        # Held by whoever changes `used` or a stream; waiting streams and readers hear of it.
        self.changed = Condition()


class SharedStream(Generic[Item]):
    """The items of `make()`, made once by a thread and held for all who read them.

    Reading starts the thread, and `begin` starts it before. What does not fit into the budget beside other
    streams waits until these are closed. A stream that alone is larger than the budget is given up: its items
    are let go, and each reader makes its own, from the first on. What `make()` raises is raised for every
    reader, after the items before it.
    """

    def __init__(
        self, make: Callable[[], Generator[Item, None, None]], size_of: Callable[[Item], int], budget: Budget
    ) -> None:
        """`size_of` are the bytes of an item; `make` is called again for each reader of its own items."""
        self._make = make
        self._size_of = size_of
        self._budget = budget
        self._items: list[Item] = []
        self._size = 0
        self._has_begun = False
        self._has_ended = False
        self._is_dropped = False
        self._error: BaseException | None = None

    def begin(self, after: SharedStream[Any] | None = None) -> None:
        """Let the thread begin, once `after` has ended or is closed. Nothing where it has begun."""
        with self._budget.changed:
            if self._has_begun or self._is_dropped:
                return
            self._has_begun = True
        Thread(target=self._fill, args=(after,), daemon=True).start()

    def __iter__(self) -> Iterator[Item]:
        self.begin()
        for position in count():
            with self._budget.changed:
                while position == len(self._items) and not self._is_over:
                    self._budget.changed.wait()
                if self._is_dropped:
                    break
                if position == len(self._items):
                    if self._error is not None:
                        raise self._error.with_traceback(None)
                    return
                item = self._items[position]
            yield item
        yield from islice(self._make(), position, None)

    def close(self) -> None:
        """Let go of all items; the thread ends with the item that it is making. Readers make their own."""
        with self._budget.changed:
            self._drop()

    @property
    def _is_over(self) -> bool:
        return self._has_ended or self._is_dropped

    def _drop(self) -> None:
        self._is_dropped = True
        self._budget.used -= self._size
        self._items, self._size = [], 0
        self._budget.changed.notify_all()

    def _fill(self, after: SharedStream[Any] | None) -> None:
        if after is not None:
            with self._budget.changed:
                self._budget.changed.wait_for(lambda: after._is_over or self._is_dropped)
        error: BaseException | None = None
        try:
            with closing(self._make()) as items:
                for item in items:
                    if not self._keep(item):
                        return
        except BaseException as raised:  # noqa: BLE001 - it belongs to whoever reads so far
            error = raised
        with self._budget.changed:
            self._error = error
            self._has_ended = True
            self._budget.changed.notify_all()

    def _keep(self, item: Item) -> bool:
        """Hold an item, when there is room for it; False where the stream is dropped, or is by now."""
        size = self._size_of(item)
        budget = self._budget
        with budget.changed:
            if self._size + size > budget.size:
                self._drop()
            budget.changed.wait_for(lambda: self._is_dropped or budget.used + size <= budget.size)
            if self._is_dropped:
                return False
            self._items.append(item)
            self._size += size
            budget.used += size
            budget.changed.notify_all()
            return True


def mapped(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`function` of each item, in order, by `threads` threads; at most two items per thread are held.

    What `function` raises is raised here in its place.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
