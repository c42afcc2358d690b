"""command: an external program, in its own environment, run once per sample.

For a generator whose packages cannot be installed beside this project's. Nothing is expected of the scores:
they are the program's. An example of the option `template`:

    /opt/env/bin/python gen.py --prompt {prompt} --refs {references} --out {output} --seed {seed}

The template is split into arguments once, by shell rules; then the placeholders inside each argument are
replaced, once. No shell takes part and nothing is split or expanded again, so a prompt may hold quotes,
`$(…)`, braces or newlines.

    {prompt}           the prompt (write `--prompt={prompt}` where a prompt might begin with a dash)
    {prompt_file}      path of a UTF-8 text file that holds the prompt
    {references}       as a whole argument: one argument per reference, none without references;
                       inside a longer argument: joined by commas
    {references_json}  path of a JSON file: a list of objects with `path`, `label` and `kind`
    {output}           path at which the program must leave the mp4 (required)
    {seed}, {id}       the seed, the sample's id

Reference paths are absolute. The program inherits the environment, which is where an API key belongs: the
template is part of the method card and is stored. It gets no input, and of what it prints only the end is
kept. All its processes end with it: what it leaves in the background, and everything after a time-out, an
interruption, or when the process that runs it is gone (see `session.py`). Needs a POSIX system.

Source: this project.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from refbench.baselines.external import session as session_module
from refbench.baselines.external.session import LONGEST_KILL_S
from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError, exit_text, one_line
from refbench.bench.files import scratch_folder
from refbench.bench.method import Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.sample import Reference, Sample

PLACEHOLDER = re.compile(r"\{(\w*)\}")
PLACEHOLDER_NAMES = ("prompt", "prompt_file", "references", "references_json", "output", "seed", "id")
# What is kept of the program's messages.
LONGEST_MESSAGE_CHARACTERS = 2000
PIPE_BYTES = 64 * 2**10
# Between asking a program to stop and stopping it.
GRACE_S = 3.0


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Options of `command`.

    Raises ValueError for a template that cannot be split, names an unknown placeholder or no `{output}`.
    """

    template: str
    """Command line of the program, with placeholders such as {prompt}, {references} and {output}."""
    timeout_s: float = 3600.0
    """Longest time that one sample may take, in seconds, above 0; the program is then stopped."""

    def __post_init__(self) -> None:
        try:
            arguments = shlex.split(self.template)
        except ValueError as error:
            raise ValueError(f"the template cannot be split: {error}") from None
        if not arguments:
            raise ValueError("the template is empty")
        if "\0" in self.template:
            raise ValueError("the template holds a NUL character")
        if PLACEHOLDER.search(arguments[0]):
            raise ValueError("the template must begin with a program, not with a placeholder")
        used = [name for argument in arguments for name in PLACEHOLDER.findall(argument)]
        for name in used:
            if name not in PLACEHOLDER_NAMES:
                known = ", ".join(f"{{{known_name}}}" for known_name in PLACEHOLDER_NAMES)
                raise ValueError(f"unknown placeholder {{{name}}}; known: {known}")
        if "output" not in used:
            raise ValueError("the template needs {output}, where the program leaves its mp4")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"timeout_s must be a positive number of seconds, {self.timeout_s} is not")


@methods.register
class Command(Method):
    """Runs an external program."""

    name = "command"
    summary = "an external program, run once per sample from a command-line template"
    Options = CommandOptions

    def card(self) -> MethodCard:
        """The method card; only the template says what the program is."""
        return MethodCard(
            name=self.name,
            summary=self.summary,
            reference_preparation="the program's own; it gets the files as they are",
            options=self.option_values(),
        )

    def job_limit_s(self, device: str) -> float:
        """The program's own limit, and the time in which its processes are ended."""
        timeout_s: float = self.options.timeout_s
        return timeout_s + 2 * GRACE_S + LONGEST_KILL_S

    def load(self, environment: Environment) -> Generator:
        """Make the folder of outputs; UserError when the program cannot be found or executed."""
        program = shlex.split(self.options.template)[0]
        if shutil.which(program) is None:
            raise UserError(
                f"the program {one_line(program, 120)!r} was not found or may not be executed; "
                "no shell takes part, so ~ and $VARIABLES stay as they are"
            )
        return CommandGenerator(options=self.options, outputs=scratch_folder("command"))


@dataclass(frozen=True, kw_only=True)
class CommandGenerator(Generator):
    """Runs the program; `outputs` is a temporary folder for its latest output, removed by `close`."""

    options: CommandOptions
    outputs: tempfile.TemporaryDirectory[str]

    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Path:
        """The mp4 that the program left, valid until the next call or `close`.

        Raises SampleError when a reference is missing, when the program fails or takes too long (with the end
        of what it wrote to stderr), and when it leaves no file or an empty one.
        """
        # A folder per call: what an earlier run of this sample left can never pass for the new output, and
        # a whole track's outputs are never held twice.
        for earlier in Path(self.outputs.name).iterdir():
            shutil.rmtree(earlier)
        folder = Path(tempfile.mkdtemp(prefix=f"{sample.id[:64]}-", dir=self.outputs.name))
        output = folder / f"{sample.id}.mp4"
        try:
            arguments = arguments_for(self.options.template, sample, seed, folder, output)
            run_program(arguments, self.options.timeout_s, output)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return output

    def close(self) -> None:
        """Remove the outputs."""
        self.outputs.cleanup()


