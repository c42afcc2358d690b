"""Executors: where jobs run. The driver hands out jobs and takes results; it alone writes to the store.

A worker is any object with `work(job)` and `close()`; an executor makes its workers from a picklable factory,
so that a worker (and the models it loads) lives where the executor wants it: in this process, in worker
processes, or in a Ray actor. Results come in any order; nothing may depend on it.
"""

from __future__ import annotations

import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar

from refbench.bench.errors import UserError, exit_text

Job = TypeVar("Job")
Result = TypeVar("Result")
JobIn = TypeVar("JobIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


class Worker(Protocol[JobIn, ResultOut]):
    """Something that does jobs one after the other. `work` turns every failure of a job into a result."""

    def work(self, job: JobIn) -> ResultOut: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class WorkerDied:
    """In place of a result: the worker process ended in the middle of the job."""

    reason: str


class Executor(ABC, Generic[Job, Result]):
    """Runs jobs on workers made by a picklable factory."""

    @abstractmethod
    def run(
        self, factory: Callable[[], Worker[Job, Result]], jobs: Iterable[Job]
    ) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """Each job with its result, as results come in.

        Closing the iterator (or an exception in its consumer) stops the work. A UserError raised by the
        factory is raised here.
        """


class InProcessExecutor(Executor[Job, Result]):
    """One job at a time in this process: the default, and the easiest to debug."""

    def run(
        self, factory: Callable[[], Worker[Job, Result]], jobs: Iterable[Job]
    ) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """See Executor.run."""
        worker = factory()
        try:
            for job in jobs:
                yield job, worker.work(job)
        finally:
            worker.close()


class ProcessPoolExecutor(Executor[Job, Result]):
    """A pool of worker processes. One that dies (a crash in a decoder, no memory) costs its job only.

    Not `concurrent.futures`: there one dead worker ends the whole pool and does not say whose job it was.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UserError(f"--workers must be at least 1, not {workers}")
        self.workers = workers

    def run(
        self, factory: Callable[[], Worker[Job, Result]], jobs: Iterable[Job]
    ) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """See Executor.run."""
        waiting = deque(jobs)
        idle = [_Process[Job, Result](factory) for _ in range(min(self.workers, len(waiting)))]
        busy: dict[Connection, _Process[Job, Result]] = {}
        try:
            while waiting or busy:
                while idle and waiting:
                    process = idle.pop()
                    process.give(waiting.popleft())
                    busy[process.pipe] = process
                ready = wait(list(busy))
                for pipe in [pipe for pipe in busy if pipe in ready]:
                    process = busy.pop(pipe)
                    job, result = process.take()
                    if isinstance(result, WorkerDied):
                        process = _Process(factory)
                    idle.append(process)
                    yield job, result
        finally:
            for process in (*idle, *busy.values()):
                process.stop()


class _Process(Generic[Job, Result]):
    """A worker process and the job it has."""

    def __init__(self, factory: Callable[[], Worker[Job, Result]]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory), daemon=True)
        self._process.start()
        # Only the child may hold its end, or its death would not close the pipe.
        theirs.close()
        self._job: Job | None = None

    def give(self, job: Job) -> None:
        self._job = job
        try:
            self.pipe.send(job)
        except OSError:
            # It died before it was given anything; take() says so.
            return

    def take(self) -> tuple[Job, Result | WorkerDied]:
        job = self._job
        assert job is not None
        try:
            kind, content = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            how = exit_text(self._process.exitcode or 0)
            return job, WorkerDied(reason=f"the worker process died ({how})")
        if kind == "user_error":
            raise UserError(content)
        return job, content

    def stop(self) -> None:
        self.pipe.close()
        self._process.terminate()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, factory: Callable[[], Worker[Any, Any]]) -> None:
    """The life of a worker process: jobs from the pipe until it closes, which it also does when the driver
    dies.
    """
    # Ctrl-C reaches the whole process group; the driver decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker: Worker[Any, Any] | None = None
    try:
        while True:
            job = pipe.recv()
            try:
                worker = worker or factory()
                answer = ("result", worker.work(job))
            except UserError as error:
                answer = ("user_error", str(error))
            pipe.send(answer)
    except (EOFError, OSError):
        if worker is not None:
            worker.close()


def make_executor(workers: int) -> Executor[Any, Any]:
    """The executor for `--workers N`: this process for one, a pool for more."""
    return InProcessExecutor() if workers == 1 else ProcessPoolExecutor(workers)
