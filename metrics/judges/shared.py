"""What all worker processes of a run share when they ask one endpoint: the budget and the free slots.

Both live in files of a folder that the run makes and removes, under locks that end with the process that
holds them. What a worker had reserved when it was killed stays reserved: its request may be charged.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from refbench.metrics.judges.cost import Account, CostEstimate, Prices

LOOK_AGAIN_S = 0.05


class SharedAccount(Account):
    """An account whose dollars are those of all processes with the same folder."""

    def __init__(self, folder: Path, prices: Prices | None = None, budget: float | None = None) -> None:
        super().__init__(prices, budget)
        self._path = folder / "account.json"

    def affords(self, estimate: CostEstimate) -> bool:
        """See Account.affords."""
        with self._current():
            return super().affords(estimate)

    def reserve(self, estimate: CostEstimate) -> bool:
        """See Account.reserve."""
        with self._current():
            if not super().affords(estimate):
                return False
            self.reserved += estimate.dollars or 0.0
            return True

    def settle(self, estimate: CostEstimate, *, tokens_in: int, tokens_out: int) -> None:
        """See Account.settle."""
        with self._current():
            super().settle(estimate, tokens_in=tokens_in, tokens_out=tokens_out)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Takes over what the file says, and writes what it has become, while no other process does."""
        with self._path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            self.spent, self.reserved = json.loads(file.read() or "[0.0, 0.0]")
            yield
            file.truncate(0)
            file.write(json.dumps([self.spent, self.reserved]))
            file.flush()


@dataclass(frozen=True, kw_only=True)
class SharedSlots:
    """So many slots for the requests of all processes with the same folder."""

    folder: Path
    count: int

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Holds a slot; waits until one is free."""
        while (file := self._free()) is None:
            await asyncio.sleep(LOOK_AGAIN_S)
        with file:
            yield

    def _free(self) -> IO[str] | None:
        """The locked file of a free slot; closing it gives the slot back."""
        for number in range(self.count):
            file = (self.folder / f"slot_{number}").open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
            else:
                return file
        return None
