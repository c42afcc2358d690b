"""The generators' weights of the mini benchmark. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path

from refbench.bench.weights.entry import BASE_FILES, TRANSFORMER_FILES, WeightEntry

BUILD = "refbench mini build"
# The weights that come with the package: what `--weights` takes.
TRAINED = Path(__file__).parent / "trained"

MINI_BASE = WeightEntry(
    name="mini-base",
    repository="refbench/mini-base",
    holds="mini: VAE, text encoder and text-to-video transformer (3 million parameters)",
    kind="generator",
    memory_gib=0.03,
    required=(*TRANSFORMER_FILES, *BASE_FILES),
    licence="Apache-2.0",
    made_by=BUILD,
)


def refalign_entry(variant: str = "") -> WeightEntry:
    """The transformer of RefAlign trained in the drawn world, or of a variant of it (`no-ra`)."""
    name = "-".join(filter(None, ("refalign-mini", variant)))
    return WeightEntry(
        name=name,
        repository=f"refbench/{name}",
        holds=f"mini: the transformer of {name}",
        kind="generator",
        memory_gib=0.015,
        required=("*.safetensors",),
        licence="Apache-2.0",
        made_by=BUILD,
    )


REFALIGN_MINI = refalign_entry()
REFALIGN_MINI_NO_RA = refalign_entry("no-ra")
REFALIGN_MINI_POSITIVE_ONLY = refalign_entry("positive-only")
