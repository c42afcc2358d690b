"""The external command: what reaches the program, and what is said when it goes wrong."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.processes import ends, wait_for
from refbench.baselines.external import program as program_module
from refbench.baselines.external.command import Command, CommandOptions, arguments_for
from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError
from refbench.bench.method import Generator
from refbench.bench.sample import Reference, Sample, kind_of

ECHO = """
import json, sys
output = sys.argv[1]
with open(output, "w", encoding="utf-8") as file:
    json.dump({"arguments": sys.argv[2:], "input": sys.stdin.read()}, file)
"""

Build = Callable[..., Generator]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Loads generators whose program is a Python script with the arguments of a template."""
    made: list[Generator] = []

    def make(script: str, arguments: str = "{output}", timeout_s: float = 60.0) -> Generator:
        path = tmp_path / f"program {len(made)}.py"
        path.write_text(script, encoding="utf-8")
        template = f"{shlex.quote(sys.executable)} -S {shlex.quote(str(path))} {arguments}"
        made.append(Command(CommandOptions(template=template, timeout_s=timeout_s)).load(Environment()))
        return made[-1]

    yield make
    for generator in made:
        generator.close()


def make_sample(prompt: str = "a cup", root: Path = Path(), paths: tuple[str, ...] = ()) -> Sample:
    return Sample(
        id="humanobj_1",
        category="humanobj",
        prompt=prompt,
        references=tuple(Reference(path=path, root=root, label="Cup", kind=kind_of(path)) for path in paths),
    )


def output_of(generator: Generator, sample: Sample, seed: int = 0) -> Path:
    """The file that the program left."""
    output = generator.generate(sample, seed)
    assert isinstance(output, Path)
    return output


def echoed(generator: Generator, sample: Sample, seed: int = 0) -> list[str]:
    answer = json.loads(output_of(generator, sample, seed).read_text(encoding="utf-8"))
    assert answer["input"] == ""
    return list(answer["arguments"])


def heartbeat_stops(beats: Path) -> bool:
    """Whether nobody writes to the file any more."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        before = beats.stat().st_size
        time.sleep(0.3)
        if beats.stat().st_size == before:
            return True
    return False


HOSTILE_PROMPTS = [
    'it\'s a "quoted" cup',
    "'; rm -rf / #",
    "$(touch owned) `touch owned` $HOME",
    "{seed} {output} {{id}} {unknown} {",
    "two\nlines\r\n\tand a tab",
    "Ein Becher für Zoë, 一只杯子 ☕",
    "\\1 \\g<0> \\",
    "--help",
    "",
    "  spaces  ",
]


@pytest.mark.parametrize("prompt", HOSTILE_PROMPTS)
def test_a_prompt_arrives_as_it_is(build: Build, prompt: str, tmp_path: Path) -> None:
    generator = build(ECHO, "{output} {prompt} --text={prompt} {seed}-{id}")
    arguments = echoed(generator, make_sample(prompt), seed=7)
    assert arguments == [prompt, f"--text={prompt}", "7-humanobj_1"]
    assert not (tmp_path / "owned").exists()


@settings(deadline=None)
@given(prompt=st.text(st.characters(codec="utf-8", exclude_characters="\0")), seed=st.integers(0, 2**32))
def test_substitution_never_splits_or_expands_twice(prompt: str, seed: int) -> None:
    template = "prog 'a b' {prompt} x{prompt}y{seed} {output}"
    arguments = arguments_for(template, make_sample(prompt), seed, Path("folder"), Path("out.mp4"))
    assert arguments == ["prog", "a b", prompt, f"x{prompt}y{seed}", "out.mp4"]


def test_the_program_gets_no_input(build: Build) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"typed by somebody")
    os.close(writing)
    own_input = os.dup(0)
    os.dup2(reading, 0)
    try:
        assert echoed(build(ECHO), make_sample()) == []
    finally:
        os.dup2(own_input, 0)
        os.close(own_input)
        os.close(reading)


def test_quotes_in_the_template_keep_an_argument_together(build: Build) -> None:
    generator = build(ECHO, "{output} 'size 832 {id}' \"it's {seed}\"")
    assert echoed(generator, make_sample()) == ["size 832 humanobj_1", "it's 0"]


def test_a_placeholder_inside_a_quoted_argument_stays_inside(build: Build) -> None:
    generator = build(ECHO, "{output} 'prompt: {prompt}!'")
    assert echoed(generator, make_sample("a 'cup'; b")) == ["prompt: a 'cup'; b!"]


def test_references_become_one_argument_each(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ("Images/a b.png", "Images/c.png")
    (tmp_path / "Images").mkdir()
    for path in paths:
        (tmp_path / path).write_bytes(b"image")
    absolute = [str(tmp_path / path) for path in paths]
    generator = build(ECHO, "{output} --refs {references} --joined={references}")
    monkeypatch.chdir(tmp_path)
    assert echoed(generator, make_sample(root=Path(), paths=paths)) == [
        "--refs",
        *absolute,
        f"--joined={','.join(absolute)}",
    ]
    assert echoed(generator, make_sample()) == ["--refs", "--joined="]


def test_a_linked_reference_keeps_its_own_name(build: Build, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"image")
    (tmp_path / "face.png").symlink_to(tmp_path / "blob")
    generator = build(ECHO, "{output} {references}")
    assert echoed(generator, make_sample(root=tmp_path, paths=("face.png",))) == [str(tmp_path / "face.png")]


def test_a_comma_in_a_path_is_not_joined_by_commas(build: Build, tmp_path: Path) -> None:
    (tmp_path / "a,b.png").write_bytes(b"image")
    sample = make_sample(root=tmp_path, paths=("a,b.png",))
    with pytest.raises(SampleError, match="holds a comma"):
        build(ECHO, "{output} --refs={references}").generate(sample, 0)
    assert echoed(build(ECHO, "{output} {references}"), sample) == [str(tmp_path / "a,b.png")]


def test_the_prompt_and_the_references_can_be_read_from_files(build: Build, tmp_path: Path) -> None:
    script = """
