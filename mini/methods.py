"""mini-text-only, refalign-mini and its ablations: the registered methods, with networks of the drawn world.

The networks, samplers and settings are those of `wan-t2v` and `refalign`; only sizes differ. All start from
one text-to-video base and are trained with equal seeds and steps: `refalign-mini` with the alignment loss,
`refalign-mini-no-ra` without it, `refalign-mini-positive-only` without its negatives (the paper's row B).

Source: this project; RefAlign, arXiv 2603.25743. The guidance scales are ours.
"""

from __future__ import annotations

from dataclasses import replace

from refbench.baselines.wan.spec import WanNetwork, WanSettings, WanSpec, WanWeights
from refbench.baselines.wan_t2v import TextToVideo13B, TextToVideoMethod
from refbench.bench.registry import methods
from refbench.bench.weights.entry import WeightEntry
from refbench.mini.weights import (
    MINI_BASE,
    REFALIGN_MINI,
    REFALIGN_MINI_NO_RA,
    REFALIGN_MINI_POSITIVE_ONLY,
)
from refbench.mini.world import FPS, NUM_FRAMES, SIZE_PX
from refbench.refalign.method import RefAlign13B, RefAlignMethod

NETWORK = WanNetwork(width=192, ffn_width=384, layers=6, heads=4, patch=1)
SETTINGS = WanSettings(width=SIZE_PX, height=SIZE_PX, num_frames=NUM_FRAMES, fps=FPS, steps=20, shift=3.0)
LICENCE = "Apache-2.0"
BASE_MODEL = "mini (drawn world)"


@methods.register
class MiniTextOnly(TextToVideoMethod):
    """The base itself: the prompt alone."""

    spec = replace(
        TextToVideo13B.spec,
        name="mini-text-only",
        summary="mini control: the text-to-video base of the drawn world, references unused",
        base_model=BASE_MODEL,
        licence=LICENCE,
        weights=WanWeights(transformer=MINI_BASE, base=MINI_BASE),
        network=NETWORK,
        native=replace(SETTINGS, guidance={"text": 4.0}),
    )


def _refalign(entry: WeightEntry, summary: str) -> WanSpec:
    return replace(
        RefAlign13B.spec,
        name=entry.name,
        summary=summary,
        base_model=BASE_MODEL,
        licence=LICENCE,
        weights=WanWeights(transformer=entry, transformer_files=("*.safetensors",), base=MINI_BASE),
        network=NETWORK,
        native=replace(SETTINGS, solver="euler", guidance={"image": 2.0, "text": 4.0}),
        prompt_advice=None,
        round_timestep=False,
        state_in_network_dtype=False,
        deviations=(),
    )


@methods.register
class RefAlignMini(RefAlignMethod):
    """RefAlign in the drawn world."""

    spec = _refalign(REFALIGN_MINI, "RefAlign trained in the drawn world of the track mini")


@methods.register
class RefAlignMiniNoRa(RefAlignMethod):
    """The same without the alignment loss."""

    spec = _refalign(REFALIGN_MINI_NO_RA, "refalign-mini trained without the alignment loss")


@methods.register
class RefAlignMiniPositiveOnly(RefAlignMethod):
    """The same with the positive term alone."""

    spec = _refalign(REFALIGN_MINI_POSITIVE_ONLY, "refalign-mini trained without the negatives of its loss")
