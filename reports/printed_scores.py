"""The scores that a printed table holds: which column is what, and its figures in percent.

A heading is matched without case, spaces and arrows, with the names that papers and the official files use. A
column of numbers whose heading is not known is an error, because it may be a component under another name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.errors import UserError, one_line
from refbench.bench.registry import unknown_name
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.protocol import OFFICIAL_PROTOCOLS
from refbench.reports.printed_table import Grid, read_tables

TOTAL, METHOD, IGNORE = "total", "method", "ignore"
SCALES = ("auto", "percent", "fraction")
# What papers and files call the columns, beside the names, labels and official fields of the components.
OTHER_NAMES = {
    "totalscore": TOTAL, "overall": TOTAL, "overallscore": TOTAL,
    "model": METHOD, "models": METHOD, "methods": METHOD, "name": METHOD, "approach": METHOD,
    "aesthetic": "aesthetics", "aestheticscore": "aesthetics", "aestheticsscore": "aesthetics",
    "smoothness": "motion_smoothness", "motionsmooth": "motion_smoothness",
    "motion": "motion_amplitude", "amplitude": "motion_amplitude", "motionamp": "motion_amplitude",
    "motionfb": "motion_amplitude", "facesimcur": "facesim", "facesimilarity": "facesim",
    "natural": "naturalscore", "naturalness": "naturalscore",
    "rank": IGNORE, "no": IGNORE, "year": IGNORE, "date": IGNORE, "venue": IGNORE, "stricttotal": IGNORE,
    "95interval": IGNORE, "openness": IGNORE, "evaluatedby": IGNORE, "samples": IGNORE,
}  # fmt: skip
NOT_GIVEN = frozenset({"", "-", "–", "—", "/", "n/a", "na", "none", "x", "✗", "?"})
NUMBER = re.compile(r"([+-]?\d{1,9}(?:\.\d{1,9})?)\s*(%?)")
# What may stand behind a number: a spread, a difference in brackets, marks, raised or lowered text.
AFTER_NUMBER = re.compile(r"\s*((±|\+/-|\+-).*|\([^()]*\)|[\^_].*)?[\s*†‡↑↓]*")
LARGEST_PERCENT = 200.0
# Above the headings at most so many rows: a group heading, a title.
HEADING_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class PrintedRow:
    """A method's figures in percent: `total` and components by name, where the row has them."""

    method: str
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class PrintedScores:
    """The `number`-th table of a file. `units`: the last printed digit of each column, in percent."""

    number: int
    rows: tuple[PrintedRow, ...]
    units: Mapping[str, float]


def read_scores(path: Path, columns: Mapping[str, str], scale: str) -> list[PrintedScores]:
    """Every table of a file that has a total and components; see `audit.audit` for arguments and errors."""
    if scale not in SCALES:
        raise UserError(unknown_name("scale", scale, SCALES))
    meanings = {_key(heading): _meaning(heading, name) for heading, name in columns.items()}
    grids = read_tables(path)
    seen: set[str] = set()
    found = []
    for number, grid in enumerate(grids, start=1):
        heading_row, kinds = _headings(grid, meanings)
        seen.update(map(_key, grid[heading_row]))
        if TOTAL in kinds.values() and any(kind in COMPONENTS for kind in kinds.values()):
            found.append(_scores(_Place(path, number, len(grids)), grid, heading_row, kinds, scale))
    for heading in columns:
        if _key(heading) not in seen:
            raise UserError(f"{path} has no column {one_line(heading, 60)!r}")
    if not found:
        first = ", ".join(repr(one_line(text, 30)) for text in grids[0][0] if text)
        raise UserError(
            f"{path} holds no table with a total and components; it begins with {one_line(first)}"
        )
    return found


@dataclass(frozen=True)
class _Place:
    """A table's name in error lines."""

    path: Path
    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.path}{f', table {self.number}' if self.of > 1 else ''}"


@dataclass(frozen=True)
class _Number:
    """A printed number: value, digits behind the point, whether a percent sign stands there, and the cell's
    own place in words.
    """

    value: float
    decimals: int
    signed: bool
    where: str


def _key(heading: str) -> str:
    return re.sub(r"[^a-z0-9]", "", heading.lower())


def _known_columns() -> dict[str, str]:
    names = {TOTAL: TOTAL, METHOD: METHOD, IGNORE: IGNORE, **OTHER_NAMES}
    for component in COMPONENTS.values():
        names |= dict.fromkeys(map(_key, (component.name, component.label, component.short)), component.name)
    for protocol in OFFICIAL_PROTOCOLS:
        names |= {_key(column.field): column.component.name for column in protocol.columns}
    return names


def _meaning(heading: str, name: str) -> str:
    known = {TOTAL, METHOD, IGNORE, *COMPONENTS}
    if name not in known:
        raise UserError(f"--column {one_line(heading, 40)}: {unknown_name('meaning', name, sorted(known))}")
    return name


