"""200 mutated videos and 200 mutated JSON files: records or one-line errors, never a crash."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.records import record
from refbench.bench.dataset import load_suite, load_track
from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError
from refbench.bench.runner.scoring import ScoringJob, ScoringWorker
from refbench.bench.runs.folder import read_run
from refbench.bench.sample import Sample
from refbench.bench.scores.official_files import import_scores
from refbench.bench.scores.store import read_records
from refbench.bench.video import Video

MUTATIONS = 200
SAMPLE = Sample(id="faceobj_1", category="faceobj", prompt="p", references=())


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Cut, flipped, doubled, overwritten or shuffled bytes."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        kind = generator.randrange(5)
        at = generator.randrange(max(len(data), 1))
        length = generator.randint(1, max(len(data) // 4, 1))
        if kind == 0:
            del data[at:]
        elif kind == 1:
            for _ in range(generator.choice((1, 1, 2, 5, 40))):
                if data:
                    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at : at + length] = generator.randbytes(min(length, 64))
        else:
            data[at : at + 4] = generator.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
    return bytes(data)


def test_mutated_videos_give_records(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    original = make_clip(frames=10).read_bytes()
    generator = random.Random(7)
    worker = ScoringWorker({}, Environment(threads=2))
    scored = failed = 0
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(mutated(original, generator))
        outcome = worker.work(
            ScoringJob(turn=0, metric="motion-amplitude", sample=SAMPLE, seed=0, video=path)
        )
        if outcome.value is None:
            failed += 1
            assert str(outcome.reason).startswith("failed: ")
            assert str(outcome.reason).isprintable()
            assert "Error:" not in str(outcome.reason), (
                "a reason in FFmpeg's or our words, not a Python exception"
            )
        else:
            scored += 1
        try:
            assert Video(path).probe.frames > 0
        except SampleError as error:
            assert "\n" not in str(error)
    worker.close()
    # Both kinds occur, or the mutations would be too weak or too strong to show anything.
    assert failed > MUTATIONS // 4
    assert scored > 5


def json_sources(tmp_path: Path, dataset: Path) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    """File name → good content and what reads such a file."""
    row = {"id": "a_1", "prompt": "p", "references": [{"path": "r.png", "label": "x", "kind": "object"}]}
    lines = "".join(record("facesim", f"faceobj_{n}", n / 7).model_dump_json() + "\n" for n in range(4))
    run = {"schema_version": 1, "method": "m", "track": "open-domain", "versions": {"av": "1"}}
    scores = {"faceobj_1": {"cur_score": 0.5}, "faceobj_2": {"cur_score": 1}}
    answers = {"faceobj_1": "4", "faceobj_2": "5"}
    return {
        "Open-Domain_Eval.json": (
            (dataset / "Open-Domain_Eval.json").read_bytes(),
            lambda path: load_track("open-domain", path.parent),
        ),
        "suite.jsonl": ((json.dumps(row) + "\n").encode() * 1, load_suite),
        "store.jsonl": (lines.encode(), read_records),
        "run.json": (json.dumps(run).encode(), read_run),
        "facesim.json": (
            json.dumps(scores).encode(),
            lambda path: import_scores(path.parent, "m", "open-domain"),
        ),
        "naturalscore_1.json": (
            json.dumps(answers).encode(),
            lambda path: import_scores(path.parent, "m", "open-domain"),
        ),
    }


def test_mutated_json_gives_results_or_one_line_errors(tmp_path: Path, dataset: Path) -> None:
    generator = random.Random(11)
    sources = json_sources(tmp_path, dataset)
    refused = accepted = 0
    for number in range(MUTATIONS):
        name = list(sources)[number % len(sources)]
        content, read = sources[name]
        folder = tmp_path / f"mutated-{number}"
        folder.mkdir()
        (folder / name).write_bytes(mutated(content, generator))
        try:
            read(folder / name)
            accepted += 1
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
            assert str(error).isprintable()
    assert refused > MUTATIONS // 2
    assert accepted > 0


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "1e999999", '"\\ud800"', "NaN", "\x00", "\ufeff\ufeff{}"]
)
def test_strange_json_is_one_line_everywhere(tmp_path: Path, dataset: Path, text: str) -> None:
    for name, (_, read) in json_sources(tmp_path, dataset).items():
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(text + "\n", encoding="utf-8", errors="surrogatepass")
        with pytest.raises(UserError) as caught:
            read(folder / name)
        assert "\n" not in str(caught.value)
