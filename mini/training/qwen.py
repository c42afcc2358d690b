"""The small Qwen2-VL that the embedder and the judge are trained as: configuration, a shortcut, its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from refbench.bench.weights.tiny import save_tensors
from refbench.metrics.nets.pixels import CLIP_MEAN, CLIP_STD
from refbench.metrics.small.qwen2_vl import CONFIG, FIRST_MERGED, IMAGE_PROCESSOR, Merge, published_name


def trained_config(
    merges: Sequence[Merge], *, width: int, layers: int, heads: int, vision: Mapping[str, int]
) -> dict[str, Any]:
    """config.json of another size than the random one's, for a tokenizer with these merges."""
    pairs = width // heads // 2
    return CONFIG | {
        "vocab_size": FIRST_MERGED + len(merges),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        # Time, rows and columns share a head's pairs as in the released model: 2 to 3 to 3.
        "rope_scaling": {
            "type": "mrope",
            "mrope_section": [pairs - 2 * (3 * pairs // 8), *2 * [3 * pairs // 8]],
        },
        "vision_config": CONFIG["vision_config"] | {"hidden_size": width, "temporal_patch_size": 1, **vision},
    }


def trained_processor(vision: Mapping[str, int], **changes: int) -> dict[str, Any]:
    """preprocessor_config.json that fits the vision half of a configuration."""
    sizes = {"patch_size": vision["patch_size"], "merge_size": vision["spatial_merge_size"]}
    return IMAGE_PROCESSOR | sizes | {"temporal_patch_size": 1} | changes


def raw_patches(pictures: Sequence[Image.Image], side_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of RGB pictures of suitable sizes as the image processor lays them out where no patches are
    merged, but uint8 (P,C), and (n,3): each picture's patches over time, height and width.
    """
    patches, grid = [], []
    for picture in pictures:
        pixels_HWC = np.asarray(picture)
        rows, columns = pixels_HWC.shape[0] // side_px, pixels_HWC.shape[1] // side_px
        cut = pixels_HWC.reshape(rows, side_px, columns, side_px, 3).transpose(0, 2, 4, 1, 3)
        patches.append(cut.reshape(rows * columns, -1))
        grid.append((1, rows, columns))
    return torch.from_numpy(np.concatenate(patches)), torch.tensor(grid)


def take_raw_patches(visual: nn.Module) -> None:
    """Let the vision half take the patches of `raw_patches`: it normalises them by changing the weights of
    its first convolution, whose windows do not overlap, and which so is one product. The same sums.
    """
    embedding = visual.patch_embed
    mean_C, std_C = colours_of(embedding.patch_size)

    def forward(patches_PC: torch.Tensor) -> torch.Tensor:
        weight_DC = embedding.proj.weight.flatten(1) / std_C.to(patches_PC.device)
        return functional.linear(patches_PC.float(), weight_DC, -(weight_DC @ mean_C.to(patches_PC.device)))

    embedding.forward = forward


def colours_of(side_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (C,) of the values of a raw patch, by which it is normalised."""
    mean_C, std_C = (
        torch.tensor(values).repeat_interleave(side_px**2) * 255 for values in (CLIP_MEAN, CLIP_STD)
    )
    return mean_C, std_C


def keep_sizes(network: nn.Module) -> None:
    """Draw the matrices so that activations keep their size, which transformers' own first weights do not at
    such widths: they would learn nothing for hundreds of steps.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)


def save_half(place: Path, network: nn.Module, prefix: str = "") -> None:
    """Write a network's weights in half precision under the published names; `prefix` is where transformers'
    whole model holds it.
    """
    tensors = {published_name(prefix + name): tensor.half() for name, tensor in network.state_dict().items()}
    save_tensors(place, dict(sorted(tensors.items())))
