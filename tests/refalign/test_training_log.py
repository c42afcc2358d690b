"""The log of a training run: validation videos go to the trackers that show videos."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("accelerate", reason="training needs the extra 'refalign'")

from refbench.bench.video import write_video
from refbench.refalign.training.log import TrainingLog
from refbench.refalign.training.recipes import build_config


@pytest.mark.parametrize("name", ["wandb", "trackio"])
@pytest.mark.parametrize("is_main", [True, False])
def test_validation_videos_are_shown(
    name: str, is_main: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType(name)
    module.Video = lambda path, format: (Path(path).name, format)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    logged: list[tuple[dict[str, Any], int]] = []
    tracker = SimpleNamespace(name=name, log=lambda values, step: logged.append((values, step)))
    accelerator = SimpleNamespace(trackers=[tracker], init_trackers=lambda *given, **named: None)
    parallel: Any = SimpleNamespace(accelerator=accelerator, is_main=is_main)
    for sample in ("singleobj_2", "singleobj_1"):
        (tmp_path / f"{sample}.mp4").write_bytes(b"")
    TrainingLog(build_config("tiny"), tmp_path, parallel, after_step=0).videos(tmp_path, 30)
    shown = {f"validation/singleobj_{number}": (f"singleobj_{number}.mp4", "mp4") for number in (1, 2)}
    assert logged == ([(shown, 30)] if is_main else [])


@pytest.mark.parametrize("is_main", [True, False])
def test_tensorboard_shows_validation_videos_as_moving_pictures(is_main: bool, tmp_path: Path) -> None:
    """Read back from its file: every frame, at the video's rate, no larger than a page needs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    frames = [np.full((128, 640, 3), 20 * number, np.uint8) for number in range(9)]
    write_video(tmp_path / "singleobj_1.mp4", frames, 8)
    with SummaryWriter(str(tmp_path / "curves")) as writer:
        tracker = SimpleNamespace(name="tensorboard", tracker=writer)
        accelerator = SimpleNamespace(trackers=[tracker], init_trackers=lambda *given, **named: None)
        parallel: Any = SimpleNamespace(accelerator=accelerator, is_main=is_main)
        TrainingLog(build_config("tiny"), tmp_path, parallel, after_step=0).videos(tmp_path, 30)
    curves = EventAccumulator(str(tmp_path / "curves"), size_guidance={"images": 0})
    curves.Reload()
    assert curves.Tags()["images"] == (["validation/singleobj_1"] if is_main else [])
    if is_main:
        (shown,) = curves.Images("validation/singleobj_1")
        picture = Image.open(io.BytesIO(shown.encoded_image_string))
        assert (shown.step, shown.width, shown.height) == (30, 320, 64)
        assert (picture.format, picture.size, picture.n_frames) == ("GIF", (320, 64), 9)
        assert picture.info["duration"] == 120
