"""Bootstrap over samples: how far a mean or a TotalScore would move with other samples.

Samples are drawn with replacement; one draw is shared by all components (so the whole TotalScore is
recomputed in each resample) and by all methods of equal sample sets (so differences are paired). The seed is
fixed: the same records give the same intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

RESAMPLES = 10_000
SEED = 20260325
CONFIDENCE = 0.95
# A resample in which a component has no sample at all has no TotalScore and is left out; when more than this
# share is left out, the sample is too small for an interval.
LARGEST_LEFT_OUT = 0.1
# Bounds the count matrix of a block to about 160 MB.
BLOCK_ENTRIES = 20_000_000
# So many blocks are kept for other values of as many samples.
KEPT_BLOCKS = 4
# Counted at once: what the processor's cache holds is counted ten times as fast.
COUNTED_ENTRIES = 100_000

Interval = tuple[float, float]


@lru_cache(maxsize=KEPT_BLOCKS)
def _counts(samples: int, resamples: int, block: int) -> np.ndarray:
    """How often each sample is drawn, float64 (resamples, samples); rows sum to `samples`."""
    counts = np.empty((resamples, samples))
    _count_into(counts, block)
    return counts


def _count_into(counts: np.ndarray, block: int) -> None:
    resamples, samples = counts.shape
    generator = np.random.default_rng([SEED, samples, block])
    rows = max(1, COUNTED_ENTRIES // samples)
    for start in range(0, resamples, rows):
        part = counts[start : start + rows]
        # The generator goes on where it was: the draws are those of one call for all rows.
        drawn = generator.integers(0, samples, size=part.shape)
        drawn += np.arange(len(part))[:, None] * samples
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)


def count_blocks(samples: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """The resamples as count matrices of shape (at most all resamples, samples), in blocks of bounded
    size. Each is good until the next one is asked for.
    """
    rows = max(1, min(resamples, BLOCK_ENTRIES // samples))
    starts = range(0, resamples, rows)
    if len(starts) <= KEPT_BLOCKS:
        for block, start in enumerate(starts):
            yield _counts(samples, min(rows, resamples - start), block)
        return
    # Too many to be kept for the next values: one memory for all, as a new one costs as much as counting.
    counts = np.empty((rows, samples))
    for block, start in enumerate(starts):
        part = counts[: resamples - start]
        _count_into(part, block)
        yield part


def resampled_means(several_SC: Sequence[np.ndarray], resamples: int = RESAMPLES) -> list[np.ndarray]:
    """For each of several tables, the means of each column over the drawn samples that have a value.

    Tables are (samples, columns) with NaN for "no value", of as many samples, which are drawn once for all;
    results are (resamples, columns), NaN where a resample holds no value of the column.
    """
    tables = []
    for values_SC in several_SC:
        present_SC = np.isfinite(values_SC)
        filled_SC = np.where(present_SC, values_SC, 0.0)
        tables.append(np.concatenate([filled_SC, present_SC], axis=1, dtype=np.float64))
    blocks: list[list[np.ndarray]] = [[] for _ in tables]
    for counts_RS in count_blocks(len(several_SC[0]), resamples):
        for table, means in zip(tables, blocks, strict=True):
            sums = counts_RS @ table
            columns = table.shape[1] // 2
            with np.errstate(invalid="ignore", divide="ignore"):
                means.append(sums[:, :columns] / sums[:, columns:])
    return [np.concatenate(means) for means in blocks]


def interval(draws: np.ndarray) -> Interval | None:
    """The central 95 % of the finite draws, or None when more than a tenth of them is not finite."""
    finite = draws[np.isfinite(draws)]
    if len(finite) == 0 or len(finite) < (1 - LARGEST_LEFT_OUT) * len(draws):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)
