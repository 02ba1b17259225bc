"""Events as they happen: all of them, in order, once, whenever one comes back."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipeline.register.listing import Listing
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.serve.http import events as module
from tests.register.making import by_hand
from tests.serve.http.serving import events, request, served


def test_what_happens_is_told_and_nobody_who_comes_back_misses_any(
    registry: SqlRegistry, stream: Stream
) -> None:
    """From now on; then from behind the last one that was seen, though more came meanwhile."""
    with served(registry) as there:
        with there.connect() as sock:
            sock.sendall(request("GET", "/v1/events"))
            assert b"text/event-stream" in sock.recv(65536)
            registry.submit(by_hand(stream))
            ((first, entry),) = events(sock, 1)
        assert (entry["kind"], entry["stream"], entry["actor"]) == ("request", "readings", "ada")
        assert entry["id"] == first
        registry.roll_back(stream.id, actor="eve", reason="worse")
        registry.submit(by_hand(stream))
        with there.connect() as sock:
            sock.sendall(request("GET", "/v1/events", f"Last-Event-ID: {first}"))
            found = events(sock, 2)
        assert [(n, e["kind"]) for n, e in found] == [
            (first + 1, "rollback"),
            (first + 2, "request"),
        ]


def test_from_the_beginning_and_only_what_is_wanted(registry: SqlRegistry, stream: Stream) -> None:
    """Kinds and a stream, as the ledger's pages have them."""
    other = registry.open_stream("other", ["a"])
    registry.submit(by_hand(other))
    with served(registry) as there, there.connect() as sock:
        path = "/v1/events?after=0&stream=readings&kind=promotion&kind=version"
        sock.sendall(request("GET", path))
        found = [entry["kind"] for _, entry in events(sock, 5)]
        registry.submit(by_hand(stream))
    assert found == ["version", "promotion", "version", "version", "promotion"]


def test_what_was_looked_through_is_not_looked_through_again(
    registry: SqlRegistry, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for what never comes costs a look at what is new, however long the ledger is."""
    monkeypatch.setattr(module, "LIFE_S", 0.5)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    looked: list[int] = []
    entries = Listing.entries

    def noted(listing: Listing, **options: Any) -> Any:
        looked.append(options["after"])
        return entries(listing, **options)

    monkeypatch.setattr(Listing, "entries", noted)
    last = Listing(registry.engine).last_entry()
    with served(registry) as there:
        there.get("/v1/events?after=0&kind=nothing")
    assert looked[0] == 0
    assert set(looked[1:]) == {last}


def test_a_connection_ends_by_itself(
    registry: SqlRegistry, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that was revoked meanwhile does not come back; others do by themselves."""
    monkeypatch.setattr(module, "LIFE_S", 0.2)
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    with served(registry) as there:
        found = there.get("/v1/events?after=0")
    assert b"retry: 1000" in found
    assert found.endswith(b"0\r\n\r\n")


def test_no_more_listen_than_allowed(
    registry: SqlRegistry, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, and a place is free again when one goes."""
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    with served(registry, max_listeners=1) as there:
        with there.connect() as sock:
            sock.sendall(request("GET", "/v1/events?after=0"))
            events(sock, 1)
            assert there.get("/v1/events").startswith(b"HTTP/1.1 503")
        while True:  # the server sees that it went when it looks again
            with there.connect() as sock:
                sock.sendall(request("GET", "/v1/events?after=0"))
                if sock.recv(12) == b"HTTP/1.1 200":
                    break


@pytest.mark.parametrize("given", ["x", "-1", "1.5", "\u00b2"])
def test_an_id_that_is_none_is_a_problem(client: TestClient, given: str) -> None:
    """It is the number of an entry."""
    headers = {b"Last-Event-ID": given.encode("latin-1")}
    found = client.get("/v1/events", headers=headers)
    assert (found.status_code, found.json()["detail"][:13]) == (422, "Last-Event-ID")
