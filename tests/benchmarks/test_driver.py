"""The driver's benchmark in a small form: its workers sleep, its simulation keeps its books."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def driver() -> Iterator[ModuleType]:
    """The script as a module; it imports its neighbours by their bare names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        # Worker processes look for it too.
        patch.setenv("PYTHONPATH", str(BENCHMARKS), prepend=":")
        import driver

        yield driver


def test_workers_sleep_and_the_table_is_printed(
    driver: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.main(
        [
            *("--parts", "processes,driver,simulation", "--workers", "2", "--many", "2"),
            *("--sleep", "0.01", "--jobs-each", "4", "--devices", "16", "--simulated-jobs", "2000"),
        ]
    )
    text = capsys.readouterr().out
    assert text.count("| processes | 2 | 8 × 0.01 s |") == 2
    assert "16 simulated devices, service times of the plan for h100" in text
    assert "| scoring, six metrics, video by video | 2,160 |" in text
    assert "| generating, refalign-1.3b | 2,160 |" in text


def test_no_device_is_idle_where_the_driver_takes_no_time(driver: ModuleType) -> None:
    draw = random.Random(1)
    services = [draw.uniform(1, 5) for _ in range(500)]
    found = driver.simulated(services, 16, driver_s=0.0)
    assert (found.jobs, found.work_s) == (500, sum(services))
    assert found.idle_share == 0
    # What is left when no job waits any more is at most one job for each device.
    assert found.tail_s <= 5
    assert found.empty_s <= sum(services) / 16 <= found.empty_s + found.tail_s


def test_a_driver_that_is_too_slow_is_what_the_run_waits_for(driver: ModuleType) -> None:
    found = driver.simulated([1.0] * 1000, 64, driver_s=0.1)
    assert found.empty_s == pytest.approx(100)
    # Ten devices are enough for ten jobs a second.
    assert found.idle_share == pytest.approx(1 - 10 / 64, abs=0.01)
    assert found.tail_s == pytest.approx(1.0)


def test_each_device_loads_once(driver: ModuleType) -> None:
    plain, loading = (
        driver.simulated([2.0] * 80, 8, driver_s=0.0, loading_s=seconds) for seconds in (0.0, 10.0)
    )
    assert (plain.empty_s, loading.empty_s) == (18, 28)
    assert (plain.loading_share, loading.loading_share) == (0, pytest.approx(10 / 28))
    assert loading.idle_share == 0


def test_scoring_jobs_come_video_by_video(driver: ModuleType) -> None:
    """Six metrics of one video, then of the next: what the plan says of them, within the drawn factor."""
    services, gib = driver.scoring_services(2000, random.Random(0))
    assert len(services) >= 2000 and gib > 30
    times = [services[start : start + 6] for start in range(0, 600, 6)]
    spread = math.log(driver.SLOWEST / driver.FASTEST)
    for position in zip(*times, strict=True):
        # The first 100 videos are of samples with one reference.
        assert math.log(max(position) / min(position)) <= spread
