"""Scores for Python: the records of stores as a pandas table, and their scoreboards.

A *source* is a score store (its folder, a method's folder in it, or a `.jsonl` file), several of them, or
records that are in memory already.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING

from refbench.bench.errors import UserError
from refbench.bench.scores import aggregate
from refbench.bench.scores.aggregate import Scoreboard
from refbench.bench.scores.protocol import protocol_of
from refbench.bench.scores.record import Provenance, Record, RunKey, latest
from refbench.bench.scores.store import Store, load_records

if TYPE_CHECKING:
    import pandas as pd

Source = Store | Iterable[Store | Record]

RECORD_COLUMNS = tuple(name for name in Record.model_fields if name not in ("schema_version", "provenance"))
PROVENANCE_PREFIX = "provenance_"
PROVENANCE_COLUMNS = tuple(f"{PROVENANCE_PREFIX}{name}" for name in Provenance.model_fields)
# All other columns hold text.
COLUMN_TYPES = {
    "seed": "int64",
    "value": "float64",
    "details": "object",
    "provenance_weights": "object",
    "provenance_packages": "object",
    "provenance_batch_size": "Int64",
}


def records(source: Source) -> pd.DataFrame:
    """The latest records of a source as a tidy table: one row each, in order of the files.

    Columns are the fields of a record: `method`, `track`, `variant`, `sample`, `category`, `seed` (int64),
    `metric`, `value` (float64, the raw score on the metric's own scale; NaN where there is none), `reason`
    (missing where there is a value), `details` (a dict), and `provenance_…` for each field of the provenance:
    of these `provenance_weights` and `provenance_packages` are dicts, `provenance_batch_size` is Int64. All
    other columns hold text (dtype `string`). Changing the table changes no store.

    Raises UserError when a store does not exist, holds no record, or holds something that is no record.

    >>> table = records("results")
    >>> means = table[table.metric == "gmescore"].groupby("method").value.mean()
    >>> print(f"{means['static-reference']:.3f}")
    0.629
    """
    import pandas as pd

    rows = [
        [getattr(record, name) for name in RECORD_COLUMNS]
        # Records of a store share their dictionaries.
        + [copy(getattr(record.provenance, name)) for name in Provenance.model_fields]
        for record in latest_records(source)
    ]
    table = pd.DataFrame(rows, columns=[*RECORD_COLUMNS, *PROVENANCE_COLUMNS])
    return table.astype({name: COLUMN_TYPES.get(name, "string") for name in table.columns})


def scoreboards(source: Source, *, protocol: str | None = None) -> list[Scoreboard]:
    """One scoreboard for each run (method, track and variant) of a source, in order of first appearance.

    Without `protocol` each track has its own. Means, intervals and totals are on the scale 0..1. Raises
    UserError for an unknown protocol, and as `records` does.

    >>> [board.label for board in scoreboards("results")]
    ['refalign-tiny (tiny-weights)', 'static-reference']
    """
    return aggregate.scoreboards(latest_records(source), protocol)


def scoreboard(
    source: Source,
    *,
    track: str | None = None,
    variant: str | None = None,
    protocol: str | None = None,
) -> Scoreboard:
    """The scoreboard of the one run that a source holds, of that track and variant where they are given.

    Raises UserError when the source holds several such runs or none (the message lists them), and as
    `scoreboards` does.

    >>> board = scoreboard("results/static-reference")
    >>> print([f"{result.label} {result.value:.2f}" for result in board.components][:2])
    ['Aesthetics 0.62', 'MotionSmoothness 1.00']
    """
    groups = aggregate.group_records(latest_records(source))
    name = str(source) if isinstance(source, str | os.PathLike) else "the source"
    key = only_run(groups, name, track=track, variant=variant)
    return aggregate.scoreboard(groups[key], protocol_of(key.track, protocol))


def latest_records(source: Source) -> list[Record]:
    """The latest record of every key, in order of the files; those given in memory come after them."""
    given = [source] if isinstance(source, str | os.PathLike) else list(source)
    in_memory = [one for one in given if isinstance(one, Record)]
    stores = [one for one in given if not isinstance(one, Record)]
    stored = load_records(stores) if stores else []
    return list(latest([*stored, *in_memory]).values())


def only_run(
    groups: Mapping[RunKey, Sequence[Record]], source: str, *, track: str | None, variant: str | None
) -> RunKey:
    """The key of the one run of that track and variant (None: any).

    `source` is what messages call the groups. Raises UserError when there are several or none, with the
    choices.
    """
    found = [key for key in groups if track in (None, key.track) and variant in (None, key.variant)]
    if len(found) == 1:
        return found[0]
    problem = "holds several runs" if found else "holds no run of that track and variant"
    choices = "; ".join(
        f"{key.method} --track {key.track} --variant {key.variant}" for key in found or groups
    )
    raise UserError(f"{source} {problem}; give one method's folder or file, and one of: {choices}")
