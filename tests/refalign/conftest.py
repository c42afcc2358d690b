"""What the tests of RefAlign share: one thread, tiny weights, clips, and no state of an earlier run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """torch with one thread: in networks this small several would mostly wait for each other."""
    torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh_accelerate() -> None:
    """accelerate keeps one state a process, which a run with other settings would refuse."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny weights of what the tiny recipe takes: base model and teacher."""
    from refbench.baselines.small.wan_base import write_small
    from refbench.refalign.small_teacher import write_tiny

    folder = tmp_path_factory.mktemp("weights")
    write_small(folder)
    write_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data of four lines, the last of which cannot be used."""
    from kit.training import write_clips

    return write_clips(tmp_path_factory.mktemp("clips"))
