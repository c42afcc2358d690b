"""What commands print: tables for people, JSON for programs, notes on standard error."""

from __future__ import annotations

import codecs
import io
import json
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refbench.bench.errors import visible
from refbench.bench.files import shortlist
from refbench.bench.scores.aggregate import ComponentResult, Scoreboard
from refbench.bench.scores.bootstrap import Interval
from refbench.bench.scores.columns import COMPONENTS

if TYPE_CHECKING:
    from rich.console import Console

# What is printed where a terminal's encoding lacks a character; all others are written out (`\u4e2d`).
PLAIN_CHARACTERS = {
    "–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "·": "-", "•": "*", "†": "+", "±": "+-",
    "→": "->", "►": ">", "↑": "^", "↓": "v", "“": '"', "”": '"', "‘": "'", "’": "'", "≤": "<=", "≥": ">=",
    "─": "-", "━": "-", "│": "|", "█": "#", "\N{NO-BREAK SPACE}": " ", "\N{REPLACEMENT CHARACTER}": "?",
}  # fmt: skip
PLAIN_ERRORS = "refbench-plain"

# Wide enough for nine columns where the output is not a terminal, whose width is then unknown.
PLAIN_WIDTH = 160
# Between two columns of a table.
GAP = "  "
# Words of a longer text are kept together up to this length.
LONGEST_KEPT_WORD = 30


@dataclass(frozen=True, kw_only=True)
class View:
    """What the user wants to see: `wide` tables, `quiet` without progress, `verbose` with every name."""

    wide: bool = False
    quiet: bool = False
    verbose: bool = False


# Set by the command line for the command at hand.
VIEW: ContextVar[View] = ContextVar("refbench_view", default=View())  # noqa: B039 - it is frozen


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A rich console of `width` or of the terminal's; elsewhere it writes plain lines of a fixed width."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    chosen = width or (None if stream.isatty() else PLAIN_WIDTH)
    return Console(stderr=stderr, highlight=False, width=chosen)


def screen_width() -> int | None:
    """The width that tables must fit into; None where anything may be printed (`--wide`, a file, a pipe)."""
    return None if VIEW.get().wide or not sys.stdout.isatty() else console().width


def write_plainly() -> None:
    """Let standard output and error take any text, whatever the encoding of the terminal.

    A character that it lacks is printed as a plain one (`-` for a dash) or written out, never raised.
    """
    codecs.register_error(PLAIN_ERRORS, _plain_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN_ERRORS)


def _plain_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = [PLAIN_CHARACTERS.get(one) or one.encode("unicode_escape").decode() for one in lacking]
    return "".join(plain), error.end


def note(text: str) -> None:
    """One line on standard error, so that `--json` output stays clean."""
    console(stderr=True).print(visible(text), markup=False, soft_wrap=True)


def print_text(text: str) -> None:
    """A line (or block) on standard output, without markup or wrapping."""
    console().print(visible(text), markup=False, soft_wrap=True)


def inform(text: str) -> None:
    """One line on standard error that `--quiet` leaves out."""
    if not VIEW.get().quiet:
        note(text)


def print_lines(texts: Iterable[str], indent: int = 0) -> None:
    """Sentences on standard output, broken between words where the screen ends; no word is cut.

    Further lines of a text begin with `indent` spaces.
    """
    width = screen_width()
    for text in texts:
        lines = [text]
        if width:
            lines = textwrap.wrap(
                text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
            )
        print_text("\n".join(lines))


def shortened(names: Iterable[str]) -> str:
    """The first names and how many more there are; with `--verbose` all of them."""
    listed = list(names)
    return shortlist(listed, len(listed)) if VIEW.get().verbose else shortlist(listed)


