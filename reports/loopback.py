"""Pages served on this machine's own address and nowhere else, by Python's own server.

It listens on 127.0.0.1 alone and answers only to that name (a page elsewhere cannot reach it under another).
Unlike Python's own handler of files it answers requests for a part of a file, without which browsers cannot
move within a video.
"""

from __future__ import annotations

import errno
import os
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, ClassVar

from refbench.bench.errors import UserError, one_line

HOST = "127.0.0.1"
DEFAULT_PORT = 8765
BLOCK_BYTES = 1 << 16
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}
# Anything else is never guessed: a browser then offers to save it.
OTHER_TYPE = "application/octet-stream"


class LoopbackServer(ThreadingHTTPServer):
    """Listens on `port` of the loopback interface; 0 takes any free one.

    Raises UserError where the port is in use, may not be taken, or is none.
    """

    daemon_threads = True
    # A second server on a port in use must be refused, also where the system would allow it.
    allow_reuse_address = os.name == "posix"

    def __init__(self, port: int, handler: type[LoopbackHandler]) -> None:
        try:
            super().__init__((HOST, port), handler)
        except OverflowError:
            raise UserError(f"there is no port {port}: choose one from 1024 to 65535") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"port {port} is in use: choose another with --port, or 0 for a free one"
                ) from None
            raise UserError(f"port {port} cannot be taken: {one_line(error.strerror)}") from None

    @property
    def names(self) -> set[str]:
        """What a request may call this server."""
        return {f"{name}:{self.server_port}" for name in (HOST, "localhost")}


class LoopbackHandler(BaseHTTPRequestHandler):
    """What all handlers of a loopback server share."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "refbench", ""
    server: LoopbackServer
    # What a browser may keep.
    cache: ClassVar[str] = "no-cache"

    def is_for_us(self) -> bool:
        """Whether the request names this machine: a foreign name that leads here is another site's trick."""
        return self.headers.get("Host") in self.server.names

    def send_file(self, content: BinaryIO, name: Path, *, with_body: bool = True) -> None:
        """Send an open file, or the part of it that is asked for; `name` says its type."""
        size = os.fstat(content.fileno()).st_size
        part = byte_range(self.headers.get("Range", ""), size)
        start, end = part if part is not None else (0, size)
        self.send_response(HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", TYPES.get(name.suffix.lower(), OTHER_TYPE))
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        if part is not None:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if not with_body:
            return
        content.seek(start)
        left = end - start
        try:
            while left and (block := content.read(min(BLOCK_BYTES, left))):
                self.wfile.write(block)
                left -= len(block)
        except ConnectionError:
            # A browser that has seen enough closes the connection.
            self.close_connection = True

    def end_headers(self) -> None:
        """As the parent, with what a browser may keep and must not guess."""
        self.send_header("Cache-Control", self.cache)
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: what a browser asks for is of no interest."""


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last of `bytes=0-99`, `bytes=100-` or `bytes=-50`.

    None where there is no such header, or one that is not understood: the whole file is then the answer, as
    the standard allows.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if match is None or size == 0 or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    start = int(match[1])
    end = min(size, int(match[2]) + 1) if match[2] else size
    return (start, end) if start < end else None