import json, sys
output, prompt, references = sys.argv[1:]
text = open(prompt, "rb").read().decode("utf-8")
with open(output, "w", encoding="utf-8") as file:
    json.dump([text, json.load(open(references, encoding="utf-8"))], file)
"""
    (tmp_path / "man").mkdir()
    (tmp_path / "man" / "é.png").write_bytes(b"image")
    sample = make_sample("line\r\nZoë \0 end", tmp_path, ("man/é.png",))
    output = output_of(build(script, "{output} {prompt_file} {references_json}"), sample)
    prompt, references = json.loads(output.read_text(encoding="utf-8"))
    assert prompt == sample.prompt
    assert references == [{"path": str(tmp_path / "man" / "é.png"), "label": "Cup", "kind": "object"}]


def test_text_that_no_argument_can_hold_is_the_samples_error(build: Build) -> None:
    generator = build(ECHO, "{output} {prompt}")
    with pytest.raises(SampleError, match="NUL character"):
        generator.generate(make_sample("a\0b"), 0)
    with pytest.raises(SampleError, match="not valid Unicode"):
        generator.generate(make_sample("a\ud800b"), 0)
    with pytest.raises(SampleError, match="could not be started"):
        generator.generate(make_sample("x" * 4_000_000), 0)


def test_a_missing_reference_is_told_before_the_program_starts(build: Build, tmp_path: Path) -> None:
    started = tmp_path / "started"
    generator = build(f"open({str(started)!r}, 'w').close()", "{output}")
    with pytest.raises(SampleError, match=r"reference image gone\.png is missing"):
        generator.generate(make_sample(root=tmp_path, paths=("gone.png",)), 0)
    assert not started.exists()


def test_a_failure_tells_the_exit_code_and_the_end_of_stderr(build: Build) -> None:
    script = """
