"""The detector of NexusScore: finds what reference pictures show in frames of a video.

One backbone pass per frame serves all references; each reference's prompt is computed once. Neck and head run
for every (frame, reference) pair, several in a batch. float32 with TensorFloat-32 off on every device.

Source: as `yolo_world.py`, `yolo_world_boxes.py` and `image_prompt.py`, which it puts together.

Axes of tensor names: B frames, R references, D prompt width, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from refbench.metrics.nets.yolo_world.boxes import (
    SCRIPT_SCORE,
    Boxes,
    Letterbox,
    decoded_boxes,
    flat_logits,
    head_boxes,
    script_boxes,
)
from refbench.metrics.nets.yolo_world.detector import YoloWorld, load_yolo_world
from refbench.metrics.nets.yolo_world.image_prompt import ClipPictureTower

if TYPE_CHECKING:
    from PIL import Image

# (frame, reference) pairs of one pass: 0.4 GiB of features each at v2-L's size, measured on a GPU, where the
# 15.4 GiB of GME stay beside them.
PAIRS_PER_PASS = {"cpu": 4, "cuda": 12}


class ImagePromptDetector:
    """Boxes of what each reference shows, in each frame."""

    def __init__(self, network: YoloWorld, tower: ClipPictureTower, device: torch.device) -> None:
        self._network = network
        self._tower = tower
        self._device = device
        self.pairs_per_pass = PAIRS_PER_PASS.get(device.type, PAIRS_PER_PASS["cuda"])

    @classmethod
    def load(cls, checkpoint: Path, clip_folder: Path, device: torch.device) -> ImagePromptDetector:
        """Detector and picture tower from disk. Raises UserError for files that are damaged or do not fit."""
        network = load_yolo_world(checkpoint).to(device)
        return cls(network, ClipPictureTower.load(clip_folder, device), device)

    def prompts(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Unit prompts (R, D) of RGB reference pictures."""
        with torch.inference_mode(), _full_precision():
            return self._network.project(self._tower.embed(pictures))

    def detect(self, frames: Sequence[np.ndarray], prompts_RD: torch.Tensor) -> list[list[Boxes]]:
        """The boxes of each frame and, within it, of each reference, on the CPU.

        `frames` are RGB uint8 (H, W, 3), all of one size; the caller keeps frames times references within
        `pairs_per_pass`.
        """
        letterbox = Letterbox.of(*frames[0].shape[:2])
        pixels_BCHW = np.stack([letterbox.apply(frame_HWC) for frame_HWC in frames])
        with torch.inference_mode(), _full_precision():
            images_BCHW = torch.from_numpy(pixels_BCHW).to(self._device).float() / 255
            maps = self._network.features(images_BCHW)
            # One prompt per pass: the script asks for no padding prompt beside the reference's.
            logits, distances = self._network.predict(maps, prompts_RD.unsqueeze(1))
            found = [
                script_boxes(head_boxes(logits_NK, corners_N4, letterbox, above=SCRIPT_SCORE)).cpu()
                for logits_NK, corners_N4 in zip(flat_logits(logits), decoded_boxes(distances), strict=True)
            ]
        references = len(prompts_RD)
        return [found[start : start + references] for start in range(0, len(found), references)]


def _full_precision() -> AbstractContextManager[None]:
    manager: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return manager
