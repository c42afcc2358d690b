"""One start of an external program for many samples: a line of JSON for each on its input, an answer on its
output.

For a program that takes minutes to load its model. It reads lines until its input ends, and answers each:

    {"id": "faceobj_14", "seed": 0, "prompt": "…", "references": [{"path": "…", "label": "…", "kind": "…"}],
     "output": "…/faceobj_14.mp4"}

    {"id": "faceobj_14", "seed": 0}                        the mp4 is at `output`
    {"id": "faceobj_14", "seed": 0, "error": "no memory"}  it could not be made; the next sample may follow

Lines of its output that are no such answer are taken for messages. A program that ends, answers for another
sample or takes too long costs the sample that it had, and is started again for the next one.

Source: this project.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from contextlib import suppress
from typing import IO, Any

from refbench.baselines.external.program import (
    GRACE_S,
    LONGEST_MESSAGE_CHARACTERS,
    PIPE_BYTES,
    Tail,
    end_session,
    fault_of,
    last_message,
    start_session,
)
from refbench.bench.errors import SampleError, one_line

# A line of a program that answers: longer ones are cut, so that none fills the memory.
LONGEST_LINE_BYTES = 64 * 2**10


class ServedProgram:
    """The program, started when the first sample comes."""

    def __init__(self, arguments: list[str], timeout_s: float) -> None:
        self._arguments = arguments
        self._timeout_s = timeout_s
        self._running: _Running | None = None

    def ask(self, request: dict[str, Any]) -> None:
        """Have one sample made. Raises SampleError where the program says that it could not, ends, answers
        for another one, or takes too long.
        """
        if self._running is None:
            self._running = _Running(self._arguments)
        try:
            said = self._running.ask(request, self._timeout_s)
        except BaseException:
            # Also Ctrl-C, which reaches us alone: an answer that comes later would be taken for the next one.
            self.close()
            raise
        if said.get("error") is not None:
            raise SampleError(f"the program says: {one_line(said['error'], LONGEST_MESSAGE_CHARACTERS)}")

    def close(self) -> None:
        """End the program, if it runs."""
        if self._running is not None:
            self._running.end()
            self._running = None


class _Running:
    """A started program with the threads that read what it writes."""

    def __init__(self, arguments: list[str]) -> None:
        status_reading, status_writing = os.pipe()
        self._status = os.fdopen(status_reading, "rb")
        try:
            self._session = start_session(arguments, status_writing, stdin=subprocess.PIPE)
        except BaseException:
            self._status.close()
            raise
        assert self._session.stdin is not None
        assert self._session.stdout is not None and self._session.stderr is not None
        self._input: IO[bytes] = self._session.stdin
        self._messages = Tail(self._session.stderr)
        # None: its output has ended, nothing more will come.
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._last_line = b""
        threading.Thread(target=self._read, args=(self._session.stdout.fileno(),), daemon=True).start()

    def _read(self, pipe: int) -> None:
        held = b""
        with suppress(OSError):
            while piece := os.read(pipe, PIPE_BYTES):
                *whole, held = (held + piece).split(b"\n")
                for line in whole:
                    self._lines.put(line)
                held = held[:LONGEST_LINE_BYTES]
        self._lines.put(None)

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The program's answer. Raises SampleError where there is none."""
        line = json.dumps(request).encode() + b"\n"
        if len(line) > PIPE_BYTES:
            # It would wait for a program that does not read.
            raise SampleError(f"prompt and references take {len(line):,} bytes; at most {PIPE_BYTES:,} do")
        # A program that has ended already is told by the end of its output.
        with suppress(BrokenPipeError):
            self._input.write(line)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                said = self._lines.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                self.end()
                raise SampleError(f"the program was stopped after {timeout_s:g} s{self._message()}") from None
            if said is None:
                fault = fault_of(self.end(), self._session.returncode, self._message())
                raise SampleError(fault or f"the program ended without an answer{self._message()}")
            answer = _answer(said)
            if answer is None:
                self._last_line = said.strip() or self._last_line
            elif (answer["id"], answer["seed"]) == (request["id"], request["seed"]):
                return answer
            else:
                other = one_line(f"{answer['id']}, seed {answer['seed']}", 120)
                raise SampleError(f"the program answered for {other}, which it was not asked")

    def _message(self) -> str:
        """`: ` and the end of its messages, else its last line that was no answer."""
        line = one_line(self._last_line.decode("utf-8", "replace"), LONGEST_MESSAGE_CHARACTERS)
        return last_message((self._messages,)) or (f": {line}" if line else "")

    def end(self) -> list[str]:
        """End the program, first by the end of its input; what its session says of how it ended."""
        if self._status.closed:
            return []
        with suppress(BrokenPipeError):
            self._input.close()
        with suppress(subprocess.TimeoutExpired):
            self._session.wait(GRACE_S)
        end_session(self._session)
        with self._status:
            return self._status.read().decode().split()


def _answer(line: bytes) -> dict[str, Any] | None:
    """A line as an answer; None for one that is a message."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) and {"id", "seed"} <= content.keys() else None