import sys
sys.stderr.write("noise " * 400_000)
sys.stderr.buffer.write("\\n\\x1b[31mTraceback\\nout of memöry \\xff".encode("utf-8") + b"\\xff\\n")
sys.exit(3)
"""
    with pytest.raises(SampleError) as caught:
        build(script).generate(make_sample(), 0)
    text = str(caught.value)
    assert text.startswith("the program ended with exit code 3: ")
    assert "Traceback out of memöry" in text
    assert text.isprintable()
    assert len(text) < 2100


def test_a_failure_without_stderr_tells_the_end_of_stdout(build: Build) -> None:
    with pytest.raises(SampleError, match="exit code 1: no such model"):
        build("print('no such model'); raise SystemExit(1)").generate(make_sample(), 0)


def test_a_program_that_a_signal_ends_is_told_by_the_signals_name(build: Build) -> None:
    with pytest.raises(SampleError, match="ended with signal SIGKILL"):
        build("import os; os.kill(os.getpid(), 9)").generate(make_sample(), 0)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import sys; sys.stderr.write('saved elsewhere')", "wrote no file to {output}: saved elsewhere"),
        ("import sys; open(sys.argv[1], 'w').close()", "its output file is empty"),
        ("import os, sys; os.mkdir(sys.argv[1])", "wrote no file to {output}"),
    ],
)
def test_an_output_that_is_no_file_is_an_error(build: Build, script: str, reason: str) -> None:
    with pytest.raises(SampleError) as caught:
        build(script).generate(make_sample(), 0)
    assert reason in str(caught.value)


def test_an_earlier_output_never_passes_for_a_new_one(build: Build, tmp_path: Path) -> None:
    script = f"""
import pathlib, sys
once = pathlib.Path({str(tmp_path / "once")!r})
if not once.exists():
    once.touch()
    pathlib.Path(sys.argv[1]).write_bytes(b"video")
"""
    generator = build(script)
    assert output_of(generator, make_sample()).read_bytes() == b"video"
    with pytest.raises(SampleError, match="wrote no file"):
        generator.generate(make_sample(), 0)


def test_the_output_is_an_mp4_that_lives_until_the_next(build: Build) -> None:
    generator = build(ECHO)
    first = output_of(generator, make_sample())
    assert first.name == "humanobj_1.mp4"
    assert first.is_file()
    second = output_of(generator, make_sample(), 1)
    assert second.is_file()
    assert not first.exists()
    generator.close()
    assert not first.parent.parent.exists()


BEATING = """
import os, signal, sys, time
if os.fork() == 0:
    if {stubborn}:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        with open({beats!r}, "a") as file:
            file.write("x")
        time.sleep(0.02)
