"""The order in which workers get jobs: those of one topic go to the same worker where possible."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

Job = TypeVar("Job")


def anything(job: object) -> bool:
    """The rule of a worker that may have any job."""
    return True


class JobQueue(Generic[Job]):
    """Jobs that wait, by topic: what jobs have in common, such as the video that they read.

    A worker gets the next job of its topic, else of the one that was announced to it, else of the first that
    is no other worker's, else any: none waits while there is work. Without `topic_of` the order is that of
    the jobs.
    """

    def __init__(self, jobs: Iterable[Job], topic_of: Callable[[Job], Hashable] | None = None) -> None:
        self._has_topics = topic_of is not None
        self._topic_of: Callable[[Job], Hashable] = topic_of or (lambda job: "all")
        self._waiting: dict[Hashable, deque[Job]] = {}
        # Of each worker the topic of its last job, and the one that was announced to it.
        self._present: dict[Hashable, Hashable] = {}
        self._announced: dict[Hashable, Hashable] = {}
        self._never_announced: set[Hashable] = set()
        self._count = 0
        for job in jobs:
            self._waiting.setdefault(self._topic_of(job), deque()).append(job)
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def take(self, worker: Hashable, may_have: Callable[[Job], bool] = anything) -> Job:
        """The next job for this worker, of those that it `may_have`. Raises IndexError when none waits."""
        topic, place = self._next_for(worker, may_have)
        jobs = self._waiting[topic]
        job = jobs[place]
        del jobs[place]
        if not jobs:
            del self._waiting[topic]
        self._count -= 1
        self._present[worker] = topic
        # Whoever it was announced to will be given another.
        self._announced = {other: later for other, later in self._announced.items() if later != topic}
        return job

    def announce(self, worker: Hashable) -> Job | None:
        """The first job of the topic that this worker will probably be given after its present one."""
        present = self._present.get(worker)
        if not self._has_topics or present in self._never_announced:
            return None
        if self._announced.get(worker) not in self._waiting:
            self._announced.pop(worker, None)
            others = self._of_others(worker, self._present, self._announced)
            others |= {present, *self._never_announced}
            free = [topic for topic in islice(self._waiting, len(others) + 1) if topic not in others]
            if not free:
                return None
            self._announced[worker] = free[0]
        return self._waiting[self._announced[worker]][0]

    def put_back(self, job: Job) -> None:
        """Let a job wait again, before all others."""
        topic = self._topic_of(job)
        self._waiting = {topic: self._waiting.get(topic, deque()), **self._waiting}
        self._waiting[topic].appendleft(job)
        self._count += 1

    def withdraw(self, worker: Hashable) -> None:
        """Never announce again what is announced to this worker, nor anything beside it."""
        if worker in self._announced:
            self._never_announced.add(self._announced.pop(worker))

    def forget(self, worker: Hashable) -> None:
        """This worker is gone: its topics are no longer another worker's."""
        self._present.pop(worker, None)
        self._announced.pop(worker, None)

    def _next_for(self, worker: Hashable, may_have: Callable[[Job], bool]) -> tuple[Hashable, int]:
        """The topic of a worker's next job, and the job's place in it."""
        for topic in self._topics_for(worker):
            for place, job in enumerate(self._waiting[topic]):
                if may_have(job):
                    return topic, place
        raise IndexError("no job waits")

    def _topics_for(self, worker: Hashable) -> Iterator[Hashable]:
        """The waiting topics, the best for this worker first; one may come again."""
        for of_worker in (self._present, self._announced):
            if worker in of_worker and of_worker[worker] in self._waiting:
                yield of_worker[worker]
        taken = self._of_others(worker, self._present)
        for others in (taken | self._of_others(worker, self._announced), taken):
            yield from (topic for topic in self._waiting if topic not in others)
        yield from self._waiting

    @staticmethod
    def _of_others(worker: Hashable, *of_workers: dict[Hashable, Hashable]) -> set[Hashable]:
        return {topic for held in of_workers for other, topic in held.items() if other != worker}
