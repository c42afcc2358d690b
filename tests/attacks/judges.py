"""Endpoints that misbehave as NaturalScore's judge; one server plays all, the address says which."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from time import sleep
from typing import Any

from attacks.child import run
from attacks.ground import EVALUATE, RESULTS
from attacks.verdict import Outcome, Verdict, judged
from refbench.bench.scores.store import read_records

KIND = "judge"
HANGS_S = 30.0
LIMIT_S = 40.0


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What a server answers, and what may become of it."""

    answer: Callable[[Handler], None]
    allowed: frozenset[Verdict]


class Handler(BaseHTTPRequestHandler):
    """Plays the behaviour that the first part of the path names."""

    def do_POST(self) -> None:
        """Answer a request."""
        self.rfile.read(int(self.headers["Content-Length"]))
        BEHAVIOURS[self.path.split("/")[1]].answer(self)

    def reply(self, body: bytes, status: int = 200, content_type: str = "application/json") -> None:
        """A whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


def _completion(content: Any) -> bytes:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode()


def _says(content: Any) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(_completion(content))


def _body(
    body: bytes, status: int = 200, content_type: str = "application/json"
) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(body, status, content_type)


def _status(code: int, message: str = "no") -> Callable[[Handler], None]:
    return _body(json.dumps({"error": {"message": message, "code": None}}).encode(), code)


def _hang(handler: Handler) -> None:
    sleep(HANGS_S)


def _close(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def _half(handler: Handler) -> None:
    body = _completion("4")
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


SSE = b'data: {"choices":[{"index":0,"delta":{"content":"4"}}]}\n\ndata: [DONE]\n\n'
RIGHT = frozenset({Verdict.RIGHT})
FAILED = frozenset({Verdict.FAILURE})
# What no other video could be spared ends the run with one line; an answered record is wrong for all of them.
STOPPED = frozenset({Verdict.REFUSED, Verdict.FAILURE})
BEHAVIOURS = {
    "plain": Behaviour(answer=_says("4"), allowed=RIGHT),
    "thoughts": Behaviour(answer=_says("<think>2 or 3? No.</think>4"), allowed=RIGHT),
    "emphasis": Behaviour(answer=_says("**4**"), allowed=RIGHT),
    "parts": Behaviour(answer=_says([{"type": "text", "text": "4"}]), allowed=RIGHT),
    "prose": Behaviour(answer=_says("I would give 4 of 5, or 3."), allowed=FAILED),
    "out-of-range": Behaviour(answer=_says("40"), allowed=FAILED),
    "escape": Behaviour(answer=_says("\x1b[2J\u202e4"), allowed=FAILED),
    "nothing": Behaviour(answer=_says(None), allowed=FAILED),
    "error-200": Behaviour(answer=_body(b'{"error": {"message": "overloaded"}}'), allowed=FAILED),
    "choices-null": Behaviour(answer=_body(b'{"id": "1", "choices": null}'), allowed=FAILED),
    "choices-empty": Behaviour(answer=_body(b'{"id": "1", "choices": []}'), allowed=FAILED),
    "list": Behaviour(answer=_body(b"[]"), allowed=FAILED),
    "empty-body": Behaviour(answer=_body(b""), allowed=FAILED),
    "html": Behaviour(answer=_body(b"<html>Sign in</html>", content_type="text/html"), allowed=FAILED),
    "sse": Behaviour(answer=_body(SSE, content_type="text/event-stream"), allowed=FAILED),
    **{f"status-{code}": Behaviour(answer=_status(code), allowed=FAILED) for code in (400, 403, 429, 500)},
    **{f"status-{code}": Behaviour(answer=_status(code), allowed=STOPPED) for code in (401, 404)},
    "hang": Behaviour(answer=_hang, allowed=FAILED),
    "closed": Behaviour(answer=_close, allowed=FAILED),
    "half": Behaviour(answer=_half, allowed=FAILED),
}


class Server:
    """The endpoint in a process of its own, so that this one may go on forking; use it in a `with`."""

    def __enter__(self) -> int:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        port: int = ours.recv()
        return port

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()


def _serve(parent: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    server.daemon_threads = True
    parent.send(server.server_address[1])
    server.serve_forever()


def attack(ground: Path, scratch: Path, count: int | None, only: str | None = None) -> Iterator[Outcome]:
    """The first `count` behaviours, or all, or the one named `only`; three videos each."""
    names = [name for name in BEHAVIOURS if only in (None, name)][:count]
    with Server() as port:
        for name in names:
            folder = scratch / f"judge-{name}"
            shutil.copytree(ground, folder, ignore=shutil.ignore_patterns("results", "runs", "weights"))
            settings = {"model": "another-judge", "url": f"http://127.0.0.1:{port}/{name}/v1", "runs": 1,
                        "attempts": 2, "timeout_s": 0.5, "first_wait_s": 0, "use_cache": "false"}  # fmt: skip
            words = [*EVALUATE[:-1], "naturalscore"]
            for key, value in settings.items():
                words += ["--set", f"naturalscore.{key}={value}"]
            done = run(words, folder, environment={"OPENAI_API_KEY": "sk-a-test-key"}, limit_s=LIMIT_S)
            verdict, why = judged(done, folder / RESULTS)
            if verdict is not Verdict.WRONG and verdict not in BEHAVIOURS[name].allowed:
                verdict, why = Verdict.WRONG, f"{verdict.value}: {done.err.strip()[-200:]}"
            elif verdict is Verdict.RIGHT and _values(folder / RESULTS) != {4.0}:
                verdict, why = Verdict.WRONG, "another number than the judge gave"
            elif "sk-a-test-key" in done.out + done.err:
                verdict, why = Verdict.WRONG, "printed the key"
            yield Outcome(kind=KIND, case=f"--only judge:{name}", verdict=verdict, why=why)
            shutil.rmtree(folder)


def _values(results: Path) -> set[float | None]:
    return {record.value for store in results.glob("*.jsonl") for record in read_records(store)}
