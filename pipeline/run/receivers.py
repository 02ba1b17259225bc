"""Messages out: to a webhook that can check who sent them, to whatever apprise reaches, to Kafka.

A webhook gets a POST with a body of JSON and three headers:

    Tidemark-Id: 41-9c1f2e7a33d0b854            the same however often it is sent
    Tidemark-Timestamp: 1774000000              seconds since 1970 UTC, of this attempt
    Tidemark-Signature: v1=hex(HMAC-SHA256(secret, timestamp + "." + body))
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from pipeline.config import Kafka, Notify, secret_of
from pipeline.errors import PipelineError
from pipeline.ports import Sink
from pipeline.records import SEVERITIES
from pipeline.serve.answers import iso
from pipeline.serve.events import Event

#: Events that stand in one message, at most, the newest; it says how many there are.
SHOWN = 100

_encode = msgspec.json.Encoder().encode


class NotDelivered(PipelineError):
    """A receiver did not take a message. It is sent again later."""


class Receiver(Protocol):
    """Who is told."""

    def send(self, events: Sequence[Event]) -> None:
        """Tell of events, in order; raises NotDelivered unless they were taken."""

    def close(self) -> None:
        """Leave."""


def body(events: Sequence[Event]) -> dict[str, Any]:
    """One message of one event or several: the same events, the same message."""
    first, last = events[0], events[-1]
    kinds = Counter(event.kind for event in events)
    text = last.text
    if len(events) > 1:
        many = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        text = f"{len(events)} events ({many}); the last: {last.text}"
    return {
        "id": last.id if len(events) == 1 else f"{first.entry}-{last.id}",
        "stream": last.stream,
        "severity": max((event.severity for event in events), key=SEVERITIES.index),
        "at": iso(last.time),
        "count": len(events),
        "kinds": dict(kinds),
        "text": text,
        "events": [event.plain() for event in events[-SHOWN:]],
    }


def signature(secret: str, timestamp: str, content: bytes) -> str:
    """What stands in Tidemark-Signature."""
    signed = timestamp.encode() + b"." + content
    return f"v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


class Webhook:
    """One POST a message; only a status of 2xx counts as taken, and no redirect is followed.

    Parameters
    ----------
    clock
        Seconds since 1970 UTC.
    """

    def __init__(
        self, url: str, secret: str, timeout_s: float, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.url = urlsplit(url)
        self.secret = secret
        self.timeout_s = timeout_s
        self.clock = clock

    def send(self, events: Sequence[Event]) -> None:
        """Post one message."""
        told = body(events)
        content, timestamp = _encode(told), str(int(self.clock()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "tidemark",
            "Tidemark-Id": told["id"],
            "Tidemark-Timestamp": timestamp,
            "Tidemark-Signature": signature(self.secret, timestamp, content),
        }
        path = self.url.path or "/"
        target = f"{path}?{self.url.query}" if self.url.query else path
        try:
            with self._connected() as connection, _limited(connection, self.timeout_s):
                connection.request("POST", target, content, headers)
                _check(connection.getresponse())
        except (OSError, HTTPException, ValueError) as exc:
            raise NotDelivered(f"{self.url.hostname}: {exc or type(exc).__name__}") from None

    def close(self) -> None:
        """There is nothing to leave."""

    @contextmanager
    def _connected(self) -> Iterator[HTTPConnection]:
        kind = HTTPSConnection if self.url.scheme == "https" else HTTPConnection
        connection = kind(self.url.hostname or "", self.url.port, timeout=self.timeout_s)
        try:
            connection.connect()
            yield connection
        finally:
            connection.close()


def _check(response: HTTPResponse) -> None:
    if 300 <= response.status < 400:
        raise NotDelivered(f"it answered {response.status}: redirects are not followed")
    if not 200 <= response.status < 300:
        raise NotDelivered(f"it answered {response.status}")


@contextmanager
def _limited(connection: HTTPConnection, seconds: float) -> Iterator[None]:
    """Cut the connection off then: a socket's time-out begins anew with each byte."""
    line = connection.sock

    def cut() -> None:
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Apprise:
    """Whatever apprise reaches: mail, chats, telephones; its URLs are secrets."""

    def __init__(self, urls: str) -> None:
        try:
            import apprise
        except ImportError:
            raise PipelineError("needs apprise: pip install 'tidemark[notify]'") from None
        self._apprise = apprise.Apprise()
        self._types = {
            "info": apprise.NotifyType.INFO,
            "warning": apprise.NotifyType.WARNING,
            "error": apprise.NotifyType.FAILURE,
        }
        for url in urls.split():
            if not self._apprise.add(url):
                raise PipelineError("a URL is none that apprise knows")

    def send(self, events: Sequence[Event]) -> None:
        """One message."""
        told = body(events)
        title = f"tidemark {told['stream'] or ''}: {', '.join(told['kinds'])}"
        text = f"{told['text']}\n{told['at']} {told['id']}"
        if not self._apprise.notify(
            body=text, title=title, notify_type=self._types[told["severity"]]
        ):
            raise NotDelivered("apprise could not deliver it")

    def close(self) -> None:
        """There is nothing to leave."""


class Topic:
    """TOPIC.events: a record an event, keyed by its id."""

    def __init__(self, kafka: Kafka, topic: str, make: Callable[[Kafka], Sink]) -> None:
        self.kafka = kafka
        self.topic = topic
        self._make = make
        self._sink: Sink | None = None

    def send(self, events: Sequence[Event]) -> None:
        """A record for each, all of them acknowledged."""
        try:
            if self._sink is None:
                self._sink = self._make(self.kafka)
                self._sink.require([self.topic])
            for event in events:
                value = _encode({"event": event.kind} | event.plain())
                self._sink.send(self.topic, key=f"event/{event.id}".encode(), value=value)
            self._sink.flush()
        except PipelineError as exc:
            raise NotDelivered(str(exc)) from None

    def close(self) -> None:
        """Leave the broker."""
        if self._sink is not None:
            with suppress(PipelineError):
                self._sink.close()


def receiver(rule: Notify) -> Receiver:
    """Who a rule tells.

    Raises
    ------
    PipelineError
        Its secret, or apprise, is not there.
    """
    secret = secret_of(rule)
    if rule.url:
        return Webhook(rule.url, secret, rule.timeout_s)
    try:
        return Apprise(secret)
    except PipelineError as exc:
        raise PipelineError(f"notify {rule.name}: {exc}") from None
