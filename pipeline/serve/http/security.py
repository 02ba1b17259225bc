"""Who asks, and may they: the gate before every route.

On loopback nobody shows a token (serve.tokens = "auto"); then a browser must not be led here by a
stranger's page: the Host has to name loopback, which a name that was bound to it anew does not (DNS
rebinding), and what came through a proxy is refused. Everywhere a request that acts is JSON, which
no form can send, and of our own origin, if it names one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.config import Serve
from pipeline.register.tokens import ROLES, TokenBook
from pipeline.serve.http.limits import Failures, Rates
from pipeline.serve.http.problems import Problem

#: Below these nothing is told without a token, where one is needed.
PRIVATE = ("/v1", "/metrics")
#: Methods that change nothing.
READS = ("GET", "HEAD", "OPTIONS")
#: Of all headers together, at most.
HEADERS_BYTES = 16 * 1024
#: What follows on the connection may be somebody else's.
CLOSE = {"Connection": "close"}
#: What a proxy adds; without tokens we cannot tell who stands behind it.
PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who asks: by the name of the token; without one, whoever sits at this machine."""

    name: str | None
    role: str

    def may(self, role: str) -> bool:
        """Whether that is enough of a role."""
        return ROLES.index(self.role) >= ROLES.index(role)


def needs(role: str) -> Callable[[Request], Who]:
    """A route's dependency: who asks; a problem unless their role is that or a higher one."""

    def check(request: Request) -> Who:
        who: Who = request.state.who
        if not who.may(role):
            raise Problem(403, f"this takes the role {role}; the token's is {who.role}")
        return who

    return check


#: Whatever is private depends on a reader; the scheme tells the OpenAPI document what `Gate` takes.
READER = (
    Depends(needs("reader")),
    Depends(HTTPBearer(auto_error=False, description="Where tokens are needed: serve.tokens")),
)


def is_loopback(host: str) -> bool:
    """Whether nobody beyond this machine reaches that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def needs_tokens(serve: Serve) -> bool:
    """Whether everybody has to show one."""
    return serve.tokens == "always" or not is_loopback(serve.host)


class Gate:
    """ASGI wrapper: lets a request through with `who` in its state, or answers a problem."""

    def __init__(
        self, app: ASGIApp, *, serve: Serve, tokens: TokenBook, failures: Failures
    ) -> None:
        self.app = app
        self.serve = serve
        self.tokens = tokens
        self.failures = failures
        self.rates = Rates(serve.requests_per_second)
        self.is_open = not needs_tokens(serve)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or not; a websocket never."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_rate(scope)
            self._check_way(headers)
            if scope["method"] not in READS:
                _check_origin(scope["method"], headers, scope["scheme"])
            elif is_private(scope["path"]):
                _check_site(headers)
            scope.setdefault("state", {})["who"] = await self._who(scope, headers)
            body = _Body(receive, headers, self.serve.max_body_bytes)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self.app(scope, body, send)

    def _check_rate(self, scope: Scope) -> None:
        wait = self.rates.wait(address(scope))
        if wait > 0:
            again = {"Retry-After": str(int(wait) + 1)}
            raise Problem(429, "too many requests (serve.requests_per_second)", again)

    def _check_way(self, headers: Headers) -> None:
        if sum(len(name) + len(value) for name, value in headers.raw) > HEADERS_BYTES:
            raise Problem(431, f"headers have up to {HEADERS_BYTES} bytes", CLOSE)
        if len(headers.getlist("host")) != 1:
            raise Problem(400, "one Host is needed", CLOSE)
        if "transfer-encoding" in headers and "content-length" in headers:
            raise Problem(400, "a body has one length", CLOSE)  # RFC 9112, section 6.1
        if not self.is_open:
            return
        if not is_loopback(_hostname(headers["host"])):
            raise Problem(403, "without tokens only loopback is answered, by its own name")
        if any(name in headers for name in PROXIED):
            raise Problem(403, 'behind a proxy tokens are needed: serve.tokens = "always"')

    async def _who(self, scope: Scope, headers: Headers) -> Who | None:
        given = headers.getlist("authorization")
        if not given:
            if self.is_open:
                return Who(name=None, role=ROLES[-1])
            if not is_private(scope["path"]):
                return None
            raise _unknown("a token is needed: Authorization: Bearer TOKEN")
        scheme, _, text = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer":
            raise _unknown("one Authorization is taken, and it is a Bearer's")
        token = await to_thread.run_sync(self.tokens.find, text.strip())
        if token is None:
            self.failures.count(address(scope))
            raise _unknown("no such token, or it was revoked")
        return Who(name=token.name, role=token.role)


class _Body:
    """What comes in, up to a limit."""

    def __init__(self, receive: Receive, headers: Headers, limit: int) -> None:
        self.receive = receive
        self.limit = limit
        self.left = limit
        told = headers.get("content-length", "0")
        if not told.isdigit() or int(told) > limit:
            raise self._too_large()

    async def __call__(self) -> Message:
        """The next piece."""
        message = await self.receive()
        if message["type"] == "http.request":
            self.left -= len(message.get("body", b""))
            if self.left < 0:
                raise self._too_large()
        return message

    def _too_large(self) -> Problem:
        return Problem(413, f"a body has up to {self.limit} bytes (serve.max_body_bytes)")


def is_private(path: str) -> bool:
    """Whether a path is one of those that tell something; however it is written."""
    return any(path == each or path.startswith(f"{each}/") for each in PRIVATE)


def address(scope: Scope) -> str:
    """Of who asks, as the connection has it: never as a header says. IPv6 by its network."""
    client = scope.get("client")
    host = client[0] if client else ""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))


def _check_origin(method: str, headers: Headers, scheme: str) -> None:
    """No page but our own makes a browser act."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and kind != "application/json":  # a form can send no other method
        raise Problem(415, "what acts is sent as application/json")
    origins = headers.getlist("origin")
    if any(origin.lower() != f"{scheme}://{headers['host']}".lower() for origin in origins):
        raise Problem(403, "another origin's page may not act here")
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem(403, "another site's page may not act here")


def _check_site(headers: Headers) -> None:
    """No other site's page has a browser ask behind a person's back, though it may not read what
    comes; a link that is followed is a person's asking (W3C, Fetch Metadata)."""
    is_foreign = headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
    if is_foreign and headers.get("sec-fetch-mode") != "navigate":
        raise Problem(403, "another site's page may not ask here")


def _hostname(host: str) -> str:
    """A Host without its port, and an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _unknown(detail: str) -> Problem:
    return Problem(401, detail, {"WWW-Authenticate": 'Bearer realm="tidemark"'})
