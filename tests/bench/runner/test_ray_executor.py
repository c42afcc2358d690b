"""Ray: the same bytes as in one process, on any number of actors and whatever dies on the way.

One cluster of several small nodes on this machine serves all tests. A node that does not see the driver's
files is simulated by paths that mean another place in another process (`/proc/self/cwd`): there lie other
files of the same names.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kit.cli import Run, invoke
from kit.clips import SMALL_IDS
from kit.pool import Task, make_talker
from kit.processes import ends, wait_for
from refbench.bench.errors import UserError
from refbench.bench.runner import ray_connection, ray_executor
from refbench.bench.runner.executors import Watcher, WorkerDied
from refbench.bench.runner.job_queue import JobQueue
from refbench.bench.runner.ray_cluster import Cluster, Demand
from refbench.bench.runner.ray_connection import connected
from refbench.bench.runner.ray_executor import Answer, RayExecutor, _Actor, _Flight
from refbench.bench.runner.shipping import NodeFiles, SentFile

pytest.importorskip("ray", reason="Ray is not installed: pip install 'refalign-bench[ray]'")


PATHS = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one core each, whose processes begin in a folder of their own."""
    from ray.cluster_utils import Cluster as LocalCluster

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("nodes"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Where actors find the workers of these tests.
        patch.setenv("PYTHONPATH", PATHS)
        small = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        cluster = LocalCluster(initialize_head=True, head_node_args=small)
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        yield cluster
        cluster.shutdown()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors may import from the driver's working folder, which must not hold half a package."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def actors(ray_cluster: Any) -> Iterator[Callable[..., RayExecutor[Task, str]]]:
    """Makes an executor of so many actors, within a connection."""
    with connected(ray_cluster.address, 1):

        def make(count: int = 2) -> RayExecutor[Task, str]:
            cluster = Cluster(Demand.of(str(count), 1, 1, needs_torch=False), os.getpid, ())
            cluster.look(wait=True)
            cluster.require_a_node()
            return RayExecutor(cluster)

        yield make


def answers(executor: RayExecutor[Task, str], *tasks: Task, watcher: Any = None) -> dict[str, str]:
    """Job id → its answer, or the reason why there is none."""
    found: dict[str, str] = {}
    for job, result in executor.run(make_talker, tasks, watcher):
        assert job.id not in found
        found[job.id] = result.reason if isinstance(result, WorkerDied) else result
    return found


def lines(store: Path) -> list[bytes]:
    """A store's lines, in an order that does not depend on who was first."""
    return sorted(store.read_bytes().splitlines())


def test_jobs_are_answered_as_themselves_in_any_order_and_after_deaths(
    actors: Callable[..., RayExecutor[Task, str]], tmp_path: Path
) -> None:
    """Slow jobs come back after quick ones, some twice begun; one hangs, and one always dies."""
    quick = [Task(id=str(number), what=("slow", "answer")[number % 2]) for number in range(12)]
    tasks = [
        Task(id="hangs", what="hang", limit_s=0.2, mark=tmp_path / "pid"),
        Task(id="once", what="die once", mark=tmp_path / "mark"),
        *quick,
        Task(id="always", what="die"),
    ]
    found = answers(actors(), *tasks)
    assert found.pop("hangs") == "it took longer than 0.2 s (--job-timeout) and was ended"
    assert found.pop("always").startswith("the worker process died, each of 3 times: ")
    assert found == {task.id: f"{task.id} on cpu" for task in tasks if task.id not in ("hangs", "always")}
    assert ends(int((tmp_path / "pid").read_text()))


def test_jobs_of_one_topic_go_to_one_actor_and_not_back_to_a_node_that_lost_them() -> None:
    """Without a cluster: which job an actor is given next."""
    cluster: Any = None
    executor = RayExecutor[Task, str](cluster, topic_of=lambda task: task.id[0])
    nodes: list[Any] = [SimpleNamespace(id=name) for name in "xy"]
    first, second = (_Actor[Task](node=node, handle=None, hello=None) for node in nodes)
    executor._actors = [first, second]
    tasks = [Task(id=name) for name in ("a1", "a2", "a3", "b1", "b2", "c1")]
    executor._waiting = JobQueue(tasks, executor._topic_of)
    executor._died_on["b2"].add("y")

    def given(actor: _Actor[Task]) -> str | None:
        job = executor._next_for(actor, executor._actors)
        return None if job is None else job.id

    assert [given(first), given(second), given(first), given(second)] == ["a1", "b1", "a2", "c1"]
    # None of its own is left: b2 may not go there, and a3 is better than to wait.
    assert [given(second), given(second), given(first)] == ["a3", None, "b2"]


def test_the_answer_to_another_ticket_is_nobodys() -> None:
    flight = _Flight(job=Task(id="a"), ticket=("a", 2), preparing=None, working=None)
    flight.check(Answer(ticket=("a", 2), kind="result", result="x"))
    for stray in (("a", 1), ("b", 2)):
        with pytest.raises(RuntimeError, match="was answered, and"):
            flight.check(Answer(ticket=stray, kind="result", result="x"))


@pytest.mark.parametrize(
    ("what", "said"),
    [("refuse", "x is refused"), ("break", "a worker could not be made ready: ValueError: no such network")],
)
def test_what_no_actor_can_do_ends_the_run_in_one_line(
    actors: Callable[..., RayExecutor[Task, str]], what: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        answers(actors(1), Task(id="x", what=what))


def test_a_node_with_another_version_or_without_what_is_needed_is_named_and_not_used(
    ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    demand = Demand.of("auto", 1, 1, needs_torch=True)
    with connected(ray_cluster.address, 1):
        said: list[str] = []
        cluster = Cluster(demand, os.getpid, ())
        cluster.say = said.append
        cluster.look(wait=True)
        head, other = (pid for _, pid in cluster.found.values())
        cluster.accept = lambda pid: "it has no weights" if pid == other else None
        assert len(cluster.nodes()) == 1
        assert said[-1].endswith(" is not used: it has no weights")
        assert head != other

        monkeypatch.setattr(f"{Cluster.__module__}.package_version", lambda name: "0.0.9")
        cluster = Cluster(demand, os.getpid, ())
        cluster.say = said.append
        cluster.look(wait=True)
        assert "is not used: it has refalign-bench " in said[-1]
        assert "and the driver 0.0.9" in said[-1]
        with pytest.raises(UserError, match="no node of the Ray cluster can be used"):
            cluster.require_a_node()


def test_stores_and_videos_are_those_of_one_process_on_nodes_that_see_no_file_of_the_driver(
    ray_cluster: Any, refbench: Run, videos: Path, dataset: Path, plugin: Path, tmp_path: Path
) -> None:
    """On the nodes `/proc/self/cwd` is another folder, which holds other files of the same names."""
    here = refbench.folder
    for folder in (videos, dataset):
        shutil.copytree(folder, here / folder.name)
    shutil.copy(plugin, here / "plugin.py")
    inside = Path("/proc/self/cwd")
    common = ("--dataset", inside / "dataset", "--plugin", inside / "plugin.py")
    metrics = ("--metrics", "motion-amplitude,dummy-brightness")
    score = ("evaluate", inside / "videos", "--name", "mine", *common, *metrics)
    ray = ("--executor", "ray", "--ray-address", ray_cluster.address)
    ways = {
        "one": (),
        "two": ("--workers", "2"),
        "ray-1": (*ray, "--devices", "1"),
        "ray-2": (*ray, "--devices", "2"),
        "ray-4": (*ray, "--workers", "2"),
    }
    for name, way in ways.items():
        refbench(*score, *way, "-o", name)
        assert lines(here / name / "mine/open-domain.jsonl") == lines(here / "one/mine/open-domain.jsonl")
    assert len(lines(here / "one/mine/open-domain.jsonl")) == 2 * len(SMALL_IDS)

    for name, way in (("made-here", ()), ("made-by-ray", ray)):
        refbench("generate", "dummy-grey", *common, *way, "-o", name)
    made = {
        name: {
            path.name: path.read_bytes() for path in (here / name / "dummy-grey/open-domain/seed-0").iterdir()
        }
        for name in ("made-here", "made-by-ray")
    }
    assert made["made-by-ray"] == made["made-here"]
    assert len(made["made-here"]) == len(SMALL_IDS)


def test_a_driver_that_is_killed_goes_on_from_its_store(
    ray_cluster: Any, refbench: Run, videos: Path, dataset: Path, plugin: Path
) -> None:
    slow = ("--set", "dummy-brightness.sleep_s=0.3")
    score = ("evaluate", videos, "--name", "mine", "--dataset", dataset, "--plugin", plugin, *slow)
    only = ("--metrics", "dummy-brightness")
    ray = ("--executor", "ray", "--ray-address", ray_cluster.address, "--devices", "1", "-o", "killed")
    driver = subprocess.Popen(
        refbench.command(*score, *only, *ray), cwd=refbench.folder, stderr=subprocess.DEVNULL
    )
    store = refbench.folder / "killed/mine/open-domain.jsonl"
    deadline = time.monotonic() + 60
    while not (store.is_file() and store.read_bytes().count(b"\n")) and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = lines(store)
    assert 0 < len(kept) < len(SMALL_IDS)
    refbench(*score, *only, *ray)
    refbench(*score, *only, "-o", "one")
    assert set(kept) <= set(lines(store))
    assert lines(store) == lines(refbench.folder / "one/mine/open-domain.jsonl")


def test_nothing_outlives_a_driver_that_began_ray_itself(tmp_path: Path) -> None:
    """The driver is killed, be it that its worker hangs; so do the processes of Ray that it began."""
    environment = {**os.environ, "PYTHONPATH": PATHS}
    program = Path(__file__).parents[2] / "kit/ray_driver.py"
    driver = subprocess.Popen(
        [sys.executable, str(program), "local", str(tmp_path / "pid")], env=environment, cwd=tmp_path
    )
    worker = int(wait_for(tmp_path / "pid"))
    raylet = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert ends(worker)
    assert ends(raylet)


def test_an_interrupted_run_leaves_no_actor(
    actors: Callable[..., RayExecutor[Task, str]], tmp_path: Path
) -> None:
    executor = actors(1)
    mark = tmp_path / "pid"

    class Interrupter(Watcher[Task]):
        def begun(self, job: Task) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answers(executor, Task(id="x", what="hang", mark=mark), watcher=Interrupter())
    assert ends(int(mark.read_text()))


def test_an_address_that_does_not_answer_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that accepts connections and says nothing."""
    import socket

    monkeypatch.setattr(ray_connection, "LONGEST_ANSWER_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        where = f"127.0.0.1:{deaf.getsockname()[1]}"
        start = threading.active_count()
        with (
            pytest.raises(UserError, match=f"--ray-address {where}: no answer within 3 s"),
            connected(where, 1),
        ):
            pass
        assert threading.active_count() == start


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--executor", "slurm"), "--executor is local or ray, not 'slurm'"),
        (("--ray-address", "auto"), "--ray-address goes with --executor ray"),
        (("--executor", "ray", "--ray-address", "ray://head:10001"), "Ray's client is not supported"),
    ],
)
def test_wrong_options_are_said(videos: Path, dataset: Path, words: tuple[str, ...], said: str) -> None:
    done = invoke("evaluate", videos, "--name", "m", "--dataset", dataset, *words, expect=2)
    assert said in done.stderr


def test_devices_by_number_are_rays_to_give() -> None:
    with pytest.raises(UserError, match="Ray gives the devices out"):
        Demand.of("cuda:0", 1, 1, needs_torch=True)


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_connection, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'refalign-bench\[ray\]'"), connected(None, 1):
        pass


def test_files_that_were_sent_are_checked_and_bounded(tmp_path: Path) -> None:
    import hashlib

    files = NodeFiles(tmp_path / "kept", most_bytes=10)
    contents = {hashlib.sha256(text).hexdigest(): text for text in (b"first", b"second", b"third")}
    sent = [
        SentFile(path=tmp_path / f"{number}.png", digest=digest) for number, digest in enumerate(contents)
    ]
    assert files.lacking(sent) == tuple(contents)
    for digest, text in contents.items():
        files.keep(digest, text)
    # Ten bytes hold one of them, and then two.
    assert files.lacking(sent) == tuple(contents)[:2]
    assert (files.root_of(sent[2], tmp_path, "man/2.png") / "man/2.png").read_bytes() == b"third"
    with pytest.raises(OSError, match="arrived damaged"):
        files.keep(sent[0].digest, b"other")
    (tmp_path / "1.png").write_bytes(b"second")
    assert files.lacking(sent[1:]) == ()
    assert files.root_of(sent[1], tmp_path, "1.png") == tmp_path


def test_a_node_that_dies_costs_its_jobs_a_second_begin_and_one_that_joins_is_used(
    actors: Callable[..., RayExecutor[Task, str]],
    ray_cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Last in this file: Ray lists a dead node for many seconds more."""
    monkeypatch.setattr(ray_executor, "POLL_S", 0.2)
    third = ray_cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    executor = actors(4)
    executor._cluster.say = lambda text: None
    mark = tmp_path / "mark"
    begun: list[str] = []
    added: list[Any] = []

    class Killer(Watcher[Task]):
        """Ends the third node when its actor is at work and adds another; when that is, all may end."""

        def begun(self, job: Task) -> None:
            begun.append(job.id)
            (node,) = [one.node.id for one in executor._actors if one.flights and one.flights[0].job is job]
            if node == third.node_id:
                ray_cluster.remove_node(third, allow_graceful=False)
                added.append(ray_cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20))
            elif added and node == added[0].node_id:
                mark.touch()

    tasks = [Task(id=str(number), what="wait", mark=mark) for number in range(4)]
    found = answers(executor, *tasks, watcher=Killer())
    assert found == {task.id: f"{task.id} on cpu" for task in tasks}
    assert len(begun) == len(tasks) + 1
    ray_cluster.remove_node(added[0])
