"""Hostile tables for `audit`: each is checked or refused in one line, and no cell becomes a number that it is
not, a command or a file.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attacks.child import run
from attacks.ground import TABLE_CSV, TABLE_TEX
from attacks.verdict import Outcome, Verdict, judged

KIND = "table"
LIMIT_S = 20.0
RIGHT, REFUSED = Verdict.RIGHT, Verdict.REFUSED
ROW = TABLE_CSV.splitlines()[1]
HEAD = TABLE_CSV.splitlines()[0]
VALUES = ROW.partition(",")[2]
TOTAL = VALUES.partition(",")[0]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file by name and content, and what may become of it; `silent` is what must not be printed."""

    name: str
    content: bytes
    allowed: tuple[Verdict, ...] = (REFUSED,)
    silent: str = ""


def _csv(name: str, *rows: str, allowed: tuple[Verdict, ...] = (REFUSED,), silent: str = "") -> Table:
    text = "\n".join((HEAD, *rows)) + "\n"
    return Table(name=f"{name}.csv", content=text.encode(), allowed=allowed, silent=silent)


def _tex(name: str, text: str, allowed: tuple[Verdict, ...] = (REFUSED, RIGHT), silent: str = "") -> Table:
    return Table(name=f"{name}.tex", content=text.encode(), allowed=allowed, silent=silent)


def _in_tex(cell: str) -> str:
    """The good table with something before its first method's name."""
    return TABLE_TEX.replace("mine &", f"{cell} mine &")


EITHER = (RIGHT, REFUSED)
TABLES = (
    _csv("huge", *(f"m{number},{VALUES}" for number in range(200_000))),
    _csv("many rows", *(f"m{number},{VALUES}" for number in range(3000))),
    _csv("wide", ROW + ",1" * 200_000),
    _csv("long cell", f"{'m' * 900_000},{VALUES}", allowed=EITHER),
    _csv("quotes that never end", f'"{ROW}\n' * 500, allowed=EITHER),
    _csv("formula", f"=HYPERLINK(\"http://a.b\"),{VALUES}", f"@SUM(A1),{VALUES}", f"-2+3,{VALUES}",
         f"=cmd|' /C calc'!A0,{VALUES}", allowed=(RIGHT,)),
    _csv("formula as a number", f"mine,=1+1,{VALUES.partition(',')[2]}"),
    _csv("nan", f"mine,NaN,{VALUES.partition(',')[2]}", f"b,inf,{VALUES.partition(',')[2]}",
         f"c,-1e999,{VALUES.partition(',')[2]}"),
    _csv("all nan", *("m" + ",nan" * HEAD.count(",") for _ in range(3)), allowed=EITHER),
    _csv("digits", f"mine,{'9' * 5000},{VALUES.partition(',')[2]}"),
    _csv("arabic digits", f"mine,{TOTAL.translate({48 + n: 0x660 + n for n in range(10)})},"
         f"{VALUES.partition(',')[2]}", allowed=EITHER),
    _csv("one name for all rows", ROW, ROW, f"mine,{VALUES}", allowed=(RIGHT,)),
    Table(name="duplicate headings.csv", content=f"{HEAD},{HEAD}\n{ROW},{ROW}\n".encode(), allowed=EITHER),
    Table(name="duplicate component.csv", content=f"{HEAD},FaceSim\n{ROW},1\n".encode(), allowed=EITHER),
    Table(name="no component.csv", content=b"method,total\na,1\nb,2\n"),
    _csv("terminal", f"a\x1b[2J\u202egpj\x07,{VALUES}", allowed=(RIGHT,), silent="\x1b"),
    Table(name="binary.csv", content=bytes(range(256)) * 400),
    Table(name="zeros.csv", content=b"\0" * 500_000),
    Table(name="utf-16.csv", content=TABLE_CSV.encode("utf-16"), allowed=EITHER),
    Table(name="binary.tex", content=b"\\begin{tabular}{l}" + bytes(range(256)) * 400),
    Table(name="picture.md", content=b"\x89PNG\r\n\x1a\n" + b"|\n" * 1000, allowed=EITHER),
    Table(name="empty.csv", content=b""),
    Table(name="blank.md", content=b"\n" * 100_000),
    Table(name="rules.md", content=b"|" + b"---|" * 250_000),
    Table(name="brackets.md", content=("| " + "[" * 500_000 + " |\n|---|\n").encode(), allowed=EITHER),
    Table(name="stars.md", content=("| " + "*`~" * 300_000 + " |\n|---|\n").encode(), allowed=EITHER),
    Table(name="tags.md", content=("| " + "<sup" * 200_000 + " |\n|---|\n").encode(), allowed=EITHER),
    _tex("deep braces", _in_tex("{" * 100_000)),
    _tex("deep and closed", _in_tex("{" * 100_000 + "}" * 100_000)),
    _tex("deep commands", _in_tex(r"\textbf{" * 50_000)),
    _tex("deep tables", r"\begin{tabular}{l}" * 30_000),
    _tex("open options", _in_tex(r"\cmidrule[" * 50_000)),
    _tex("immense span", _in_tex(r"\multicolumn{999999999}{c}{x} &")),
    _tex("negative span", _in_tex(r"\multicolumn{-5}{c}{x}"), allowed=EITHER),
    _tex("a macro that calls itself", r"\newcommand{\x}{\x\x}" + _in_tex(r"\x")),
    _tex("reads a file", _in_tex(r"\input{/etc/passwd}\include{/etc/passwd}"), silent="root:"),
    _tex("runs a program", _in_tex(r"\immediate\write18{touch written}")),
    _tex("comments", TABLE_TEX + "%" * 900_000),
    _tex("backslashes", _in_tex("\\" * 400_000)),
)  # fmt: skip


def attack(scratch: Path, count: int | None, only: str | None) -> Iterator[Outcome]:
    """Each table, or the first `count`."""
    chosen = [one for one in TABLES if only in (None, one.name)]
    for number, one in enumerate(chosen[:count]):
        folder = scratch / f"table-{number}"
        folder.mkdir()
        (folder / one.name).write_bytes(one.content)
        done = run(["audit", one.name], folder, limit_s=LIMIT_S)
        verdict, why = judged(done)
        if verdict is not Verdict.WRONG:
            left = sorted(path.name for path in folder.iterdir() if path.name != one.name)
            if verdict not in one.allowed:
                verdict, why = Verdict.WRONG, f"{verdict.value}: {why}"
            elif one.silent and one.silent in (done.out + done.err).lower():
                verdict, why = Verdict.WRONG, f"printed {one.silent!r}"
            elif left:
                verdict, why = Verdict.WRONG, f"left {left}"
        yield Outcome(kind=KIND, case=one.name, verdict=verdict, why=why)
        shutil.rmtree(folder)
