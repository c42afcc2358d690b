"""The page's server: this machine only, the files of one package and nothing else, answers as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

from refbench.bench.errors import one_line
from refbench.reports.loopback import DEFAULT_PORT, HOST, LoopbackHandler, LoopbackServer
from refbench.reports.votes.package import PAGE_FILE, Package
from refbench.reports.votes.session import Refused, Sessions

LARGEST_BODY_BYTES = 16 * 1024
TOKEN_FIELDS = ("voter", "token")


class VoteServer(LoopbackServer):
    """Serves a package on the loopback interface. `port` 0 takes a free one.

    Raises UserError where the port is in use or may not be taken.
    """

    def __init__(self, package: Package, sessions: Sessions, port: int = DEFAULT_PORT) -> None:
        self.sessions = sessions
        self.files = {f"/{file.relative_to(package.folder).as_posix()}": file for file in package.files}
        self.files["/"] = package.folder / PAGE_FILE
        super().__init__(port, _Handler)

    @property
    def port(self) -> int:
        """The port that is listened to."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a video half way is no news."""


class _Handler(LoopbackHandler):
    # A browser that opens a connection and says nothing does not hold a thread for ever.
    timeout = 60
    server: VoteServer
    cache: ClassVar[str] = "no-store"
    acts: ClassVar[dict[str, Callable[[Sessions, dict[str, Any]], Any]]] = {
        "/join": lambda sessions, said: sessions.join(
            _text(said, "voter"), said.get("token") and _text(said, "token")
        ),
        "/write": lambda sessions, said: {"number": sessions.write(*_who(said), said.get("act"))},
        "/keep": lambda sessions, said: sessions.keep(*_who(said)),
        "/leave": lambda sessions, said: sessions.leave(*_who(said)),
    }

    def do_GET(self) -> None:  # noqa: N802 - the library's own name
        """A file of the package, or the part of it that a player asks for."""
        file = self.server.files.get(self.path.partition("?")[0])
        if not self.is_for_us() or file is None:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there is no such file"})
            return
        with file.open("rb") as content:
            self.send_file(content, file)

    def do_POST(self) -> None:  # noqa: N802 - the library's own name
        """What a voter's page says."""
        length = self.headers.get("Content-Length", "")
        act = self.acts.get(self.path)
        if not length.isdecimal() or int(length) > LARGEST_BODY_BYTES:
            self.close_connection = True
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "too long"})
            return
        body = self.rfile.read(int(length))
        # A page of another site can send neither this type nor our origin.
        plain = self.headers.get_content_type() != "application/json"
        origin = self.headers.get("Origin")
        foreign = origin is not None and origin not in {f"http://{name}" for name in self.server.names}
        if not self.is_for_us() or act is None or plain or foreign:
            self._answer(HTTPStatus.FORBIDDEN, {"error": "not from this page"})
            return
        try:
            said = json.loads(body)
            if not isinstance(said, dict):
                raise Refused("not an object")
            self._answer(HTTPStatus.OK, act(self.server.sessions, said) or {})
        except Refused as error:
            self._answer(HTTPStatus.CONFLICT, {"error": str(error)})
        except (ValueError, RecursionError):
            self._answer(HTTPStatus.BAD_REQUEST, {"error": "not JSON"})
        except OSError as error:
            reason = f"the vote could not be written: {one_line(error.strerror)}"
            self._answer(HTTPStatus.INSUFFICIENT_STORAGE, {"error": reason})

    def end_headers(self) -> None:
        """As the parent, with what keeps the page to itself."""
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        super().end_headers()

    def _answer(self, status: HTTPStatus, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _text(said: dict[str, Any], field: str) -> str:
    value = said.get(field)
    if not isinstance(value, str) or (field == "token" and not value.isascii()):
        raise Refused(f"{field} is missing")
    return value


def _who(said: dict[str, Any]) -> tuple[str, str]:
    return _text(said, "voter"), _text(said, "token")
