"""Streams of items that threads prepare ahead of their use: in order, bounded, and ended when closed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items in the same order, up to `depth` of them made by a thread before they are asked for.

    What `items` raises is raised here in its place; closing this iterator ends the thread.
    """
    made: Queue[tuple[bool, Any]] = Queue(maxsize=depth)
    stopped = Event()

    def put(entry: tuple[bool, Any]) -> None:
        while not stopped.is_set():
            with suppress(Full):
                made.put(entry, timeout=0.05)
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
            if not more:
                break
            yield content
        if content is not None:
            raise content
    finally:
        stopped.set()
        thread.join()


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
