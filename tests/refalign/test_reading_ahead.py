"""Examples read ahead: the same in the same order, errors in their place, threads that end, time counted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("pycocotools", reason="RefAlign needs the extra 'refalign'")

import refbench.refalign.training.examples as examples_module  # noqa: E402
from kit.training import SHORT_RUN, DrawnSource, write_clips  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.refalign.training.batch import Example  # noqa: E402
from refbench.refalign.training.prepared import PreparedSource  # noqa: E402
from refbench.refalign.training.recipes import build_config  # noqa: E402
from refbench.refalign.training.run import TrainingPaths, prepare, train  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
CONFIG = build_config("tiny", SHORT_RUN)


@pytest.fixture(scope="module")
def features(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ahead")
    prepare(CONFIG, write_clips(folder / "clips"), folder / "features", weights, epochs=2)
    return folder / "features"


@pytest.fixture
def source(features: Path, weights: Path) -> PreparedSource:
    return PreparedSource(features, CONFIG, weights=weights)


def taken(
    source: PreparedSource, count: int, start: int = 0, rank: int = 0, world_size: int = 1
) -> list[Example]:
    stream = source.examples(start=start, rank=rank, world_size=world_size)
    found = [next(stream) for _ in range(count)]
    stream.close()
    return found


def marks(examples: list[Example]) -> list[tuple[str, int, int, bytes]]:
    return [
        (each.key, each.epoch, each.position, each.features.latents_CFhw.numpy().tobytes())
        for each in examples
    ]


def test_order_and_content_follow_from_the_position(source: PreparedSource) -> None:
    whole = taken(source, 12)
    assert marks(taken(source, 12)) == marks(whole)
    assert marks(taken(source, 5, start=7)) == marks(whole[7:])
    assert marks(taken(source, 6, rank=1, world_size=2)) == marks(whole[1::2])
    assert [(each.epoch, each.position) for each in whole] == [divmod(number, 4) for number in range(12)]


def test_what_was_read_is_no_part_of_a_file(source: PreparedSource) -> None:
    """The thread has read it from the disk, not only mapped it."""
    (example,) = taken(source, 1)
    features = example.features
    for value in (features.latents_CFhw, features.text_LD, features.references_CNhw, *features.teachers):
        assert (
            value.is_contiguous() and value.untyped_storage().nbytes() == value.numel() * value.element_size()
        )


def test_a_thread_ends_with_its_stream(
    source: PreparedSource, features: Path, weights: Path, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    stream = source.examples(start=0, rank=0, world_size=1)
    next(stream)
    assert set(threading.enumerate()) - before
    stream.close()
    assert not set(threading.enumerate()) - before
    config = build_config("tiny", [*SHORT_RUN, "run.max_steps=1"])
    threads = set(threading.enumerate())
    train(config, TrainingPaths(out=tmp_path, weights=weights, features=features), resume=False)
    assert not [each for each in set(threading.enumerate()) - threads if "produce" in each.name]


def test_an_error_arrives_in_its_place_as_one_line(
    source: PreparedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = source._example

    def broken_at_the_third(position: object) -> Example:
        if (position.epoch, position.position) == (0, 2):  # type: ignore[attr-defined]
            raise UserError("the file is damaged")
        return real(position)  # type: ignore[arg-type]

    monkeypatch.setattr(source, "_example", broken_at_the_third)
    stream = source.examples(start=0, rank=0, world_size=1)
    assert [next(stream).position for _ in range(2)] == [0, 1]
    with pytest.raises(UserError, match=r"^the file is damaged$"):
        next(stream)


def test_an_interrupt_while_waiting_ends_the_thread(
    source: PreparedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    begun, may_go_on = threading.Event(), threading.Event()

    def stuck(position: object) -> Example:
        begun.set()
        may_go_on.wait()
        raise UserError("nobody asks for this any more")

    def interrupt() -> None:
        begun.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        may_go_on.set()

    monkeypatch.setattr(source, "_example", stuck)
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        next(source.examples(start=0, rank=0, world_size=1))
    interrupter.join()
    for thread in set(threading.enumerate()) - before:
        # The interrupt may have come while it was waited for.
        thread.join(60)
        assert not thread.is_alive()


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_waiting_is_counted_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing that is done between two examples."""
    clock = Clock()
    monkeypatch.setattr(examples_module, "time", clock)

    def slowly(examples: Iterator[Example]) -> Iterator[Example]:
        for example in examples:
            clock.now += 2
            yield example

    source = DrawnSource()
    assert source.take_waited() == 0.0
    stream = source.timed(slowly(source.examples(start=0, rank=0, world_size=1)))
    next(stream), next(stream)
    clock.now += 50
    next(stream)
    assert source.take_waited() == 6.0
    assert source.take_waited() == 0.0
    stream.close()
    # A source that counts nothing says 0.
    next(source.examples(start=0, rank=0, world_size=1))
    assert source.take_waited() == 0.0
