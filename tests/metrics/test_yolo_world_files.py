"""The detector's checkpoint: read safely, named where it does not fit; batches that equal one at a time."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fill import uint8_image
from PIL import Image

from refbench.bench.errors import UserError
from refbench.metrics.small.nexusscore import DETECTOR_FILE, write_tiny
from refbench.metrics.weights import CLIP_VIT_B32, OPENS2V_WEIGHT

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from refbench.metrics.nets.yolo_world.detector import (  # noqa: E402
    INERT_PICKLED_TYPES,
    load_yolo_world,
    read_training_checkpoint,
)
from refbench.metrics.nets.yolo_world.image_prompt_detector import ImagePromptDetector  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(small_weights: Path) -> Path:
    return small_weights / OPENS2V_WEIGHT.repository / DETECTOR_FILE


@pytest.fixture(scope="module")
def small(small_weights: Path, checkpoint: Path) -> ImagePromptDetector:
    return ImagePromptDetector.load(checkpoint, small_weights / CLIP_VIT_B32.repository, "cpu")


def test_small_checkpoints_are_the_same_each_time(checkpoint: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    again = tmp_path / OPENS2V_WEIGHT.repository / DETECTOR_FILE
    assert again.read_bytes() == checkpoint.read_bytes()


def test_frames_and_references_in_one_pass_give_what_each_gives_alone(small: ImagePromptDetector) -> None:
    frames = [uint8_image(f"frame {number}", 96, 160) for number in range(3)]
    pictures = [Image.fromarray(uint8_image(f"picture {number}", 80, 60)) for number in range(2)]
    together = small.detect(frames, small.prompts(pictures))
    assert [len(row) for row in together] == [2, 2, 2]
    seen = 0
    for frame, row in zip(frames, together, strict=True):
        for picture, boxes in zip(pictures, row, strict=True):
            alone = small.detect([frame], small.prompts([picture]))[0][0]
            torch.testing.assert_close(boxes.corners, alone.corners, atol=1e-3, rtol=0)
            torch.testing.assert_close(boxes.scores, alone.scores, atol=1e-5, rtol=0)
            seen += len(boxes.scores)
    assert seen > 0
    assert not torch.equal(together[0][0].scores, together[0][1].scores), "the prompt does not matter"


def test_what_does_not_depend_on_the_prompt_is_computed_once_per_frame(small: ImagePromptDetector) -> None:
    rows: dict[str, int] = {}
    network = small.network
    watched = {
        "backbone": network.backbone["image_model"].stem,
        "first block before its gates": network.neck.top_down_layers[0].main_conv,
        "first block after its gates": network.neck.top_down_layers[0].final_conv,
        "second block": network.neck.top_down_layers[1].main_conv,
    }
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: rows.update({name: len(output)}))
        for name, module in watched.items()
    ]
    pictures = [Image.fromarray(uint8_image(f"picture {number}", 80, 60)) for number in range(3)]
    small.detect([uint8_image("frame", 96, 160)] * 2, small.prompts(pictures))
    for handle in handles:
        handle.remove()
    assert rows == {
        "backbone": 2,
        "first block before its gates": 2,
        "first block after its gates": 6,
        "second block": 6,
    }


def saved(path: Path, folder: Path, change: Any) -> Path:
    """A copy of the tiny checkpoint in `folder` with its content changed."""
    content = torch.load(path, weights_only=True)
    changed = folder / "changed.pth"
    torch.save(change(content), changed)
    return changed


HEAD_BIAS = "bbox_head.head_module.cls_contrasts.0.bias"


def without_a_key(content: Any) -> Any:
    del content["state_dict"][HEAD_BIAS]
    return content


def with_a_wrong_shape(content: Any) -> Any:
    content["state_dict"]["neck.downsample_layers.0.conv.weight"] = torch.zeros(1, 2, 3, 3)
    return content


def with_an_unknown_key(content: Any) -> Any:
    content["state_dict"]["neck.surprise.weight"] = torch.zeros(1)
    return content


def of_another_model(content: Any) -> Any:
    return {"state_dict": {"layer.weight": torch.zeros(1)}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without_a_key, rf"1 missing \({HEAD_BIAS}\)"),
        (with_a_wrong_shape, r"1 of a wrong shape \(neck.downsample_layers.0.conv.weight \(1, 2, 3, 3\)"),
        (with_an_unknown_key, r"1 unexpected \(neck.surprise.weight\)"),
        (of_another_model, "no YOLO-World image-prompt checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_by_its_keys(
    tmp_path: Path, checkpoint: Path, change: Any, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        load_yolo_world(saved(checkpoint, tmp_path, change))


def test_a_truncated_checkpoint_is_one_line(tmp_path: Path, checkpoint: Path) -> None:
    cut = tmp_path / checkpoint.name
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged"):
        load_yolo_world(cut)


def test_an_unneeded_prefix_and_counters_are_passed_over(tmp_path: Path, checkpoint: Path) -> None:
    def as_trained_in_parallel(content: Any) -> Any:
        tensors = {f"module.{key}": value for key, value in content["state_dict"].items()}
        tensors["module.backbone.image_model.stem.bn.num_batches_tracked"] = torch.tensor(7)
        return {"state_dict": tensors, "meta": {"epoch": 80}}

    loaded = load_yolo_world(saved(checkpoint, tmp_path, as_trained_in_parallel)).state_dict()
    original = load_yolo_world(checkpoint).state_dict()
    assert loaded.keys() == original.keys()
    assert all(torch.equal(loaded[key], original[key]) for key in original)


class HistoryBuffer:
    """Stands in for MMEngine's log of one training value."""

    def __init__(self) -> None:
        self.log_history = np.arange(3.0)
        self.max_length = np.float64(5.0)


HistoryBuffer.__module__ = "mmengine.logging.history_buffer"
HistoryBuffer.__qualname__ = HistoryBuffer.__name__ = "HistoryBuffer"


def test_a_training_log_in_the_file_is_read_as_nothing(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    logged = saved(
        checkpoint,
        tmp_path,
        lambda content: content | {"message_hub": {"log_scalars": {"loss": HistoryBuffer()}}},
    )
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(logged, weights_only=True)
    assert f"{module.__name__}.HistoryBuffer" in INERT_PICKLED_TYPES
    assert read_training_checkpoint(logged).keys() == read_training_checkpoint(checkpoint).keys()


class RunsACommand:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_a_checkpoint_with_code_is_refused_and_runs_nothing(tmp_path: Path, checkpoint: Path) -> None:
    witness = tmp_path / "ran"
    hostile = saved(checkpoint, tmp_path, lambda content: content | {"meta": RunsACommand(str(witness))})
    with pytest.raises(UserError, match="more than tensors"):
        load_yolo_world(hostile)
    assert not witness.exists()
