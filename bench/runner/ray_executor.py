"""Jobs on a Ray cluster: an actor per GPU, or per so many processor cores, each with a worker of its own.

Which nodes are used is the cluster's (`ray_cluster`). An actor has one job and at most one queued behind it.
Each job is handed out with a ticket that its answer must bear, so that no result can be taken for another
job's. Nothing here needs a shared file system (`shipping`).
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from refbench.bench.console import count_text
from refbench.bench.devices import VISIBLE_GPUS, Place
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import family_folder, scratch_folder
from refbench.bench.method import silent
from refbench.bench.registry import load_plugins
from refbench.bench.runner.executors import (
    LONGEST_LOADING_S,
    Executor,
    Job,
    Result,
    Watcher,
    Worker,
    WorkerDied,
    overdue,
    unready_text,
)
from refbench.bench.runner.job_queue import JobQueue
from refbench.bench.runner.ray_cluster import Cluster, Node, living_nodes
from refbench.bench.runner.shipping import (
    NodeFiles,
    Parcel,
    SentPlugin,
    Shipping,
    digest_of_file,
    placed_plugins,
)

# The node list is read so often while jobs run, and a run without any node waits so long for one.
POLL_S = 5.0
LONGEST_WITHOUT_NODES_S = 120.0
# A job is begun so often whose actor or node dies; a node whose actors do not start is then given up.
ATTEMPTS = 3
MOST_FAILED_STARTS = 3
# Sent files that the driver holds ready, for the other metrics of a video.
HELD_READY = 16

Ticket = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[Result]):
    """What an actor says of the job of a ticket.

    `kind` is `begun`, `lacks` (it needs the files of the digests in `said`), `user_error` (with a text in
    `said`), `unprepared`, or `result`.
    """

    ticket: Ticket
    kind: str
    said: Any = None
    result: Result | None = None
    content: bytes | None = None
    digest: str | None = None


class RayWorker(Generic[Job, Result]):
    """The life of an actor: as that of a worker process, but that files may be sent to it."""

    def __init__(
        self,
        factory: Callable[[Place], Worker[Job, Result]],
        shipping: Shipping[Job, Result],
        plugins: Sequence[SentPlugin],
        run: str,
        *,
        gpu: bool,
    ) -> None:
        self._factory = factory
        self._shipping = shipping
        self._plugins = plugins
        self._run = run
        self._gpu = gpu
        self._worker: Worker[Job, Result] | None = None
        self._scratch = scratch_folder("ray")
        self._files = NodeFiles(Path(self._scratch.name))
        self._ready: tuple[Ticket, Job] | None = None
        if not gpu:
            os.environ[VISIBLE_GPUS] = ""

    def hello(self) -> int:
        """That it has started: its process."""
        return os.getpid()

    def prepare(self, ticket: Ticket, parcel: Parcel[Job], sent: dict[str, list[Any]]) -> Answer[Result]:
        """Take the files that were sent and load what the job needs."""
        import ray

        self._ready = None
        digests = [file.digest for file in parcel.files]
        for digest in self._files.lacking(parcel.files):
            if digest in sent:
                self._files.keep(digest, ray.get(sent[digest][0]), digests)
        lacking = self._files.lacking(parcel.files)
        if lacking:
            return Answer(ticket=ticket, kind="lacks", said=lacking)
        job = self._shipping.placed(parcel, self._files)
        try:
            if self._worker is None:
                load_plugins(placed_plugins(self._plugins, family_folder("node", self._run)))
                self._worker = self._factory(self._place())
            self._worker.prepare(job)
        except UserError as error:
            return Answer(ticket=ticket, kind="user_error", said=str(error))
        except Exception as error:  # noqa: BLE001 - every other worker would fail at it as well
            return Answer(ticket=ticket, kind="user_error", said=unready_text(error))
        self._ready = (ticket, job)
        return Answer(ticket=ticket, kind="begun")

    def work(self, ticket: Ticket) -> Answer[Result]:
        """Do the job that was prepared."""
        if self._ready is None or self._ready[0] != ticket or self._worker is None:
            return Answer(ticket=ticket, kind="unprepared")
        try:
            result = self._worker.work(self._ready[1], silent)
        except UserError as error:
            return Answer(ticket=ticket, kind="user_error", said=str(error))
        result, content = self._shipping.packed(result)
        digest = None if content is None else hashlib.sha256(content).hexdigest()
        return Answer(ticket=ticket, kind="result", result=result, content=content, digest=digest)

    def _place(self) -> Place:
        """The GPU that Ray has given to this actor, as its machine numbers them, or the CPU."""
        if not self._gpu:
            return Place(device="cpu", alone=True)
        import ray

        return Place(device=f"cuda:{ray.get_gpu_ids()[0]}", alone=True)


@dataclass(eq=False)
class _Flight(Generic[Job]):
    """A job that was handed to an actor: its two answers are still to come, or the second."""

    job: Job
    ticket: Ticket
    preparing: Any
    working: Any
    has_begun: bool = False

    @property
    def next(self) -> Any:
        return self.working if self.has_begun else self.preparing

    def check(self, answer: Answer[Any]) -> None:
        """Raises RuntimeError for the answer to another ticket, which must never become this job's."""
        if answer.ticket != self.ticket or answer.ticket[0] != self.job.id:
            raise RuntimeError(f"{answer.ticket} was answered, and {self.ticket} asked")