def arguments_for(template: str, sample: Sample, seed: int, folder: Path, output: Path) -> list[str]:
    """The program's arguments; files that they name are written into `folder`.

    Raises SampleError for a missing reference image and for text that no argument or file can hold.
    """
    references = [absolute_path(reference) for reference in sample.references]
    try:
        sample.prompt.encode()
    except UnicodeEncodeError:
        raise SampleError("the prompt is not valid Unicode") from None

    def prompt_file() -> str:
        path = folder / "prompt.txt"
        path.write_bytes(sample.prompt.encode())
        return str(path)

    def references_json() -> str:
        path = folder / "references.json"
        entries = [
            {"path": file, "label": reference.label, "kind": reference.kind}
            for file, reference in zip(references, sample.references, strict=True)
        ]
        path.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        return str(path)

    values: dict[str, Callable[[], str]] = {
        "prompt": lambda: sample.prompt,
        "prompt_file": prompt_file,
        "references": lambda: comma_joined(references),
        "references_json": references_json,
        "output": lambda: str(output),
        "seed": lambda: str(seed),
        "id": lambda: sample.id,
    }
    arguments: list[str] = []
    for argument in shlex.split(template):
        if argument == "{references}":
            arguments += references
        else:
            arguments.append(PLACEHOLDER.sub(lambda match: values[match[1]](), argument))
    if any("\0" in argument for argument in arguments):
        raise SampleError("the prompt holds a NUL character, which no argument can; use {prompt_file}")
    return arguments


def absolute_path(reference: Reference) -> str:
    """The image's absolute path. Links are not followed: in the hub's cache only the link has the file's
    ending.

    Raises SampleError for an image that is missing.
    """
    path = reference.file.absolute()
    if not path.is_file():
        raise SampleError(f"reference image {one_line(reference.path, 120)} is missing")
    return str(path)


def comma_joined(references: list[str]) -> str:
    """The paths joined by commas; SampleError when a comma inside one would make that ambiguous."""
    for path in references:
        if "," in path:
            raise SampleError(
                f"the reference path {one_line(path, 120)} holds a comma: give {{references}} as an argument "
                "of its own, or use {references_json}"
            )
    return ",".join(references)


class Tail:
    """The end of what a program writes into a pipe. A thread empties it: nothing blocks, little is held."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._kept = b""
        self._thread = threading.Thread(target=self._read, args=(pipe.fileno(),), daemon=True)
        self._thread.start()

    def _read(self, pipe: int) -> None:
        # A character of UTF-8 has at most four bytes.
        while piece := os.read(pipe, PIPE_BYTES):
            self._kept = (self._kept + piece)[-4 * LONGEST_MESSAGE_CHARACTERS :]

    def line(self) -> str:
        """The end in one line; to be asked when the program has ended, which closes the pipe."""
        self._thread.join(GRACE_S)
        text = self._kept.decode("utf-8", errors="replace")[-LONGEST_MESSAGE_CHARACTERS:]
        return one_line(text, LONGEST_MESSAGE_CHARACTERS)


def run_program(arguments: list[str], timeout_s: float, output: Path) -> None:
    """Run the program to its end and check that it left `output`; SampleError says what went wrong."""
    status_reading, status_writing = os.pipe()
    with os.fdopen(status_reading, "rb") as status:
        session = start_session(arguments, status_writing)
        with session:
            assert session.stdout is not None and session.stderr is not None
            tails = (Tail(session.stderr), Tail(session.stdout))
            try:
                session.wait(timeout_s)
            except subprocess.TimeoutExpired:
                end_session(session)
                message = last_message(tails)
                raise SampleError(f"the program was stopped after {timeout_s:g} s{message}") from None
            except BaseException:
                # Ctrl-C reaches us alone: the program has a session of its own.
                end_session(session)
                raise
            message = last_message(tails)
        answer = status.read().decode().split()
    match answer:
        case ["exit", "0"]:
            pass
        case ["exit", code]:
            raise SampleError(f"the program ended with {exit_text(int(code))}{message}")
        case ["error", number, *_]:
            raise SampleError(f"the program could not be started: {os.strerror(int(number))}")
        case _:
            raise SampleError(f"the program was lost: its session ended with {exit_text(session.returncode)}")
    if not output.is_file():
        raise SampleError(f"the program ended well but wrote no file to {{output}}{message}")
    if output.stat().st_size == 0:
        raise SampleError(f"the program ended well but its output file is empty{message}")


def start_session(arguments: list[str], status_writing: int) -> subprocess.Popen[bytes]:
    """Start the process that runs the program; it takes over the pipe `status_writing`, for its answer."""
    own = (
        sys.executable,
        "-I",
        "-S",
        session_module.__file__,
        str(GRACE_S),
        str(status_writing),
        str(os.getpid()),
    )
    try:
        return subprocess.Popen(
            [*own, *arguments],
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=(status_writing,),
        )
    except OSError as error:
        raise SampleError(f"the program could not be started: {one_line(error.strerror)}") from None
    finally:
        os.close(status_writing)


def end_session(session: subprocess.Popen[bytes]) -> None:
    """Have all processes of the program ended: asked to stop, and after the grace period killed."""
    session.terminate()
    try:
        session.wait(GRACE_S + LONGEST_KILL_S + GRACE_S)
    except subprocess.TimeoutExpired:
        session.kill()
        session.wait()


def last_message(tails: Iterable[Tail]) -> str:
    """`: ` and the end of the first pipe into which anything was written, in one line, or nothing."""
    return next((f": {line}" for tail in tails if (line := tail.line())), "")
