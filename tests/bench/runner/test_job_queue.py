"""The order in which workers get jobs."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refbench.bench.runner.job_queue import JobQueue

# (topic, number of the job)
Numbered = tuple[int, int]


def numbered(topics: list[int]) -> list[Numbered]:
    return list(zip(topics, range(len(topics)), strict=True))


@given(st.lists(st.integers(0, 5), max_size=30), st.lists(st.tuples(st.integers(0, 3), st.booleans())))
def test_each_job_is_given_out_once_whoever_asks_and_whatever_is_put_back(
    topics: list[int], asked: list[tuple[int, bool]]
) -> None:
    jobs = numbered(topics)
    queue = JobQueue(jobs, lambda job: job[0])
    given: list[Numbered] = []
    for worker, back in asked:
        if not queue:
            break
        job = queue.take(worker)
        announced = queue.announce(worker)
        assert announced is None or announced[0] != job[0]
        if back:
            queue.withdraw(worker)
            queue.put_back(job)
        else:
            given.append(job)
    while queue:
        given.append(queue.take(9))
    assert Counter(given) == Counter(jobs)


@given(st.integers(1, 12), st.integers(1, 7), st.lists(st.integers(0, 3), min_size=90))
def test_a_topic_is_shared_only_when_no_untouched_one_is_left(
    topics: int, jobs_each: int, asked: list[int]
) -> None:
    jobs = [(topic, number) for topic in range(topics) for number in range(jobs_each)]
    queue = JobQueue(jobs, lambda job: job[0])
    begun: dict[int, set[int]] = {}
    announced: dict[int, int] = {}
    for worker in asked:
        if not queue:
            break
        topic, _ = queue.take(worker)
        untouched = set(range(topics)) - set(begun)
        by = begun.setdefault(topic, set())
        if by and worker not in by:
            assert not untouched - {topic}
        # A worker is given what was announced to it, or has not done with its topic.
        if announced.get(worker) in untouched and worker not in by:
            assert topic == announced[worker]
        by.add(worker)
        later = queue.announce(worker)
        announced[worker] = -1 if later is None else later[0]


def test_without_topics_the_order_is_kept_and_nothing_is_announced() -> None:
    queue = JobQueue(range(5))
    assert [(queue.take(number % 2), queue.announce(number % 2)) for number in range(5)] == [
        (number, None) for number in range(5)
    ]


def test_what_was_withdrawn_is_never_announced_again_nor_anything_beside_it() -> None:
    queue = JobQueue(numbered([0, 0, 1, 1, 2]), lambda job: job[0])
    assert queue.take("a") == (0, 0)
    assert queue.announce("a") == (1, 2)
    queue.withdraw("a")
    queue.put_back((0, 0))
    assert queue.take("a") == (0, 0)
    assert queue.announce("a") == (2, 4)
    assert [queue.take("b"), queue.announce("b")] == [(1, 2), None]


@given(
    st.lists(st.integers(0, 4), max_size=20),
    st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 19)), st.booleans()), max_size=30),
)
def test_what_a_worker_may_not_have_it_does_not_get(
    topics: list[int], asked: list[tuple[int, set[int], bool]]
) -> None:
    """Against the rule in words: of the worker's own topic, else of no other's, else any; the first each."""
    waiting = numbered(topics)
    queue = JobQueue(waiting, lambda job: job[0])
    present: dict[int, int] = {}
    for worker, refused, is_gone in asked:
        of_others = {topic for other, topic in present.items() if other != worker}
        allowed = [
            job
            for topic in dict.fromkeys(topics)
            for job in waiting
            if job[0] == topic and job[1] not in refused
        ]
        own = [job for job in allowed if job[0] == present.get(worker)]
        free = [job for job in allowed if job[0] not in of_others]
        expected = next(iter([*own, *free, *allowed]), None)
        if expected is None:
            with pytest.raises(IndexError):
                queue.take(worker, lambda job, refused=refused: job[1] not in refused)
        else:
            taken = queue.take(worker, lambda job, refused=refused: job[1] not in refused)
            assert taken == expected
            waiting.remove(taken)
            present[worker] = taken[0]
        if is_gone:
            queue.forget(worker)
            present.pop(worker, None)
        assert len(queue) == len(waiting)
