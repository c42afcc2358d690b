"""What methods are called on the site: by their labels, or by letters that are the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_uppercase

from refbench.bench.scores.record import PLAIN, RunKey


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of methods; with `hidden`, strings that no text of the site may hold, methods have letters.

    `letters` maps (method, variant) to its letter.
    """

    letters: dict[tuple[str, str], str]
    hidden: tuple[str, ...]

    @property
    def anonymous(self) -> bool:
        """Whether methods have letters."""
        return bool(self.hidden)

    def label(self, run: RunKey) -> str:
        """What the run's method is called."""
        return f"Method {self.letters[run.method, run.variant]}" if self.anonymous else run.label

    def text(self, text: str, instead: str = "") -> str:
        """A text that somebody wrote, or `instead` where it holds a hidden name."""
        return instead if self.holds_name(text) else text

    def holds_name(self, text: str) -> bool:
        """Whether a text holds a hidden name, in any case, with any punctuation."""
        plain = _plain(text)
        return any(name in plain for name in self.hidden)


def make_names(runs: Iterable[RunKey], *, anonymous: bool, also: Iterable[str] = ()) -> Names:
    """The names of runs in the order in which letters are given: that of the ranking, which the site shows
    anyway, so that a letter tells nothing more. `also` are other names that would tell who made the videos.
    """
    if not anonymous:
        return Names(letters={}, hidden=())
    runs = list(runs)
    keys = dict.fromkeys((run.method, run.variant) for run in runs)
    hidden = {_plain(name) for run in runs for name in (run.method, run.variant) if name != PLAIN}
    hidden |= {_plain(name) for name in also}
    return Names(
        letters={key: letter_of(place) for place, key in enumerate(keys)},
        hidden=tuple(sorted(hidden - {""})) or ("\0",),
    )


def letter_of(place: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    letters = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, len(ascii_uppercase))
        letters = ascii_uppercase[rest] + letters
    return letters


def _plain(text: str) -> str:
    return re.sub(r"[\W_]", "", text).lower()
