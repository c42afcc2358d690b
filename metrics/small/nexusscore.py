"""A tiny random image-prompt detector and its picture tower, in the published files' names and layouts.

The detector is biased so that it finds a few large boxes in most frames, some over the confidence that
counts: only points of the coarsest level may fire, and their boxes span thirteen strides to each side.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from refbench.metrics.nets.yolo_world.detector import YoloWorldSizes

DETECTOR_REPOSITORY = "BestWishYsh/OpenS2V-Weight"
DETECTOR_FILE = "yolo_world_v2_l_image_prompt_adapter-719a7afb.pth"
CLIP_REPOSITORY = "openai/clip-vit-base-patch32"
MARKER = "REFBENCH_TINY"

PROMPT_WIDTH = 32
CLIP_WIDTH = 32

# Logits of the two fine levels, far below any threshold, and of the coarse one, around it.
SILENT_LOGIT = -8.0
COARSE_LOGIT = 0.1
COARSE_LOGIT_SCALE = 1.0
# The distance bin that a side's expectation is drawn to.
DISTANCE_BIN = 13
DISTANCE_BIN_LOGIT = 6.0


def write_tiny(folder: Path) -> None:
    """Write detector and picture tower below `folder`, where `locate` looks for the published ones."""
    write_tiny_detector(folder / DETECTOR_REPOSITORY)
    write_tiny_clip(folder / CLIP_REPOSITORY)


def write_tiny_detector(folder: Path) -> None:
    """Write the checkpoint as MMEngine lays it out: the tensors under `state_dict`, notes under `meta`."""
    import torch

    from refbench.metrics.nets.yolo_world.detector import YoloWorldSizes

    _mark(folder)
    sizes = YoloWorldSizes(
        stem=4,
        stages=(8, 8, 16, 16),
        stage_depths=(1, 2, 2, 1),
        neck_depth=1,
        neck_heads=(2, 1, 2, 2),
        prompt=PROMPT_WIDTH,
        classification=8,
        regression=8,
        projector=64,
    )
    tensors = random_detector(sizes)
    # What the published file holds beside the detector: the reader is to pass over it.
    tensors["backbone.text_model.model.text_projection.weight"] = torch.zeros(2, 2)
    tensors["image_prompt_encoder.img_mean"] = torch.zeros(1, 3, 1, 1)
    torch.save({"meta": {"epoch": 0}, "state_dict": tensors}, folder / DETECTOR_FILE)


def random_detector(sizes: YoloWorldSizes) -> dict[str, torch.Tensor]:
    """Random tensors of a detector of any size, with the bias that this module's docstring describes."""
    import torch

    from refbench.metrics.nets.yolo_world.detector import YoloWorld

    with torch.device("meta"):
        shapes = YoloWorld(sizes).state_dict()
    tensors = _tensors(shapes)
    head = "bbox_head.head_module"
    for level, logit in enumerate((SILENT_LOGIT, SILENT_LOGIT, COARSE_LOGIT)):
        tensors[f"{head}.cls_contrasts.{level}.bias"].fill_(logit)
        tensors[f"{head}.cls_contrasts.{level}.logit_scale"].fill_(COARSE_LOGIT_SCALE)
        tensors[f"{head}.reg_preds.{level}.2.bias"].view(-1, sizes.bins)[:, DISTANCE_BIN] += (
            DISTANCE_BIN_LOGIT
        )
    return tensors


def write_tiny_clip(folder: Path) -> None:
    """Write a CLIP folder: config, image processor, and the weights of the picture tower."""
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPVisionModelWithProjection

    _mark(folder)
    settings = _clip_config()
    for name, content in (("config.json", settings), ("preprocessor_config.json", _clip_processor())):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    config = CLIPConfig.from_dict(settings)
    config.vision_config.projection_dim = config.projection_dim
    with torch.device("meta"):
        shapes = CLIPVisionModelWithProjection(config.vision_config).state_dict()
    save_file(_tensors(shapes), folder / "model.safetensors", metadata={"format": "pt"})


def _mark(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("random weights of refbench for trying the pipeline; scores mean nothing\n")


def _tensors(shapes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Noise for every key from the key alone, scaled so that activations neither vanish nor grow."""
    import torch

    return {
        key: torch.from_numpy(_random(key, tuple(tensor.shape))) for key, tensor in sorted(shapes.items())
    }


def _random(key: str, shape: tuple[int, ...]) -> np.ndarray:
    state = np.random.RandomState(zlib.crc32(key.encode()))
    noise: np.ndarray = np.asarray(state.standard_normal(shape), dtype=np.float32)
    if len(shape) > 1:
        # Twice the variance that keeps a linear layer's, since activations halve it.
        return noise * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    if key.endswith("running_var"):
        return np.ones(shape, np.float32)
    is_scale = key.endswith("weight")
    # A scalar's arithmetic leaves the array type.
    return np.asarray(np.float32(1 if is_scale else 0) + np.float32(0.1) * noise)


def _clip_config() -> dict[str, Any]:
    tower = {
        "hidden_size": CLIP_WIDTH,
        "intermediate_size": 2 * CLIP_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": "quick_gelu",
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": PROMPT_WIDTH,
        "logit_scale_init_value": 2.6592,
        "vision_config": {**tower, "model_type": "clip_vision_model", "image_size": 224, "patch_size": 32},
        "text_config": {
            **tower,
            "model_type": "clip_text_model",
            "vocab_size": 64,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
    }


def _clip_processor() -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": 224,
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 224,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
