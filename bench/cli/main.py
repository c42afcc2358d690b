"""`refbench`: the commands of `bench`, and those that other packages add through `refbench.commands`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from refbench.bench import __version__
from refbench.bench.cli import demo, inspection, scores, weights, work
from refbench.bench.errors import UserError, one_line

COMMANDS_GROUP = "refbench.commands"
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class CommandGroup(TyperGroup):
    """Commands of this package and the entry points of `refbench.commands`, loaded when asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All command names: this package's in order of declaration, then the others sorted."""
        own = list(super().list_commands(ctx))
        return own + sorted({point.name for point in entry_points(group=COMMANDS_GROUP)} - set(own))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, loading its entry point if it is another package's."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        point = next((point for point in entry_points(group=COMMANDS_GROUP) if point.name == cmd_name), None)
        if point is None:
            return None
        try:
            return _as_command(cmd_name, point.load())
        except Exception as error:  # noqa: BLE001 - a broken package must not break the other commands
            return _unavailable(cmd_name, f"{point.value} does not load: {type(error).__name__}: {error}")

    def invoke(self, ctx: Any) -> Any:
        """As the parent, but an interruption keeps its own message and exit code instead of `Aborted`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None


class _Interrupted(Exception):
    """Ctrl-C or SIGTERM, past the command-line library's own handling."""


def _as_command(name: str, function: Callable[..., None], **settings: Any) -> Any:
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, **settings)(function)
    return typer.main.get_command(single)


def _unavailable(name: str, problem: str) -> Any:
    def complain() -> None:
        raise UserError(problem)

    return _as_command(name, complain, help=f"(not available: {one_line(problem)})")


app = typer.Typer(
    name="refbench",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Score reference-to-video generation on OpenS2V-Eval.\n\n"
        "A folder of videos: refbench evaluate VIDEOS --name my-method --track open-domain --dataset DIR. "
        "A registered method, from generation to report: refbench run METHOD --dataset DIR."
    ),
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"refbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and stop.", is_eager=True, callback=_print_version
    ),
) -> None:
    """The options that stand before a command; the help text above is the program's."""


for _module in (work, demo, scores, inspection, weights):
    _module.add_commands(app)


def main() -> None:
    """Run the command line: 0 all well, 1 some sample failed, 2 the user can fix it, 130 interrupted."""
    # A scheduler's SIGTERM ends work as Ctrl-C does: child programs are stopped, temporary files removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except UserError as error:
        _complain(str(error))
        sys.exit(EXIT_USER_ERROR)
    except (_Interrupted, KeyboardInterrupt):
        _complain("stopped; what was finished is kept, and the same command goes on from there")
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        # A full disk, a folder that may not be written: the operating system's words are the clearest.
        _complain(one_line(error))
        sys.exit(EXIT_USER_ERROR)


def _complain(text: str) -> None:
    sys.stderr.write(f"refbench: {' '.join(text.split())}\n")


if __name__ == "__main__":
    main()
