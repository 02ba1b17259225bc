"""Schedules and tokens are steered over HTTP as by the commands: once a request, in the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from msgspec.structs import replace

from pipeline.config import Schedule, Serve, Settings
from pipeline.register.schedules import LEASE
from pipeline.register.sql import SqlRegistry
from pipeline.serve.http.app import create
from tests.register.making import Clock, everything
from tests.serve.http.conftest import HERE, bearer
from tests.serve.http.test_acts import last

NIGHTLY = Schedule(name="nightly", cron="30 2 * * *")
WORD = {"reason": "why not", "actor": "ada", "request_id": "r-1"}


@pytest.fixture
def client(registry: SqlRegistry) -> Iterator[TestClient]:
    """Of a server whose settings have a schedule that no scheduler has seen yet."""
    settings = Settings(database=registry.database, serve=Serve(requests_per_second=1e6))
    settings = replace(settings, schedule=(NIGHTLY,))
    with TestClient(create(settings, registry), base_url=HERE) as client:
        yield client


#: Path, body, what its entry of the ledger is, and what that says besides who and why.
STEERED: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("/schedules/nightly/pause", {}, "schedule_paused", {"schedule": "nightly"}),
    (
        "/schedules/nightly/run-now",
        {},
        "schedule_ordered",
        {"schedule": "nightly", "kind": "retrain", "due": 1_000_000_000},
    ),
    ("/schedules/nightly/resume", {}, "schedule_resumed", {"schedule": "nightly"}),
    (
        "/tokens",
        {"name": "rita/7", "role": "operator"},
        "token_added",
        {"name": "rita/7", "role": "operator", "token": 1},
    ),
    ("/tokens/revoke", {"name": "rita/7"}, "token_revoked", {"name": "rita/7", "token": 1}),
]
#: What has to be so before.
FIRST = {
    "/schedules/nightly/resume": STEERED[0],
    "/tokens/revoke": STEERED[3],
}


@pytest.mark.parametrize(("path", "body", "kind", "facts"), STEERED)
def test_what_is_of_no_stream_is_done_once_a_request(
    client: TestClient,
    registry: SqlRegistry,
    clock: Clock,
    path: str,
    body: dict[str, Any],
    kind: str,
    facts: dict[str, Any],
) -> None:
    """The same request again gets the same answer, but for a token, and writes nothing; its id
    for anything else is refused."""
    if path in FIRST:
        before, with_, _, _ = FIRST[path]
        assert (
            client.post(f"/v1{before}", json=WORD | with_ | {"request_id": "0"}).status_code == 200
        )
    found = client.post(f"/v1{path}", json=WORD | body)
    assert (found.status_code, found.json()["changed"]) == (200, True), found.text
    entry = last(client)
    assert (entry["kind"], entry["actor"], entry["stream"]) == (kind, "ada", None)
    assert entry["entry"] == facts | {"reason": "why not", "request_id": "r-1"}
    before = everything(registry.engine)
    clock.pass_s(60)
    again = client.post(f"/v1{path}", json=WORD | body).json()
    told = found.json()
    assert ("token" in told, "token" in again) == (path == "/tokens", False)
    told.pop("token", None)
    assert again == told
    other = client.post(f"/v1{path}", json=WORD | body | {"reason": "another"})
    assert (other.status_code, "used for another act" in other.json()["detail"]) == (409, True)
    assert everything(registry.engine) == before


def test_a_run_that_was_asked_for_waits_for_a_scheduler(
    client: TestClient, registry: SqlRegistry
) -> None:
    """As the page and `schedule list` tell it; a schedule that is none is 404."""
    due = client.post("/v1/schedules/nightly/run-now", json=WORD).json()["due"]
    (told,) = client.get("/v1/schedules").json()["schedules"]
    assert [(run["due"], run["actor"], run["ok"]) for run in told["runs"]] == [(due, "ada", None)]
    assert registry.lease(LEASE, "a", 60.0)
    (run,) = registry.unfinished_runs()
    assert registry.begin_run(run, "a")
    found = client.post("/v1/schedules/daily/run-now", json=WORD | {"request_id": "2"})
    assert (found.status_code, found.json()["detail"]) == (
        404,
        "no schedule daily; known: nightly",
    )


def test_a_token_that_was_made_here_lets_in_until_it_is_revoked_here(
    guarded: TestClient, tokens: dict[str, str]
) -> None:
    """By an approver, who stands in the ledger; no list tells it again."""
    approver = bearer(tokens["approver"])
    made = guarded.post("/v1/tokens", json={"name": "rita", "reason": "r"}, headers=approver)
    theirs = bearer(made.json()["token"])
    assert guarded.get("/v1/me", headers=theirs).json() == {"name": "rita", "role": "reader"}
    assert guarded.get("/v1/tokens", headers=theirs).status_code == 403
    listed = guarded.get("/v1/tokens", headers=approver)
    assert made.json()["token"] not in listed.text
    last_one = listed.json()[-1]
    assert (last_one["name"], last_one["made_by"], last_one["revoked"]) == (
        "rita",
        "approver",
        None,
    )
    again = guarded.post("/v1/tokens", json={"name": "rita", "reason": "r"}, headers=approver)
    assert again.status_code == 409
    body = {"name": "rita", "reason": "left"}
    assert guarded.post("/v1/tokens/revoke", json=body, headers=approver).status_code == 200
    assert guarded.get("/v1/me", headers=theirs).status_code == 401
    assert guarded.get("/v1/tokens", headers=approver).json()[-1]["revoked"] is not None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": ""}, 422),
        ({"name": "a\nb"}, 422),
        ({"name": "x" * 101}, 422),
        ({"name": "rita", "role": "king"}, 422),
        ({"name": "rita", "sha256": "0" * 64}, 422),
        ({"name": "gate"}, 409),
    ],
)
def test_a_token_that_cannot_be_is_not_made(
    client: TestClient, registry: SqlRegistry, body: dict[str, str], status: int
) -> None:
    """One line, and nothing is written."""
    before = everything(registry.engine)
    found = client.post("/v1/tokens", json=WORD | body)
    assert (found.status_code, found.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    assert everything(registry.engine) == before
