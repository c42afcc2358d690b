"""Prompt sets: what a file may hold, what it may not, and who sees its prompts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from kit.cli import Run
from kit.clips import SMALL_IDS
from refbench.bench.dataset import load_track
from refbench.bench.errors import UserError
from refbench.bench.prompts import LONGEST_PROMPT_CHARACTERS, read_prompts
from refbench.bench.runs.folder import read_run
from refbench.bench.scores.store import read_records

PROMPTS = {sample_id: f"another prompt for {sample_id}" for sample_id in SMALL_IDS}

PROMPT_PLUGIN = '''
"""A method whose frames tell its prompt, so that a test can see which one it got."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refbench.bench.method import Frames, Generator, Method, MethodCard, silent
from refbench.bench.registry import methods


@dataclass(frozen=True, kw_only=True)
class Options:
    log: Path


@methods.register
class Told(Method):
    name = "told"
    summary = "writes down its prompts"
    Options = Options

    def card(self):
        return MethodCard(name=self.name, summary=self.summary)

    def load(self, environment):
        return Writer(self.options.log)


class Writer(Generator):
    def __init__(self, file):
        self.file = file

    def generate(self, sample, seed, on_step=silent):
        with self.file.open("a") as log:
            log.write(f"{sample.id}: {sample.prompt}\\n")
        return Frames(images=[np.zeros((16, 16, 3), np.uint8)] * 2, fps=8)
'''


@pytest.fixture
def refbench(tmp_path: Path) -> Run:
    (tmp_path / "cwd").mkdir()
    return Run(tmp_path / "cwd")


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_an_object_lines_and_the_benchmarks_own_form_say_the_same(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"id": key, "prompt": text, "note": 1}) for key, text in PROMPTS.items())
    rows = {key: {"prompt": text, "img_paths": []} for key, text in PROMPTS.items()}
    refined = {key: {"prompt": "the benchmark's", "prompt_refine": text} for key, text in PROMPTS.items()}
    for path in (
        written(tmp_path, "a.json", json.dumps(PROMPTS)),
        written(tmp_path, "b.jsonl", f"\n{lines}\n\n"),
        written(tmp_path, "c.json", json.dumps(rows)),
        written(tmp_path, "d.json", json.dumps(refined)),
    ):
        found = read_prompts(path)
        assert found.prompts == PROMPTS
        assert found.name == f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def test_unusual_separators_stay_within_a_prompt(tmp_path: Path) -> None:
    text = json.dumps({"id": "x", "prompt": "one\u2028two\x85three"}, ensure_ascii=False)
    assert read_prompts(written(tmp_path, "a.jsonl", text)).prompts == {"x": "one\u2028two\x85three"}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "", "broken JSON"),
        ("a.json", "{", "broken JSON"),
        ("a.json", '{"id": "x", "prompt": "p"}\n{"id": "y", "prompt": "p"}', "must end in .jsonl"),
        ("a.json", "[]", "expected an object id → prompt, not a list"),
        ("a.json", "{}", "holds no prompt"),
        ("a.json", '{"x": 3}', "sample 'x': the prompt is no text"),
        ("a.json", '{"x": {"text": "p"}}', "the prompt is no text"),
        ("a.json", '{"x": "  "}', "no text or empty"),
        ("a.json", '{"x": "a", "x": "b"}', "appears twice"),
        ("a.json", '{"x": "\\ud800"}', "not valid Unicode"),
        ("a.json", json.dumps({"x": "y" * (LONGEST_PROMPT_CHARACTERS + 1)}), "more than 20,000"),
        ("a.json", "[" * 100_000, "broken JSON"),
        ("a.jsonl", '{"id": "x", "prompt": "p"}\n{"id": "x", "prompt": "q"}', "line 2: the id 'x' appears"),
        ("a.jsonl", '{"id": "x"}', "line 1: expected an object with id and prompt"),
        ("a.jsonl", '["x", "p"]', "line 1: expected an object"),
        ("a.jsonl", '{"id": 1, "prompt": "p"}', "line 1: the id is no text"),
        ("a.jsonl", "\n\n", "holds no prompt"),
    ],
)
def test_a_hostile_file_is_one_line(tmp_path: Path, name: str, content: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read_prompts(written(tmp_path, name, content))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_every_chosen_sample_must_be_there(tmp_path: Path, dataset: Path) -> None:
    samples = load_track("open-domain", dataset).samples
    some = {key: PROMPTS[key] for key in SMALL_IDS[:2]}
    found = read_prompts(written(tmp_path, "some.json", json.dumps({**some, "elsewhere_1": "p"})))
    with pytest.raises(UserError, match=r"lack 4 of 6 chosen samples: faceobj_2, faceobj_10, single"):
        found.applied(samples)
    assert [sample.prompt for sample in found.applied(samples[:2])] == list(some.values())
    assert samples[0].prompt == "prompt of singleobj_1"


def test_a_method_gets_the_prompts_and_the_run_names_them(
    refbench: Run, dataset: Path, tmp_path: Path
) -> None:
    plugin = written(tmp_path, "told.py", PROMPT_PLUGIN)
    path = written(tmp_path, "mine.json", json.dumps(PROMPTS))
    log = tmp_path / "log"
    base = ("generate", "told", "--dataset", dataset, "--plugin", plugin, "--set", f"log={log}", "--limit", 2)
    refbench(*base, "--prompts", path)
    assert log.read_text().splitlines() == [f"{key}: {PROMPTS[key]}" for key in SMALL_IDS[:2]]
    folder = refbench.folder / "runs/told/open-domain"
    info = read_run(folder / "run.json")
    assert info.card is not None
    assert info.card.prompt_set.startswith("mine.json sha256:")
    # The same prompts go on; the benchmark's own, or others, are another run.
    refbench(*base, "--prompts", path, "--seed", 1)
    for other in ((), ("--prompts", written(tmp_path, "mine2.json", json.dumps({**PROMPTS, "x": "y"})))):
        done = refbench(*base, *other, expect=2)
        assert "was generated with another card (prompt_set)" in done.stderr
    assert (
        "lack 6 of 6"
        in refbench(
            *base[:-2], "--prompts", written(tmp_path, "few.json", '{"x": "y"}'), "--name", "few", expect=2
        ).stderr
    )
    assert not (refbench.folder / "runs/few").exists()


def test_scoring_keeps_the_benchmarks_prompts(refbench: Run, dataset: Path, tmp_path: Path) -> None:
    path = written(tmp_path, "mine.json", json.dumps(PROMPTS))
    small = [f"--set=noise.{option}" for option in ("num_frames=3", "width=64", "height=48")]
    base = (
        "run",
        "noise",
        "--dataset",
        dataset,
        "--limit",
        1,
        *small,
    )
    refbench(*base, "--prompts", path, "--runs", "a", "--out", "with")
    refbench(*base, "--runs", "b", "--out", "without")
    ours, plain = (
        {
            one.metric: one.provenance.sample
            for one in read_records(refbench.folder / name / "noise/open-domain.jsonl")
        }
        for name in ("with", "without")
    )
    assert ours == plain
    assert "mine.json" in (refbench.folder / "with/noise/open-domain.run.json").read_text()
