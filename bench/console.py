"""What commands print: tables for people, JSON for programs, notes on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refbench.bench.scores.aggregate import ComponentResult, Scoreboard
from refbench.bench.scores.bootstrap import Interval
from refbench.bench.scores.columns import COMPONENTS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Wide enough for nine columns where the output is not a terminal, whose width is then unknown.
PLAIN_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """A rich console; without a terminal it writes plain lines of a fixed width."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PLAIN_WIDTH)


def note(text: str) -> None:
    """One line on standard error, so that `--json` output stays clean."""
    console(stderr=True).print(text, markup=False, soft_wrap=True)


def print_text(text: str) -> None:
    """A line (or block) on standard output, without markup or wrapping."""
    console().print(text, markup=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """`data` as JSON on standard output, numbers unrounded."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False
) -> Table:
    """A rich table; the first column is left-aligned, the others right-aligned unless they hold `words`.

    Cells are not markup.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if words or index == 0 else "right", overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def count_text(number: int, noun: str) -> str:
    """`1 sample`, `3 samples`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(value: float | None) -> str:
    """A score of the scale 0..1 as the papers print it: percent with two decimals, `–` for none."""
    return "–" if value is None else f"{100 * value:.2f}"


def interval_text(interval: Interval | None) -> str:
    """An interval of the scale 0..1 in percent: `[51.20, 56.90]`."""
    return "–" if interval is None else f"[{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"


def coverage_text(result: ComponentResult) -> str:
    """`88/90`: videos that entered the mean, of those expected."""
    return f"{result.counted}/{result.expected}"


def print_scoreboards(boards: Sequence[Scoreboard], *, strict: bool = False) -> None:
    """For each scoreboard a table of its components with coverage, interval and strict value, and its
    totals.
    """
    screen = console()
    for board in boards:
        rows = [
            [
                result.label,
                percent(result.value),
                interval_text(result.interval),
                coverage_text(result),
                percent(result.strict),
                f"{result.weight:.2f}",
                reasons_text(result),
            ]
            for result in board.components
        ]
        rows += [[metric, f"{mean:.4f}", "–", str(videos), "–", "–", "supplementary, raw mean"]
                 for metric, (mean, videos) in board.supplementary.items()]  # fmt: skip
        title = f"{board.label} · {board.track} · {board.protocol} · {board.samples} samples"
        columns = ["component", "score %", "95 % interval", "coverage", "strict %", "weight", "not counted"]
        screen.print(table(title, columns, rows))
        for line in total_lines(board, strict=strict):
            print_text(line)
        print_text("")
    for text in licence_notes(boards):
        note(text)


def licence_notes(boards: Sequence[Scoreboard]) -> list[str]:
    """What must be said where a TotalScore is printed that holds a component under a licence of its own."""
    held = {result.component for board in boards if board.total is not None for result in board.components}
    return [text for name in COMPONENTS if name in held and (text := COMPONENTS[name].licence_note)]


def reasons_text(result: ComponentResult) -> str:
    """Why videos did not enter a mean: `2 missing_video, 1 dropped (zero)`."""
    parts = [f"{count} {kind}" for kind, count in result.reasons.items()]
    if result.dropped:
        parts.append(f"{result.dropped} dropped (zero)")
    return ", ".join(parts)


def total_lines(board: Scoreboard, *, strict: bool) -> list[str]:
    """The lines under a scoreboard: both TotalScores, the strict one first for `strict`, and notes."""
    if board.total is None:
        lines = [f"TotalScore: not available, {board.no_total_because}"]
    else:
        official = f"TotalScore {percent(board.total)} {interval_text(board.total_interval)}"
        worst = f"strict TotalScore {percent(board.strict_total)} (missing and dropped count as worst)"
        lines = [worst, official] if strict else [official, worst]
    return lines + [f"note: {text}" for text in board.notes]


def scoreboard_json(board: Scoreboard) -> dict[str, Any]:
    """A scoreboard as JSON-serialisable data, on the scale 0..1, unrounded."""
    return {
        "method": board.method,
        "track": board.track,
        "variant": board.variant,
        "protocol": board.protocol,
        "samples": board.samples,
        "seeds": list(board.seeds),
        "total_score": board.total,
        "total_interval": board.total_interval,
        "strict_total_score": board.strict_total,
        "missing_components": list(board.missing),
        "unofficial": list(board.unofficial),
        "unofficial_total": board.unofficial_total,
        "components": {
            result.component: {
                "score": result.value,
                "interval": result.interval,
                "strict": result.strict,
                "weight": result.weight,
                "expected": result.expected,
                "scored": result.scored,
                "dropped": result.dropped,
                "reasons": dict(result.reasons),
            }
            for result in board.components
        },
        "categories": {category: dict(values) for category, values in board.categories.items()},
        "supplementary": {
            metric: {"mean": mean, "videos": videos} for metric, (mean, videos) in board.supplementary.items()
        },
        "notes": list(board.notes),
    }
