"""What a judge is asked and what it answers, whichever backend it runs on."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

LOWEST, HIGHEST = 1.0, 5.0
THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
EMPHASIS = "*_`"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One video as a judge sees it: JPEG files in order of time, then one text."""

    jpegs: tuple[bytes, ...]
    instruction: str

    @cached_property
    def frames_digest(self) -> str:
        """SHA-256 over the pictures' own SHA-256 digests, in order."""
        digests = b"".join(hashlib.sha256(jpeg).digest() for jpeg in self.jpegs)
        return hashlib.sha256(digests).hexdigest()

    @cached_property
    def instruction_digest(self) -> str:
        """SHA-256 of the text as UTF-8."""
        return hashlib.sha256(self.instruction.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A judge's text as it came, and the tokens that it took in and gave out (0: not said).

    `in_parts`: it came as a list of texts, which are joined.
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    in_parts: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one run: `verdict` is the stripped reply that is a score, or None with a `failure`.

    `reading` says what of a reply was passed over to read the number (see `read_loosely`), or is empty.
    `replies` are all texts that the judge returned, in order; `tokens_in` and `tokens_out` what they used, as
    far as it said so. `over_budget`: the run was stopped by the budget.
    """

    run: int
    replies: tuple[str, ...]
    verdict: str | None = None
    reading: str = ""
    failure: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    over_budget: bool = False


def forget(answer: Answer) -> None:
    """Does nothing with an answer."""


class Judge(ABC):
    """Answers questions; every run of a question is independent of the others."""

    @abstractmethod
    def judge(
        self, question: Question, runs: Sequence[int], on_answer: Callable[[Answer], None] = forget
    ) -> list[Answer]:
        """One answer per run, in the order of `runs`. What fails becomes an answer's `failure`.

        `on_answer` gets each answer as it comes, perhaps in another thread; what it raises ends the judging.
        """

    def provenance(self) -> dict[str, Any]:
        """`dtype`, `batch_size` and `weights` of a model that runs here."""
        return {}

    def close(self) -> None:
        """Give back memory, connections and threads."""
        return


def parse_score(reply: str) -> float | None:
    """The score of a judge's reply: the whole of it, stripped, as Python's `float` reads it, and 1 to 5.

    That is what the official aggregation takes (" 4\\n", "4.5", "4e0", even "0_5"); prose around a number and
    numbers out of range, which it would refuse or clip, are None.
    """
    try:
        score = float(reply.strip())
    except ValueError:
        return None
    return score if LOWEST <= score <= HIGHEST else None


def read_loosely(reply: str) -> tuple[str, str] | None:
    """The number of a reply that `parse_score` refuses, and what was passed over; None without one.

    Only a leading `<think>…</think>` and Markdown's emphasis around the number are passed over. For judges
    other than the official one: the official aggregation refuses such a reply.
    """
    bare = THOUGHTS.sub("", reply, count=1) if THOUGHTS.match(reply) else reply
    passed_over = ["<think>"] if bare != reply else []
    verdict = bare.strip().strip(EMPHASIS).strip()
    if verdict != bare.strip():
        passed_over.append("emphasis")
    if parse_score(verdict) is None:
        return None
    return verdict, f"read without its {' and '.join(passed_over)}"
