"""A tiny random DINOv3 for the `tiny` recipe, in the format and the folder of the real teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refbench.bench.weights.tiny import marked_folder, random_state_dict
from refbench.refalign.teacher import get_teacher_spec

WIDTH = 40
LAYERS = 2


def write_tiny(folder: Path, name: str = "dinov3-vitb16") -> None:
    """Write a tiny random network in place of the DINOv3 teacher `name` below `folder`."""
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    spec = get_teacher_spec(name)
    model_folder = marked_folder(folder, spec.repository)
    config = DINOv3ViTConfig(
        patch_size=spec.patch_px,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_register_tokens=4,
    )
    # Drawn by torch only to be replaced: values by name are the same on every machine.
    with torch.random.fork_rng(devices=[]):
        network = DINOv3ViTModel(config)
    network.load_state_dict(random_state_dict(network))
    write_teacher(model_folder, network)


def write_teacher(folder: Path, network: Any, *, half: bool = False) -> None:
    """Write a vision model as a Hugging Face folder, without a progress bar; `half`: in half precision."""
    import torch
    from transformers.utils import logging

    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        (network.to(torch.float16) if half else network).save_pretrained(folder)
    finally:
        if had_bars:
            logging.enable_progress_bar()
