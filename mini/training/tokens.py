"""Byte-level tokenizers that know the world's words: a word with the space before it is one token.

All other text still falls into single bytes, as in the random small models. Merges that make a word run from
its left end, so the tokens are the words and their beginnings, and no merge starts inside a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from refbench.metrics.small.byte_tokens import BYTES, byte_symbols
from refbench.metrics.small.qwen2_vl import Merge

SPACE, NEWLINE = " ", "\n"


def symbols(text: str) -> list[str]:
    """The characters of GPT-2's alphabet that stand for an ASCII text."""
    printable = byte_symbols()
    return [char if char in printable else chr(BYTES + ord(char)) for char in text]


def word_merges(words: Iterable[str]) -> list[Merge]:
    """Merges after which each word, with the space before it, is a token."""
    merges: dict[Merge, None] = {}
    for word in sorted(set(words)):
        made, *rest = symbols(SPACE + word)
        for symbol in rest:
            merges[made, symbol] = None
            made += symbol
    # Short beginnings first: a merge can only take what is made already.
    return sorted(merges, key=lambda merge: (len(merge[0]), merge))


def text_merges(texts: Sequence[str], words: Iterable[str] = ()) -> list[Merge]:
    """Merges after which each line of the texts is a token, with the line end before it, and so is each word.

    The models read these texts with every picture: as single words they would cost more than the pictures.
    """
    pieces = [piece for text in texts for piece in _lines(text)]
    spoken = {word for piece in pieces for word in piece.split(SPACE)[1:] if word}
    merges = dict.fromkeys(word_merges([*words, *spoken]))
    for piece in pieces:
        first, *others = piece.split(SPACE)
        parts = [*symbols(first), *("".join(symbols(SPACE + word)) for word in others)]
        made = parts[0]
        for part in parts[1:]:
            merges[made, part] = None
            made += part
    known: dict[str, Merge] = {}
    for merge in merges:
        # A text that is made already is not made in a second way.
        known.setdefault("".join(merge), merge)
    return list(known.values())


def _lines(text: str) -> list[str]:
    """The lines of a text, each with the line end before it."""
    first, *others = text.split(NEWLINE)
    return [line for line in (first, *(NEWLINE + other for other in others)) if len(line) > 1]
