"""Checks a printed table of OpenS2V-Eval scores against the formulas and against published rows.

For each row: which official formula gives its total from its components, and which published row it equals.
Open-domain and single-domain have the same weights, so a formula alone cannot tell them apart; an equal
published row can.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refbench.bench.console import shortened
from refbench.bench.dataset import OFFICIAL_TRACKS
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.protocol import OFFICIAL_PROTOCOLS, Protocol
from refbench.bench.scores.record import plain_name
from refbench.reports.printed_scores import TOTAL, PrintedRow, PrintedScores, read_scores
from refbench.reports.published import PublishedRow, published_rows, published_sources

# Fewer equal components may be chance.
LEAST_EQUAL_COMPONENTS = 4


@dataclass(frozen=True, kw_only=True)
class Formula:
    """An official version and the tracks that share its weights; `tracks` are their names."""

    protocol: Protocol
    tracks: tuple[str, ...]

    @property
    def weights(self) -> Mapping[str, float]:
        """Component → weight in TotalScore."""
        return self.protocol.weights(self.tracks[0])

    @property
    def label(self) -> str:
        """`opens2v-1.0, open-domain or single-domain`."""
        return f"{self.protocol.name}, {' or '.join(self.tracks)}"


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """A row's total by one formula, in percent; `difference` is printed minus recomputed, in points.

    `fits`: the difference is no more than twice what rounding of all printed figures can make.
    """

    formula: Formula
    total: float
    difference: float
    fits: bool


@dataclass(frozen=True, kw_only=True)
class KnownRow:
    """A published row that a printed one equals.

    `components`: so many components were compared and are all equal; 0: total and name alone are equal.
    """

    row: PublishedRow
    components: int
    same_name: bool
    same_total: bool

    @property
    def is_whole(self) -> bool:
        """Whether all components that both have are equal, and the total, where one is printed."""
        return self.components > 0 and self.same_total

    @property
    def origin(self) -> tuple[str, str]:
        """Protocol and track of the published row."""
        return self.row.source.protocol, self.row.source.track


@dataclass(frozen=True, kw_only=True)
class AuditedRow:
    """A printed row in percent. `recomputed` holds each formula whose components the row has; `missing` the
    components without which none could be tried; `known` the published rows that it equals.
    """

    method: str
    total: float | None
    components: Mapping[str, float]
    recomputed: tuple[Recomputed, ...]
    missing: tuple[str, ...]
    known: tuple[KnownRow, ...]

    @property
    def fitting(self) -> tuple[Recomputed, ...]:
        """The formulas that give the printed total."""
        return tuple(one for one in self.recomputed if one.fits)

    @property
    def likest(self) -> tuple[KnownRow, ...]:
        """Of the equal published rows those that say most: whole ones, else those of equal components, else
        all.
        """
        whole = tuple(one for one in self.known if one.is_whole)
        return whole or tuple(one for one in self.known if one.components) or self.known


@dataclass(frozen=True, kw_only=True)
class TableAudit:
    """All rows of one table of a file (the `number`-th), and the formula that most of them follow."""

    number: int
    rows: tuple[AuditedRow, ...]
    formula: Formula | None

    @property
    def origin(self) -> tuple[str, str] | None:
        """Protocol and track of the published rows that most rows equal; None where none does."""
        counts = Counter(
            origin for row in self.rows for origin in {one.origin for one in row.likest if one.is_whole}
        )
        return max(sorted(counts), key=lambda origin: counts[origin], default=None)


def formulas() -> tuple[Formula, ...]:
    """The official versions with their tracks, those of the same weights together."""
    found = []
    for protocol in OFFICIAL_PROTOCOLS:
        of_weights: dict[tuple[tuple[str, float], ...], list[str]] = {}
        for track in OFFICIAL_TRACKS:
            of_weights.setdefault(tuple(protocol.weights(track).items()), []).append(track)
        found += [Formula(protocol=protocol, tracks=tuple(tracks)) for tracks in of_weights.values()]
    return tuple(found)


def audit(
    table: str | os.PathLike[str], *, columns: Mapping[str, str] | None = None, scale: str = "auto"
) -> list[TableAudit]:
    """Check every table of a `.csv`, `.tex` or `.md` file that has a total and components.

    `columns` says what headings mean: heading → a component's name, `total`, `method` or `ignore`; `scale` is
    `percent`, `fraction`, or `auto`, which looks at the numbers. Raises UserError for a file that holds no
    such table, a column of numbers whose name is not known, a cell that is no number, and a table that mixes
    percent and fractions.
    """
    published = [row for source in published_sources() for row in published_rows(source)]
    return [_audited_table(scores, published) for scores in read_scores(Path(table), columns or {}, scale)]


def _audited_table(scores: PrintedScores, published: Sequence[PublishedRow]) -> TableAudit:
    rows = tuple(_audited(row, scores.units, published) for row in scores.rows)
    return TableAudit(number=scores.number, rows=rows, formula=_most_followed(rows))


def _audited(row: PrintedRow, units: Mapping[str, float], published: Iterable[PublishedRow]) -> AuditedRow:
    components = {component: row.figures[component] for component in COMPONENTS if component in row.figures}
    total = row.figures.get(TOTAL)
    recomputed = []
    absent = []
    for formula in formulas():
        missing = [component for component in formula.weights if component not in components]
        if missing:
            absent.append(missing)
        elif total is not None:
            value = formula.protocol.total(components, formula.tracks[0])
            rounding = units[TOTAL] + sum(
                weight * units[component] for component, weight in formula.weights.items()
            )
            difference = total - value
            # Twice the rounding of half a unit each; a little more for the sum's own.
            fits = abs(difference) <= rounding + 1e-9
            recomputed.append(Recomputed(formula=formula, total=value, difference=difference, fits=fits))
    known = [
        one for other in published if (one := _known(row.method, total, components, units, other)) is not None
    ]
    return AuditedRow(
        method=row.method,
        total=total,
        components=components,
        recomputed=tuple(recomputed),
        missing=() if len(absent) < len(formulas()) else tuple(sorted(absent, key=len)[0]),
        known=tuple(known),
    )


def _known(
    name: str,
    total: float | None,
    components: Mapping[str, float],
    units: Mapping[str, float],
    row: PublishedRow,
) -> KnownRow | None:
    """The published row, if the printed one equals it: all components that both have, or name and total."""

    def equal(kind: str, printed: float, published: float) -> bool:
        # Published figures have two decimals; the coarser of the two roundings decides.
        return abs(printed - published) <= max(units[kind], 0.01) / 2 + 1e-9

    same_name = _model(name) == _model(row.method)
    # A row without a total contradicts none.
    same_total = total is None or equal(TOTAL, total, row.total)
    shared = [component for component in components if component in row.components]
    all_equal = len(shared) >= LEAST_EQUAL_COMPONENTS and all(
        equal(component, components[component], row.components[component]) for component in shared
    )
    if not all_equal and not (same_name and same_total and total is not None):
        return None
    return KnownRow(
        row=row, components=len(shared) if all_equal else 0, same_name=same_name, same_total=same_total
    )


def _model(name: str) -> str:
    """A method's plain name without what stands in brackets: `Vidu2.0(20250503)` is `Vidu2.0`."""
    return plain_name(re.sub(r"[\[(][^\[\]()]*[\])]", "", name)) or plain_name(name)


