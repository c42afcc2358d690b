"""Everything random in the training data: numbers that follow from a text key alone.

A key names the seed, the epoch, the position and what is drawn; its SHA-256 is the number. So a draw depends
on no process, worker or order, and two processes see together what one process sees. Permutations sort the
words of a counter-based generator (Philox), whose stream numpy keeps over its versions, unlike that of its
`Generator` methods.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from refbench.refalign.data.sample import DropoutRates, Dropped


def _number(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")


def uniform(key: str) -> float:
    """The number of a key in [0, 1), a multiple of 2^-53."""
    return (_number(key) >> 203) * 2.0**-53


def below(count: int, key: str) -> int:
    """The whole number of a key in 0 … count-1."""
    return _number(key) % count


def permutation(count: int, key: str) -> np.ndarray:
    """The numbers 0 … count-1 in the order of a key, int64 (count,)."""
    words = np.random.Philox(key=_number(key) % 2**128).random_raw(count)
    return np.argsort(words, kind="stable")


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The draws of one position of one epoch."""

    seed: int
    epoch: int
    position: int

    def _key(self, what: str) -> str:
        return f"{self.seed}/{self.epoch}/{self.position}/{what}"

    def uniform(self, what: str) -> float:
        """The number in [0, 1) for the purpose `what`."""
        return uniform(self._key(what))

    def below(self, count: int, what: str) -> int:
        """The whole number in 0 … count-1 for the purpose `what`."""
        return below(count, self._key(what))

    def permutation(self, count: int, what: str) -> np.ndarray:
        """The numbers 0 … count-1 in the order for the purpose `what`, int64 (count,)."""
        return permutation(count, self._key(what))

    def dropped(self, rates: DropoutRates) -> Dropped:
        """What this sample is trained without, by one uniform draw r.

        r < `rates.text` drops the text, the next `rates.references` of the unit interval the references, the
        next `rates.both` both (0.1 each in RefAlign's compiled trainers).
        """
        r = self.uniform("condition")
        if r < rates.text:
            return "text"
        if r < rates.text + rates.references:
            return "references"
        if r < rates.text + rates.references + rates.both:
            return "both"
        return "nothing"
