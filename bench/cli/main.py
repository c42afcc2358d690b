"""`refbench`: the commands of `bench`, and those that other packages add through `refbench.commands`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from refbench.bench import __version__
from refbench.bench.cli import inspection, noise_floor, parity, publish, scores, weights, work
from refbench.bench.console import VIEW, View, write_plainly
from refbench.bench.errors import UserError, one_line, visible

COMMANDS_GROUP = "refbench.commands"
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
NO_HOME = "home directory"


class CommandGroup(TyperGroup):
    """Commands of this package and the entry points of `refbench.commands`, loaded when asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All command names: this package's in order of declaration, then the others sorted."""
        own = list(super().list_commands(ctx))
        return own + sorted({_command_name(point) for point in _command_points()} - set(own))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As the parent; two words that name one command (`plan train`) go before the first alone."""
        two = " ".join(args[:2])
        if len(args) > 1 and any(_command_name(point) == two for point in _command_points()):
            return two, self.get_command(ctx, two), args[2:]
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, loading its entry point if it is another package's."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return _with_view(own)
        point = next((point for point in _command_points() if _command_name(point) == cmd_name), None)
        if point is None:
            return None
        try:
            loaded = point.load()
            # A wing may bring one command, or several as a group (`refbench mini dataset`).
            if isinstance(loaded, typer.Typer):
                return _with_view(typer.main.get_command(loaded))
            return _with_view(_as_command(cmd_name, loaded))
        except Exception as error:  # noqa: BLE001 - a broken package must not break the other commands
            return _unavailable(cmd_name, f"{point.value} does not load: {type(error).__name__}: {error}")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the parent; what it quotes of the arguments is made visible."""
        try:
            return list(super().parse_args(ctx, args))
        except Exception as error:
            _quote_visibly(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        """As the parent, but an interruption keeps its own message and exit code instead of `Aborted`, and
        what is quoted of the arguments is made visible.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None
        except Exception as error:
            _quote_visibly(error)
            raise
        finally:
            # What the user wanted to see was for this command.
            VIEW.set(View())


def _command_points() -> Iterable[EntryPoint]:
    return entry_points(group=COMMANDS_GROUP)


def _command_name(point: EntryPoint) -> str:
    """`plan.train` in the metadata is the command `plan train`."""
    return point.name.replace(".", " ")


def _quote_visibly(error: Exception) -> None:
    """The command-line library's errors hold their text in `message`, arguments as they were typed."""
    if isinstance(message := getattr(error, "message", None), str):
        error.message = visible(message)  # type: ignore[attr-defined]


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


WIDE_HELP = "Print all columns of a table, however wide the terminal is."
QUIET_HELP = "Print results, remarks and errors, but no progress."
VERBOSE_HELP = "Name every file and failure, and each step, instead of the first few."


def _see(parameter: typer.CallbackParam, value: bool) -> None:
    if value:
        VIEW.set(replace(VIEW.get(), **{str(parameter.name): True}))


def _view(
    wide: bool = typer.Option(False, "--wide", expose_value=False, callback=_see, help=WIDE_HELP),
    quiet: bool = typer.Option(False, "--quiet", "-q", expose_value=False, callback=_see, help=QUIET_HELP),
    verbose: bool = typer.Option(
        False, "--verbose", "-v", expose_value=False, callback=_see, help=VERBOSE_HELP
    ),
) -> None:
    """The options that every command has beside its own."""


def _with_view(command: Any) -> Any:
    """The command with the options of `_view`, and so the commands of a group."""
    own = {parameter.name for parameter in command.params}
    command.params += [one for one in _as_command("view", _view).params if one.name not in own]
    for below in getattr(command, "commands", {}).values():
        _with_view(below)
    return command


app = typer.Typer(
    name="refbench",
    cls=CommandGroup,
    no_args_is_help=True,
    # `refbench --install-completion` for the shell at hand.
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    wide: bool = typer.Option(False, "--wide", help=WIDE_HELP),
    quiet: bool = typer.Option(False, "--quiet", "-q", help=QUIET_HELP),
    verbose: bool = typer.Option(False, "--verbose", "-v", help=VERBOSE_HELP),
) -> None:
    """The options that stand before a command; the help text above is the program's."""
    VIEW.set(View(wide=wide, quiet=quiet, verbose=verbose))


for _module in (work, scores, noise_floor, parity, publish, inspection, weights):
    _module.add_commands(app)


def main() -> None:
    """Run the command line: 0 all well, 1 some sample failed, 2 the user can fix it, 130 interrupted."""
    try:
        # A scheduler's SIGTERM ends work as Ctrl-C does: child programs are stopped, temporary files removed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        write_plainly()
        app()
    except UserError as error:
        _complain(str(error))
        sys.exit(EXIT_USER_ERROR)
    except (_Interrupted, KeyboardInterrupt):
        _complain("stopped; what was finished is kept, and the same command goes on from there")
        sys.exit(EXIT_INTERRUPTED)
    except RuntimeError as error:
        # What pathlib raises for `~` without HOME, and for `~somebody` who does not exist.
        if NO_HOME not in str(error):
            raise
        _complain(f"{one_line(error)} Set HOME, or write the path without ~")
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        # A full disk, a folder that may not be written: the operating system's words are the clearest.
        _complain(one_line(error))
        sys.exit(EXIT_USER_ERROR)


def _complain(text: str) -> None:
    sys.stderr.write(f"refbench: {visible(' '.join(text.split()))}\n")


if __name__ == "__main__":
    main()