sys.stderr.write("step 12 of 50")
sys.stderr.flush()
time.sleep(60)
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_time_out_ends_the_program_and_its_children(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    monkeypatch.setattr(program_module, "GRACE_S", 0.5)
    beats = tmp_path / "beats"
    generator = build(BEATING.format(beats=str(beats), stubborn=stubborn), timeout_s=1.0)
    start = time.monotonic()
    with pytest.raises(SampleError, match="stopped after 1 s: step 12 of 50"):
        generator.generate(make_sample(), 0)
    assert time.monotonic() - start < 20
    assert beats.stat().st_size > 0
    assert heartbeat_stops(beats)


def test_a_program_that_takes_too_long_may_clean_up_first(build: Build, tmp_path: Path) -> None:
    script = f"""
import pathlib, signal, sys, time
def clean_up(*_):
    pathlib.Path({str(tmp_path / "cleaned")!r}).touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, clean_up)
time.sleep(60)
"""
    with pytest.raises(SampleError, match="stopped after 1 s"):
        build(script, timeout_s=1.0).generate(make_sample(), 0)
    assert (tmp_path / "cleaned").exists()


def test_a_program_that_ends_in_time_is_not_asked_to_stop(build: Build) -> None:
    script = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
time.sleep(0.2)
open(sys.argv[1], "w").write("video")
"""
    assert output_of(build(script, timeout_s=30.0), make_sample()).read_text() == "video"


def test_an_interrupt_ends_the_program_and_its_children(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    program = tmp_path / "program.py"
    program.write_text(BEATING.format(beats=str(beats), stubborn=False))
    template = f"{shlex.quote(sys.executable)} -S {shlex.quote(str(program))} {{output}}"
    harness = f"""
import signal
from refbench.baselines.external.command import Command, CommandOptions
from refbench.bench.environment import Environment
from refbench.bench.sample import Sample
signal.signal(signal.SIGINT, signal.default_int_handler)
generator = Command(CommandOptions(template={template!r})).load(Environment())
try:
    generator.generate(Sample(id="singleobj_1", category="singleobj", prompt="", references=()), 0)
except KeyboardInterrupt:
    raise SystemExit(42)
"""
    process = subprocess.Popen([sys.executable, "-c", harness], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 30
        while not beats.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 42
    finally:
        process.kill()
        process.wait()
    assert heartbeat_stops(beats)


# A child, one with a session of its own, and one whose parent has ended; `end` is what the program does then.
FAMILY = """
import os, signal, sys, time
reading, writing = os.pipe()

def child(*steps):
    if os.fork() == 0:
        for step in steps:
            step()
        signal.signal(signal.SIGTERM, {on_term})
        os.write(writing, b"%d " % os.getpid())
        os.close(1)
        os.close(2)
        time.sleep(600)
        os._exit(0)

child()
child(os.setsid)
child(os.setsid, lambda: os.fork() and os._exit(0))
told = b""
while len(told.split()) < 3 or told[-1:] != b" ":
    told += os.read(reading, 100)
with open({pids!r}, "w") as file:
    print(os.getpid(), told.decode(), file=file)
{end}
"""
LEAVES = "open(sys.argv[1], 'w').write('video')"
STAYS = "time.sleep(600)"


def family(tmp_path: Path, end: str, *, stubborn: bool = False) -> tuple[str, Path]:
    """A script with three children, and the file into which it writes the process ids."""
    on_term = "signal.SIG_IGN" if stubborn else "signal.SIG_DFL"
    return FAMILY.format(pids=str(tmp_path / "pids"), end=end, on_term=on_term), tmp_path / "pids"


@pytest.mark.parametrize("stubborn", [False, True])
def test_what_a_program_leaves_in_the_background_ends_with_it(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    monkeypatch.setattr(program_module, "GRACE_S", 0.2)
    script, pids = family(tmp_path, LEAVES, stubborn=stubborn)
    assert output_of(build(script), make_sample()).read_text() == "video"
    program, *children = map(int, pids.read_text().split())
    assert len(children) == 3
    # Not soon: when the video is handed over, nothing of the program runs any more.
    assert [Path(f"/proc/{process}").exists() for process in (program, *children)] == [False] * 4


def test_a_program_that_fails_leaves_nothing_either(build: Build, tmp_path: Path) -> None:
    script, pids = family(tmp_path, "sys.exit(3)")
    with pytest.raises(SampleError, match="ended with exit code 3"):
        build(script).generate(make_sample(), 0)
    assert not any(Path(f"/proc/{process}").exists() for process in pids.read_text().split())


DRIVER = """
from refbench.baselines.external.command import Command, CommandOptions
from refbench.bench.environment import Environment
from refbench.bench.sample import Sample
generator = Command(CommandOptions(template={template!r})).load(Environment())
generator.generate(Sample(id="singleobj_1", category="singleobj", prompt="", references=()), 0)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_a_program_ends_with_its_driver_however_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    script, pids = family(tmp_path, STAYS)
    (tmp_path / "program.py").write_text(script)
    template = f"{shlex.quote(sys.executable)} -S {shlex.quote(str(tmp_path / 'program.py'))} {{output}}"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(template=template)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        told = wait_for(pids).split()
        process.send_signal(number)
        assert process.wait(60) == -number
    finally:
        process.kill()
        process.wait()
    assert all(ends(int(one)) for one in told)
    # The folder of outputs could not be removed by who made it; the next one does.
    assert list(temporary.iterdir())
    subprocess.run(
        [sys.executable, "-c", DRIVER.format(template="touch {output}").rpartition("generator.generate")[0]],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
        check=True,
    )
    assert not list(temporary.iterdir())


def test_of_what_a_program_prints_only_the_end_is_kept(build: Build) -> None:
    """Neither in memory nor on the disk: no file may grow beyond 8 MB while 64 MB are printed."""
    script = """
import sys
for _ in range(1024):
    sys.stdout.write("x" * 65536)
sys.stderr.write("that was much")
sys.exit(1)
"""
    generator = build(script)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 2**20, hard))
    try:
        with pytest.raises(SampleError, match="the program ended with exit code 1: that was much"):
            generator.generate(make_sample(), 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_program_that_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("no program")
    for program in ("surely-no-such-program", str(tmp_path / "none"), str(tmp_path / "plain.txt"), "~/x"):
        method = Command(CommandOptions(template=f"{program} {{output}}"))
        with pytest.raises(UserError, match="was not found or may not be executed") as caught:
            method.load(Environment())
        assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_executed_after_all_is_the_samples_error(tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_bytes(b"\x00\x01\x02")
    program.chmod(0o755)
    method = Command(CommandOptions(template=f"{shlex.quote(str(program))} {{output}}"))
    generator = method.load(Environment())
    with pytest.raises(SampleError, match="could not be started"):
        generator.generate(make_sample(), 0)
    generator.close()
