"""Executors: where jobs run. The driver hands out jobs and takes results; it alone writes to the store and
gives a finished video its name.

A worker is any object with `prepare(job)`, `work(job, on_step)` and `close()`; an executor makes its workers
from a picklable factory, so that a worker (and the models it loads) lives where the executor wants it: in
this process, in worker processes, or on another machine. Results come in any order, each with its job;
nothing may depend on the order.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from refbench.bench.devices import Place
from refbench.bench.environment import threads_per_job
from refbench.bench.errors import UserError, exit_text, one_line
from refbench.bench.runner.job_queue import JobQueue

# What `--executor` may be: this machine's processes, or a Ray cluster (`ray_executor`).
LOCAL = "local"
RAY = "ray"
ON_LINUX = sys.platform == "linux"
# From <sys/prctl.h>.
PR_SET_PDEATHSIG = 1
# Reading the largest model over a slow network; a longer time is a hang.
LONGEST_LOADING_S = 3600.0
# A process that a broken disk or driver holds in the kernel ends by no signal.
LONGEST_KILL_S = 5.0
LONGEST_WAIT_S = 3600.0


class AnyJob(Protocol):
    """What an executor knows of a job: an id that no other job of the run has, and the seconds that it may
    take (None: any), which executors with worker processes see to.
    """

    @property
    def id(self) -> str: ...

    @property
    def limit_s(self) -> float | None: ...


Job = TypeVar("Job", bound=AnyJob)
Result = TypeVar("Result")
JobIn = TypeVar("JobIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)
OnStep = Callable[[int, int], None]


class Worker(Protocol[JobIn, ResultOut]):
    """Something that does jobs one after the other. `prepare` loads what a job needs and is not loaded yet;
    `work` turns every failure of a job into a result and may call `on_step(done, total)`.
    """

    def prepare(self, job: JobIn) -> None: ...

    def work(self, job: JobIn, on_step: OnStep) -> ResultOut: ...

    def close(self) -> None: ...


@runtime_checkable
class ExpectingWorker(Protocol[JobIn]):
    """A worker that makes use of knowing a later job: it hears of one before the present job's `work`."""

    def expect(self, job: JobIn) -> None: ...


class Watcher(Generic[Job]):
    """What the driver hears of jobs before their results; this one does nothing."""

    def begun(self, job: Job) -> None:
        """A worker is ready and begins the job."""

    def step(self, job: Job, done: int, total: int) -> None:
        """`done` of `total` parts of a job are done."""


@dataclass(frozen=True, kw_only=True)
class WorkerDied:
    """In place of a result: the worker process ended, or was ended, in the middle of the job."""

    reason: str


def overdue(limit_s: float | None, *, was_ready: bool) -> WorkerDied:
    """What is said of a job whose worker was ended: it, or loading what it needs, took too long."""
    if was_ready and limit_s is not None:
        return WorkerDied(reason=f"it took longer than {limit_s:g} s (--job-timeout) and was ended")
    return WorkerDied(reason=f"its worker was not ready after {LONGEST_LOADING_S:g} s and was ended")


def unready_text(error: Exception) -> str:
    """What is said of a worker that cannot be made, or cannot load what a job needs."""
    return f"a worker could not be made ready: {type(error).__name__}: {one_line(error)}"


class Executor(ABC, Generic[Job, Result]):
    """Runs jobs on workers made by a picklable factory, which is called with the worker's place."""

    @abstractmethod
    def run(
        self,
        factory: Callable[[Place], Worker[Job, Result]],
        jobs: Iterable[Job],
        watcher: Watcher[Job] | None = None,
    ) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """Each job with its result, as results come in.

        Closing the iterator (or an exception in its consumer) stops the work. A UserError raised by the
        factory, or while a job is prepared or done, is raised here.
        """


class InProcessExecutor(Executor[Job, Result]):
    """One job at a time in this process: the default, and the easiest to debug. No job can be ended.

    `topic_of` is what jobs have in common that follow each other; see `ProcessPoolExecutor`.
    """

    def __init__(self, place: Place, *, topic_of: Callable[[Job], Hashable] | None = None) -> None:
        self.place = place
        self._topic_of = topic_of

    def run(
        self,
        factory: Callable[[Place], Worker[Job, Result]],
        jobs: Iterable[Job],
        watcher: Watcher[Job] | None = None,
    ) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """See Executor.run."""
        watcher = watcher or Watcher()
        worker = factory(self.place)
        waiting = JobQueue(jobs, self._topic_of)
        try:
            while waiting:
                job = waiting.take(0)
                worker.prepare(job)
                watcher.begun(job)
                _announce(worker, waiting.announce(0))
                yield job, worker.work(job, _steps_of(job, watcher))
        finally:
            worker.close()


