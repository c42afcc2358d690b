"""The site on this machine's own address: a small server for the files of one site and for nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from refbench.reports.loopback import DEFAULT_PORT, HOST, LoopbackHandler, LoopbackServer


class SiteServer(LoopbackServer):
    """Serves `files` (absolute paths) under their paths from the folder that holds them all.

    `port` 0 takes a free one. Raises UserError for a port in use.
    """

    def __init__(self, page: Path, files: Iterable[Path], port: int = DEFAULT_PORT) -> None:
        absolute = {Path(os.path.abspath(file)) for file in files}  # noqa: PTH100 - links stay as they are
        first = Path(os.path.abspath(page))  # noqa: PTH100
        root = Path(os.path.commonpath([first.parent, *(file.parent for file in absolute)]))
        self.files = {file.relative_to(root).as_posix(): file for file in (first, *absolute)}
        super().__init__(port, _Handler)
        self.address = f"http://{HOST}:{self.server_port}/{quote(first.relative_to(root).as_posix())}"


class _Handler(LoopbackHandler):
    server: SiteServer

    def do_GET(self) -> None:  # noqa: N802 - the library's own name
        """Send a file, or the part of it that is asked for."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:  # noqa: N802 - the library's own name
        """Send a file's headers."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        if not self.is_for_us():
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
            self.send_file(content, file, with_body=with_body)

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
