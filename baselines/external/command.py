"""command: an external program, in its own environment, run once per sample, or started once for many.

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

With `serve=true` the program is started once, without placeholders, and gets each sample as a line of JSON on
its input (see `serving.py`), so that a large model is loaded once:

    refbench generate command --name mine --set serve=true --set template='python serve.py' …

Reference paths are absolute. The program inherits the environment, which is where an API key belongs: the
template is part of the method card and is stored. Without `serve` it gets no input, and of what it prints
only the end is kept. All its processes end with it: what it leaves in the background, and everything after a
time-out, an interruption, or when the process that runs it is gone (see `session.py`). Needs a POSIX system.

Source: this project.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refbench.baselines.external.program import GRACE_S, check_output, run_program
from refbench.baselines.external.serving import ServedProgram
from refbench.baselines.external.session import LONGEST_KILL_S
from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError, one_line
from refbench.bench.files import scratch_folder
from refbench.bench.method import Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.sample import Reference, Sample

PLACEHOLDER = re.compile(r"\{(\w*)\}")
PLACEHOLDER_NAMES = ("prompt", "prompt_file", "references", "references_json", "output", "seed", "id")


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Options of `command`.

    Raises ValueError for a template that cannot be split, names an unknown placeholder or no `{output}`.
    """

    template: str
    """Command line of the program, with placeholders such as {prompt}, {references} and {output}."""
    timeout_s: float = 3600.0
    """Longest time that one sample may take, in seconds, above 0; the program is then stopped."""
    serve: bool = False
    """Start the program once and give it each sample as a line of JSON; the template has no placeholders."""

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
        if self.serve and used:
            raise ValueError(f"with serve=true samples come as lines of input: leave {{{used[0]}}} out")
        if not self.serve and "output" not in used:
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
        options = dict(self.option_values())
        if not self.options.serve:
            # Runs of before there was this option go on.
            del options["serve"]
        return MethodCard(
            name=self.name,
            summary=self.summary,
            reference_preparation="the program's own; it gets the files as they are",
            options=options,
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
        served = None
        if self.options.serve:
            served = ServedProgram(shlex.split(self.options.template), self.options.timeout_s)
        return CommandGenerator(options=self.options, outputs=scratch_folder("command"), served=served)


@dataclass(frozen=True, kw_only=True)
class CommandGenerator(Generator):
    """Runs the program, or asks the one that is `served`; `outputs` is a temporary folder for its latest
    output, removed by `close`.
    """

    options: CommandOptions
    outputs: tempfile.TemporaryDirectory[str]
    served: ServedProgram | None = None

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
            if self.served is not None:
                self.served.ask(request_for(sample, seed, output))
                check_output(output, "the program answered but", "")
            else:
                arguments = arguments_for(self.options.template, sample, seed, folder, output)
                run_program(arguments, self.options.timeout_s, output)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return output

    def close(self) -> None:
        """End a program that is served, and remove the outputs."""
        if self.served is not None:
            self.served.close()
        self.outputs.cleanup()


def request_for(sample: Sample, seed: int, output: Path) -> dict[str, object]:
    """What a served program is told of a sample. Raises SampleError for a missing reference image."""
    return {
        "id": sample.id,
        "seed": seed,
        "prompt": sample.prompt,
        "references": described(sample),
        "output": str(output),
    }


def described(sample: Sample) -> list[dict[str, str]]:
    """The references as a program reads them. Raises SampleError for a missing one."""
    return [
        {"path": absolute_path(reference), "label": reference.label, "kind": reference.kind}
        for reference in sample.references
    ]


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
        path.write_text(json.dumps(described(sample), indent=1), encoding="utf-8")
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