def print_json(data: Any) -> None:
    """`data` as JSON on standard output, numbers unrounded; what a terminal would obey is escaped."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "").startswith("utf")
    # Outside of ASCII only strings have characters, so each may be escaped as JSON escapes it.
    escaped = "".join(
        one if one == "\n" or (one.isprintable() and (utf8 or one.isascii())) else json.dumps(one)[1:-1]
        for one in text
    )
    sys.stdout.write(escaped.replace("\x7f", "\\u007f") + "\n")


def print_table(
    title: str | None,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: bool = False,
    texts: Collection[str] = (),
    short: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
) -> tuple[str, ...]:
    """Print a table that fits the screen without a number or a name being broken.

    Where it does not fit, headings are first stacked word by word, then replaced by their `short` ones, then
    the columns in `drop` are left out, the first of them first, and named below the table. Cells under
    headings in `texts` are sentences, which wrap between words. The first column is left-aligned, the others
    right-aligned unless they hold `words`. Returns the headings that were left out.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    limit = screen_width()
    cells = [[visible(cell) for cell in row] for row in rows]
    shown, headings = _fitting(columns, cells, limit, texts, short or {}, drop)
    left_out = tuple(column for index, column in enumerate(columns) if index not in shown)
    result = Table(
        title=Text(visible(title)) if title is not None else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for position, index in enumerate(shown):
        is_text = columns[index] in texts
        result.add_column(
            Text(headings[index]),
            justify="left" if words or position == 0 or is_text else "right",
            no_wrap=not is_text,
            overflow="fold",
            min_width=_least_width(headings[index], [row[index] for row in cells], is_text=is_text),
        )
    for row in cells:
        result.add_row(*(Text(row[index]) for index in shown))
    needed = _table_width(shown, headings, columns, cells, texts)
    room = limit or PLAIN_WIDTH
    # A title longer than the table is a line of its own: rich would break it at the table's width.
    console(width=max(needed, room)).print(result)
    if left_out:
        said = f"not shown in {limit} columns: {', '.join(left_out)} (--wide shows all)"
        print_lines([said])
    return left_out


def _fitting(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    limit: int | None,
    texts: Collection[str],
    short: Mapping[str, str],
    drop: Sequence[str],
) -> tuple[list[int], list[str]]:
    """Which columns are shown, and the headings of all, so that the table fits `limit`."""
    shown = list(range(len(columns)))
    headings = [visible(column) for column in columns]
    stacked = [
        _stacked(heading, _least_width("", [row[i] for row in cells], is_text=columns[i] in texts))
        for i, heading in enumerate(headings)
    ]
    for tried in (headings, stacked, [short.get(column, stacked[i]) for i, column in enumerate(columns)]):
        headings = tried
        if limit is None or _table_width(shown, headings, columns, cells, texts) <= limit:
            return shown, headings
    for column in drop:
        if column in columns:
            shown.remove(columns.index(column))
            if limit is not None and _table_width(shown, headings, columns, cells, texts) <= limit:
                break
    return shown, headings


def _stacked(heading: str, width: int) -> str:
    """A heading on as many lines as the column's width asks for; a percent sign stays with its word."""
    joined = heading.replace(" %", "\N{NO-BREAK SPACE}%")
    longest = max(map(len, joined.split(" ")))
    lines = textwrap.wrap(joined, max(width, longest), break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _table_width(
    shown: Sequence[int],
    headings: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    texts: Collection[str],
) -> int:
    widths = [
        _least_width(headings[index], [row[index] for row in cells], is_text=columns[index] in texts)
        for index in shown
    ]
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _least_width(heading: str, column: Sequence[str], *, is_text: bool) -> int:
    """The width below which a name or number of the column would be broken."""
    from rich.cells import cell_len

    lines = [line for text in (heading, *column) for line in text.split("\n")]
    if not is_text:
        return max(map(cell_len, lines), default=1)
    words = [min(cell_len(word), LONGEST_KEPT_WORD) for line in lines for word in line.split()]
    return max(words, default=1)


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
    columns = ["component", "score %", "95 % interval", "coverage", "strict %", "weight", "not counted"]
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
        left_out = print_table(title, columns, rows, drop=["not counted", "weight", "strict %"])
        if columns[-1] in left_out:
            print_lines(_not_counted_lines(board))
        print_lines(total_lines(board, strict=strict))
        print_text("")
    for text in licence_notes(boards):
        note(text)


def _not_counted_lines(board: Scoreboard) -> list[str]:
    """What the column of that name says, components with the same reasons together."""
    labels: dict[str, list[str]] = {}
    for result in board.components:
        if reasons := reasons_text(result):
            labels.setdefault(reasons, []).append(result.label)
    return [f"not counted: {reasons} in {', '.join(names)}" for reasons, names in labels.items()]


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
