"""Noise floors beside scores: found next to the stores, held against what was scored, and said in words.

A floor is applied where protocol and track are those that it was measured under, and to a component where the
metric's version, settings, weights and dtype are. Elsewhere it is said that it is not applied, and why.
Official figures stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from refbench.bench.errors import UserError
from refbench.bench.scores.aggregate import Scoreboard
from refbench.bench.scores.comparison import Comparison, Difference
from refbench.bench.scores.noise_floor import (
    FLOOR_FILE,
    TOTAL,
    Cause,
    NoiseFloor,
    component_label,
    read_noise_floor,
)
from refbench.bench.scores.protocol import Protocol
from refbench.bench.scores.record import Record
from refbench.bench.scores.store import Store, StorePart
from refbench.reports.tables import NONE, Cell, Table


@dataclass(frozen=True, kw_only=True)
class FoundFloor:
    """A noise floor and its file; None with the reason where the file is none."""

    file: Path
    floor: NoiseFloor | None
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class BelowFloor:
    """A gap that is smaller than a cause moves the component: the mildest cause of its family.

    `gap` and `floor` are of the scale 0..1, between means over `n` samples.
    """

    component: str
    label: str
    cause: str
    cause_label: str
    gap: float
    floor: float
    n: int


@dataclass(frozen=True, kw_only=True)
class HeldAgainst:
    """A floor held against a comparison: what lies below it, and where it was not applied and why."""

    file: str
    measured_on: str
    below: tuple[BelowFloor, ...]
    not_applied: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """In words."""
        start = f"noise floor {self.file}"
        if not self.measured_on:
            return [f"{start} is not applied: {text}" for text in self.not_applied]
        what = "" if self.below else "; no gap that it was applied to is below it"
        return [
            f"{start}, measured on {self.measured_on}{what}",
            *(f"  {text}" for text in self._sentences()),
            *(f"  not applied to {text}" for text in self.not_applied),
        ]

    def _sentences(self) -> Iterator[str]:
        """A sentence for each component, with the mildest cause of each family."""
        by_component: dict[str, list[BelowFloor]] = {}
        for one in self.below:
            by_component.setdefault(one.component, []).append(one)
        for first, *others in by_component.values():
            what = first.label if first.component == TOTAL else "this component"
            likewise = ", ".join(f"{one.cause_label} ({100 * one.floor:.2f})" for one in others)
            yield (
                f"{first.label}: the gap of {100 * first.gap:.2f} points is smaller than {first.cause_label} "
                f"moves {what} (up to {100 * first.floor:.2f} points between means of {first.n} samples)"
                f"{f'; likewise {likewise}' if likewise else ''}"
            )


def floors_of(stores: Iterable[Store], given: Path | None = None) -> list[FoundFloor]:
    """The floor of a file that the user named, else those that lie in the stores' folders or one above.

    Raises UserError for a named file that is no floor; of a found one the fault is told.
    """
    if given is not None:
        return [FoundFloor(file=given, floor=read_noise_floor(given))]
    found: dict[Path, FoundFloor] = {}
    for store in stores:
        path = Path(store)
        if isinstance(store, StorePart) or not path.is_dir():
            path = path.parent
        # `.` and `..` do not name their parent.
        above = path.resolve().parent if path.name in ("", "..") else path.parent
        for file in (path / FLOOR_FILE, above / FLOOR_FILE):
            if file.is_file() and file.resolve() not in found:
                found[file.resolve()] = _read(file)
    return list(found.values())


def _read(file: Path) -> FoundFloor:
    try:
        return FoundFloor(file=file, floor=read_noise_floor(file))
    except UserError as error:
        return FoundFloor(file=file, floor=None, fault=str(error))


def wrong_conditions(found: FoundFloor, protocol: str, track: str) -> str | None:
    """Why a file's floor does not belong to scores under this protocol on this track; None where it does."""
    floor = found.floor
    if floor is None:
        return found.fault
    if floor.protocol != protocol:
        return f"it was measured under {floor.protocol}, and this is {protocol}"
    if floor.track != track:
        return f"it was measured on {floor.track}, and this is {track}"
    return None


