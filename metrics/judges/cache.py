"""Answers of a judge on disk, so that no question is paid for twice.

One JSON file per (frames, instruction, model, endpoint, run), named by the digest of these; it holds them,
the judge's replies and their tokens, and never a key. Failed runs are not kept: they are asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import read_json_object, write_json
from refbench.metrics.judges.judge import Answer, Judge, Question, forget, parse_score

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class AnswerCache:
    """The answers of one model at one endpoint."""

    folder: Path
    model: str
    endpoint: str

    def get(self, question: Question, run: int) -> Answer | None:
        """The answer of an earlier run, or None; a file that is damaged or of another question is passed
        over.
        """
        key = self._key(question, run)
        try:
            held = read_json_object(self._path(key))
            if held["key"] != key:
                return None
            answer = Answer(
                run=run,
                replies=tuple(str(reply) for reply in held["replies"]),
                verdict=str(held["verdict"]),
                reading=str(held.get("reading", "")),
                tokens_in=int(held["tokens_in"]),
                tokens_out=int(held["tokens_out"]),
            )
        except (UserError, ValueError, KeyError, TypeError):
            return None
        return answer if parse_score(answer.verdict or "") is not None else None

    def put(self, question: Question, answer: Answer) -> None:
        """Keep an answer that has a verdict. Raises UserError when the folder cannot be written."""
        if answer.verdict is None:
            return
        key = self._key(question, answer.run)
        content = {
            "key": key,
            "replies": list(answer.replies),
            "verdict": answer.verdict,
            "reading": answer.reading,
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
        }
        try:
            write_json(self._path(key), content)
        except OSError as error:
            raise UserError(f"the judge's cache {self.folder} cannot be written: {one_line(error)}") from None

    def _key(self, question: Question, run: int) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "frames": question.frames_digest,
            "instruction": question.instruction_digest,
            "model": self.model,
            "endpoint": self.endpoint,
            "run": run,
        }

    def _path(self, key: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.json"


@dataclass(frozen=True, kw_only=True)
class CachedJudge(Judge):
    """Answers from disk what was answered before, asks `asked` the rest, and keeps what is new as it comes:
    a program that is killed in the middle of a video pays for none of its answers again.
    """

    asked: Judge
    cache: AnswerCache

    def judge(
        self, question: Question, runs: Sequence[int], on_answer: Callable[[Answer], None] = forget
    ) -> list[Answer]:
        """One answer per run, in the order of `runs`. Raises UserError when the cache cannot be written."""
        held = {run: self.cache.get(question, run) for run in runs}
        answers = {run: answer for run, answer in held.items() if answer is not None}
        for answer in answers.values():
            on_answer(answer)

        def keep(answer: Answer) -> None:
            self.cache.put(question, answer)
            on_answer(answer)

        missing = [run for run in runs if run not in answers]
        answers |= {answer.run: answer for answer in self.asked.judge(question, missing, keep)}
        return [answers[run] for run in runs]

    def provenance(self) -> dict[str, Any]:
        """Of the judge that is asked."""
        return self.asked.provenance()

    def close(self) -> None:
        """Close the judge that is asked."""
        self.asked.close()


def default_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/refbench/judge`, else `~/.cache/refbench/judge`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "refbench" / "judge"
