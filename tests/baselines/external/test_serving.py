"""A program that is started once and asked for one sample after the other."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.cli import complaint
from kit.processes import ends
from refbench.baselines.external import program as program_module
from refbench.baselines.external.command import Command, CommandOptions
from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.method import Generator
from refbench.bench.sample import Reference, Sample

# What every program below begins with: `requests()` and `answer(request, …)`.
HEAD = """
import json, os, sys, time
starts = open(os.path.join(os.path.dirname(__file__), "starts.txt"), "a")
print(os.getpid(), file=starts, flush=True)
def requests():
    for line in sys.stdin:
        yield json.loads(line)
def answer(request, **more):
    print(json.dumps({"id": request["id"], "seed": request["seed"], **more}), flush=True)
"""
ECHO = """
print("loading the model", flush=True)
for request in requests():
    print("step 1 of 20")
    print(json.dumps({"loss": 1}))
    with open(request["output"], "w") as file:
        json.dump(request, file)
    answer(request)
"""

Build = Callable[..., Generator]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    monkeypatch.setattr(program_module, "GRACE_S", 0.5)
    made: list[Generator] = []

    def make(script: str, timeout_s: float = 60.0) -> Generator:
        path = tmp_path / "my program.py"
        path.write_text(HEAD + script, encoding="utf-8")
        template = f"{shlex.quote(sys.executable)} -S {shlex.quote(str(path))}"
        options = CommandOptions(template=template, timeout_s=timeout_s, serve=True)
        made.append(Command(options).load(Environment()))
        return made[-1]

    yield make
    for generator in made:
        generator.close()


def sample(number: int, prompt: str = "a cup", **more: object) -> Sample:
    return Sample(id=f"humanobj_{number}", category="humanobj", prompt=prompt, references=(), **more)  # type: ignore[arg-type]


def starts(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "starts.txt").read_text().split()]


def made(generator: Generator, one: Sample, seed: int = 0) -> dict[str, object]:
    output = generator.generate(one, seed)
    assert isinstance(output, Path)
    content: dict[str, object] = json.loads(output.read_text())
    return content


def test_it_is_started_once_and_told_everything_of_each_sample(build: Build, tmp_path: Path) -> None:
    generator = build(ECHO)
    (tmp_path / "cup, red.png").write_bytes(b"picture")
    reference = Reference(path="cup, red.png", root=tmp_path, label="Cup", kind="object")
    first = Sample(id="humanobj_1", category="humanobj", prompt="'; rm\n{seed} é", references=(reference,))
    told = made(generator, first, seed=7)
    assert (told["id"], told["seed"], told["prompt"]) == ("humanobj_1", 7, "'; rm\n{seed} é")
    assert told["references"] == [
        {"path": str((tmp_path / "cup, red.png").absolute()), "label": "Cup", "kind": "object"}
    ]
    for number in (2, 3):
        assert made(generator, sample(number))["id"] == f"humanobj_{number}"
    (process,) = starts(tmp_path)
    generator.close()
    assert ends(process)


def test_what_it_cannot_make_is_its_word_and_the_next_sample_follows(build: Build, tmp_path: Path) -> None:
    generator = build(
        """
for request in requests():
    if request["id"] == "humanobj_1":
        answer(request, error="no\\nmemory")
    elif request["id"] == "humanobj_2":
        answer(request)
    else:
        open(request["output"], "w").write("{}")
        answer(request)
"""
    )
    with pytest.raises(SampleError, match="the program says: no memory"):
        generator.generate(sample(1), 0)
    with pytest.raises(SampleError, match="the program answered but wrote no file"):
        generator.generate(sample(2), 0)
    assert made(generator, sample(3)) == {}
    assert len(starts(tmp_path)) == 1


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sys.stderr.write('cuda is gone')\nsys.exit(5)", r"ended with exit code 5: cuda is gone"),
        ("sys.exit(0)", r"ended without an answer: working"),
        ("answer({**request, 'id': 'humanobj_9'})", r"answered for humanobj_9, seed 0, which it was not"),
        ("answer({**request, 'seed': 3})", r"answered for humanobj_1, seed 3, which it was not"),
        ("time.sleep(600)", r"stopped after 0\.5 s: working"),
    ],
)
def test_a_program_that_fails_costs_its_sample_and_is_started_again(
    script: str, said: str, build: Build, tmp_path: Path
) -> None:
    generator = build(
        f"""
for request in requests():
    print("working", flush=True)
    if len(open(starts.name).read().split()) == 1:
        {script.replace(chr(10), chr(10) + 8 * " ")}
    open(request["output"], "w").write("{{}}")
    answer(request)
""",
        timeout_s=0.5 if "sleep" in script else 60.0,
    )
    with pytest.raises(SampleError, match=said):
        generator.generate(sample(1), 0)
    if "sleep" not in script:
        assert made(generator, sample(1)) == {}
        first, second = starts(tmp_path)
        assert ends(first) and first != second
    else:
        assert all(ends(process) for process in starts(tmp_path))


def test_a_request_that_fills_the_pipe_is_refused(build: Build) -> None:
    generator = build(ECHO)
    with pytest.raises(SampleError, match=r"take .* bytes; at most 65,536 do"):
        generator.generate(sample(1, prompt=70_000 * "a"), 0)
    assert made(generator, sample(2))["id"] == "humanobj_2"


def test_serving_takes_no_placeholders(dataset: Path) -> None:
    words = ("generate", "command", "--name", "mine", "--dataset", dataset, "--set", "serve=true")
    said = complaint(*words, "--set", "template=python gen.py --out {output}")
    assert "with serve=true samples come as lines of input: leave {output} out" in said
