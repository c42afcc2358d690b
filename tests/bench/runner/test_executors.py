"""Executors: every job is answered once and as itself, whatever becomes of its worker or of the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit.pool import Task, make_talker
from kit.processes import ends, wait_for
from refbench.bench.devices import VISIBLE_GPUS, Place, places_of
from refbench.bench.errors import UserError
from refbench.bench.runner import executors
from refbench.bench.runner.executors import (
    InProcessExecutor,
    ProcessPoolExecutor,
    Watcher,
    WorkerDied,
    make_executor,
)

CPU = Place(alone=True)


def answers(pool: executors.Executor[Task, str], *tasks: Task) -> dict[str, str]:
    """Job id → its answer, or the reason why there is none."""
    found: dict[str, str] = {}
    for job, result in pool.run(make_talker, tasks):
        assert job.id not in found
        found[job.id] = result.reason if isinstance(result, WorkerDied) else result
    return found


def test_each_job_is_answered_as_itself_on_its_device() -> None:
    tasks = [Task(id=str(number)) for number in range(7)]
    expected = {task.id: f"{task.id} on cpu" for task in tasks}
    assert answers(make_executor(places_of(("cpu",), 1)), *tasks) == expected
    assert answers(make_executor(places_of(("cpu",), 3)), *tasks) == expected


def test_a_worker_process_begins_with_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_GPUS, "6,7")
    pool = ProcessPoolExecutor[Task, str](places_of(("cuda:0", "cuda:1"), 1))
    seen = answers(pool, *(Task(id=str(number), what="visible") for number in range(2)))
    assert sorted(seen.values()) == ["6 as cuda:0", "7 as cuda:0"]
    assert os.environ[VISIBLE_GPUS] == "6,7"


def test_a_hanging_job_is_ended_and_the_run_goes_on(tmp_path: Path) -> None:
    hanging = Task(id="hangs", what="hang", limit_s=0.2, mark=tmp_path / "pid")
    found = answers(ProcessPoolExecutor[Task, str]([CPU]), hanging, Task(id="next"))
    assert found == {
        "hangs": "it took longer than 0.2 s (--job-timeout) and was ended",
        "next": "next on cpu",
    }
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_job_of_a_dead_worker_is_tried_as_often_as_asked(tmp_path: Path) -> None:
    tasks = [
        Task(id="once", what="die once", mark=tmp_path / "mark"),
        Task(id="always", what="die"),
        Task(id="well"),
    ]
    found = answers(ProcessPoolExecutor[Task, str]([CPU], attempts=2), *tasks)
    assert found == {
        "once": "once on cpu",
        "always": "the worker process died (signal SIGKILL), each of 2 times",
        "well": "well on cpu",
    }


@pytest.mark.parametrize(
    ("what", "said"),
    [("refuse", "x is refused"), ("break", "a worker could not be made ready: ValueError: no such network")],
)
def test_what_no_worker_can_do_ends_the_run_in_one_line(what: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        answers(ProcessPoolExecutor[Task, str]([CPU]), Task(id="x", what=what))


@pytest.mark.parametrize(
    "pool", [InProcessExecutor[Task, str](Place()), ProcessPoolExecutor[Task, str]([CPU])]
)
def test_the_driver_hears_of_a_job_before_its_result(pool: executors.Executor[Task, str]) -> None:
    heard: list[object] = []

    class Listener(Watcher[Task]):
        def begun(self, job: Task) -> None:
            heard.append(("begun", job.id))

        def step(self, job: Task, done: int, total: int) -> None:
            heard.append((job.id, done, total))

    for job, _ in pool.run(make_talker, [Task(id="a"), Task(id="b")], Listener()):
        heard.append(job.id)
    assert heard == [("begun", "a"), ("a", 1, 2), "a", ("begun", "b"), ("b", 1, 2), "b"]


def test_no_worker_outlives_a_driver_that_is_killed(tmp_path: Path) -> None:
    """The worker hangs, and so would never look whether its driver is there."""
    program = (
        "from pathlib import Path\n"
        "from kit.pool import Task, make_talker\n"
        "from refbench.bench.devices import Place\n"
        "from refbench.bench.runner.executors import ProcessPoolExecutor\n"
        "if __name__ == '__main__':\n"
        f"    task = Task(id='x', what='hang', mark=Path({str(tmp_path / 'pid')!r}))\n"
        "    list(ProcessPoolExecutor([Place(alone=True)]).run(make_talker, [task]))\n"
    )
    (tmp_path / "driver.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen([sys.executable, str(tmp_path / "driver.py")], env=environment)
    worker = int(wait_for(tmp_path / "pid"))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert ends(worker)