def _announce(worker: object, job: object | None) -> None:
    if job is not None and isinstance(worker, ExpectingWorker):
        worker.expect(job)


def _steps_of(job: Job, watcher: Watcher[Job]) -> OnStep:
    return lambda done, total: watcher.step(job, done, total)


class ProcessPoolExecutor(Executor[Job, Result]):
    """A worker process at each place. One that dies (a crash in a decoder, no memory) or hangs longer than
    its job may take costs that job only, and another takes its place.

    `attempts` is how often a job is begun whose worker dies; one that takes too long is not begun again. Not
    `concurrent.futures`: there one dead worker ends the whole pool and does not say whose job it was.

    `topic_of` is what jobs have in common that one worker does best one after the other (see `JobQueue`); it
    hears of the next topic before. If it dies meanwhile, that may be the fault of what it got ready: its job
    is begun once more, without.
    """

    def __init__(
        self,
        places: Sequence[Place],
        *,
        attempts: int = 1,
        topic_of: Callable[[Job], Hashable] | None = None,
    ) -> None:
        self.places = tuple(places)
        self.attempts = attempts
        self._topic_of = topic_of

    def run(
        self,
        factory: Callable[[Place], Worker[Job, Result]],
        jobs: Iterable[Job],
        watcher: Watcher[Job] | None = None,
    ) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """See Executor.run."""
        watcher = watcher or Watcher()
        waiting = JobQueue(jobs, self._topic_of)
        begun: Counter[str] = Counter()
        # Jobs whose worker died while it got something else ready.
        excused: set[str] = set()
        # The last is taken first: places are given out in their order.
        idle = [
            _Process[Job, Result](factory, place, number)
            for number, place in enumerate(self.places[: len(waiting)])
        ][::-1]
        busy: dict[Connection, _Process[Job, Result]] = {}
        try:
            while waiting or busy:
                while idle and waiting:
                    process = idle.pop()
                    job = waiting.take(process.number)
                    expected = None if job.id in excused else waiting.announce(process.number)
                    process.give(job, expected)
                    begun[process.job.id] += 1
                    busy[process.pipe] = process
                ready = wait(list(busy), timeout=min(process.seconds_left() for process in busy.values()))
                for pipe, process in list(busy.items()):
                    if pipe in ready:
                        answer = process.take(watcher)
                    elif process.seconds_left() <= 0:
                        answer = process.end()
                    else:
                        answer = None
                    if answer is None:
                        continue
                    del busy[pipe]
                    if not isinstance(answer, WorkerDied):
                        idle.append(process)
                        yield process.job, answer
                        continue
                    job = process.job
                    if process.may_have_died_of_another and job.id not in excused:
                        excused.add(job.id)
                        begun[job.id] -= 1
                        waiting.withdraw(process.number)
                    again = not process.was_ended and begun[job.id] < self.attempts
                    if again:
                        waiting.put_back(job)
                    elif self.attempts > 1 and not process.was_ended:
                        answer = WorkerDied(reason=f"{answer.reason}, each of {self.attempts} times")
                    if waiting:
                        idle.append(_Process(factory, process.place, process.number))
                    if not again:
                        yield job, answer
        finally:
            for process in (*idle, *busy.values()):
                process.stop()


