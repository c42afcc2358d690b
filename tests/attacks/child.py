"""A command of `refbench` in a forked child: nothing is imported again, so hundreds run in minutes."""

from __future__ import annotations

import io
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

LIMIT_S = 60.0
POLL_S = 0.005
# A command on small files may take so much beyond what this process holds before it counts as swollen; an
# address space beyond the second limit is refused to it, so that the machine lives on.
SWOLLEN_GIB = 1.0
ADDRESS_SPACE_GIB = 6.0
CRASHED = 70


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended. `exit_code` is negative for a signal, `swollen_gib` beyond the parent's memory."""

    exit_code: int
    out: str
    err: str
    swollen_gib: float
    seconds: float
    timed_out: bool = False
    killed: bool = False


def run(
    words: list[str],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    kill_after_s: float | None = None,
    limit_s: float = LIMIT_S,
) -> Done:
    """`refbench WORDS` in `folder`; killed with all it started after `kill_after_s` or `limit_s`."""
    streams = (folder / ".out", folder / ".err")
    # The child says here what it holds before it begins.
    shared = mmap.mmap(-1, 8)
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        shared.write(_resident_kib().to_bytes(8, "little"))
        _become_refbench(words, folder, streams, environment or {})
    ended, status, usage = 0, 0, None
    timed_out = killed = False
    while not ended:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        took = time.monotonic() - started
        if ended:
            break
        killed = kill_after_s is not None and took >= kill_after_s
        timed_out = not killed and took >= limit_s
        if killed or timed_out:
            _kill_group(child)
            ended, status, usage = os.wait4(child, 0)
            break
        time.sleep(POLL_S)
    assert usage is not None
    texts = [path.read_text(encoding="utf-8", errors="replace") if path.exists() else "" for path in streams]
    for path in streams:
        path.unlink(missing_ok=True)
    return Done(
        exit_code=os.waitstatus_to_exitcode(status),
        out=texts[0],
        err=texts[1],
        swollen_gib=max(usage.ru_maxrss - int.from_bytes(shared[:8], "little"), 0) / 2**20,
        seconds=time.monotonic() - started,
        timed_out=timed_out,
        killed=killed,
    )


def _kill_group(child: int) -> None:
    """The child and all that it started; itself where it has no group of its own yet."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)


def _resident_kib() -> int:
    """What this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _become_refbench(
    words: list[str], folder: Path, streams: tuple[Path, Path], environment: Mapping[str, str]
) -> NoReturn:
    code = CRASHED
    try:
        os.setsid()
        os.chdir(folder)
        _redirect(streams)
        space = int(ADDRESS_SPACE_GIB * 2**30) + _address_space_bytes()
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ.update(environment)
        sys.argv = ["refbench", *words]
        from refbench.bench.cli.main import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - it is what a test looks for
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(streams: tuple[Path, Path]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), encoding="utf-8", write_through=True)
        for number in (1, 2)
    )


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
