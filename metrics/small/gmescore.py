"""A small random GME."""

from __future__ import annotations

from pathlib import Path

from refbench.metrics.small.qwen2_vl import TOKEN_IDS, Weights, write_qwen2_vl
from refbench.metrics.weights import GME_QWEN2_VL

# How much the last token, at which GME reads its embedding, outweighs what came before it.
END_WEIGHT = 5.0


def write_tiny(folder: Path) -> None:
    """Write the small GME below `folder`, where weights are looked for.

    Its end token is heavy, so that any text and any picture are somewhat alike: NexusScore keeps only crops
    that are like their label.
    """
    write_qwen2_vl(folder, GME_QWEN2_VL.repository, adjust=outweigh_the_end)


def outweigh_the_end(weights: Weights) -> None:
    """Scale the end token's embedding in place."""
    weights["model.embed_tokens.weight"][TOKEN_IDS["<|endoftext|>"]] *= END_WEIGHT