class _Process(Generic[Job, Result]):
    """A worker process and the job it has; `number` is that of its place."""

    def __init__(self, factory: Callable[[Place], Worker[Job, Result]], place: Place, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.place = place
        self.number = number
        self.was_ended = False
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, factory, place, os.getpid()), daemon=True
        )
        with _variables(place.variables()):
            self._process.start()
        # Only the child may hold its end, or its death would not close the pipe.
        theirs.close()
        self._job: Job | None = None
        self._expects = False
        self._deadline: float = 0
        self._is_ready = False

    @property
    def job(self) -> Job:
        """The job that it has or had last."""
        assert self._job is not None
        return self._job

    @property
    def may_have_died_of_another(self) -> bool:
        """Whether it died, and may have been getting another topic ready beside its job."""
        return self._expects and not self.was_ended

    def give(self, job: Job, expected: Job | None) -> None:
        """Hand it a job, and the first of those that it will probably have later."""
        self._job = job
        self._expects = self._expects or expected is not None
        self._deadline = time.monotonic() + LONGEST_LOADING_S
        self._is_ready = False
        try:
            self.pipe.send((job, expected))
        except OSError:
            # It died before it was given anything; take() says so.
            return

    def seconds_left(self) -> float:
        """How long its job may still take, or a shorter time for which can be waited."""
        return min(max(self._deadline - time.monotonic(), 0), LONGEST_WAIT_S)

    def take(self, watcher: Watcher[Job]) -> Result | WorkerDied | None:
        """The result of its job, or None where it has only said how far it is."""
        try:
            kind, of_job, content = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            how = exit_text(self._process.exitcode or 0)
            return WorkerDied(reason=f"the worker process died ({how})")
        job = self.job
        assert of_job == job.id, f"{of_job} was answered, and {job.id} asked"
        if kind == "user_error":
            raise UserError(content)
        if kind == "begun":
            limit_s = job.limit_s
            self._is_ready = True
            self._deadline = time.monotonic() + (math.inf if limit_s is None else limit_s)
            watcher.begun(job)
            return None
        if kind == "step":
            watcher.step(job, *content)
            return None
        result: Result = content
        return result

    def end(self) -> WorkerDied:
        """Kill it: its job has taken too long, and whatever it hangs in need not listen to anything else."""
        self.was_ended = True
        self.pipe.close()
        self._kill()
        return overdue(self.job.limit_s, was_ready=self._is_ready)

    def stop(self) -> None:
        self.pipe.close()
        self._process.terminate()
        self._process.join(timeout=LONGEST_KILL_S)
        if self._process.is_alive():
            self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._process.join(timeout=LONGEST_KILL_S)


@contextmanager
def _variables(changed: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a process that is started within the block."""
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: Connection, factory: Callable[[Place], Worker[Any, Any]], place: Place, driver: int) -> None:
    """The life of a worker process: jobs from the pipe until it closes, which it also does when the driver
    dies.
    """
    # Ctrl-C reaches the whole process group; the driver decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(driver)
    worker: Worker[Any, Any] | None = None
    try:
        while True:
            job, expected = pipe.recv()
            answer = ("user_error", job.id, "")
            try:
                if worker is None:
                    worker = factory(place)
                worker.prepare(job)
            except UserError as error:
                pipe.send(("user_error", job.id, str(error)))
                continue
            except Exception as error:  # noqa: BLE001 - every other worker would fail at it as well
                pipe.send(("user_error", job.id, unready_text(error)))
                continue
            pipe.send(("begun", job.id, None))
            _announce(worker, expected)
            try:
                answer = ("result", job.id, worker.work(job, _sent_steps(pipe, job.id)))
            except UserError as error:
                answer = ("user_error", job.id, str(error))
            pipe.send(answer)
    except (EOFError, OSError):
        if worker is not None:
            worker.close()


def _sent_steps(pipe: Connection, job_id: str) -> OnStep:
    return lambda done, total: pipe.send(("step", job_id, (done, total)))


def _end_with(driver: int) -> None:
    """Have this process killed when the driver is gone, however that ends and whatever this one hangs in."""
    if ON_LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != driver:
            os._exit(1)
        return
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_its_end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_for_its_end, daemon=True).start()


def make_executor(
    places: Sequence[Place], *, attempts: int = 1, topic_of: Callable[[Any], Hashable] | None = None
) -> Executor[Any, Any]:
    """The executor for these places: this process for one worker that need not be alone, else a process
    each.
    """
    if len(places) == 1 and not places[0].alone:
        return InProcessExecutor(places[0], topic_of=topic_of)
    return ProcessPoolExecutor(places, attempts=attempts, topic_of=topic_of)


def connection(executor: str, ray_address: str | None) -> AbstractContextManager[None]:
    """Within the block an executor of this name can be used: Ray is connected, or begun and then ended.

    Raises UserError for another name, an address without Ray, and as `ray_connection.connected`.
    """
    if executor not in (LOCAL, RAY):
        raise UserError(f"--executor is {LOCAL} or {RAY}, not {one_line(executor, 60)!r}")
    if executor == LOCAL:
        if ray_address is not None:
            raise UserError("--ray-address goes with --executor ray")
        return nullcontext()
    from refbench.bench.runner.ray_connection import connected

    return connected(ray_address, threads_per_job())
