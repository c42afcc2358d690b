"""The detector of NexusScore: finds what reference pictures show in frames of a video.

One backbone pass per frame serves all references; each reference's prompt is computed once. Neck and head run
for every (frame, reference) pair, several in a batch. float32 with TensorFloat-32 off on every device.

Source: as `detector.py`, `boxes.py` and `image_prompt.py`, which it puts together.

Axes of tensor names: B frames, R references, D prompt width, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from refbench.metrics.nets.inference import exact_inference, release
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
from refbench.metrics.nets.yolo_world.image_prompt import ReferenceEncoder

if TYPE_CHECKING:
    from PIL import Image

# (frame, reference) pairs of one pass: 0.4 GiB of features each at v2-L's size, measured on a GPU, where the
# 15.4 GiB of GME stay beside them.
PAIRS_PER_PASS = {"cpu": 4, "cuda": 12}


@dataclass(frozen=True, kw_only=True)
class ImagePromptDetector:
    """Finds boxes of what each reference shows, in each frame.

    `pairs_per_pass` bounds frames times references of one call of `detect`.
    """

    network: YoloWorld
    encoder: ReferenceEncoder
    device: torch.device
    pairs_per_pass: int

    @classmethod
    def load(cls, checkpoint: Path, clip_folder: Path, device: str) -> ImagePromptDetector:
        """Detector and picture encoder from disk.

        Raises UserError for files that are damaged or do not fit.
        """
        place = torch.device(device)
        return cls(
            network=load_yolo_world(checkpoint).to(place),
            encoder=ReferenceEncoder.load(clip_folder, device),
            device=place,
            pairs_per_pass=PAIRS_PER_PASS.get(place.type, PAIRS_PER_PASS["cuda"]),
        )

    def prompts(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Unit prompts (R, D), float32 on the detector's device, of RGB reference pictures."""
        with exact_inference():
            return self.network.project(self.encoder.embed(pictures))

    def detect(self, frames: Sequence[np.ndarray], prompts_RD: torch.Tensor) -> list[list[Boxes]]:
        """The boxes over 0.5 of each frame and, within it, of each reference, on the CPU.

        Args:
            frames: RGB uint8 (H, W, 3), all of one size; the caller keeps frames times references within
                `pairs_per_pass`.
            prompts_RD: what `prompts` returned.

        Raises SampleError for a frame too narrow for the detector.
        """
        letterbox = Letterbox.of(*frames[0].shape[:2])
        pixels_BCHW = np.stack([letterbox.apply(frame_HWC) for frame_HWC in frames])
        with exact_inference():
            images_BCHW = torch.from_numpy(pixels_BCHW).to(self.device).float() / 255
            maps = self.network.features(images_BCHW)
            # One prompt per pass: the script asks for no padding prompt beside the reference's.
            logits, distances = self.network.predict(maps, prompts_RD.unsqueeze(1))
            found = [
                script_boxes(head_boxes(logits_NK, corners_N4, letterbox, above=SCRIPT_SCORE)).cpu()
                for logits_NK, corners_N4 in zip(flat_logits(logits), decoded_boxes(distances), strict=True)
            ]
        references = len(prompts_RD)
        return [found[start : start + references] for start in range(0, len(found), references)]

    def close(self) -> None:
        """Give the memory of both networks back."""
        release(self.network, self.encoder.tower.model)
