"""On the wire: slow and odd clients, TLS, and an end in good time."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import pytest
import trustme

from pipeline.config import Serve
from pipeline.errors import SettingsError
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.serve.http import server
from tests.register.making import everything
from tests.serve.http.serving import PATIENCE_S, request, rest, served

JSON = "Content-Type: application/json"


def test_a_request_that_does_not_arrive_is_cut_off(registry: SqlRegistry) -> None:
    """Slow loris: by headers, by body, by nothing at all, and on a connection that was kept.

    Each would wait for as long as its client does; the test ends because the server does not.
    """
    begun = request("GET", "/healthz")
    half = [
        b"",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
        request("POST", "/v1/streams/s/retrain", JSON, "Content-Length: 100", body=b"{"),
        begun + b"GET /healthz HTTP/1.1\r\nX: ",
    ]
    with served(registry, request_timeout_s=0.5) as there:
        socks = [there.connect() for _ in half]
        for sock, text in zip(socks, half, strict=True):
            sock.sendall(text)
        deadline = time.monotonic() + PATIENCE_S
        alive = list(socks)
        while alive:  # a byte now and then does not help
            assert time.monotonic() < deadline
            time.sleep(0.1)
            alive = [sock for sock in alive if drips(sock)]
        assert there.get("/healthz").startswith(b"HTTP/1.1 200")
        for sock in socks:
            sock.close()


def drips(sock: socket.socket) -> bool:
    """Send one more byte; whether the other side still listens."""
    try:
        sock.sendall(b"x")
        sock.setblocking(False)
        while sock.recv(65536):
            pass
    except BlockingIOError:
        sock.setblocking(True)
        return True
    except OSError:
        pass
    return False


def test_a_slow_answer_is_not_taken_for_a_slow_request(
    registry: SqlRegistry, stream: Stream
) -> None:
    """Events outlast the time that a request has to arrive."""
    with served(registry, request_timeout_s=0.3) as there, there.connect() as sock:
        sock.sendall(request("GET", "/v1/events"))
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        time.sleep(0.6)
        registry.roll_back(stream.id, actor="ada", reason="worse")
        assert b'"rollback"' in until(sock, b'"rollback"')


def until(sock: socket.socket, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        piece = sock.recv(65536)
        assert piece, found
        found += piece
    return found


#: A request that two readers might cut in two ways; the second one hides in its body.
HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        request("POST", "/v1/streams/s/retrain", JSON, f"Content-Length: {len(HIDDEN)}",
                "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
        request("POST", "/v1/streams/s/retrain", JSON, "Content-Length: 0",
                f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
        request("POST", "/v1/streams/s/retrain", JSON, "Content-Length: +2", body=b"{}" + HIDDEN),
        request("POST", "/v1/streams/s/retrain", JSON, "Transfer-Encoding: xchunked",
                body=b"0\r\n\r\n" + HIDDEN),
        request("POST", "/v1/streams/s/retrain", JSON, "Transfer-Encoding : chunked",
                body=b"0\r\n\r\n" + HIDDEN),
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01 this is TLS\r\n\r\n",
    ],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_is_read_in_none(
    registry: SqlRegistry, stream: Stream, raw: bytes
) -> None:
    """Request smuggling: one answer, which is a refusal, and the connection is closed."""
    before = everything(registry.engine)
    with served(registry, request_timeout_s=2.0) as there:
        found = there.ask(raw)
    status = found.split(b" ", 2)[1][:1]
    assert status in (b"4", b"5")
    assert found.count(b"HTTP/1.1 ") == 1, found
    assert everything(registry.engine) == before


def test_nobody_is_told_what_it_is(registry: SqlRegistry) -> None:
    """No name and no version of a server."""
    with served(registry) as there:
        head = there.get("/healthz").partition(b"\r\n\r\n")[0].lower()
    assert b"server:" not in head
    assert b"uvicorn" not in head


def test_no_more_connections_than_allowed_are_answered(registry: SqlRegistry) -> None:
    """The one too many is told 503, and those before it go on."""
    with served(registry, max_connections=3) as there:
        held = [there.connect() for _ in range(2)]
        for sock in held:
            sock.sendall(request("GET", "/v1/events"))
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        assert there.get("/healthz").startswith(b"HTTP/1.1 503")
        for sock in held:
            sock.close()


def test_the_end_waits_for_nobody(registry: SqlRegistry, stream: Stream) -> None:
    """Whoever waits for events is let go; who sends nothing is, too."""
    with served(registry) as there:
        listening, idle = there.connect(), there.connect()
        listening.sendall(request("GET", "/v1/events"))
        until(listening, b"retry")
        there.stop.set()
        assert rest(listening).endswith(b"0\r\n\r\n")
        assert rest(idle) == b""
        listening.close()
        idle.close()


def test_tls_is_by_certificate_files(registry: SqlRegistry, tmp_path: Path) -> None:
    """Whoever trusts its authority comes in, and is told to come back so; others do not."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with served(registry, tls_cert=str(cert), tls_key=str(key)) as there:
        with (
            there.connect() as plain,
            trusting.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            sock.sendall(request("GET", "/healthz", "Connection: close"))
            found = rest(sock)
            assert sock.version() in ("TLSv1.2", "TLSv1.3")
        assert found.startswith(b"HTTP/1.1 200")
        assert b"strict-transport-security: max-age=" in found
        with there.connect() as plain, pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")
        assert not there.get("/healthz").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_that_is_none_stops_the_start(
    registry: SqlRegistry, tmp_path: Path, content: str | None
) -> None:
    """One line that names the settings."""
    file = tmp_path / "c.pem"
    if content is not None:
        file.write_text(content)
    with (
        pytest.raises(AssertionError, match=r"SettingsError\('serve.tls_cert, serve.tls_key: "),
        served(registry, tls_cert=str(file), tls_key=str(file)),
    ):
        pass


def test_a_port_that_is_somebody_elses_is_one_line() -> None:
    """And an address that is not ours."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"^serve.host, serve.port: 127.0.0.1:{port}: "):
            server.listen(Serve(port=port))
    with pytest.raises(SettingsError, match=r"^serve.host, serve.port: 192.0.2.1:0: "):
        server.listen(Serve(host="192.0.2.1", port=0))
