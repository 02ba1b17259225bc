"""The form of answers: problems, tags, times, bytes."""

from __future__ import annotations

import hashlib

import pytest
from fastapi.testclient import TestClient

from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry, Stream
from tests.register.making import by_hand

OF = "/v1/streams/readings"


@pytest.mark.parametrize(
    ("at", "version"),
    [
        ("1970-01-01T00:16:40Z", 1),  # the very microsecond of its promotion
        ("1970-01-01T01:16:59.999999+01:00", 1),
        ("1970-01-01T01:17:00+01:00", 3),
        ("now", 3),
    ],
)
def test_a_time_has_any_zone(client: TestClient, at: str, version: int) -> None:
    """Version 1 went live at 1000 s, version 3 at 1020 s: half-open."""
    found = client.get(f"{OF}/audit/live-at", params={"at": at})
    assert found.json()["version"] == version


def test_a_plus_that_nobody_escaped_is_still_one(client: TestClient) -> None:
    """In a query + means a space, and people write it all the same."""
    found = client.get(f"{OF}/audit/live-at?at=1970-01-01T01:17:00+01:00")
    assert found.json()["version"] == 3


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/v1/streams/other", 404, "no stream other"),
        ("/v1/streams/other/versions", 404, "no stream other"),
        (f"{OF}/versions/4", 404, "no 4 among the stream's versions"),
        (f"{OF}/versions/4/weights", 404, "no 4 among the stream's versions"),
        (f"{OF}/requests/9", 404, "no 9 among the stream's requests"),
        (f"{OF}/tasks/1", 404, "no task 1: the stream has none"),
        (f"{OF}/audit/why/9", 404, "no version 9: the stream has 3"),
        (
            f"{OF}/audit/live-at?at=yesterday",
            422,
            "query.at: Value error, 'yest",
        ),
        (
            f"{OF}/audit/live-at?at=2026-01-01T00:00:00",
            422,
            "query.at: Value error, '2026",
        ),
        (f"{OF}/audit/live-at?at=1970-01-01T00:00:00Z", 404, "no version was live at"),
        (f"{OF}/versions/0", 422, "path.number: Input should be greater"),
        (f"{OF}/versions/99999999999999999999", 422, "path.number: Input should be less"),
        (f"{OF}/versions?limit=0", 422, "query.limit: Input should be greater"),
        (f"{OF}/versions?limit=1001", 422, "query.limit: Input should be less"),
        (f"{OF}/versions?cursor=AAAA", 422, "cursor: none that a page gave"),
        (f"{OF}/versions?cursor=%F0%9F%92%A9", 422, "cursor: none that a page gave"),
        ("/v1/ledger?stream=other", 404, "no stream other"),
        ("/v1/nothing", 404, "nothing is at this path"),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_what_is_not_there_or_cannot_be_is_a_problem(
    client: TestClient, path: str, status: int, detail: str
) -> None:
    """RFC 9457: type, title, status, detail; and one line."""
    found = client.get(path)
    assert found.status_code == status
    assert found.headers["content-type"] == "application/problem+json"
    problem = found.json()
    assert problem["type"] == "about:blank"
    assert problem["status"] == status
    assert problem["detail"].startswith(detail)
    assert "\n" not in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/streams", "GET"),
        ("POST", "/v1/streams", "GET"),
        ("HEAD", "/v1/streams", "GET"),
        ("OPTIONS", "/v1/streams", "GET"),
        ("PUT", "/v1/tokens", "GET, POST"),
        ("PATCH", f"{OF}/tasks/1", "GET, POST"),
        ("GET", f"{OF}/pause", "POST"),
        ("GET", "/v1/schedules/nightly/run-now", "POST"),
        ("QUERY", "/v1/streams", "GET"),
        ("POST", "/v1/openapi.json", "GET, HEAD"),
        ("POST", "/v1/nothing", None),
        ("DELETE", "/v1/nothing", None),
        ("GET", "/v1", None),
        ("POST", "/v1", None),
        ("GET", "/v1/", None),
        ("GET", "/v1/streams/", None),
        ("PUT", f"{OF}/pause/now", None),
    ],
)
def test_what_no_route_answers_is_a_problem_that_says_what_is(
    client: TestClient, method: str, path: str, allowed: str | None
) -> None:
    """405 with all the methods that the path has (RFC 9110, section 15.5.6); else 404."""
    found = client.request(method, path, json={} if method == "POST" else None)
    assert found.status_code == (404 if allowed is None else 405)
    assert found.headers.get("allow") == allowed
    assert found.headers["content-type"] == "application/problem+json"
    if method != "HEAD":
        assert found.json()["status"] == found.status_code
        said = f"this path takes {allowed}" if allowed else "nothing is at this path"
        assert found.json()["detail"] == said


def test_what_stands_beside_the_routes_is_the_page_s(client: TestClient) -> None:
    """Its files go on being answered; what is none is a problem too."""
    assert client.get("/").headers["content-type"].startswith("text/html")
    found = client.get("/v1.html")
    assert (found.status_code, found.headers["content-type"]) == (404, "application/problem+json")


def test_who_has_an_answer_gets_304_until_it_changes(
    client: TestClient, registry: SqlRegistry, stream: Stream
) -> None:
    """The tag is of the bytes: the same answer, the same tag, and another one after a change."""
    path = f"{OF}/requests"
    first = client.get(path)
    tag = first.headers["etag"]
    assert tag == f'"{hashlib.sha256(first.content).hexdigest()}"'
    for given in (tag, f'"other", W/{tag}', "*"):
        again = client.get(path, headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    registry.submit(by_hand(stream))
    changed = client.get(path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


def test_weights_are_the_bytes_that_were_kept_and_their_hash_is_the_tag(
    client: TestClient, registry: SqlRegistry
) -> None:
    """sha256 of what comes is what the version says, and no second download is needed."""
    found = client.get(f"{OF}/versions/3/weights")
    sha256 = client.get(f"{OF}/versions/3").json()["sha256"]
    assert hashlib.sha256(found.content).hexdigest() == sha256
    assert found.headers["etag"] == f'"{sha256}"'
    assert "immutable" in found.headers["cache-control"]
    assert found.headers["content-disposition"].endswith('"version-3.safetensors"')
    with registry.engine.begin() as conn:  # who has them has them read no more
        conn.execute(t.artifacts.update().values(content=b"other"))
    again = client.get(f"{OF}/versions/3/weights", headers={"If-None-Match": f'"{sha256}"'})
    assert (again.status_code, again.content) == (304, b"")


def test_damaged_weights_are_not_given_out(client: TestClient, registry: SqlRegistry) -> None:
    """Bytes that are not what their hash says are a fault of the server's."""
    with registry.engine.begin() as conn:
        conn.execute(t.artifacts.update().values(content=b"other"))
    found = client.get(f"{OF}/versions/3/weights")
    assert (found.status_code, found.json()["detail"]) == (500, "what is kept is damaged")
