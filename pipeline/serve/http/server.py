"""An application in, a server on its socket out: uvicorn, with what it leaves open closed.

uvicorn trusts no proxy here, tells nobody what it is, and parses with h11, which refuses a request
of two lengths. It has no limit on how slowly a request may arrive (slow loris): that is ours.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.config import Serve
from pipeline.errors import SettingsError
from pipeline.register.tokens import Token
from pipeline.serve.http.security import HEADERS_BYTES, needs_tokens

#: An idle connection is kept for, in seconds; and what is under way at the end is waited for.
IDLE_S, GRACE_S = 15, 3
#: How often it is looked whether to stop, in seconds.
LOOK_S = 0.1


class Server(uvicorn.Server):
    """A server that an event stops; whoever started the process has its signals."""

    def __init__(
        self, config: uvicorn.Config, stop: threading.Event, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.stop = stop
        self.ready = ready

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to stop_on_signals."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        self.ready()
        self.should_exit = self.should_exit or self.stop.is_set()
        return await super().on_tick(counter)


def patient(seconds: float) -> type[H11Protocol]:
    """A protocol that cuts a connection off whose request does not arrive in time, or whose answer
    nobody takes.

    The clock of a request starts with the connection, or with its own first byte on one that is
    kept, and stands still from its last byte on.
    """

    class Patient(H11Protocol):
        _arriving: asyncio.TimerHandle | None = None
        _leaving: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._arriving = self.loop.call_later(seconds, transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._arriving = _cancelled(self._arriving)
            self._leaving = _cancelled(self._leaving)
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            state, waits = self.conn.their_state, self.conn.trailing_data[0]
            if state is h11.SEND_BODY or (state is h11.IDLE and waits):
                if self._arriving is None:
                    self._arriving = self.loop.call_later(seconds, self.transport.abort)
            else:
                self._arriving = _cancelled(self._arriving)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._leaving is None:
                self._leaving = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._leaving = _cancelled(self._leaving)

    return Patient


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What is left of a timer: none."""
    if timer is not None:
        timer.cancel()
    return None


def check(serve: Serve, tokens: list[Token]) -> None:
    """Refuse to start where anybody could come in; SettingsError says what to do."""
    if bool(serve.tls_cert) != bool(serve.tls_key):
        raise SettingsError("serve.tls_cert, serve.tls_key: give both, or none")
    if needs_tokens(serve) and all(token.revoked is not None for token in tokens):
        raise SettingsError(
            f"serve.host: {serve.host} needs tokens, and there is none: "
            "`tidemark token add NAME --role reader`"
        )


def listen(serve: Serve) -> socket.socket:
    """The socket that is listened on; SettingsError if it cannot be."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            serve.host, serve.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(where, family=family, backlog=128)
    except OSError as exc:
        raise SettingsError(f"serve.host, serve.port: {serve.host}:{serve.port}: {exc}") from None


def run(
    app: Any,
    serve: Serve,
    listener: socket.socket,
    stop: threading.Event,
    ready: Callable[[], None],
) -> None:
    """Serve until `stop` is set; ready: called again and again while it does."""
    config = uvicorn.Config(
        app,
        http=patient(serve.request_timeout_s),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=serve.max_connections,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=2 * HEADERS_BYTES,
        ssl_certfile=serve.tls_cert or None,
        ssl_keyfile=serve.tls_key or None,
    )
    try:
        config.load()
    except OSError as exc:  # ssl.SSLError among them
        raise SettingsError(f"serve.tls_cert, serve.tls_key: {exc}") from None
    asyncio.run(Server(config, stop, ready).serve(sockets=[listener]))
