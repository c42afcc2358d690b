"""The scripts of examples/ do what they say, on small drawn data, as a user would start them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kit.cli import Run
from refbench.bench.video import write_video

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs a script in a folder of its own; the lines that it prints."""

    def run(name: str, *words: object) -> list[str]:
        command = [sys.executable, str(EXAMPLES / name), *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_every_script_is_tried_here() -> None:
    tried = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    assert all(f'"{script.name}"' in tried for script in EXAMPLES.glob("*.py"))


def test_score_your_videos(
    example: Callable[..., list[str]], make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32), (200, 80, 40)).save(tmp_path / "cup.png")
    rows = []
    for number in (1, 2, 3):
        make_clip(f"mine/cup_{number}.mp4", speed=2 * number, seed=number)
        row = {"id": f"cup_{number}", "prompt": "a cup", "references": ["cup.png"], "labels": ["cup"]}
        rows.append(json.dumps(row))
    (tmp_path / "suite.jsonl").write_text("\n".join(rows))
    lines = example("score_your_videos.py", "mine", "suite.jsonl")
    scored = next(line for line in lines if line.startswith("MotionAmplitude: "))
    assert "(3 of 3 videos, 95 % interval " in scored
    assert "Aesthetics: not scored" in lines
    assert any(line.startswith("no TotalScore: nothing was scored for Aesthetics") for line in lines)
    assert any(line.startswith("lowest motion-amplitude: cup_") for line in lines)
    (store,) = (tmp_path / "results").rglob("*.jsonl")
    before = store.read_bytes()
    assert example("score_your_videos.py", "mine", "suite.jsonl") == lines
    assert store.read_bytes() == before


def test_compare_two_methods(example: Callable[..., list[str]], dataset: Path) -> None:
    small = ("--set", "num_frames=3", "width=64", "height=48")
    lines = example(
        "compare_two_methods.py", "pan-reference", "noise", "--dataset", dataset, "--limit", 3, *small
    )
    assert lines[0] == "A = pan-reference, B = noise, 3 samples of open-domain"
    assert lines[1].startswith("TotalScore: not compared")
    verdict = next(line for line in lines if line.startswith("MotionAmplitude: "))
    assert "3 samples" in verdict and ("tell them apart" in verdict or "equal" in verdict)


def test_add_a_metric(example: Callable[..., list[str]], refbench: Run, tmp_path: Path) -> None:
    blinking = [np.full((32, 32, 3), 255 * (index % 2), np.uint8) for index in range(6)]
    still = [np.full((32, 32, 3), 128, np.uint8)] * 6
    write_video(tmp_path / "blinking.mp4", blinking, 8)
    write_video(tmp_path / "still.mp4", still, 8)
    write_video(tmp_path / "one.mp4", still[:1], 8)
    (line,) = example("add_a_metric.py", "blinking.mp4")
    assert float(line.removeprefix("flicker: ")) > 0.9
    assert example("add_a_metric.py", "still.mp4") == ["flicker: 0.0000"]
    assert example("add_a_metric.py", "one.mp4") == [
        "no flicker: failed: a video of one frame cannot flicker"
    ]
    plugin = ("--plugin", EXAMPLES / "add_a_metric.py", "--metrics", "flicker", "--prompt", "p", "--json")
    scored = json.loads(refbench("score", tmp_path / "blinking.mp4", *plugin).stdout)["flicker"]
    assert scored["value"] > 0.9 and len(scored["details"]["brightness"]) == 6
    refused = refbench("score", tmp_path / "still.mp4", *plugin, "--set", "flicker.smallest_jump=2", expect=2)
    assert "smallest_jump must be between 0 and 1" in refused.stderr
