"""Answers of a judge on disk, so that no question is paid for twice.

One JSON file per (frames, instruction, model, endpoint, run), named by the digest of these; it holds them,
the judge's replies and their tokens, and never a key. Failed runs are not kept: they are asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refbench.bench.errors import UserError, one_line
from refbench.metrics.judges.judge import Answer, Question, parse_score

SCHEMA_VERSION = 1
LARGEST_FILE_BYTES = 1_000_000


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
        path = self._path(key)
        try:
            if path.stat().st_size > LARGEST_FILE_BYTES:
                return None
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["key"] != key:
                return None
            answer = Answer(
                run=run,
                replies=tuple(str(reply) for reply in held["replies"]),
                verdict=str(held["verdict"]),
                tokens_in=int(held["tokens_in"]),
                tokens_out=int(held["tokens_out"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
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
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
        }
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False
            ) as file:
                json.dump(content, file, indent=1)
            os.replace(file.name, path)  # noqa: PTH105 - both names are in the same folder
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


def default_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/refbench/judge`, else `~/.cache/refbench/judge`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "refbench" / "judge"
