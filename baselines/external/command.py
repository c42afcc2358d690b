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
template is part of the method card and is stored. It gets no input, and a session of its own, so that a
time-out ends it with all its children. Needs a POSIX system.

Source: this project.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError, exit_text, one_line
from refbench.bench.method import Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.sample import Reference, Sample

PLACEHOLDER = re.compile(r"\{(\w*)\}")
PLACEHOLDER_NAMES = ("prompt", "prompt_file", "references", "references_json", "output", "seed", "id")
# What is kept of the program's messages.
LONGEST_MESSAGE_CHARACTERS = 2000
# Between asking a program to stop and stopping it.
GRACE_S = 3.0
POLL_INTERVAL_S = 0.02


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

    def load(self, environment: Environment) -> Generator:
        """Make the folder of outputs; UserError when the program cannot be found or executed."""
        program = shlex.split(self.options.template)[0]
        if shutil.which(program) is None:
            raise UserError(
                f"the program {one_line(program, 120)!r} was not found or may not be executed; "
                "no shell takes part, so ~ and $VARIABLES stay as they are"
            )
        return CommandGenerator(
            options=self.options, outputs=tempfile.TemporaryDirectory(prefix="refbench-command-")
        )


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


def run_program(arguments: list[str], timeout_s: float, output: Path) -> None:
    """Run the program to its end and check that it left `output`; SampleError says what went wrong."""
    # Files, not pipes: a talkative program neither blocks nor fills our memory.
    with tempfile.TemporaryFile() as standard_output, tempfile.TemporaryFile() as standard_error:
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=standard_output,
                stderr=standard_error,
                start_new_session=True,
            )
        except OSError as error:
            raise SampleError(f"the program could not be started: {one_line(error.strerror)}") from None
        try:
            exit_code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            end_session(process)
            message = last_message(standard_error, standard_output)
            raise SampleError(f"the program was stopped after {timeout_s:g} s{message}") from None
        except BaseException:
            # Ctrl-C reaches us alone: the program has a session of its own.
            end_session(process)
            raise
        message = last_message(standard_error, standard_output)
    if exit_code != 0:
        raise SampleError(f"the program ended with {exit_text(exit_code)}{message}")
    if not output.is_file():
        raise SampleError(f"the program ended well but wrote no file to {{output}}{message}")
    if output.stat().st_size == 0:
        raise SampleError(f"the program ended well but its output file is empty{message}")


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Ask every process of the program's group to stop, and after a grace period stop those that remain."""
    try:
        _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            # Reaping the program first: its corpse would count as a living member of the group.
            process.poll()
            if not _signal_group(process, 0):
                return
            time.sleep(POLL_INTERVAL_S)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], signal_number: int) -> bool:
    """Whether a process of the group was there to take the signal."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal_number)
        return True
    return False


def last_message(standard_error: IO[bytes], standard_output: IO[bytes]) -> str:
    """`: ` and the end of stderr (of stdout when stderr is empty) in one line, or nothing."""
    for file in (standard_error, standard_output):
        size = file.seek(0, os.SEEK_END)
        # A character of UTF-8 has at most four bytes.
        file.seek(max(size - 4 * LONGEST_MESSAGE_CHARACTERS, 0))
        text = file.read().decode("utf-8", errors="replace")[-LONGEST_MESSAGE_CHARACTERS:]
        line = one_line(text, LONGEST_MESSAGE_CHARACTERS)
        if line:
            return f": {line}"
    return ""
