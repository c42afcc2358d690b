"""What the metrics' tests share: small weights of all of them, the sample videos, a fixed thread count."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read before any test: no test sees the variable itself.
RELEASED_WEIGHTS = os.environ.get("REFBENCH_WEIGHTS")


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random weights of every metric, for reading only; a test that damages them takes a copy."""
    from refbench.metrics import small

    for package in ("torch", "transformers", "onnx", "sentencepiece"):
        pytest.importorskip(package, reason="the learned metrics need the extra 'metrics'")
    folder = tmp_path_factory.mktemp("small-weights")
    for module in pkgutil.iter_modules(small.__path__, small.__name__ + "."):
        write = getattr(importlib.import_module(module.name), "write_tiny", None)
        if write is not None:
            write(folder)
    return folder


@pytest.fixture(scope="session")
def released_weights() -> Path:
    """The released weights; tests that need them skip without them."""
    if RELEASED_WEIGHTS is None:
        pytest.skip("REFBENCH_WEIGHTS names no folder of released weights")
    return Path(RELEASED_WEIGHTS)


@pytest.fixture(scope="session")
def opens2v(shared: Path) -> Path:
    """OpenS2V-Eval's official files with its two sample videos."""
    return shared / "data" / "opens2v_eval"


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty hub cache: what is not in a weights folder is nowhere."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-hub"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread, so that equal work gives equal bits."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
