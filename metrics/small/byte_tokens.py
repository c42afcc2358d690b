"""The byte-level alphabet of GPT-2, CLIP and Qwen: a printable character for each byte."""

from __future__ import annotations

BYTES = 256


def byte_symbols() -> dict[str, int]:
    """The 256 characters with their token ids: printable Latin-1 first, then stand-ins from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, BYTES)]
    hidden = [byte for byte in range(BYTES) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(BYTES + rank) for rank in range(len(hidden))]
    return {symbol: rank for rank, symbol in enumerate(symbols)}
