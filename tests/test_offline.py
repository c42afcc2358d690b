"""Nobody is asked: no command that was not told to download looks up a name, connects, or leaves something at
home.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.cli import Run
from kit.offline import SUPPORTED, without_network

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="the filter of system calls is Linux's")

# The list of fonts that matplotlib found.
ALLOWED_AT_HOME = {".cache", ".cache/matplotlib", ".config", ".config/matplotlib"}

Offline = Callable[..., str]


@pytest.fixture
def offline(refbench: Run, tmp_path: Path) -> Offline:
    """Runs `refbench WORDS` cut off from the network and with a home of its own, which must stay empty."""

    def run(*words: object, expect: int = 0) -> str:
        home = tmp_path / "home"
        done = without_network(refbench.command(*words), refbench.folder, home)
        assert done.returncode != -signal.SIGSYS, "it wanted to reach the network"
        assert done.returncode == expect, (done.returncode, done.stderr)
        found = {path.relative_to(home).as_posix() for path in home.rglob("*")}
        fonts = {name for name in found if name.startswith(".cache/matplotlib/fontlist-")}
        assert found - fonts <= ALLOWED_AT_HOME
        return done.stdout

    return run


@pytest.mark.parametrize(
    "asks", ["getaddrinfo('refbench.invalid', 443)", "socket().connect(('127.0.0.1', 9))"]
)
def test_the_filter_sees_what_it_is_for(tmp_path: Path, asks: str) -> None:
    words = [sys.executable, "-c", f"import socket; socket.{asks}"]
    assert without_network(words, tmp_path, tmp_path / "home").returncode == -signal.SIGSYS


@pytest.mark.parametrize(
    "words",
    [
        ("metrics",),
        ("methods",),
        ("weights", "list"),
        ("weights", "licences"),
        ("leaderboard",),
        ("--help",),
    ],
)
def test_commands_that_show_something(offline: Offline, words: tuple[str, ...]) -> None:
    assert offline(*words)


def test_generation_evaluation_and_report(offline: Offline, dataset: Path) -> None:
    small = [f"--set=noise.{option}" for option in ("num_frames=3", "width=64", "height=48")]
    assert "noise" in offline("run", "noise", "--dataset", dataset, "--limit", 2, *small)


@pytest.mark.timeout(900)
def test_the_learned_metrics_with_onnx_runtime(
    offline: Offline, dataset: Path, videos: Path, tmp_path: Path
) -> None:
    """FaceSim's detectors run in ONNX Runtime, in the process itself and in worker processes."""
    for module in ("torch", "onnxruntime", "insightface"):
        pytest.importorskip(module)
    from refbench.metrics.small.facesim import write_tiny

    weights = tmp_path / "tiny"
    write_tiny(weights)
    base = ("evaluate", videos, "--name", "x", "--dataset", dataset, "--weights", weights)
    for workers in (1, 2):
        # Drawn squares have no face: each reference is looked at, and its sample fails.
        offline(
            *(*base, "--metrics", "facesim", "--out", f"results-{workers}", "--workers", workers), expect=1
        )
