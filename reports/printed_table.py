"""Tables as papers print them: CSV, Markdown and LaTeX files as grids of plain text.

The files are somebody else's. Nothing in them is run, expanded or opened: a LaTeX command that is not known
here is dropped and its argument kept, and `\\input` is dropped with its argument. Every reader goes through
the text once, and sizes are bounded before anything is built.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import read_text, regular_size

# One table: its rows of cells, which need not be of one length.
Grid = list[list[str]]

LARGEST_TABLE_BYTES = 2**20
MOST_ROWS = 2000
MOST_COLUMNS = 100
LONGEST_CELL = 300
LONGEST_OPTION = 200

LATEX_TABLE = re.compile(r"\\begin\{(tabular[*xy]?|longtable|array)\}")
# Brace arguments after `\begin{tabular*}` that hold no cells: the column specification, or width and it.
LATEX_TABLE_ARGUMENTS = {"tabular*": 2, "tabularx": 2, "tabulary": 2}
LATEX_SYMBOLS = {
    "uparrow": "↑", "downarrow": "↓", "pm": "±", "dagger": "†", "ddagger": "‡", "times": "×",
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "textendash": "–", "textemdash": "—", "checkmark": "✓", "star": "*", "ast": "*",
    "quad": " ", "qquad": " ", "hfill": " ", "textsuperscript": "^", "textsubscript": "_",
}  # fmt: skip
# Commands whose brace arguments (so many) are no text of the cell.
LATEX_DROPPED = {
    "cite": 1, "citep": 1, "citet": 1, "citealp": 1, "footnote": 1, "footnotemark": 0, "tablefootnote": 1,
    "label": 1, "ref": 1, "rowcolor": 1, "cellcolor": 1, "color": 1, "arrayrulecolor": 1, "textcolor": 1,
    "colorbox": 1, "rowcolors": 3, "cmidrule": 1, "cline": 1, "vspace": 1, "hspace": 1, "addlinespace": 0,
    "specialrule": 3, "input": 1, "include": 1, "includegraphics": 1, "href": 1, "url": 1, "multirow": 2,
    "fontsize": 2, "scalebox": 1, "resizebox": 2, "rotatebox": 1, "setlength": 2, "renewcommand": 2,
    "newcommand": 2, "caption": 1,
}  # fmt: skip
LATEX_COMMAND = re.compile(r"\\([a-zA-Z]+\*?|.)", re.DOTALL)
# An escaped character is one match, so that `\\{` opens nothing.
LATEX_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
LATEX_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*")
MARKDOWN_LINK = re.compile(r"!?\[([^\[\]]{0,300})\]\([^()\s]{0,2000}\)")
HTML_TAG = re.compile(r"</?([a-zA-Z]{1,12})[^<>]{0,200}>")
HTML_TAGS = {"sup": "^", "sub": "_", "br": " "}
UNESCAPED_MARKS = re.compile(r"(?<!\\)(?:\*+|`+|~~)")


def read_tables(path: Path) -> list[Grid]:
    """All tables of a `.csv`, `.tsv`, `.tex` or `.md` file, without empty rows, in the file's order.

    Cells are one printable line each. Raises UserError for another kind of file, one that cannot be read or
    is larger than a table, and one without a table.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: a printed table is a .csv, .tsv, .tex or .md file")
    regular_size(path, LARGEST_TABLE_BYTES)
    try:
        grids = reader(read_text(path))
    except (csv.Error, _TooLarge) as error:
        raise UserError(f"{path} cannot be read as a table: {one_line(error)}") from None
    grids = [[row for row in grid if any(row)] for grid in grids]
    grids = [grid for grid in grids if grid]
    if not grids:
        raise UserError(f"{path} holds no table")
    return grids


class _TooLarge(Exception):
    """A table with more rows or columns than any that is printed."""


def _checked(grid: Grid) -> Grid:
    if len(grid) > MOST_ROWS:
        raise _TooLarge(f"more than {MOST_ROWS} rows")
    if any(len(row) > MOST_COLUMNS for row in grid):
        raise _TooLarge(f"more than {MOST_COLUMNS} columns")
    return grid


def _cell(text: str) -> str:
    return one_line(text, LONGEST_CELL)


def _csv_grids(text: str) -> list[Grid]:
    heading = next((line for line in text.split("\n") if line.strip()), "")
    delimiter = max((",", ";", "\t"), key=heading.count)
    rows = csv.reader(io.StringIO(text), delimiter=delimiter)
    grid: Grid = []
    for row in rows:
        grid.append([_cell(_without_markup(cell)) for cell in row])
        _checked(grid[-1:])
        if len(grid) > MOST_ROWS:
            _checked(grid)
    return [grid]


def _markdown_grids(text: str) -> list[Grid]:
    grids: list[Grid] = []
    before: list[str] = []
    inside = False
    for line in text.split("\n"):
        cells = _markdown_cells(line)
        if inside and len(cells) > 1:
            grids[-1].append([_cell(_without_markup(cell)) for cell in cells])
            continue
        inside = len(cells) > 1 and len(before) > 1 and all(_is_rule(cell) for cell in cells)
        if inside:
            grids.append([[_cell(_without_markup(cell)) for cell in before]])
        before = cells
    return [_checked(grid) for grid in grids]


def _markdown_cells(line: str) -> list[str]:
    """The cells between the pipes of a line that are not escaped; at most one for a line that is no row."""
    parts = re.split(r"(?<!\\)\|", line.strip())
    if len(parts) > 1 and not parts[0].strip():
        parts = parts[1:]
    if len(parts) > 1 and not parts[-1].strip():
        parts = parts[:-1]
    return [part.strip() for part in parts]


