"""`refbench` as a process that ends as soon as it wants to speak to the network.

A filter of system calls is set before Python's first line of its own: a datagram socket of the internet
families, by which every name is looked up, ends the process by SIGSYS, whoever asks for it: Python, a native
library, a child. So does a connection that Python asks for. Linux on x86-64 and ARM alone.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

# Numbers of the system call `socket`.
SOCKET_CALLS = {"x86_64": 41, "aarch64": 198}
SUPPORTED = sys.platform == "linux" and platform.machine() in SOCKET_CALLS

# Python imports a module of this name at its start.
SITE = """
import ctypes, os, signal, struct, sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, AND, RETURN = 0x20, 0x15, 0x54, 0x06
ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000
AF_INET, AF_INET6, SOCK_DGRAM, TYPE_BITS = 2, 10, 2, 0xF
CALL, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 16, 24
program = [
    (LOAD, 0, 0, CALL),
    (JUMP_IF_EQUAL, 0, 6, {call}),
    (LOAD, 0, 0, FIRST_ARGUMENT),
    (JUMP_IF_EQUAL, 1, 0, AF_INET),
    (JUMP_IF_EQUAL, 0, 3, AF_INET6),
    (LOAD, 0, 0, SECOND_ARGUMENT),
    (AND, 0, 0, TYPE_BITS),
    (JUMP_IF_EQUAL, 1, 0, SOCK_DGRAM),
    (RETURN, 0, 0, ALLOW),
    (RETURN, 0, 0, KILL_PROCESS),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

libc = ctypes.CDLL(None, use_errno=True)
filter = Program(len(program), ctypes.addressof(code))
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter), 0, 0
):
    raise SystemExit("no filter can be set here")

def hook(event, arguments):
    if event == "socket.connect" and arguments[0].family in (AF_INET, AF_INET6):
        os.kill(os.getpid(), signal.SIGSYS)

sys.addaudithook(hook)
"""


def without_network(
    words: list[str], folder: Path, home: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, with `home` as its home; reaching for the network ends it by SIGSYS."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE.format(call=SOCKET_CALLS[platform.machine()]))
    home.mkdir(exist_ok=True)
    inherited = {
        name: value
        for name, value in os.environ.items()
        # Nothing that keeps libraries quiet here may be owed to the tests' own surroundings.
        if not name.startswith(("HF_", "ORT_", "XDG_", "TRANSFORMERS_"))
        and name not in ("CI", "MPLCONFIGDIR")
    }
    paths = [str(site), *filter(None, [inherited.get("PYTHONPATH")])]
    return subprocess.run(
        words,
        cwd=folder,
        env={**inherited, "PYTHONPATH": os.pathsep.join(paths), "HOME": str(home), **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )
