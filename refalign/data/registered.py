"""Training data in formats of plugins: `--data NAME:PATH`, for a NAME that `register_data_source` made known.

A plugin's `open(path, cache)` returns a `ClipSource`; what it does wrong becomes one line with file and line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from refbench.bench.errors import UserError, one_line
from refbench.refalign.data.draws import Draws
from refbench.refalign.data.sample import Clip, ClipRule, ClipSize
from refbench.refalign.data.source import ClipOutline, ClipSource, ReferenceRates
from refbench.refalign.losses import NAME, own_code, place_of

OpenSource = Callable[[Path, Path | None], ClipSource]

_sources: dict[str, OpenSource] = {}


def register_data_source(name: str) -> Callable[[OpenSource], OpenSource]:
    """Decorator: `open(path, cache)` opens training data that are given as `--data NAME:PATH`.

    `cache` is a folder where an index may be kept. Raises UserError for a name that is taken or not of a–z,
    0–9 and `_`.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"a data source's name is of a-z, 0-9 and _, {one_line(name, 60)!r} is not")

    def register(open_data: OpenSource) -> OpenSource:
        existing = _sources.setdefault(name, open_data)
        if existing is not open_data:
            raise UserError(
                f"two data sources are called {name!r}: {place_of(existing)} and {place_of(open_data)}"
            )
        return open_data

    return register


def open_registered(path: Path, cache: Path | None) -> ClipSource | None:
    """The training data of `NAME:PATH`; None where no data source is called so. Raises UserError."""
    name, colon, rest = str(path).partition(":")
    if not colon or name not in _sources:
        return None
    what, code = f"the data source {name!r}", _sources[name]
    with own_code(what, code):
        source = code(Path(rest), cache)
    if not isinstance(source, ClipSource):
        raise UserError(f"{what} ({place_of(code)}) returned a {type(source).__name__}, not a ClipSource")
    return _GuardedSource(what, source)


class _GuardedSource(ClipSource):
    """A plugin's source, its clips checked."""

    def __init__(self, what: str, source: ClipSource) -> None:
        self.path = source.path
        self.shards = source.shards
        self._what = what
        self._source = source

    def name(self, shard: int, number: int) -> str:
        """See the parent."""
        with own_code(self._what, type(self._source)):
            return self._source.name(shard, number)

    def size(self, shard: int, number: int) -> ClipSize:
        """See the parent."""
        with own_code(self._what, type(self._source)):
            return self._source.size(shard, number)

    def outline(self, shard: int, number: int, rule: ClipRule) -> ClipOutline | None:
        """See the parent."""
        with own_code(self._what, type(self._source)):
            return self._source.outline(shard, number, rule)

    def clip(self, shard: int, number: int, rule: ClipRule, rates: ReferenceRates, draws: Draws) -> Clip:
        """The plugin's clip. Raises UserError for one that is no clip of this rule."""
        code = type(self._source).clip
        with own_code(self._what, type(self._source)):
            clip = self._source.clip(shard, number, rule, rates, draws)
        told = f"{self._what} ({place_of(code)}) returned"
        if not isinstance(clip, Clip):
            raise UserError(f"{told} a {type(clip).__name__}, not a Clip")
        _check_pixels(f"{told} a video of", clip.video_FHWC, rule, {rule.num_frames})
        _check_pixels(
            f"{told} references of", clip.references_NHWC, rule, set(range(rule.max_references + 1))
        )
        return clip


def _check_pixels(told: str, pixels: Any, rule: ClipRule, counts: set[int]) -> None:
    good = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 4
    if good and len(pixels) in counts and pixels.shape[1:] == (rule.height, rule.width, 3):
        return
    found = f"{pixels.shape} {pixels.dtype}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
    wanted = f"({max(counts)}, {rule.height}, {rule.width}, 3) uint8"
    raise UserError(f"{told} {found}, not {wanted}")