def _most_followed(rows: Iterable[AuditedRow]) -> Formula | None:
    counts = Counter(one.formula.label for row in rows for one in row.fitting)
    # Of two that as many rows follow, the newer version: the order of `formulas`.
    return max(
        (formula for formula in formulas() if counts[formula.label]),
        key=lambda formula: counts[formula.label],
        default=None,
    )


def shown_total(row: AuditedRow, formula: Formula | None) -> Recomputed | None:
    """The recomputed total that is printed beside a row: by a formula that fits, else by the table's, else
    the nearest; None where none could be tried.
    """
    of_table = [one for one in row.recomputed if formula is not None and one.formula == formula]
    fitting = [one for one in of_table if one.fits] or row.fitting
    nearest = sorted(row.recomputed, key=lambda one: abs(one.difference))
    return next(iter([*fitting, *of_table, *nearest]), None)


def points(difference: float) -> str:
    """A difference in points, never `-0.00`."""
    return f"{round(difference, 2) + 0.0:+.2f}"


def verdict(row: AuditedRow, formula: Formula | None) -> str:
    """What the formulas say of a row, in a few words."""
    if row.total is None:
        return "no total"
    if row.missing:
        labels = ", ".join(COMPONENTS[name].label for name in row.missing)
        return f"not recomputable, without {labels}"
    if not row.fitting:
        return "no formula"
    fitting = [one.formula.label for one in row.fitting]
    if formula is not None and formula.label in fitting:
        return formula.label
    return "; ".join(fitting)


