"""The three kinds of weights, and the marks by which they are told apart.

A marker file lies in a repository's folder, and a prefix stands before its digests in cards and records, so
that nothing made with other weights than released ones is ever taken for an official figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from refbench.bench.errors import UserError

# Of a release, trained in the drawn world (mini), or made up at random (`refbench weights make-tiny`).
WeightsKind = Literal["real", "mini", "tiny"]
TINY_MARKER = "REFBENCH_TINY"
MARKERS: Mapping[WeightsKind, str] = {"tiny": TINY_MARKER, "mini": "REFBENCH_MINI"}
TINY_PREFIX = "tiny:"
PREFIXES: Mapping[WeightsKind, str] = {"tiny": TINY_PREFIX, "mini": "mini:", "real": ""}


def kind_of_folder(folder: Path) -> WeightsKind:
    """What the folder of a repository is marked as; without a mark its weights are released ones."""
    return next((kind for kind, marker in MARKERS.items() if (folder / marker).exists()), "real")


def kind_of_digest(digest: str) -> WeightsKind:
    """What the digest of weights is marked as."""
    return next((kind for kind in MARKERS if digest.startswith(PREFIXES[kind])), "real")


def joined_kind(kinds: Iterable[WeightsKind]) -> WeightsKind:
    """What weights that were used together count as: tiny if any are, else mini if any are."""
    found = set(kinds)
    return next((kind for kind in MARKERS if kind in found), "real")


def check_one_kind(what: str, digests: Mapping[str, str]) -> None:
    """Raises UserError where mini weights are used together with others, which were not trained with them."""
    kinds = {name: kind_of_digest(digest) for name, digest in digests.items()}
    others = [name for name, kind in kinds.items() if kind != "mini"]
    if others and len(others) < len(kinds):
        own = next(name for name, kind in kinds.items() if kind == "mini")
        raise UserError(
            f"{what} would mix mini weights ({own}) with others ({others[0]}): "
            "give --weights a folder that holds one kind"
        )
