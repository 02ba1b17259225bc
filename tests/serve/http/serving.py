"""A real server on a real socket, in a thread of the test's own process."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.config import Schedule, Serve, Settings
from pipeline.register.sql import SqlRegistry
from pipeline.serve.http import server
from pipeline.serve.http.app import create

#: Longest wait for anything here, in seconds.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Served:
    """Where it listens, and what ends it."""

    port: int
    stop: threading.Event

    def connect(self) -> socket.socket:
        """A plain connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def ask(self, raw: bytes) -> bytes:
        """Everything that comes back until the server closes."""
        with self.connect() as sock:
            sock.sendall(raw)
            return rest(sock)

    def get(self, path: str, *headers: str) -> bytes:
        """A request that says that it is the last one; the raw answer."""
        return self.ask(request("GET", path, "Connection: close", *headers))


def request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """A request as it lies on the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def rest(sock: socket.socket) -> bytes:
    """What comes until the other side closes, or cuts off."""
    found = b""
    try:
        while piece := sock.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def events(sock: socket.socket, n: int) -> list[tuple[int, dict[str, Any]]]:
    """The next `n` events of a stream: id and data."""
    found: list[tuple[int, dict[str, Any]]] = []
    text = b""
    while len(found) < n:
        piece = sock.recv(65536)
        assert piece, text
        text += piece
        *whole, text = text.split(b"\n\n")
        for event in whole:
            fields = dict(line.split(b": ", 1) for line in event.splitlines() if b": " in line)
            if b"data" in fields:
                found.append((int(fields[b"id"]), json.loads(fields[b"data"])))
    return found


@contextmanager
def served(
    registry: SqlRegistry, *, schedule: Sequence[Schedule] = (), **options: Any
) -> Iterator[Served]:
    """Serve until the end of the block, which it reaches only if the server ends by itself then."""
    serve = Serve(**{"port": 0, "requests_per_second": 1e6} | options)
    stop, ready, failures = threading.Event(), threading.Event(), list[BaseException]()
    settings = Settings(database=registry.database, serve=serve, schedule=tuple(schedule))
    app = create(settings, registry, stop=stop)
    with server.listen(serve) as listener:

        def run() -> None:
            try:
                server.run(app, serve, listener, stop, ready.set)
            except BaseException as exc:
                failures.append(exc)
                ready.set()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert ready.wait(PATIENCE_S)
            assert not failures, failures
            yield Served(listener.getsockname()[1], stop)
        finally:
            stop.set()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