def _headings(grid: Grid, given: Mapping[str, str]) -> tuple[int, dict[int, str]]:
    """The row that names most columns, and what each column is (place → meaning)."""
    known = {**_known_columns(), **given}

    def kinds(row: Sequence[str]) -> dict[int, str]:
        return {place: known[_key(text)] for place, text in enumerate(row) if _key(text) in known}

    best = max(range(min(len(grid), HEADING_ROWS)), key=lambda number: len(kinds(grid[number])))
    return best, kinds(grid[best])


def _scores(
    where: _Place, grid: Grid, heading_row: int, kinds: Mapping[int, str], scale: str
) -> PrintedScores:
    headings, body = grid[heading_row], grid[heading_row + 1 :]
    _check_headings(where, headings, body, kinds)
    method_place = next((place for place, kind in kinds.items() if kind == METHOD), None)
    if method_place is None:
        method_place = next(place for place in range(len(headings) + 1) if place not in kinds)
    figures = {place: kind for place, kind in kinds.items() if kind == TOTAL or kind in COMPONENTS}
    rows = []
    for cells in body:
        name = cells[method_place].strip(" *†‡^_") if method_place < len(cells) else ""
        numbers = {
            kind: number
            for place, kind in figures.items()
            # Long tables repeat their headings.
            if place < len(cells)
            and _key(cells[place]) != _key(headings[place])
            and (number := _number(where, name, headings[place], cells[place])) is not None
        }
        if numbers:
            rows.append((name, numbers))
    if not rows:
        raise UserError(f"{where} holds no row of numbers below its headings")
    factor = _factor(where, [numbers for _, numbers in rows], scale)
    return PrintedScores(
        number=where.number,
        rows=tuple(
            PrintedRow(method=name, figures={kind: factor * number.value for kind, number in numbers.items()})
            for name, numbers in rows
        ),
        units=_units([numbers for _, numbers in rows], factor),
    )


def _check_headings(
    where: _Place, headings: Sequence[str], body: Sequence[Sequence[str]], kinds: Mapping[int, str]
) -> None:
    """Raises UserError for a column of numbers that is not known, and for two columns of one meaning."""
    for place, heading in enumerate(headings):
        holds_numbers = any(place < len(row) and NUMBER.fullmatch(row[place]) for row in body)
        if place not in kinds and holds_numbers and (heading or place):
            labels = [component.label for component in COMPONENTS.values()]
            raise UserError(
                f"{where}: {unknown_name('column', heading, labels)} If it is none, leave it out with "
                f"--column '{one_line(heading, 60)}=ignore'"
            )
    for kind in (TOTAL, METHOD, *COMPONENTS):
        places = [place for place, one in kinds.items() if one == kind]
        if len(places) > 1:
            twice = " and ".join(repr(one_line(headings[place], 40)) for place in places[:2])
            raise UserError(
                f"{where}: the columns {twice} are both {kind}: say which with --column HEADING=ignore"
            )


def _number(where: _Place, row: str, heading: str, cell: str) -> _Number | None:
    if cell.strip().lower() in NOT_GIVEN:
        return None
    match = NUMBER.match(cell.strip())
    place = f"{one_line(row, 40) or 'a row without a name'}, {one_line(heading, 40)}"
    if match is None or not AFTER_NUMBER.fullmatch(cell.strip(), match.end()):
        raise UserError(f"{where}: {one_line(cell, 40)!r} ({place}) is no number")
    value = float(match[1])
    if abs(value) > LARGEST_PERCENT:
        raise UserError(f"{where}: {match[1]} ({place}) is no percentage")
    return _Number(value, len(match[1].partition(".")[2]), bool(match[2]), f"{match[0].strip()} ({place})")


def _factor(where: _Place, rows: Sequence[Mapping[str, _Number]], scale: str) -> float:
    """1 for a table in percent, 100 for one in fractions. Raises UserError for a mix."""
    if scale != "auto":
        return 1.0 if scale == "percent" else 100.0
    found = [(kind, number) for numbers in rows for kind, number in numbers.items() if number.value]
    large = [number for _, number in found if number.signed or abs(number.value) > 1]
    small = [number for kind, number in found if number not in large and kind != "motion_amplitude"]
    # One video that stands almost still has less than a percent of motion, but not a whole column of them.
    amplitudes = [number for kind, number in found if kind == "motion_amplitude"]
    if len(amplitudes) > 1 and not any(number in large for number in amplitudes):
        small += amplitudes
    if small and large:
        raise UserError(
            f"{where} mixes percent and fractions: {large[0].where} and {small[0].where}; write one of them, "
            "or say --scale percent"
        )
    return 1.0 if large else 100.0


def _units(rows: Iterable[Mapping[str, _Number]], factor: float) -> dict[str, float]:
    """The last printed digit of each column in percent: trailing zeros may be left out in single cells."""
    decimals: dict[str, int] = {}
    for numbers in rows:
        for kind, number in numbers.items():
            decimals[kind] = max(decimals.get(kind, 0), number.decimals)
    return {kind: factor * 10.0**-digits for kind, digits in decimals.items()}
