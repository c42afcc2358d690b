"""Step caches of diffusers on a Wan transformer: what changed little since the last step is not computed
again.

They save time and change the video, so none is on unless it is asked for, a run with one is another variant
(`cache-first-block`), and the card says so. Each guidance pass keeps states of its own, and each video begins
without any. Settings are diffusers' defaults (0.42.1, `diffusers.hooks`) but for what stands here:

* `first-block`, FirstBlockCache: where the first block's residual changed by less than the threshold, the
  other blocks' last residual is added instead of computing them.
* `mag`, MagCache (arXiv 2506.09045): all blocks are skipped while the product of the network's known
  magnitude ratios stays near 1. The ratios belong to a network, and diffusers has none for Wan: the user
  gives them (`cache_ratios`).
* `taylorseer`, TaylorSeer (arXiv 2503.06923): after three whole steps, one in five is computed, and the
  output layer's result is extrapolated between. It is diffusers' lite mode: the names by which the full one
  looks for attentions (`blocks.*attn`) fit none of Wan's (`attn1`, `attn2`), and it would keep two states for
  each of them. Factors are kept in float32: in lite mode they are small.

No torch until a cache is switched on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

StepCache = Literal["none", "first-block", "mag", "taylorseer"]
NO_CACHE: StepCache = "none"

FIRST_BLOCK_THRESHOLD = 0.05
MAG_THRESHOLD = 0.06
MAG_MOST_SKIPPED = 3
MAG_KEPT_SHARE = 0.2
TAYLOR_INTERVAL = 5
TAYLOR_WHOLE_STEPS = 3
TAYLOR_ORDER = 1
LARGEST_RATIO = 10.0

# What the card says of each.
SENTENCES: dict[StepCache, str] = {
    "first-block": f"FirstBlockCache, threshold {FIRST_BLOCK_THRESHOLD:g}",
    "mag": (
        f"MagCache, threshold {MAG_THRESHOLD:g}, at most {MAG_MOST_SKIPPED} steps skipped in a row, none of "
        f"the first {MAG_KEPT_SHARE:.0%}, the same ratios in every guidance pass"
    ),
    "taylorseer": (
        f"TaylorSeer, lite, order {TAYLOR_ORDER}: one step in {TAYLOR_INTERVAL} is computed after the first "
        f"{TAYLOR_WHOLE_STEPS}"
    ),
}
# States of all tokens that a guidance pass keeps between steps. TaylorSeer keeps two of the output layer
# alone, in float32: below a fifth of a state.
KEPT_STATES: dict[StepCache, float] = {"none": 0.0, "first-block": 3.0, "mag": 2.0, "taylorseer": 0.2}


def parse_ratios(text: str | None) -> tuple[float, ...]:
    """`1,1.02,0.99` as numbers; none for None. Raises ValueError for anything else."""
    ratios = []
    for part in (text or "").split(",") if text is not None else ():
        try:
            ratios.append(float(part))
        except ValueError:
            raise ValueError(f"cache_ratios is number,number,…, not {part!r}") from None
        if not 0 < ratios[-1] <= LARGEST_RATIO:
            raise ValueError(f"cache_ratios must be above 0 and at most {LARGEST_RATIO:g}, {part} is not")
    return tuple(ratios)


def cache_sentence(cache: StepCache) -> str:
    """What a card says of a run with this cache."""
    return f"a step cache is on, which changes the video: diffusers' {SENTENCES[cache]}"


def cache_variant(cache: StepCache) -> str | None:
    """The part of a run's variant that names the cache; None for none."""
    return None if cache == NO_CACHE else f"cache-{cache}"


def switch_on(network: Any, cache: StepCache, *, steps: int, ratios: tuple[float, ...] = ()) -> None:
    """Have a transformer of diffusers keep states between the `steps` of a video; `ratios` are MagCache's."""
    import torch
    from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

    if cache == "first-block":
        network.enable_cache(FirstBlockCacheConfig(threshold=FIRST_BLOCK_THRESHOLD))
    elif cache == "mag":
        network.enable_cache(
            MagCacheConfig(
                threshold=MAG_THRESHOLD,
                max_skip_steps=MAG_MOST_SKIPPED,
                retention_ratio=MAG_KEPT_SHARE,
                num_inference_steps=steps,
                mag_ratios=torch.tensor(ratios),
            )
        )
    elif cache == "taylorseer":
        network.enable_cache(
            TaylorSeerCacheConfig(
                cache_interval=TAYLOR_INTERVAL,
                disable_cache_before_step=TAYLOR_WHOLE_STEPS,
                max_order=TAYLOR_ORDER,
                taylor_factors_dtype=torch.float32,
                use_lite_mode=True,
            )
        )


@contextmanager
def fresh_states(network: Any) -> Iterator[None]:
    """Within the block a network with a step cache knows of no step before it, and keeps none after it."""
    # The states of a video before must not reach into this one; diffusers' pipelines do the same.
    network._reset_stateful_cache()
    try:
        yield
    finally:
        network._reset_stateful_cache()