def _is_rule(cell: str) -> bool:
    return "-" in cell and not set(cell) - set(":-")


def _without_markup(cell: str) -> str:
    """A cell without Markdown's links, emphasis and tags; raised text keeps a `^` before it."""
    text = MARKDOWN_LINK.sub(r"\1", cell)
    text = HTML_TAG.sub(
        lambda tag: HTML_TAGS.get(tag[1].lower(), "") if not tag[0].startswith("</") else "", text
    )
    text = UNESCAPED_MARKS.sub("", text).strip()
    if len(text) > 2 and text[0] == text[-1] == "_":
        text = text.strip("_")
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


def _latex_grids(text: str) -> list[Grid]:
    source = _LatexText(LATEX_COMMENT.sub(r"\1", text))
    grids = []
    at = 0
    while (begin := LATEX_TABLE.search(source.text, at)) is not None:
        at = begin.end()
        for _ in range(LATEX_TABLE_ARGUMENTS.get(begin[1], 1)):
            at = source.after_argument(at)
        reader = _LatexRows(source, at)
        grids.append(_checked(reader.read()))
        at = reader.at
    return grids


class _LatexText:
    """A text whose braces are matched once, so that hostile nesting costs no more than its length."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._closing: dict[int, int] = {}
        opened = []
        for brace in LATEX_BRACE.finditer(text):
            if brace[0] == "{":
                opened.append(brace.start())
            elif brace[0] == "}" and opened:
                self._closing[opened.pop()] = brace.start()

    def after_argument(self, at: int) -> int:
        """The place after the `{argument}` that begins at `at`, after spaces and an `[option]`; else `at`."""
        start = self._after_spaces(self.after_option(self._after_spaces(at), "[", "]"))
        closing = self._closing.get(start)
        return at if closing is None else closing + 1

    def after_option(self, at: int, opening: str, closing: str) -> int:
        """The place after a short `[option]` or `(lr)` that begins at `at`; else `at`."""
        if not self.text.startswith(opening, at):
            return at
        return self.text.find(closing, at, at + LONGEST_OPTION) + 1 or at

    def _after_spaces(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in " \t\n":
            at += 1
        return at


class _LatexRows:
    """Goes once through the body of one LaTeX table, from `at` to its end."""

    def __init__(self, source: _LatexText, at: int) -> None:
        self.at = at
        self._source = source
        self._text = source.text
        self._grid: Grid = []
        self._row: list[str] = []
        self._parts: list[str] = []
        self._depth = 0
        self._nested = 0
        # Further columns that the cell spans.
        self._span = 0

    def read(self) -> Grid:
        while self.at < len(self._text):
            character = self._text[self.at]
            if character == "\\":
                if not self._command():
                    break
                continue
            self.at += 1
            if character == "{":
                self._depth += 1
            elif character == "}":
                self._depth = max(self._depth - 1, 0)
            elif character == "&" and self._is_outside():
                self._end_cell()
            elif character != "$":
                self._parts.append(" " if character in "~&" else character)
        self._end_row()
        return self._grid

    def _is_outside(self) -> bool:
        return self._depth == 0 and self._nested == 0

    def _end_cell(self) -> None:
        text = "".join(self._parts).replace("--", "–")
        self._row += [_cell(text), *[""] * self._span]
        self._parts, self._span = [], 0
        if len(self._row) > MOST_COLUMNS:
            raise _TooLarge(f"more than {MOST_COLUMNS} columns")

    def _end_row(self) -> None:
        self._end_cell()
        self._grid.append(self._row)
        self._row = []
        if len(self._grid) > MOST_ROWS:
            raise _TooLarge(f"more than {MOST_ROWS} rows")

    def _command(self) -> bool:
        """Read the command at `at`; whether the table goes on behind it."""
        match = LATEX_COMMAND.match(self._text, self.at)
        if match is None:
            self.at += 1
            return True
        name, self.at = match[1], match.end()
        if name == "\\":
            if self._is_outside():
                self._end_row()
            else:
                self._parts.append(" ")
            self.at = self._after_options(self.at)
        elif name == "begin":
            self._nested += 1
            self.at = self._source.after_argument(self.at)
            # Of a table within a cell, the column specification.
            self.at = self._source.after_argument(self.at)
        elif name == "end":
            self.at = self._source.after_argument(self.at)
            self._nested -= 1
            return self._nested >= 0
        elif name in ("multicolumn", "SetCell"):
            self._multicolumn()
        elif name in LATEX_SYMBOLS:
            self._parts.append(LATEX_SYMBOLS[name])
        elif not name[0].isalpha():
            self._parts.append(" " if name in " ,;:!/" else name)
        else:
            self.at = self._after_options(self.at)
            for _ in range(LATEX_DROPPED.get(name, 0)):
                self.at = self._source.after_argument(self.at)
        return True

    def _after_options(self, at: int) -> int:
        """After `*`, `[2pt]` and `(lr)`, which follow a command directly."""
        if self._text[at : at + 1] == "*":
            at += 1
        for opening, closing in ("[]", "()"):
            at = self._source.after_option(at, opening, closing)
        return at

    def _multicolumn(self) -> None:
        """`\\multicolumn{2}{c}{text}`: the text is read as any other, the count is kept."""
        after = self._source.after_argument(self.at)
        count = self._text[self.at : after].strip("{} \n")
        self.at = self._source.after_argument(after)
        if count.isdecimal() and len(count) < 4:
            self._span += max(int(count) - 1, 0)


_READERS: dict[str, Callable[[str], list[Grid]]] = {
    ".csv": _csv_grids,
    ".tsv": _csv_grids,
    ".md": _markdown_grids,
    ".markdown": _markdown_grids,
    ".tex": _latex_grids,
}
