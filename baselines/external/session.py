"""Runs one program, and ends everything that it started whatever becomes of the program and of the driver.

`command` starts this file by its path, as a process of its own that needs the standard library alone:

    python -I -S session.py GRACE_S STATUS_FD DRIVER PROGRAM [ARGUMENT]...

The program gets a session of its own. All its processes are asked to stop, and after GRACE_S seconds killed,
when the program has ended and left some in the background, when this process gets SIGTERM, SIGINT or SIGHUP,
and when the process DRIVER, which started this one, is gone, be it by SIGKILL. On Linux the kernel tells of
that at once, and processes that left the program's session are found as well; elsewhere the driver is looked
for every second, and the program's group alone is ended.

Written to STATUS_FD once no process is left: `exit CODE` (a negative one is a signal), after `error ERRNO`
for a program that could not be started.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ON_LINUX = sys.platform == "linux"
# From <sys/prctl.h>.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOOK_FOR_DRIVER_S = None if ON_LINUX else 1.0
POLL_INTERVAL_S = 0.02
# A process that a broken disk or driver holds in the kernel ends by no signal.
LONGEST_KILL_S = 10.0


def main(grace_s: float, status_fd: int, driver: int, arguments: list[str]) -> None:
    """Run the program to its end, or until it must stop, and write what came of it."""
    os.set_inheritable(status_fd, False)
    wake_reading, wake_writing = os.pipe()
    for end in (wake_reading, wake_writing):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake_writing, warn_on_full_buffer=False)
    for number in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # Processes whose own parent has ended become children of this one.
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    program = _started(arguments, status_fd)
    exit_code: int | None = None
    while exit_code is None and os.getppid() == driver:
        select.select([wake_reading], [], [], LOOK_FOR_DRIVER_S)
        received = b""
        with suppress(BlockingIOError):
            received = os.read(wake_reading, 512)
        exit_code = _reaped(program)
        if any(number in received for number in STOP_SIGNALS):
            break
    late_exit_code = _end_all(program, grace_s)
    exit_code = late_exit_code if exit_code is None else exit_code
    with suppress(OSError):
        os.write(status_fd, f"exit {-signal.SIGKILL if exit_code is None else exit_code}\n".encode())


def _prctl(option: int, value: int) -> None:
    """Set a property of this process that Linux has and other systems lack."""
    if ON_LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _started(arguments: list[str], status_fd: int) -> int:
    """The process id of the program, which runs in a session of its own."""
    process = os.fork()
    if process:
        return process
    try:
        signal.set_wakeup_fd(-1)
        # Python ignores the last two, and what is ignored stays so in a program.
        for number in (*STOP_SIGNALS, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.execvp(arguments[0], arguments)
    except OSError as error:
        os.write(status_fd, f"error {error.errno}\n".encode())
    finally:
        os._exit(127)


def _reaped(program: int) -> int | None:
    """Take note of all children that have ended; the program's exit code if it is one of them."""
    exit_code = None
    with suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                break
            if process == program:
                exit_code = os.waitstatus_to_exitcode(status)
    return exit_code


def _end_all(program: int, grace_s: float) -> int | None:
    """End what is left of the program; its exit code if it was still running."""
    exit_code = None
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, LONGEST_KILL_S)):
        asked: set[int] = set()
        deadline = time.monotonic() + patience_s
        while True:
            living = _living(program)
            # After the look at who lives: who has ended since is buried here, and none is left to others.
            ended = _reaped(program)
            exit_code = ended if exit_code is None else exit_code
            if not living:
                return exit_code
            if time.monotonic() >= deadline:
                break
            # One that was started meanwhile is asked as well, and none twice.
            for process in living - asked:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process, number)
            asked |= living
            time.sleep(POLL_INTERVAL_S)
    return exit_code


def _living(program: int) -> set[int]:
    """The program's processes that have not ended; elsewhere than on Linux minus its group's number."""
    if not ON_LINUX:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(program, 0)
            return {-program}
        return set()
    parent_of: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # One that ends while it is looked at is no longer of interest.
            with suppress(OSError, ValueError):
                # `123 (name) S 1 …`: the name may hold anything, a bracket too.
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parent_of[int(entry.name)] = int(parent)
    found: set[int] = set()
    newest = {os.getpid()}
    while newest:
        newest = {process for process, parent in parent_of.items() if parent in newest} - found
        found |= newest
    return found


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
