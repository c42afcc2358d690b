"""The command line in tests: as a process of its own, or within this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from refbench.bench.cli.main import EXIT_USER_ERROR, app
from refbench.bench.errors import UserError


class Run:
    """`refbench` as a process, in a working folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "refbench", *map(str, arguments)]

    def __call__(
        self, *arguments: object, expect: int = 0, limit_s: int = 120
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=limit_s
        )
        assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done


def invoke(*words: object, expect: int = 0) -> Result:
    """`refbench WORDS` within this process; its exit code must be `expect`.

    What the user can mend ends as in the process: exit code 2, and one line on standard error.
    """
    result = CliRunner().invoke(app, [str(word) for word in words])
    fault = result.exception
    if isinstance(fault, UserError | OSError):
        assert "\n" not in str(fault), fault
        line = f"refbench: {fault}\n".encode()
        result.exit_code = EXIT_USER_ERROR
        result.stderr_bytes += line
        result.output_bytes += line
    elif fault is not None and not isinstance(fault, SystemExit):
        raise fault
    assert result.exit_code == expect, (result.exit_code, result.output)
    return result


def printed(*words: object) -> str:
    """What the command prints on standard output; it must end well."""
    return invoke(*words).stdout


def printed_json(*words: object) -> Any:
    """What the command prints with `--json`, read."""
    return json.loads(printed(*words, "--json"))


def complaint(*words: object) -> str:
    """The line that the command ends in, of something that the user can mend."""
    last = invoke(*words, expect=EXIT_USER_ERROR).stderr.splitlines()[-1]
    return last.removeprefix("refbench: ")
