"""The site on this machine's own address: a small server for the files of one site and for nothing else.

It listens on 127.0.0.1 alone, answers only to that name (a page elsewhere cannot reach it under another), and
sends only files that it was given. Unlike Python's own it answers requests for a part of a file, without
which browsers cannot move within a video.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote, urlsplit

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


class SiteServer(ThreadingHTTPServer):
    """Serves `files` (absolute paths) under their paths from the folder that holds them all."""

    daemon_threads = True
    # A second server on a port in use must be refused, also where the system would allow it.
    allow_reuse_address = os.name == "posix"

    def __init__(self, page: Path, files: Iterable[Path], port: int) -> None:
        absolute = {Path(os.path.abspath(file)) for file in files}  # noqa: PTH100 - links stay as they are
        first = Path(os.path.abspath(page))  # noqa: PTH100
        root = Path(os.path.commonpath([first.parent, *(file.parent for file in absolute)]))
        self.files = {file.relative_to(root).as_posix(): file for file in (first, *absolute)}
        super().__init__((HOST, port), _Handler)
        self.address = f"http://{HOST}:{self.server_port}/{quote(first.relative_to(root).as_posix())}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "refbench", ""
    server: SiteServer

    def do_GET(self) -> None:
        """Send a file, or the part of it that is asked for."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send a file's headers."""
        self._answer(with_body=False)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: what a browser asks for is of no interest."""

    def _answer(self, *, with_body: bool) -> None:
        name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if name not in (HOST, "localhost"):
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        file = self.server.files.get(unquote(urlsplit(self.path).path).removeprefix("/"))
        try:
            content = file.open("rb") if file is not None and file.is_file() else None
        except OSError:
            content = None
        if content is None or file is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with content:
            self._send(content, TYPES.get(file.suffix.lower(), OTHER_TYPE), with_body=with_body)

    def _send(self, content: BinaryIO, kind: str, *, with_body: bool) -> None:
        size = os.fstat(content.fileno()).st_size
        part = byte_range(self.headers.get("Range", ""), size)
        start, end = part if part is not None else (0, size)
        self.send_response(HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
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

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


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


def site_server(page: Path, files: Iterable[Path], port: int = DEFAULT_PORT) -> SiteServer:
    """A server for a site, not yet running; port 0 takes any free one. Raises UserError for a port in use."""
    try:
        return SiteServer(page, files, port)
    except OverflowError:
        raise UserError(f"there is no port {port}: choose one from 1024 to 65535") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use: choose another with --port") from None
        raise UserError(f"nothing can be served on port {port}: {one_line(error.strerror)}") from None
