"""What score stores hold: the latest records, and the `run.json` kept beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.errors import UserError
from refbench.bench.runs.folder import RunInfo, read_run, stored_run_file
from refbench.bench.scores.aggregate import by_run
from refbench.bench.scores.record import Record, RecordKey, RunKey, key_values
from refbench.bench.scores.store import Store, StorePart, read_records, store_files, store_paths


@dataclass(frozen=True, kw_only=True)
class StoredRuns:
    """The latest records in the order of their keys, and the run descriptions found beside the stores.

    `left_out` says, a line each, which files could not be read and why.
    """

    records: tuple[Record, ...]
    run_infos: Mapping[RunKey, RunInfo]
    left_out: tuple[str, ...] = ()

    def groups(self) -> dict[RunKey, list[Record]]:
        """The records of each run."""
        return by_run(self.records)


def read_stored_runs(stores: Store | Iterable[Store]) -> StoredRuns:
    """Read store files, or folders of them; of several records (or run descriptions) the last read counts.

    A file that holds something else than records (a stray one, or lines of a newer version) is left out whole
    and named, where other files remain. Of a `StorePart` its records alone are read. Raises UserError when a
    store does not exist, holds no record, or no file of it can be read.
    """
    given: list[Store] = [stores] if isinstance(stores, str | os.PathLike) else list(stores)
    parts: dict[Path, frozenset[RecordKey]] = {}
    for store in given:
        if isinstance(store, StorePart):
            parts[store.file] = parts.get(store.file, frozenset()) | store.keys
    paths = store_paths(given)
    records: list[Record] = []
    run_infos: dict[RunKey, RunInfo] = {}
    left_out: list[str] = []
    for file in store_files(paths):
        try:
            in_file = read_records(file)
            if file in parts:
                in_file = [record for record in in_file if record.key in parts[file]]
            infos = {
                key: read_run(run_file)
                for key in dict.fromkeys(record.run for record in in_file)
                if (run_file := stored_run_file(file, key.variant)).is_file()
            }
        except UserError as error:
            left_out.append(str(error))
            continue
        records += in_file
        run_infos |= infos
    if not records and left_out:
        raise UserError(left_out[0])
    if not records:
        raise UserError(f"no score records in {', '.join(map(str, paths))}")
    return StoredRuns(records=in_key_order(records), run_infos=run_infos, left_out=tuple(left_out))


def in_key_order(records: Iterable[Record]) -> tuple[Record, ...]:
    """The latest records sorted by key, so that nothing made from them depends on the order of reading."""
    by_key = {key_values(record): record for record in records}
    return tuple(by_key[key] for key in sorted(by_key))
