"""The command line in tests: as a process of its own, or within this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from refbench.bench.cli.main import app
from refbench.bench.errors import UserError


class Run:
    """`refbench` as a process, in a working folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "refbench", *map(str, arguments)]

    def __call__(self, *arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done


def invoke(*arguments: object) -> Result:
    """`refbench` within this process; what it raises stands in the result."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def printed(*arguments: object) -> str:
    """What the command prints on standard output; it must end well."""
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def printed_json(*arguments: object) -> Any:
    """What the command prints with `--json`, read."""
    return json.loads(printed(*arguments, "--json"))


def complaint(*arguments: object) -> str:
    """The one line of the UserError that the command ends in."""
    error = invoke(*arguments).exception
    assert isinstance(error, UserError), error
    assert "\n" not in str(error)
    return str(error)
