"""A program in a session of its own: started, listened to, and ended with all that it started."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from refbench.baselines.external import session as session_module
from refbench.baselines.external.session import LONGEST_KILL_S
from refbench.bench.errors import SampleError, exit_text, one_line

# What is kept of the program's messages.
LONGEST_MESSAGE_CHARACTERS = 2000
PIPE_BYTES = 64 * 2**10
# Between asking a program to stop and stopping it.
GRACE_S = 3.0


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
        fault = fault_of(status.read().decode().split(), session.returncode, message)
    if fault is not None:
        raise SampleError(fault)
    check_output(output, "the program ended well but", message)


def fault_of(said: Sequence[str], returncode: int | None, message: str) -> str | None:
    """What went wrong with a program, by what its session said of its end; None for one that ended well."""
    match said:
        case ["exit", "0"]:
            return None
        case ["exit", code]:
            return f"the program ended with {exit_text(int(code))}{message}"
        case ["error", number, *_]:
            return f"the program could not be started: {os.strerror(int(number))}"
        case _:
            return f"the program was lost: its session ended with {exit_text(returncode or 0)}"


def check_output(output: Path, but: str, message: str) -> None:
    """Raises SampleError unless the program left a file at `output`."""
    if not output.is_file():
        raise SampleError(f"{but} wrote no file to {{output}}{message}")
    if output.stat().st_size == 0:
        raise SampleError(f"{but} its output file is empty{message}")


def start_session(
    arguments: Sequence[str], status_writing: int, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
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
            stdin=stdin,
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