@dataclass(eq=False)
class _Actor(Generic[Job]):
    """An actor as the driver knows it. `hello` is what it first answers, None once it has."""

    node: Node
    handle: Any
    hello: Any
    flights: deque[_Flight[Job]] = field(default_factory=deque)
    deadline: float = math.inf
    # It does not see the driver's files: they are sent along.
    is_elsewhere: bool = False
    sent: set[str] = field(default_factory=set)

    @property
    def next(self) -> Any:
        if self.hello is not None:
            return self.hello
        return self.flights[0].next if self.flights else None


class RayExecutor(Executor[Job, Result]):
    """Actors on all nodes of a cluster; to be run within `connected`.

    A job whose actor or node dies is begun again, on another node if there is one, up to ATTEMPTS times; one
    that takes too long is not. `topic_of` is what jobs have in common that one actor does best one after the
    other, such as the video that they read.
    """

    def __init__(
        self,
        cluster: Cluster[Any],
        shipping: Shipping[Job, Result] | None = None,
        *,
        topic_of: Callable[[Job], Hashable] | None = None,
    ) -> None:
        self._cluster = cluster
        self._topic_of = topic_of
        self._shipping = shipping or Shipping[Job, Result]()
        self._actors: list[_Actor[Job]] = []
        self._waiting = JobQueue[Job]((), topic_of)
        self._tickets: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        self._died_on: defaultdict[str, set[str]] = defaultdict(set)
        self._failed_starts: Counter[str] = Counter()
        self._held: OrderedDict[str, Any] = OrderedDict()
        self._factory: Any = None

    def run(
        self,
        factory: Callable[[Place], Worker[Job, Result]],
        jobs: Iterable[Job],
        watcher: Watcher[Job] | None = None,
    ) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """See Executor.run. The steps within a job are not heard of."""
        watcher = watcher or Watcher()
        self._waiting = JobQueue(jobs, self._topic_of)
        self._factory = factory
        polled = -math.inf
        seen_alive = time.monotonic()
        try:
            while self._waiting or any(actor.flights for actor in self._actors):
                now = time.monotonic()
                if now - polled >= POLL_S:
                    self._use_nodes()
                    polled = now
                if self._actors:
                    seen_alive = now
                elif now - seen_alive > LONGEST_WITHOUT_NODES_S:
                    raise UserError(
                        "no node of the Ray cluster is left; what was finished is kept, and the same command "
                        "goes on from there"
                    )
                self._hand_out()
                yield from self._hear(watcher, polled + POLL_S)
        finally:
            for actor in self._actors:
                _kill(actor)
            self._actors = []
            self._held.clear()

    def _use_nodes(self) -> None:
        """Start actors on nodes that have room for more, and forget nodes that are gone."""
        alive = {node.id for node in living_nodes()}
        for node, _ in list(self._cluster.found.values()):
            if node.id not in alive:
                self._cluster.found.pop(node.id)
                self._cluster.say(f"the node {node.name} is gone")
        self._cluster.look(wait=False)
        demand = self._cluster.demand
        wanted = len(self._waiting) + sum(len(actor.flights) for actor in self._actors)
        most = math.inf if demand.devices is None else demand.devices * demand.workers
        for node in self._cluster.nodes():
            here = sum(actor.node.id == node.id for actor in self._actors)
            for _ in range(demand.devices_of(node) * demand.workers - here):
                if len(self._actors) < min(most, wanted):
                    self._start(node)

    def _start(self, node: Node) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        demand = self._cluster.demand
        handle = (
            ray.remote(RayWorker)
            .options(
                **demand.resources(node),
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False),
            )
            .remote(
                self._factory,
                self._shipping,
                self._cluster.plugins,
                self._cluster.run,
                gpu=bool(demand.gpus),
            )
        )
        self._actors.append(_Actor(node=node, handle=handle, hello=handle.hello.remote()))

    def _hand_out(self) -> None:
        """A job to each idle actor; one more to each where there are more than one for every actor."""
        up = [actor for actor in self._actors if actor.hello is None]
        for most in (1, 2):
            for actor in up:
                enough = most == 1 or len(self._waiting) > len(self._actors)
                if self._waiting and enough and len(actor.flights) < most:
                    job = self._next_for(actor, up)
                    if job is not None:
                        self._give(actor, job)

    def _next_for(self, actor: _Actor[Job], up: Sequence[_Actor[Job]]) -> Job | None:
        """The actor's next job (see `JobQueue`), or None; one that a node's death cost goes to another node
        while there is one.
        """

        def may_have(job: Job) -> bool:
            bad = self._died_on.get(job.id, set())
            return actor.node.id not in bad or all(other.node.id in bad for other in up)

        try:
            return self._waiting.take(actor, may_have)
        except IndexError:
            return None

    def _give(self, actor: _Actor[Job], job: Job) -> None:
        self._tickets[job.id] += 1
        ticket = (job.id, self._tickets[job.id])
        parcel = self._shipping.parcel(job)
        sent = {}
        if actor.is_elsewhere:
            paths = {file.digest: file.path for file in parcel.files}
            # What it was sent once it may still have; else it asks.
            sent = {
                digest: [self._held_ready(digest, path)]
                for digest, path in paths.items()
                if digest not in actor.sent
            }
            actor.sent.update(paths)
        flight = _Flight(
            job=job,
            ticket=ticket,
            preparing=actor.handle.prepare.remote(ticket, parcel, sent),
            working=actor.handle.work.remote(ticket),
        )
        actor.flights.append(flight)
        if len(actor.flights) == 1:
            actor.deadline = time.monotonic() + LONGEST_LOADING_S

    def _held_ready(self, digest: str, path: Path) -> Any:
        """A file's bytes in the object store. Raises UserError where it holds no more."""
        import ray

        if digest not in self._held:
            try:
                content = path.read_bytes()
            except OSError:
                # It was missing, or is by now: the job says so where it is done.
                content = b""
            try:
                self._held[digest] = ray.put(content)
            except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
                raise UserError(f"Ray's object store is full: {one_line(error, 160)}") from None
        self._held.move_to_end(digest)
        while len(self._held) > HELD_READY:
            self._held.popitem(last=False)
        return self._held[digest]

    def _hear(self, watcher: Watcher[Job], until: float) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """Wait for the next answers or deadlines, and take them."""
        import ray

        asked = {actor.next: actor for actor in self._actors if actor.next is not None}
        first = min([until, *(actor.deadline for actor in self._actors if actor.flights)])
        seconds = max(first - time.monotonic(), 0)
        if not asked:
            time.sleep(min(seconds, POLL_S))
            return
        ready, waiting = ray.wait(list(asked), num_returns=1, timeout=seconds)
        if waiting:
            ready += ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        for reference in ready:
            yield from self._take(asked[reference], reference, watcher)
        for actor in list(self._actors):
            if actor.flights and actor.deadline <= time.monotonic() and actor.next not in ready:
                yield from self._end(actor)

    def _take(
        self, actor: _Actor[Job], reference: Any, watcher: Watcher[Job]
    ) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """Take one answer of an actor, or that it is gone."""
        import ray

        try:
            answer = ray.get(reference)
        except (ray.exceptions.RayError, OSError) as error:
            yield from self._lose(actor, error)
            return
        if actor.hello is not None:
            actor.hello = None
            return
        flight = actor.flights[0]
        flight.check(answer)
        if answer.kind == "user_error":
            raise UserError(answer.said)
        if answer.kind == "begun":
            flight.has_begun = True
            limit_s = flight.job.limit_s
            actor.deadline = time.monotonic() + (math.inf if limit_s is None else limit_s)
            watcher.begun(flight.job)
            return
        if answer.digest is not None and hashlib.sha256(answer.content).hexdigest() != answer.digest:
            yield from self._lose(actor, OSError("the video arrived damaged"))
            return
        actor.flights.popleft()
        self._failed_starts.pop(actor.node.id, None)
        actor.deadline = time.monotonic() + LONGEST_LOADING_S
        if answer.kind == "lacks":
            yield from self._send_again(actor, flight.job, answer.said)
            return
        yield flight.job, self._shipping.unpacked(flight.job, answer.result, answer.content)

    def _send_again(
        self, actor: _Actor[Job], job: Job, lacking: Sequence[str]
    ) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """Give the actor its job with the files that it lacks, unless they are no longer what they were."""
        paths = {file.digest: file.path for file in self._shipping.parcel(job).files}
        for digest in lacking:
            path = paths.get(digest)
            if path is None or digest_of_file(path) != digest:
                name = "a file" if path is None else path.name
                yield job, WorkerDied(reason=f"{name} has changed while the work went on")
                return
        actor.is_elsewhere = True
        actor.sent.difference_update(lacking)
        self._give(actor, job)

    def _lose(self, actor: _Actor[Job], error: BaseException) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """An actor that died: its job is begun again, elsewhere if that is possible, or has failed."""
        job = self._let_go(actor)
        if job is None:
            self._failed_starts[actor.node.id] += 1
            if self._failed_starts[actor.node.id] >= MOST_FAILED_STARTS:
                self._cluster.refuse(actor.node, f"no worker starts there: {_cause(error)}")
            return
        self._deaths[job.id] += 1
        self._died_on[job.id].add(actor.node.id)
        if self._deaths[job.id] < ATTEMPTS:
            self._waiting.put_back(job)
        else:
            reason = f"the worker process died, each of {ATTEMPTS} times: {_cause(error)}"
            yield job, WorkerDied(reason=reason)
        self._use_nodes()

    def _end(self, actor: _Actor[Job]) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """Kill an actor whose job has taken too long."""
        was_ready = actor.flights[0].has_begun
        job = self._let_go(actor)
        assert job is not None
        yield job, overdue(job.limit_s, was_ready=was_ready)
        self._use_nodes()

    def _let_go(self, actor: _Actor[Job]) -> Job | None:
        """Kill an actor and give back what waited behind its job, which is returned."""
        _kill(actor)
        self._actors.remove(actor)
        self._waiting.forget(actor)
        jobs = [flight.job for flight in actor.flights]
        for job in reversed(jobs[1:]):
            self._waiting.put_back(job)
        return jobs[0] if jobs else None


def _kill(actor: _Actor[Any]) -> None:
    import ray

    ray.kill(actor.handle, no_restart=True)


def _cause(error: BaseException) -> str:
    """What Ray says of a death, in its first line."""
    text = str(error).strip().splitlines()
    return one_line(text[0] if text else type(error).__name__, 160)


def actors_text(places: Sequence[Place]) -> str:
    """How many actors work, and on what."""
    return f"{count_text(len(places), 'Ray actor')} on {places[0].device}" if places else "no Ray actor"