def audit_lines(table: TableAudit) -> list[str]:
    """The findings of one table in sentences: the formula, the rows that do not follow it, and equal rows."""
    totals = [row for row in table.rows if row.total is not None and not row.missing]
    lines = [_formula_line(table, len(totals))]
    for row in totals:
        shown = shown_total(row, table.formula)
        if shown is None:
            continue
        if not row.fitting:
            lines.append(
                f"! {row.method}: {row.total:.2f} follows from no formula; its components give "
                f"{shown.total:.2f} by {shown.formula.label}: {points(shown.difference)} points"
            )
        elif table.formula is not None and shown.formula != table.formula:
            lines.append(f"! {row.method}: follows {shown.formula.label}, unlike the table")
    if not any(one.formula.protocol.name == "opens2v-1.1" for row in table.rows for one in row.recomputed):
        lines.append("opens2v-1.1 could not be tried: no row has all of its components")
    return lines + _known_lines(table)


def _formula_line(table: TableAudit, tried: int) -> str:
    if not tried:
        return f"none of {len(table.rows)} rows has a total and the components of any formula"
    if table.formula is None:
        return f"none of the {tried} totals follows from its components"
    follow = sum(table.formula in [one.formula for one in row.fitting] for row in table.rows)
    return f"{follow} of {tried} totals follow {table.formula.label}"


def _known_lines(table: TableAudit) -> list[str]:
    """Rows that equal published ones: all of the same name and source in one line, others one by one."""
    alike: dict[str, list[str]] = {}
    odd = []
    for row in table.rows:
        for one in row.likest:
            source = f"{one.row.source.title}, {one.row.source.track}"
            if not one.is_whole or not one.same_name:
                odd.append(f"! {row.method}: {_likeness(row, one)}")
                continue
            alike.setdefault(source, []).append(row.method)
            if table.origin not in (None, *(other.origin for other in row.likest)):
                odd.append(
                    f"! {row.method}: equal to the row of {' '.join(one.origin)}, "
                    f"most other rows to those of {' '.join(table.origin or ())}"
                )
    lines = [f"equal to rows of {source}: {shortened(names)}" for source, names in alike.items()]
    return lines + odd


def _likeness(row: AuditedRow, one: KnownRow) -> str:
    """How a row equals a published one that has another name or total, or other components."""
    published = f"{one.row.method} in {one.row.source.title}, {one.row.source.track}"
    if not one.components:
        text = f"its total is that of {published} ({one.row.source.protocol})"
        return f"{text}, its components are not" if row.components else text
    if one.is_whole:
        return f"equal to {published}, which is another name"
    return (
        f"its {one.components} components are those of {published}, whose total is {one.row.total:.2f} "
        f"and not {row.total:.2f}"
    )


def audit_json(tables: Iterable[TableAudit]) -> list[dict[str, Any]]:
    """JSON-serialisable findings; figures in percent, differences in points, unrounded."""
    return [
        {
            "table": table.number,
            "formula": None if table.formula is None else _formula_json(table.formula),
            "equal_rows_of": None if table.origin is None else list(table.origin),
            "rows": [_row_json(row) for row in table.rows],
        }
        for table in tables
    ]


def _formula_json(formula: Formula) -> dict[str, Any]:
    return {"protocol": formula.protocol.name, "tracks": list(formula.tracks)}


def _row_json(row: AuditedRow) -> dict[str, Any]:
    return {
        "method": row.method,
        "total": row.total,
        "components": dict(row.components),
        "missing": list(row.missing),
        "recomputed": [
            {
                **_formula_json(one.formula),
                "total": one.total,
                "difference_points": one.difference,
                "fits": one.fits,
            }
            for one in row.recomputed
        ],
        "equal_to": [
            {
                "method": one.row.method,
                "source": asdict(one.row.source),
                "total": one.row.total,
                "equal_components": one.components,
                "same_name": one.same_name,
                "same_total": one.same_total,
            }
            for one in row.known
        ],
    }
