"""The same table as Markdown, LaTeX (booktabs) or CSV. Names come from data files and are escaped."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from refbench.bench.errors import one_line, visible
from refbench.bench.scores.aggregate import Scoreboard
from refbench.reports.tables import Cell, Table, track_categories

LONGEST_NAME = 100
FORMULA_STARTS = ("=", "+", "-", "@")
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "↑": r"$\uparrow$",
    "†": r"$^\dagger$",
    "�": "?",
}
MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!$&])")
# Between the words of a component's label, and at spaces that do not stand before a percent sign.
HEADING_BREAK = re.compile(r"(?<=[a-z])(?=[A-Z])| (?!%)")

COMPONENT_COLUMNS = (
    "method",
    "variant",
    "track",
    "protocol",
    "component",
    "weight",
    "score",
    "interval_low",
    "interval_high",
    "strict",
    "expected",
    "scored",
    "dropped",
    "counted",
)
CATEGORY_COLUMNS = ("method", "variant", "track", "protocol", "category", "component", "score")


def latex_text(text: str) -> str:
    """`text` as one line that LaTeX prints literally."""
    return "".join(LATEX_SPECIAL.get(character, character) for character in one_line(text, 1000))


def markdown_text(text: str) -> str:
    """`text` as one line that Markdown prints literally, in a table cell too."""
    return MARKDOWN_SPECIAL.sub(r"\\\1", one_line(text, 1000))


def to_markdown(title: str, tables: Iterable[Table]) -> str:
    """The tables as one Markdown document (GitHub tables; best bold, second underlined)."""
    blocks = [f"# {markdown_text(title)}"]
    for table in tables:
        blocks.append(f"## {markdown_text(table.title)}")
        lines = [
            _markdown_row(markdown_text(heading) for heading in table.headings),
            _markdown_row([":---", *["---:"] * (len(table.headings) - 1)]),
            *(_markdown_row(_markdown_cell(cell) for cell in row) for row in table.rows),
        ]
        blocks.append("\n".join(lines))
        blocks.append("\n".join(f"- {markdown_text(note)}" for note in table.notes))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(one_line(cell.text, LONGEST_NAME))
    if cell.mark:
        text = f"**{text}**" if cell.mark == "best" else f"<ins>{text}</ins>"
    return f"{text}†" if cell.partial else text


def to_latex(tables: Iterable[Table]) -> str:
    """The tables as LaTeX floats over both columns, scaled down where they are wider than the text.

    Needs the packages booktabs and graphicx, and UTF-8 input.
    """
    blocks = [r"% Needs \usepackage{booktabs} and \usepackage{graphicx} in the preamble."]
    for table in tables:
        lines = [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{latex_text(table.title)}}}",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}l{'r' * (len(table.headings) - 1)}@{{}}}}",
            r"\toprule",
            _latex_row(_latex_heading(heading) for heading in table.headings),
            r"\midrule",
            *(_latex_row(_latex_cell(cell) for cell in row) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}}",
        ]
        if table.notes:
            lines.append(r"\par\smallskip\footnotesize\raggedright")
            lines += [rf"{latex_text(note)}\par" for note in table.notes]
        blocks.append("\n".join([*lines, r"\end{table*}"]))
    return "\n\n".join(blocks) + "\n"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def heading_lines(heading: str) -> list[str]:
    """A heading in its words: `MotionSmoothness ↑` as `Motion` and `Smoothness↑`."""
    return HEADING_BREAK.split(heading.replace(" ↑", "\N{NO-BREAK SPACE}↑"))


def _latex_heading(heading: str) -> str:
    """`MotionSmoothness ↑` on two lines: one table must fit into a page's width."""
    lines = [latex_text(line) for line in heading_lines(heading)]
    stacked = r" \\ ".join(lines)
    return rf"\shortstack[r]{{{stacked}}}" if len(lines) > 1 else stacked


def _latex_cell(cell: Cell) -> str:
    text = latex_text(one_line(cell.text, LONGEST_NAME))
    # A row that begins with a bracket would be read as the optional argument of the line break before it.
    if text.startswith(("[", "*")):
        text = f"{{{text}}}"
    if cell.mark:
        text = rf"\textbf{{{text}}}" if cell.mark == "best" else rf"\underline{{{text}}}"
    return rf"{text}$^\dagger$" if cell.partial else text


def component_csv(boards: Sequence[Scoreboard]) -> str:
    """One line per method and component, and one for TotalScore (`total_score`); scale 0..1, unrounded.

    `expected`, `scored`, `dropped` and `counted` are videos; they stay empty for TotalScore, and a figure
    that is not there is empty.
    """
    rows: list[list[object]] = []
    for board in boards:
        low, high = board.total_interval or (None, None)
        totals = [board.total, low, high, board.strict_total]
        rows.append([*_identity(board), "total_score", 1.0, *totals, None, None, None, None])
        for result in board.components:
            low, high = result.interval or (None, None)
            counts = [result.expected, result.scored, result.dropped, result.counted]
            scores = [result.value, low, high, result.strict]
            rows.append([*_identity(board), result.component, result.weight, *scores, *counts])
    return csv_text(COMPONENT_COLUMNS, rows)


def category_csv(boards: Sequence[Scoreboard]) -> str:
    """One line per method, category and component; scale 0..1, unrounded, empty where nothing was scored."""
    categories = track_categories(boards)
    rows = [
        [*_identity(board), category, component, value]
        for board in boards
        for category in categories
        for component, value in board.categories.get(category, {}).items()
    ]
    return csv_text(CATEGORY_COLUMNS, rows)


def _identity(board: Scoreboard) -> list[object]:
    return [board.method, board.variant, board.track, board.protocol]


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file in which no text is a formula: spreadsheets run cells that begin with `=`, `+`, `-` or `@`.

    Such a text gets an apostrophe before it; control characters are written out. Numbers stay as they are.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    shown = visible(cell).replace("\n", r"\n").replace("\t", r"\t")
    return f"'{shown}" if shown.lstrip().startswith(FORMULA_STARTS) else shown
