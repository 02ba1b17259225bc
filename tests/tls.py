"""Certificates for tests, and a server that lets a client in by its own."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trustme

#: What PostgreSQL's clients say before TLS (Frontend/Backend Protocol, SSLRequest).
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class Certificates:
    """PEM files of an authority, of a server on loopback and of a client, ada."""

    def __init__(self, directory: Path) -> None:
        self.authority = trustme.CA()
        self.ca = directory / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        self.server = self.authority.issue_cert("127.0.0.1")
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        client = self.authority.issue_cert("ada@tidemark.example", common_name="ada")
        client.private_key_pem.write_to_path(self.key)
        self.key.chmod(0o600)  # libpq takes no other
        client.cert_chain_pems[0].write_to_path(self.cert)


@dataclass
class Seen:
    """Where it listens, who came in, and what they said first."""

    port: int
    names: list[str] = field(default_factory=list)
    first: list[bytes] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@contextmanager
def letting_in(certificates: Certificates, *, asked_first: bool = False) -> Iterator[Seen]:
    """Take connections over TLS from whoever has a certificate, note who, and leave.

    asked_first: as PostgreSQL, which is asked for TLS before it begins.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    certificates.server.configure_cert(context)
    certificates.authority.configure_trust(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen = Seen(listener.getsockname()[1])
        waiting = (listener, context, seen, asked_first)
        thread = threading.Thread(target=_take, args=waiting, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _take(listener: socket.socket, context: ssl.SSLContext, seen: Seen, asked_first: bool) -> None:
    with suppress(OSError):
        while True:
            plain, _ = listener.accept()
            with plain, suppress(OSError):
                _one(plain, context, seen, asked_first)


def _one(plain: socket.socket, context: ssl.SSLContext, seen: Seen, asked_first: bool) -> None:
    plain.settimeout(10)
    if asked_first:
        if plain.recv(8) != SSL_REQUEST:
            return
        plain.sendall(b"S")
    try:
        with context.wrap_socket(plain, server_side=True) as sock:
            first = sock.recv(4096)
            subject = dict(pair[0] for pair in sock.getpeercert()["subject"])  # type: ignore[index,misc]
            seen.names.append(str(subject["commonName"]))
            seen.first.append(first)
    except ssl.SSLEOFError:
        return  # who only looks whether somebody listens
    except ssl.SSLError as exc:
        seen.refused.append(str(exc))
