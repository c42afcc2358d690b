"""From a frame to the detector's input and from its output to boxes, as OpenS2V-Eval's script runs them.

A frame is resized to fit 640x640, padded with grey and handed over with its **channels reversed**: the
original pipeline expects OpenCV's BGR and flips it, the script hands it RGB, so the network sees BGR.
Boxes pass two suppressions: one per class before they are clamped to the frame, and one over all classes
after, where boxes that differed only outside of the frame meet.

Source: `eval/get_nexusscore.py` of PKU-YuanGroup/OpenS2V-Nexus@210eb08 and the test pipeline of the
detector's configuration there. Different: asked for boxes over 0.5 alone, the first suppression leaves the
weak ones out at once, which gives the same boxes since it is greedy by score.

Axes of tensor names: G (frame, reference) pairs, K prompts of one pass, N points, H rows, W columns,
4 the coordinates x1, y1, x2, y2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import nms

from refbench.bench.errors import SampleError

INPUT_SIZE_PX = 640
PADDING_GREY = 114
STRIDES_PX = (8, 16, 32)

CANDIDATE_SCORE = 0.001
CANDIDATE_LIMIT = 30_000
HEAD_NMS_IOU = 0.7
HEAD_BOX_LIMIT = 300

SCRIPT_NMS_IOU = 0.7
SCRIPT_SCORE = 0.5
SCRIPT_BOX_LIMIT = 100


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Where a frame of `width` x `height` pixels lies in the input: scale factors and padding at left and
    top.
    """

    width: int
    height: int
    resized_width: int
    resized_height: int

    @classmethod
    def of(cls, height: int, width: int) -> Letterbox:
        """The letterbox of a frame; the longer side becomes 640 pixels (or 639, since sizes truncate).

        Raises SampleError for a strip that would have no pixel left across.
        """
        ratio = INPUT_SIZE_PX / max(height, width)
        resized_width, resized_height = int(width * ratio), int(height * ratio)
        if min(resized_width, resized_height) == 0:
            raise SampleError(f"a frame of {width}×{height} pixels is too narrow for the detector")
        return cls(width=width, height=height, resized_width=resized_width, resized_height=resized_height)

    @property
    def scale(self) -> tuple[float, float]:
        """Resized pixels per pixel of the frame, horizontally and vertically."""
        return self.resized_width / self.width, self.resized_height / self.height

    @property
    def left(self) -> int:
        """Columns of padding before the frame."""
        return (INPUT_SIZE_PX - self.resized_width) // 2

    @property
    def top(self) -> int:
        """Rows of padding above the frame."""
        return (INPUT_SIZE_PX - self.resized_height) // 2

    def apply(self, frame_HWC: np.ndarray) -> np.ndarray:
        """RGB uint8 (height, width, 3) to the network's BGR uint8 (3, 640, 640)."""
        import cv2

        size = (self.resized_width, self.resized_height)
        if size != (self.width, self.height):
            shrinks = max(self.width, self.height) > INPUT_SIZE_PX
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            frame_HWC = cv2.resize(frame_HWC, size, interpolation=interpolation)
        canvas_HWC = np.full((INPUT_SIZE_PX, INPUT_SIZE_PX, 3), PADDING_GREY, np.uint8)
        rows = slice(self.top, self.top + self.resized_height)
        columns = slice(self.left, self.left + self.resized_width)
        canvas_HWC[rows, columns] = frame_HWC
        return np.ascontiguousarray(canvas_HWC[..., ::-1].transpose(2, 0, 1))


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes by falling score: corners (n, 4) in pixels of the frame, scores (n,), prompt numbers (n,)."""

    corners: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor

    def chosen(self, which: torch.Tensor | slice) -> Boxes:
        """Some of them: by a mask (n,), by indices, or by a slice."""
        return Boxes(corners=self.corners[which], scores=self.scores[which], labels=self.labels[which])

    def cpu(self) -> Boxes:
        """The same boxes in the CPU's memory."""
        return Boxes(corners=self.corners.cpu(), scores=self.scores.cpu(), labels=self.labels.cpu())


def decoded_boxes(distances: Sequence[torch.Tensor]) -> torch.Tensor:
    """Side distances (G, 4, H, W) per level, in strides, to corners (G, N, 4) in input pixels, unclipped.

    Points lie at pixel centres, row by row, level after level.
    """
    corners = []
    for distance_G4HW, stride in zip(distances, STRIDES_PX, strict=True):
        rows, columns = distance_G4HW.shape[2:]
        like = {"dtype": distance_G4HW.dtype, "device": distance_G4HW.device}
        y_H = (torch.arange(rows, **like) + 0.5) * stride
        x_W = (torch.arange(columns, **like) + 0.5) * stride
        points_N2 = torch.stack(
            [x_W.expand(rows, columns), y_H[:, None].expand(rows, columns)], dim=-1
        ).flatten(0, 1)
        sides_GN4 = distance_G4HW.flatten(2).transpose(1, 2) * stride
        corners.append(torch.cat([points_N2 - sides_GN4[..., :2], points_N2 + sides_GN4[..., 2:]], dim=-1))
    return torch.cat(corners, dim=1)


def flat_logits(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Logits (G, K, H, W) per level to (G, N, K), in the order of `decoded_boxes`."""
    return torch.cat([level_GKHW.flatten(2).transpose(1, 2) for level_GKHW in logits], dim=1)


def head_boxes(
    logits_NK: torch.Tensor, corners_N4: torch.Tensor, letterbox: Letterbox, above: float = CANDIDATE_SCORE
) -> Boxes:
    """The detector's own boxes of one pass: scores over `above`, suppressed per class, clamped to the frame.

    Takes logits (N, K) and corners (N, 4) in input pixels; with several prompts each (point, prompt) is a
    candidate of its own.
    """
    scores_NK = logits_NK.sigmoid()
    points_C, labels_C = (scores_NK > above).nonzero(as_tuple=True)
    scores_C, order_C = scores_NK[points_C, labels_C].sort(descending=True, stable=True)
    order_C, scores_C = order_C[:CANDIDATE_LIMIT], scores_C[:CANDIDATE_LIMIT]
    labels_C = labels_C[order_C]
    padding_4 = corners_N4.new_tensor([letterbox.left, letterbox.top] * 2)
    corners_C4 = (corners_N4[points_C[order_C]] - padding_4) / corners_N4.new_tensor(letterbox.scale * 2)
    kept = nms(_apart(corners_C4, labels_C), scores_C, HEAD_NMS_IOU)[:HEAD_BOX_LIMIT]
    limits_4 = corners_N4.new_tensor([letterbox.width, letterbox.height] * 2)
    clamped_C4 = corners_C4.clamp(min=0).minimum(limits_4)
    return Boxes(corners=clamped_C4, scores=scores_C, labels=labels_C).chosen(kept)


def script_boxes(boxes: Boxes) -> Boxes:
    """What the script keeps of the detector's boxes: suppressed again over all classes, over 0.5, 100 at
    most.
    """
    boxes = boxes.chosen(nms(boxes.corners, boxes.scores, SCRIPT_NMS_IOU))
    return boxes.chosen(boxes.scores > SCRIPT_SCORE).chosen(slice(SCRIPT_BOX_LIMIT))


def _apart(corners_C4: torch.Tensor, labels_C: torch.Tensor) -> torch.Tensor:
    """Corners shifted per class so far that boxes of two classes cannot overlap."""
    if len(corners_C4) == 0:
        return corners_C4
    return corners_C4 + labels_C[:, None].to(corners_C4) * (corners_C4.max() + 1)
