"""What can go wrong, by who can mend it, and how it is said."""

from __future__ import annotations

import signal
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """Something the user can fix: printed as one line, exit code 2, no traceback."""


class SampleError(Exception):
    """One sample could not be generated or scored; it becomes a record's reason and the run goes on."""


class NotApplicable(SampleError):
    """A metric that has looked at a sample's references does not apply to it; the record says so.

    From the sample alone: what a video or a network is to blame for is another SampleError.
    """


class MissingWeights(Exception):
    """A metric's or method's weights are not on disk; the text names them and how to get them."""


def one_line(text: object, limit: int = 300) -> str:
    """`text` as a single printable line of at most `limit` characters."""
    line = " ".join(str(text).split())
    line = "".join(character if character.isprintable() else "�" for character in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def system_reason(error: BaseException) -> str:
    """What the system, or FFmpeg, says of an error, without the number and the file's name around it."""
    return one_line(getattr(error, "strerror", None) or error, 160)


# Needed inside words of several scripts, and seen in them: they turn and hide nothing.
JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    """`text` with each character that a terminal would obey or hide written out: `\\x1b`, `\\u202e`.

    Names come from files of others: an escape sequence, a C1 control or a mark that turns the direction of
    writing must not change what a line seems to say. Line ends and tabs stay.
    """
    return "".join(
        character
        if character.isprintable() or character in "\n\t" or character in JOINERS
        else " "
        if character.isspace() and unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def first_fault(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, in one line: `field: what`; the input is not repeated."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field + ': ' if field else ''}{one_line(first['msg'], 160)}"


def exit_text(exit_code: int) -> str:
    """`exit code 3`, or for a negative code the signal that ended the process: `signal SIGKILL`."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"signal {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"signal {-exit_code}"
