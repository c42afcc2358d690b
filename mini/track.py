"""The track `mini`: 48 samples of the drawn world, six in each category of OpenS2V-Eval."""

from __future__ import annotations

from refbench.bench.dataset import OFFICIAL_TRACKS, DeclaredTrack

SAMPLES_PER_CATEGORY = 6

MINI = DeclaredTrack(
    name="mini",
    summary="the embedded drawn world: all eight categories, nothing official",
    files=("Mini_Eval.json",),
    category_counts=dict.fromkeys(OFFICIAL_TRACKS["open-domain"].category_counts, SAMPLES_PER_CATEGORY),
    dataset_hint="refbench mini dataset --out DIR writes it",
    protocol="mini-1.0",
    accepted_weights=frozenset({"mini", "tiny"}),
)
