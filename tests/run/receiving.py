"""Somebody who is told: an HTTP server on loopback that does what a test asks of it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Inbox:
    """What came in, and what is answered: the statuses in turn, then 204; None: nothing at all."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.tried: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int | None] = []
        #: What a status of 3xx points to.
        self.elsewhere = ""
        self.let_go = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/told"

    def texts(self) -> list[str]:
        return [message["events"][-1]["text"] for message in self.taken]

    def ids(self) -> list[str]:
        return [headers["Tidemark-Id"] for headers, _ in self.tried]


@contextmanager
def listening(inbox: Inbox, port: int = 0) -> Iterator[Inbox]:
    """Take requests on a port, a free one at first."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.tried.append((dict(self.headers), content))
            status = inbox.answers.pop(0) if inbox.answers else 204
            if status is None:
                inbox.let_go.wait(20)
                self.close_connection = True
                return
            if 200 <= status < 300:
                inbox.taken.append(json.loads(content))
            self.send_response(status)
            if inbox.elsewhere:
                self.send_header("Location", inbox.elsewhere)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    inbox.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield inbox
    finally:
        inbox.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
