"""Prompt sets: other prompts for a benchmark's samples, which a method generates from.

Rewritten prompts are common (RefAlign's and Kaleido's own scripts use them) and change scores, so a run names
the set it used. Scoring always takes the benchmark's own prompts. A file is untrusted until read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import parse_json, read_text
from refbench.bench.sample import Sample

LINES_SUFFIX = ".jsonl"
LONGEST_PROMPT_CHARACTERS = 20_000
NAMED_IDS = 3
LINE_FIELDS = {"id", "prompt"}
REFINED_FIELD = "prompt_refine"


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """Prompts by sample id; `name` is the file's name with the first 12 hex digits of its SHA-256."""

    name: str
    prompts: Mapping[str, str]

    def applied(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with their prompts replaced. Raises UserError, naming the first that have none here."""
        missing = [sample.id for sample in samples if sample.id not in self.prompts]
        if missing:
            named = ", ".join(missing[:NAMED_IDS]) + (", …" if len(missing) > NAMED_IDS else "")
            raise UserError(
                f"the prompts {self.name} lack {len(missing)} of {len(samples)} chosen samples: {named}"
            )
        return [replace(sample, prompt=self.prompts[sample.id]) for sample in samples]


def read_prompts(path: Path) -> PromptSet:
    """A prompt file: a JSON object id → prompt, or lines of objects with `id` and `prompt` (`.jsonl`).

    An object with a field `prompt` may stand for a prompt, as in the benchmark's own lists, or with
    `prompt_refine`, which RefAlign's script reads; ids that no sample has are ignored. Raises UserError for
    anything else.
    """
    text = read_text(path)
    pairs = _from_lines(text, path) if path.suffix.lower() == LINES_SUFFIX else _from_object(text, path)
    prompts: dict[str, str] = {}
    for sample_id, prompt, where in pairs:
        if sample_id in prompts:
            raise UserError(f"{where}: the id {one_line(sample_id, 60)!r} appears twice")
        prompts[sample_id] = _checked(prompt, where)
    if not prompts:
        raise UserError(f"{path} holds no prompt")
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return PromptSet(name=f"{one_line(path.name, 100)} sha256:{digest}", prompts=prompts)


def _from_object(text: str, path: Path) -> Iterator[tuple[str, Any, str]]:
    content = parse_json(text, f"{path} (a file of lines must end in {LINES_SUFFIX})")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object id → prompt, not a {type(content).__name__}")
    for sample_id, entry in content.items():
        prompt = entry.get(REFINED_FIELD, entry.get("prompt")) if isinstance(entry, dict) else entry
        yield sample_id, prompt, f"{path}, sample {one_line(sample_id, 60)!r}"


def _from_lines(text: str, path: Path) -> Iterable[tuple[str, Any, str]]:
    # Not splitlines(): a prompt may hold other line separators of Unicode.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        entry = parse_json(line, where)
        if not isinstance(entry, dict) or not entry.keys() >= LINE_FIELDS:
            raise UserError(f"{where}: expected an object with id and prompt")
        if not isinstance(entry["id"], str):
            raise UserError(f"{where}: the id is no text")
        yield entry["id"], entry["prompt"], where


def _checked(prompt: Any, where: str) -> str:
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{where}: the prompt is no text or empty")
    if len(prompt) > LONGEST_PROMPT_CHARACTERS:
        raise UserError(f"{where}: the prompt has more than {LONGEST_PROMPT_CHARACTERS:,} characters")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: the prompt is not valid Unicode") from None
    return prompt
