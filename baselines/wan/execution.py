"""How a generator's networks run: their dtype, CPU or GPU and offloading, and the noise they start from."""

from __future__ import annotations

import gc
import hashlib
from typing import TYPE_CHECKING

import torch

from refbench.bench.errors import UserError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def chosen_dtype(name: str, device: str) -> torch.dtype:
    """The dtype of an option: `auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def noise_generator(
    seed: int, sample_id: str, *, key: str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator of a sample's noise: seeded by the seed alone, or (`key` is `sample`) by both."""
    if key == "sample":
        digest = hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
    return torch.Generator(device).manual_seed(seed)


def place_models(pipeline: DiffusionPipeline, device: str, offload: str) -> None:
    """Move a pipeline's models to the device, or keep them off it between uses.

    `offload` is `none`, `model` (one model at a time on the GPU) or `group` (one layer at a time). Raises
    UserError for offloading without a GPU.
    """
    if offload == "none":
        pipeline.to(device)
        return
    if not device.startswith("cuda"):
        raise UserError("offload keeps models off a GPU between uses; on the CPU leave it at none")
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_group_offload(
            onload_device=torch.device(device),
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=True,
        )


def free_gpu_memory() -> None:
    """Free the GPU memory of networks that nothing refers to any more."""
    # Hooks of offloaded models refer to each other in circles.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
