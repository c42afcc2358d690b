"""Which devices are taken, what is refused, and that memory is planned per device; on fakes of torch.cuda."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from kit.cli import complaint, printed_json
from refbench.bench import devices
from refbench.bench.devices import (
    VISIBLE_GPUS,
    Place,
    auto_devices,
    check_memory,
    chosen_devices,
    free_gib,
    one_device,
    places_of,
    use_here,
)
from refbench.bench.environment import Environment, threads_per_job
from refbench.bench.errors import UserError
from refbench.bench.metric import Score
from refbench.bench.runner import scoring
from refbench.bench.runner.scoring import LoadedMetric, ScoringWorker

torch = pytest.importorskip("torch")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """gpus(n) has torch say that there are so many."""

    def there(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return there


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("auto", 3, ("cuda:0", "cuda:1", "cuda:2")),
        ("auto", 0, ("cpu",)),
        ("2", 3, ("cuda:0", "cuda:1")),
        ("1", 0, ("cpu",)),
        ("cuda", 3, ("cuda:0",)),
        ("cuda:2, cuda:0", 3, ("cuda:2", "cuda:0")),
        ("cpu", 3, ("cpu",)),
    ],
)
def test_devices_are_taken_by_name_by_number_or_all(
    text: str, count: int, expected: tuple[str, ...], gpus: Callable[[int], None]
) -> None:
    gpus(count)
    assert chosen_devices(text, needs_torch=True) == expected


def test_work_without_torch_is_done_on_the_cpu(gpus: Callable[[int], None]) -> None:
    gpus(8)
    assert chosen_devices("auto", needs_torch=False) == ("cpu",)
    assert chosen_devices(one_device("auto"), needs_torch=False) == ("cpu",)
    assert chosen_devices(one_device("auto"), needs_torch=True) == ("cuda:0",)
    with pytest.raises(UserError, match="needs torch and a metric that uses it"):
        chosen_devices("cuda:0,cuda:1", needs_torch=False)


@pytest.mark.parametrize(
    ("text", "count", "said"),
    [
        ("cuda:7", 2, "--devices cuda:7 cannot be used: this machine has cuda:0, cuda:1"),
        ("cuda:0", 0, "--devices cuda:0 cannot be used: this machine has no GPU that torch can use"),
        ("3", 2, "--devices 3 cannot be used: there is 2 GPUs"),
        ("2", 0, "there is the CPU alone"),
        ("0", 2, "--devices 0 cannot be used"),
        ("cuda,cuda:0", 2, "names cuda:0 twice; --workers 2"),
        ("cpu,cuda:0", 2, "devices of one kind"),
        ("auto,cpu", 2, "takes auto alone"),
        (" , ", 2, "names no device"),
        ("gpu", 2, "--device gpu cannot be used"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(
    text: str, count: int, said: str, gpus: Callable[[int], None]
) -> None:
    gpus(count)
    with pytest.raises(UserError) as caught:
        chosen_devices(text, needs_torch=True)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_worker_sees_its_gpu_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE_GPUS, raising=False)
    two = places_of(("cuda:0", "cuda:1"), 2)
    assert [place.device for place in two] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert [place.variables()[VISIBLE_GPUS] for place in two] == ["0", "1", "0", "1"]
    assert {place.inside for place in two} == {"cuda:0"}
    # Where the scheduler gave this process some of the GPUs, they are counted among those.
    monkeypatch.setenv(VISIBLE_GPUS, "4,GPU-5e")
    assert [place.variables()[VISIBLE_GPUS] for place in two[:2]] == ["4", "GPU-5e"]
    assert Place(device="cpu", alone=True).variables() == {VISIBLE_GPUS: ""}


def test_one_worker_works_in_this_process_unless_it_needs_one_of_its_own() -> None:
    (here,) = places_of(("cuda:1",), 1)
    assert (here.alone, here.inside, here.variables()) == (False, "cuda:1", {})
    assert places_of(("cpu",), 1, own_process=True)[0].alone
    with pytest.raises(UserError, match="--workers must be at least 1"):
        places_of(("cpu",), 0)


def test_in_this_process_torch_takes_the_chosen_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for place in (Place(device="cuda:1"), Place(device="cuda:1", alone=True), Place()):
        use_here(place)
    assert taken == ["cuda:1"]


def test_memory_is_that_of_the_smallest_device_shared_by_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_gib", lambda device: {"cpu": 48.0, "cpu:0": 24.0}[device])
    assert free_gib(places_of(("cpu",), 1)) == 48
    assert free_gib(places_of(("cpu",), 4)) == 12
    assert free_gib(places_of(("cpu", "cpu:0"), 2)) == 12


def test_more_workers_than_memory_holds_are_refused_before_anything_is_loaded() -> None:
    needs = [("aesthetics", 6.0), ("gmescore", 22.0)]
    check_memory(places_of(("cuda:0", "cuda:1"), 1), needs, 10.0)
    check_memory(places_of(("cuda:0",), 3), needs, 26.0)
    with pytest.raises(UserError) as caught:
        check_memory(places_of(("cuda:0", "cuda:1"), 4), needs, 19.5)
    assert str(caught.value) == (
        "4 workers on cuda:0 leave 19.5 GiB to each, and gmescore needs about 22; --workers 3"
    )


def test_doctor_says_what_auto_takes(gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    gpus(2)
    card = SimpleNamespace(name="a card", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert printed_json("doctor")["devices"]["auto"].startswith("cuda:0, cuda:1 (what --devices auto takes")
    gpus(0)
    assert auto_devices() == ("cpu",)


def test_a_record_names_the_device_as_the_machine_does() -> None:
    class Looker(scoring.Scorer):
        def score(self, sample: object, video: object) -> Score:
            raise NotImplementedError

        def provenance(self) -> dict[str, object]:
            return {"device": "cuda:0, CUDAExecutionProvider"}

    worker = ScoringWorker({}, Environment(device="cuda:0", threads=3), "cuda:5")
    loaded = LoadedMetric(scorer=Looker(), device="cuda:0", uses=frozenset())
    assert worker._provenance(loaded) == {"device": "cuda:5, CUDAExecutionProvider", "threads": 3}


def test_threads_of_a_job_do_not_follow_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert threads_per_job() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    for cores, expected in ((2, 2), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: range(cores), raising=False)
        assert threads_per_job() == expected


def test_the_command_line_refuses_a_device_before_it_reads_a_video(
    dataset: object, videos: object, gpus: Callable[[int], None]
) -> None:
    gpus(2)
    base = ("evaluate", videos, "--name", "x", "--dataset", dataset, "--metrics", "motion-amplitude")
    assert "needs torch and a metric that uses it" in complaint(*base, "--devices", "cuda:3")
    assert "there is the CPU alone (nothing that runs needs a GPU)" in complaint(*base, "--devices", 8)
    assert "needs torch" in complaint("run", "noise", "--dataset", dataset, "--device", "cuda")
