"""Damaged videos with what is left of them: the labels of the networks that judge pictures.

Beside the world's degradations of known strength stand the faults of generators that see everything and know
nothing: two pictures in one, colours that are not the scene's, a plain or a noisy picture instead of a video.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np

from refbench.bench.errors import SampleError
from refbench.bench.metric import Scorer
from refbench.bench.video import Video
from refbench.mini.training.measures import rank_correlation
from refbench.mini.training.seen import clips, sample_of, written
from refbench.mini.world.degrade import DEGRADATIONS, Degradation
from refbench.mini.world.render import render
from refbench.mini.world.scene import random_scene

# Strengths of which a clip is measured at each.
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def doubled(video_FHWC: np.ndarray, strength: float, generator: random.Random) -> np.ndarray:
    """Another clip shines through; at 1 both are seen equally."""
    other_FHWC = render(random_scene("training", generator)).video_FHWC[: len(video_FHWC)]
    mixed_FHWC: np.ndarray = video_FHWC + 0.5 * strength * (other_FHWC - video_FHWC.astype(np.float32))
    return mixed_FHWC.round().astype(np.uint8)


def recoloured(video_FHWC: np.ndarray, strength: float, generator: random.Random) -> np.ndarray:
    """Colours on the way to being those of another channel."""
    order = generator.choice(([1, 2, 0], [2, 0, 1], [2, 1, 0]))
    mixed_FHWC: np.ndarray = (1 - strength) * video_FHWC + strength * video_FHWC[..., order]
    return mixed_FHWC.round().astype(np.uint8)


def ruined(video_FHWC: np.ndarray, generator: random.Random) -> np.ndarray:
    """No picture at all: one colour (mostly black), or noise."""
    if generator.random() < 0.5:
        drawn = np.random.default_rng(generator.randrange(2**32))
        return drawn.integers(0, 256, video_FHWC.shape, dtype=np.uint8)
    colour = (0, 0, 0) if generator.random() < 0.6 else [generator.randrange(256) for _ in range(3)]
    return np.broadcast_to(np.array(colour, np.uint8), video_FHWC.shape).copy()


def measured_against_strength(
    scorer: Scorer, kinds: Sequence[str], videos: int, name: str, extra: Mapping[str, Degradation] = {}
) -> dict[str, float]:
    """Rank correlation of a scorer's values with known quality on held-out clips: over all of them, and of
    each kind of degradation; and the share of videos that have a value.
    """
    table: dict[str, list[tuple[float, float | None]]] = {kind: [] for kind in kinds}
    for number, (rendering, generator) in enumerate(clips("held-out", videos, name)):
        kind = kinds[number % len(kinds)]
        degrade = {**DEGRADATIONS, **extra}[kind]
        for strength in STRENGTHS:
            with written(degrade(rendering.video_FHWC, strength, generator)) as video:
                table[kind].append((-strength, value_of(scorer, video)))
    answered = {
        kind: [(known, value) for known, value in rows if value is not None] for kind, rows in table.items()
    }
    everything = [row for rows in answered.values() for row in rows]
    return {
        "correlation": _correlation(everything),
        "answered": len(everything) / sum(map(len, table.values())),
        **{f"correlation_{kind}": _correlation(rows) for kind, rows in answered.items()},
    }


def value_of(scorer: Scorer, video: Video) -> float | None:
    """The value of a video; None where the metric has none for it, as an untrained judge."""
    try:
        return scorer.score(sample_of(), video).value
    except SampleError:
        return None


def _correlation(rows: Sequence[tuple[float, float]]) -> float:
    """Rank correlation of pairs; NaN where there are fewer than two."""
    return rank_correlation(*zip(*rows, strict=True)) if len(rows) > 1 else math.nan
