"""A tiny Kaleido checkpoint as SwissArmyTransformer saves it: Wan's network, other names, joined attention.

Source of the names: `dit_video_crossattn.py` and `sat/model/transformer.py` of CriliasMiller/Kaleido@459fc9c,
which is zai-org/Kaleido, and its converter `convert_ckpt_init_wan2sat.py`; of the folders:
`configs/sampling/sample_wanvae_concat_14b.yaml`, which loads `model`, and `sat/training/model_io.py`, which
reads the iteration in `latest` and opens `<iteration>/mp_rank_00_model_states.pt`. The released file itself
was not at hand. The tensors' values are those of Wan's names.
"""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.kaleido import KALEIDO
from refbench.baselines.small.networks import TEXT_NETWORK, original_tensors, write_original_config
from refbench.bench.weights.tiny import marked_folder

ITERATION = "1"
FILE = "mp_rank_00_model_states.pt"


def write_tiny(folder: Path) -> None:
    """Write the checkpoint below `folder`, and the configuration that says how many heads it has."""
    import torch

    from refbench.baselines.wan.sat import sat_tensors

    checkpoint = marked_folder(folder, KALEIDO.repository) / "model"
    (checkpoint / ITERATION).mkdir(parents=True, exist_ok=True)
    state = sat_tensors(original_tensors(TEXT_NETWORK))
    torch.save({"module": state}, checkpoint / ITERATION / FILE)
    (checkpoint / "latest").write_text(ITERATION)
    write_original_config(checkpoint / ITERATION, TEXT_NETWORK)