def held_against(
    found: FoundFloor,
    scores: Comparison,
    records: tuple[Sequence[Record], Sequence[Record]],
    protocol: Protocol,
    *,
    required: bool = False,
) -> HeldAgainst:
    """Hold a floor against a comparison and the records of its two runs.

    `required`: the user named the file, so that another protocol or track is a UserError.
    """
    floor, file = found.floor, os.fspath(found.file)
    wrong = wrong_conditions(found, protocol.name, scores.track)
    if floor is None or wrong is not None:
        if required:
            raise UserError(f"the noise floor {file} cannot be applied: {wrong}")
        return HeldAgainst(file=file, measured_on="", below=(), not_applied=(str(wrong),))
    below: list[BelowFloor] = []
    not_applied = []
    per_side = [len({record.seed for record in side}) for side in records]
    # A mean of as many seeds on both sides would vary as the difference of these two does.
    repetitions = 2 / sum(1 / count for count in per_side)
    for difference in (scores.total, *scores.components):
        unlike = [
            f"{component_label(difference.name)}, {name} was scored otherwise: {said}"
            for name, side in zip(("A", "B"), records, strict=True)
            if (said := floor.unlike(difference.name, side, protocol)) is not None
        ]
        not_applied += unlike[:1]
        if not unlike:
            below += _below(difference, floor, repetitions)
    return HeldAgainst(
        file=file,
        measured_on=f"{floor.measured_on}{f', {floor.frames}' if floor.frames else ''}",
        below=tuple(below),
        not_applied=tuple(not_applied),
    )


def _below(difference: Difference, floor: NoiseFloor, repetitions: float) -> Iterator[BelowFloor]:
    """Of each family the mildest cause that the gap is smaller than."""
    gap = difference.difference
    if not gap:
        return
    for causes in floor.families().values():
        for cause in causes:
            limit = _floor(cause, difference.name, difference.n, repetitions)
            if limit is not None and abs(gap) < limit:
                yield BelowFloor(
                    component=difference.name,
                    label=difference.label,
                    cause=cause.name,
                    cause_label=cause.label,
                    gap=abs(gap),
                    floor=limit,
                    n=difference.n,
                )
                break


def _floor(cause: Cause, component: str, n: int, repetitions: float = 1) -> float | None:
    cell = cause.cells.get(component)
    return None if cell is None else cell.floor(n, repetitions)


def floor_table(
    found: FoundFloor, boards: Sequence[Scoreboard], records: Sequence[Record], protocol: Protocol
) -> Table:
    """The floors of means over as many samples as the boards have, in points, with the neighbours in rank
    whose TotalScores are nearer than a cause moves them, and what the floors do not belong to.

    The floor's protocol and track must be the boards'.
    """
    floor = found.floor
    assert floor is not None, "a file without a floor has no table"
    names = [TOTAL, *(result.component for result in boards[0].components)]
    counts = {
        result.component: min(board.components[index].counted // max(len(board.seeds), 1) for board in boards)
        for index, result in enumerate(boards[0].components)
    }
    counts[TOTAL] = min(board.samples for board in boards)
    rows = []
    for cause in floor.causes:
        limits = [_floor(cause, name, counts[name]) for name in names]
        if any(limit is not None for limit in limits):
            cells = [
                Cell(text=NONE if limit is None else f"{100 * limit:.2f}", number=limit) for limit in limits
            ]
            rows.append((Cell(text=cause.label), *cells))
    by_run: dict[str, list[Record]] = {}
    for record in records:
        by_run.setdefault(record.run.label, []).append(record)
    unlike = [
        f"Not applied to {component_label(name)} of {board.label}: {said}."
        for board in boards
        for name in names[1:]
        if (said := floor.unlike(name, by_run.get(board.label, ()), protocol)) is not None
    ]
    return Table(
        title=f"{floor.track}: noise floor, points",
        headings=("Cause", *(component_label(name) for name in names)),
        rows=tuple(rows),
        notes=(
            f"Measured on {floor.measured_on} under {floor.protocol}: a gap between two means that is "
            "smaller may come from the cause alone. The figures above are not changed by it.",
            *_near_neighbours(floor, boards, by_run, protocol),
            *unlike,
        ),
    )


def _near_neighbours(
    floor: NoiseFloor, boards: Sequence[Scoreboard], by_run: dict[str, list[Record]], protocol: Protocol
) -> Iterator[str]:
    """Of neighbours in rank whether their TotalScores are nearer than a cause moves them."""
    for higher, lower in pairwise(boards):
        sides = [by_run.get(board.label, []) for board in (higher, lower)]
        if higher.total is None or lower.total is None:
            continue
        if any(floor.unlike(TOTAL, side, protocol) is not None for side in sides):
            continue
        gap = higher.total - lower.total
        difference = Difference(
            name=TOTAL,
            label=component_label(TOTAL),
            a=higher.total,
            b=lower.total,
            difference=gap,
            interval=None,
            detectable=None,
            n=min(higher.samples, lower.samples),
        )
        repetitions = 2 / sum(1 / max(len(board.seeds), 1) for board in (higher, lower))
        causes = [one.cause_label for one in _below(difference, floor, repetitions)]
        if causes:
            yield (
                f"{higher.label} and {lower.label}: the {100 * gap:.2f} points of TotalScore between them "
                f"are fewer than {' or '.join(causes)} moves it."
            )
