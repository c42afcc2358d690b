"""The goldens' YOLO-World at full size: its weights, what is looked at inside of it, and how near is near."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fill import normal

from kit.goldens import read
from refbench.metrics.nets.yolo_world.boxes import decoded_boxes
from refbench.metrics.nets.yolo_world.detector import YoloWorld
from refbench.metrics.nets.yolo_world.head import expected_distances

LEVELS = range(3)


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of a golden file."""
    arrays: dict[str, np.ndarray] = read(f"yolo_world/{name}")
    return arrays


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def sampled(tensor: Any, count: int) -> np.ndarray:
    flat = tensor.reshape(-1).numpy()
    return flat[:: max(1, flat.size // count) | 1][:count]


def assert_near(actual: np.ndarray, expected: np.ndarray, limits: tuple[float, float], name: str) -> None:
    """Root mean square and maximum of the difference lie under the limits."""
    assert actual.shape == expected.shape, name
    error = actual.astype(np.float64) - expected
    assert np.sqrt((error**2).mean()) < limits[0], f"{name}: rms {np.sqrt((error**2).mean()):.2e}"
    assert np.abs(error).max() < limits[1], f"{name}: max {np.abs(error).max():.2e}"


def apply_recipe(network: YoloWorld) -> None:
    """Steps 1 to 3 of the golden weights."""
    tensors = network.state_dict()
    for key, tensor in tensors.items():
        if key.startswith("neck.") and key.endswith("attn_block.guide_fc.weight"):
            tensor.mul_(32)
    for level in LEVELS:
        tensors[f"bbox_head.head_module.reg_preds.{level}.2.weight"].mul_(4)
    tensors["image_prompt_encoder.projector.0.weight"].mul_(16)


def apply_statistics(network: YoloWorld, name: str, logit_bias: float) -> None:
    """Steps 4 and 5 of the golden weights."""
    tensors = network.state_dict()
    for level in LEVELS:
        tensors[f"bbox_head.head_module.cls_contrasts.{level}.bias"].fill_(logit_bias)
    for key, statistics in golden(name).items():
        tensors[key].copy_(torch.from_numpy(statistics.astype(np.float32)))


def tap_modules(network: YoloWorld) -> dict[str, Any]:
    """The modules whose outputs the goldens sample."""
    darknet, neck = network.backbone["image_model"], network.neck
    head = network.bbox_head.head_module
    return {
        "stem": darknet.stem,
        **{f"stage{number}": getattr(darknet, f"stage{number}") for number in (1, 2, 3, 4)},
        "stage4_before_sppf": darknet.stage4[1],
        **{f"top_down_{index}": neck.top_down_layers[index] for index in (0, 1)},
        **{f"top_down_{index}_attn": neck.top_down_layers[index].attn_block for index in (0, 1)},
        **{f"downsample_{index}": neck.downsample_layers[index] for index in (0, 1)},
        **{f"bottom_up_{index}": neck.bottom_up_layers[index] for index in (0, 1)},
        **{f"cls_embed_{level}": head.cls_preds[level] for level in LEVELS},
        **{f"reg_logits_{level}": head.reg_preds[level] for level in LEVELS},
    }


@torch.inference_mode()
def run_with_taps(network: YoloWorld, images: Any, prompts: Any) -> dict[str, Any]:
    """Every tapped output of one pass, with logits, distances and boxes."""
    outputs: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: outputs.update({name: output.clone()}))
        for name, module in tap_modules(network).items()
    ]
    logits, distances = network.predict(network.features(images), prompts)
    for handle in handles:
        handle.remove()
    for level in LEVELS:
        outputs[f"cls_logits_{level}"], outputs[f"ltrb_{level}"] = logits[level], distances[level]
    outputs["boxes"] = decoded_boxes(distances)
    return outputs


@torch.inference_mode()
def unit_blocks(network: YoloWorld, prompts: Any) -> dict[str, Any]:
    """The blocks that the goldens test alone, for one prompt or two."""

    def noise(name: str, *shape: int) -> Any:
        return torch.from_numpy(normal(f"yolo/unit/{name}", shape))

    darknet, neck = network.backbone["image_model"], network.neck
    block, count = neck.top_down_layers[1], prompts.shape[1]
    outputs = {
        f"attn_k{count}": block.attn_block(noise("attn", 1, 128, 12, 12), prompts),
        f"guided_csp_k{count}": block(noise("guided_csp", 1, 768, 12, 12), prompts),
        f"contrast_k{count}": network.bbox_head.head_module.cls_contrasts[0](
            noise("contrast", 1, 512, 12, 12), 3 * prompts
        ),
    }
    if count == 1:
        outputs["sppf"] = darknet.stage4[2](noise("sppf", 1, 512, 12, 12))
        outputs["csp_identity"] = darknet.stage1[1](noise("csp", 1, 128, 12, 12))
        outputs["dfl"] = expected_distances(3 * noise("dfl", 1, 64, 12, 12), 16)
    return outputs
