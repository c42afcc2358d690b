"""Frames as the detector's input and its output as boxes, against the original's (goldens `yolo_world`)."""

from __future__ import annotations

import numpy as np
import pytest
from fill import uint8_image

from refbench.bench.errors import SampleError

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from kit.golden_yolo_world import LEVELS, golden  # noqa: E402
from refbench.metrics.nets.yolo_world.boxes import (  # noqa: E402
    SCRIPT_SCORE,
    Letterbox,
    decoded_boxes,
    flat_logits,
    head_boxes,
    script_boxes,
)

CASES = ("landscape", "hd", "portrait", "upscale_truncated", "upscale", "exact")


@pytest.mark.parametrize("case", CASES)
def test_preprocessing(case: str) -> None:
    expected = {key.split("/", 1)[1]: value for key, value in golden("preprocess.npz").items() if case in key}
    height, width = (int(side) for side in expected["frame_hw"])
    letterbox = Letterbox.of(height, width)
    pixels_CHW = letterbox.apply(uint8_image(f"yolo/pre/{case}", height, width))
    np.testing.assert_array_equal(pixels_CHW[:, ::4, ::4], expected["net_u8_every4"])
    np.testing.assert_array_equal(pixels_CHW.sum(axis=(1, 2), dtype=np.int64), expected["net_u8_sum"])
    np.testing.assert_allclose(letterbox.scale, expected["scale_factor_wh"], rtol=0, atol=1e-12)
    assert (letterbox.top, letterbox.left) == tuple(expected["pad_top_bottom_left_right"][[0, 2]])


def test_the_network_sees_blue_first_and_grey_padding() -> None:
    expected = golden("preprocess.npz")
    frame_HWC = np.broadcast_to(expected["channel_order/frame_rgb"], (320, 640, 3))
    pixels_CHW = Letterbox.of(320, 640).apply(np.ascontiguousarray(frame_HWC)).astype(np.float32) / 255
    np.testing.assert_allclose(pixels_CHW[:, 320, 320], expected["channel_order/net_pixel_inside"])
    np.testing.assert_allclose(pixels_CHW[:, 0, 0], expected["channel_order/net_pixel_padding"])


def test_a_strip_without_a_pixel_across_is_refused() -> None:
    with pytest.raises(SampleError, match="too narrow"):
        Letterbox.of(2, 4000)


@pytest.mark.parametrize("case", ["a_landscape", "b_two_prompts", "c_low", "d_empty", "e_crowd", "f_border"])
def test_boxes_after_the_head_and_after_the_script(case: str) -> None:
    expected = {
        key.split("/", 1)[1]: value for key, value in golden("yolo_world_post.npz").items() if case in key
    }
    logits_NK = flat_logits([torch.from_numpy(expected[f"in_cls_{level}"]) for level in LEVELS])[0]
    corners_N4 = decoded_boxes([torch.from_numpy(expected[f"in_ltrb_{level}"]) for level in LEVELS])[0]
    letterbox = Letterbox.of(*(int(side) for side in expected["frame_hw"]))
    np.testing.assert_allclose(corners_N4[::7].numpy(), expected["decoded_every7"], atol=1e-4)

    candidates = head_boxes(logits_NK, corners_N4, letterbox)
    returned = script_boxes(candidates)
    shortcut = script_boxes(head_boxes(logits_NK, corners_N4, letterbox, above=SCRIPT_SCORE))
    for boxes, stage in ((candidates, "head"), (returned, "final"), (shortcut, "final")):
        np.testing.assert_allclose(boxes.corners.numpy(), expected[f"{stage}_boxes"], atol=2e-4)
        np.testing.assert_allclose(boxes.scores.numpy(), expected[f"{stage}_scores"], atol=1e-6)
        np.testing.assert_array_equal(boxes.labels.numpy(), expected[f"{stage}_labels"])
    if case == "f_border":
        assert len(returned.scores) < len(candidates.scores), "the second suppression removes boxes"
