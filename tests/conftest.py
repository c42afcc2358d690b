"""Shared fixtures: the folder of real data, drawn clips, records, and a plugin with a dummy metric and
method.
"""

from __future__ import annotations

import json
import os

# One thread a process, also in the programs that tests start: several test processes run at once, and threads
# that wait for each other's cores make a busy machine many times slower. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from kit.cli import Run
from kit.clips import SMALL_IDS, moving_square
from kit.plugin import PLUGIN

GOLDENS = Path(__file__).parent / "goldens"

# How long an example takes says nothing on a busy machine.
settings.register_profile("refbench", deadline=None)
settings.load_profile("refbench")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may ask a paid judge, use weights that happen to be here, or reach the hub."""
    for variable in ("OPENAI_API_KEY", "REFBENCH_WEIGHTS", "REFBENCH_DATASET"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real third-party data; tests that need it skip without it."""
    place = os.environ.get("REFBENCH_SHARED")
    if not place:
        pytest.skip("REFBENCH_SHARED is not set: the real data is not here")
    return Path(place)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Reads a golden JSON file by its path below tests/goldens."""
    return lambda name: json.loads((GOLDENS / name).read_text())


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A plugin file with `dummy-brightness` and `dummy-grey`."""
    path = tmp_path / "dummy_plugin.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small mp4 of a moving square: make_clip(name, **moving_square arguments)."""
    from refbench.bench.video import write_video

    def make(name: str = "clip.mp4", fps: float = 8, **arguments: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_square(**arguments), fps)
        return path

    return make


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set in the official format: six open-domain samples, two of them in the other tracks."""
    from PIL import Image

    folder = tmp_path / "dataset"
    samples: dict[str, Any] = {}
    for number, sample_id in enumerate(SMALL_IDS):
        category = sample_id.rpartition("_")[0]
        places = {
            "singleobj": [("Images/singleobject/cup/1.png", "Cup")],
            "singlehuman": [("Images/singlehuman/man/1.png", "Man")],
            "faceobj": [
                (f"Images/humanobj/human/crop_woman/{number}.png", "Woman"),
                (f"Images/humanobj/thing/hat/{number}.png", "Hat"),
            ],
            "singleface": [("Images/singleface/crop_man/1.png", "Man")],
            "multiface": [
                ("Images/multiface/crop_man/1.png", "Man"),
                ("Images/multiface/crop_woman/1.png", "Woman"),
            ],
        }[category]
        for path, _ in places:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 32), (40 * number, 80, 120)).save(folder / path)
        samples[sample_id] = {
            "img_paths": [path for path, _ in places],
            "prompt": f"prompt of {sample_id}",
            "synthesis_flag": "wrong",
            "class_label": [label for _, label in places],
        }
    person = {key: samples[key] for key in ("singlehuman_1", "singleface_1")}
    (folder / "Open-Domain_Eval.json").write_text(json.dumps(samples))
    (folder / "Human-Domain_Eval.json").write_text(json.dumps(person))
    (folder / "Single-Domain_Eval.json").write_text(
        json.dumps(person | {"singleobj_1": samples["singleobj_1"]})
    )
    return folder


@pytest.fixture
def videos(make_clip: Callable[..., Path], tmp_path: Path) -> Path:
    """A flat folder with one clip per sample of `dataset`."""
    for number, sample_id in enumerate(SMALL_IDS):
        make_clip(f"videos/{sample_id}.mp4", seed=number, speed=number, frames=5)
    return tmp_path / "videos"


@pytest.fixture
def refbench(tmp_path: Path) -> Run:
    """`refbench` as a process, in a working folder of its own."""
    (tmp_path / "cwd").mkdir()
    return Run(tmp_path / "cwd")
