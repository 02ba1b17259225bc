"""What every answer carries, and what is answered when nobody else could: the outermost wrapper.

An answer of JSON gets a strong ETag, the hash of its bytes; who has it already gets 304 (RFC 9110).
"""

from __future__ import annotations

import hashlib
import traceback

import structlog
from starlette.datastructures import Headers as Given
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import PipelineError
from pipeline.serve.http.problems import Problem, of

log = structlog.get_logger()

#: Scripts, styles and data come from this server and nowhere else; nothing is inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
ALWAYS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Of a server with TLS: come back with it, for half a year.
TLS_ONLY = "max-age=15768000"


class Headers:
    """ASGI wrapper: headers, ETags, and a plain 500 for a fault of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        out = _Out(scope, send)
        try:
            await self.app(scope, receive, out)
        except PipelineError as exc:  # before any route: of the gate
            await self._fail(of(exc), scope, receive, out)
        except Exception as exc:
            # as text, without the values of variables: they may be secrets
            trace = "".join(traceback.format_exception(exc))
            log.error("http_failed", path=scope["path"], exception=trace)  # noqa: TRY400
            await self._fail(Problem(500, "a fault of ours; the log has more"), scope, receive, out)

    async def _fail(self, problem: Problem, scope: Scope, receive: Receive, out: _Out) -> None:
        if not out.started:
            await problem.response()(scope, receive, out)


class _Out:
    """What goes out of one request, on its way."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.send = send
        self.started = False
        #: A start of JSON that waits for its body to be hashed.
        self._held: Message | None = None

    async def __call__(self, message: Message) -> None:
        """Send one message, or hold it."""
        if message["type"] == "http.response.start":
            self._dress(message)
            self.started = True
            if self._may_be_known(message):
                self._held = message
                return
        elif self._held is not None:
            start, self._held = self._held, None
            if not message.get("more_body"):
                message = self._compare(start, message)
            await self.send(start)
        await self.send(message)

    def _dress(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in ALWAYS.items():
            headers.setdefault(name, value)
        # asked again each time, as who may see it may change; unchanged, it need not travel
        headers.setdefault("Cache-Control", "private, no-cache")
        if self.scope["scheme"] == "https":
            headers["Strict-Transport-Security"] = TLS_ONLY

    def _may_be_known(self, message: Message) -> bool:
        kind = MutableHeaders(scope=message).get("content-type", "")
        is_read = self.scope["method"] in ("GET", "HEAD") and message["status"] == 200
        return is_read and kind.startswith("application/json")

    def _compare(self, start: Message, body: Message) -> Message:
        headers = MutableHeaders(scope=start)
        tag = etag(hashlib.sha256(body.get("body", b"")).hexdigest())
        headers["ETag"] = tag
        if not knows(self.scope, tag):
            return body
        start["status"] = 304
        del headers["content-length"]
        return {"type": "http.response.body", "body": b""}


def etag(sha256: str) -> str:
    """The strong tag of what has that hash."""
    return f'"{sha256}"'


def knows(scope: Scope, tag: str) -> bool:
    """Whether who asks has what has this tag (If-None-Match; the comparison is weak)."""
    given = ",".join(Given(scope=scope).getlist("if-none-match"))
    tags = {each.strip().removeprefix("W/") for each in given.split(",")}
    return tag in tags or "*" in tags
