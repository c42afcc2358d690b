"""A small random image-prompt detector and its picture tower, in the published files' names and layouts.

The detector is biased so that it finds a few large boxes in most frames, some over the confidence that
counts: only points of the coarsest level may fire, and their boxes span thirteen strides to each side.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from refbench.bench.weights.tiny import marked_folder
from refbench.metrics.nexusscore import DETECTOR_FILES
from refbench.metrics.small.clip import SMALL_B32, write_clip_b32
from refbench.metrics.small.noise import scaled_noise
from refbench.metrics.weights import OPENS2V_WEIGHT

if TYPE_CHECKING:
    import torch

    from refbench.metrics.nets.yolo_world.detector import YoloWorldSizes

# The official script's file, as MMEngine writes it.
DETECTOR_FILE = DETECTOR_FILES[1]

# Logits of the two fine levels, far below any threshold, and of the coarse one, around it.
SILENT_LOGIT = -8.0
COARSE_LOGIT = 0.1
COARSE_LOGIT_SCALE = 1.0
# The distance bin that a side's expectation is drawn to.
DISTANCE_BIN = 13
DISTANCE_BIN_LOGIT = 6.0


def write_tiny(folder: Path) -> None:
    """Write detector and picture tower below `folder`, where weights are looked for."""
    write_detector(folder)
    write_clip_b32(folder)


def write_detector(folder: Path) -> None:
    """Write a random detector below `folder`."""
    import torch

    from refbench.metrics.nets.yolo_world.detector import YoloWorldSizes

    sizes = YoloWorldSizes(
        stem=4,
        stages=(8, 8, 16, 16),
        stage_depths=(1, 2, 2, 1),
        neck_depth=1,
        neck_heads=(2, 1, 2, 2),
        prompt=SMALL_B32["projection_dim"],
        classification=8,
        regression=8,
        projector=64,
    )
    tensors = random_detector(sizes)
    # What the published file holds beside the detector: the reader is to pass over it.
    tensors["backbone.text_model.model.text_projection.weight"] = torch.zeros(2, 2)
    tensors["image_prompt_encoder.img_mean"] = torch.zeros(1, 3, 1, 1)
    save_detector(marked_folder(folder, OPENS2V_WEIGHT.repository), tensors)


def save_detector(place: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write the checkpoint as MMEngine lays it out: the tensors under `state_dict`, notes under `meta`."""
    import torch

    torch.save({"meta": {"epoch": 0}, "state_dict": dict(tensors)}, place / DETECTOR_FILE)


def random_detector(sizes: YoloWorldSizes) -> dict[str, torch.Tensor]:
    """Random tensors by state-dict key of a detector of any size, with the bias that the module describes."""
    import torch

    from refbench.metrics.nets.yolo_world.detector import YoloWorld

    with torch.device("meta"):
        shapes = YoloWorld(sizes).state_dict()
    tensors = {
        key: torch.from_numpy(scaled_noise(key, tuple(tensor.shape), gain=2))
        for key, tensor in sorted(shapes.items())
    }
    head = "bbox_head.head_module"
    for level, logit in enumerate((SILENT_LOGIT, SILENT_LOGIT, COARSE_LOGIT)):
        tensors[f"{head}.cls_contrasts.{level}.bias"].fill_(logit)
        tensors[f"{head}.cls_contrasts.{level}.logit_scale"].fill_(COARSE_LOGIT_SCALE)
        tensors[f"{head}.reg_preds.{level}.2.bias"].view(-1, sizes.bins)[:, DISTANCE_BIN] += (
            DISTANCE_BIN_LOGIT
        )
    return tensors
