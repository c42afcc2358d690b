"""Tiny VACE checkpoints: diffusers folders of both sizes, and the 1.3B preview in original format."""

from __future__ import annotations

from pathlib import Path

from refbench.baselines.small.networks import VACE_NETWORK, write_original
from refbench.baselines.small.pipelines import DIFFUSERS_WEIGHTS, write_pipeline
from refbench.baselines.vace import VACE_LARGE_WEIGHTS, VACE_PREVIEW_WEIGHTS, VACE_SMALL_WEIGHTS
from refbench.bench.weights.tiny import marked_folder


def write_tiny(folder: Path) -> None:
    """Write the three repositories below `folder`; the transformer of 14B is in two shards."""
    for entry, shards in ((VACE_SMALL_WEIGHTS, 1), (VACE_LARGE_WEIGHTS, 2)):
        write_pipeline(
            marked_folder(folder, entry.repository), VACE_NETWORK, pipeline="WanVACEPipeline", shards=shards
        )
    preview = marked_folder(folder, VACE_PREVIEW_WEIGHTS.repository)
    write_original(preview, VACE_NETWORK, DIFFUSERS_WEIGHTS)
