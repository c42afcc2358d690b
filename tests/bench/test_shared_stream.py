"""Streams that are made once for many readers: what they give, and what they hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refbench.bench.errors import SampleError
from refbench.bench.streams import Budget, SharedStream

LONGEST_WAIT_S = 20.0


class Source:
    """Items that say how often they were made, and fail after the last of them if asked to."""

    def __init__(self, sizes: list[int], *, fails: bool = False) -> None:
        self.sizes = sizes
        self.fails = fails
        self.begun = 0

    def __call__(self) -> Generator[tuple[int, int], None, None]:
        self.begun += 1
        yield from enumerate(self.sizes)
        if self.fails:
            raise SampleError("damaged")

    def shared(self, budget: Budget) -> SharedStream[tuple[int, int]]:
        return SharedStream(self, lambda item: item[1], budget)


def read(items: Iterator[tuple[int, int]]) -> tuple[list[tuple[int, int]], bool]:
    """The items, and whether they ended in an error."""
    found = []
    try:
        for item in items:
            found.append(item)
    except SampleError:
        return found, True
    return found, False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


SIZES = st.lists(st.integers(0, 10), max_size=12)


@given(SIZES, st.booleans(), st.integers(0, 60))
def test_every_reader_gets_the_same_made_once_where_they_fit(
    sizes: list[int], fails: bool, budget_size: int
) -> None:
    source = Source(sizes, fails=fails)
    budget = Budget(budget_size)
    stream = source.shared(budget)
    expected = list(enumerate(sizes)), fails
    assert [read(iter(stream)) for _ in range(3)] == [expected] * 3
    if sum(sizes) <= budget_size:
        assert source.begun == 1
        assert budget.used == sum(sizes)
    stream.close()
    assert budget.used == 0
    assert read(iter(stream)) == expected


@given(st.lists(st.tuples(SIZES, st.booleans()), min_size=2, max_size=6), st.integers(0, 40))
def test_streams_one_after_the_other_never_hold_more_than_the_budget(
    given_streams: list[tuple[list[int], bool]], budget_size: int
) -> None:
    """As a worker does it: the next one is made while the present one is read, then takes its place."""
    most: list[Any] = []

    class Counted(Budget):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "used":
                most.append(value)
            super().__setattr__(name, value)

    budget = Counted(budget_size)
    sources = [Source(sizes, fails=fails) for sizes, fails in given_streams]
    streams = [source.shared(budget) for source in sources]
    for number, (stream, source) in enumerate(zip(streams, sources, strict=True)):
        if number + 1 < len(streams):
            streams[number + 1].begin(after=stream)
        for _ in range(2):
            assert read(iter(stream)) == (list(enumerate(source.sizes)), source.fails)
        stream.close()
    assert budget.used == 0
    assert all(0 <= used <= budget_size for used in most)
    assert all(source.begun == 1 for source in sources if sum(source.sizes) <= budget_size)


def test_the_next_stream_waits_for_the_memory_of_the_present_one() -> None:
    budget = Budget(10)
    present, following = Source([4, 4]), Source([1, 1, 1, 1])
    first, second = present.shared(budget), following.shared(budget)
    second.begin(after=first)
    time.sleep(0.05)
    # Nothing before the present one is made.
    assert following.begun == 0
    assert read(iter(first)) == ([(0, 4), (1, 4)], False)
    wait_until(lambda: budget.used == 10)
    first.close()
    assert read(iter(second)) == (list(enumerate([1] * 4)), False)
    assert following.begun == 1
    assert budget.used == 4


def test_a_closed_stream_ends_its_thread() -> None:
    def endless() -> Generator[int, None, None]:
        while True:
            yield 1

    before = threading.active_count()
    budget = Budget(10**9)
    stream = SharedStream(endless, lambda item: 1, budget)
    assert next(iter(stream)) == 1
    waiting = SharedStream(endless, lambda item: 1, budget)
    waiting.begin(after=stream)
    waiting.close()
    stream.close()
    wait_until(lambda: threading.active_count() == before)
    assert budget.used == 0


def test_an_error_comes_after_what_was_made_before_it_for_each_reader() -> None:
    stream = Source([1, 1], fails=True).shared(Budget(5))
    for _ in range(2):
        items = iter(stream)
        assert [next(items), next(items)] == [(0, 1), (1, 1)]
        with pytest.raises(SampleError, match="damaged"):
            next(items)
