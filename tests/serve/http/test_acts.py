"""What a person does over HTTP is what the commands do, and the ledger says who and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from pipeline.register.sql import SqlRegistry, Stream
from tests.register.making import asked, claimed, everything

OF = "/v1/streams/readings"


def act(client: TestClient, path: str, **body: Any) -> Any:
    return client.post(f"{OF}{path}", json={"reason": "why not", "actor": "ada"} | body)


def last(client: TestClient) -> dict[str, Any]:
    """The ledger's newest entry."""
    page = client.get("/v1/ledger", params={"newest_first": True, "limit": 1}).json()
    entry: dict[str, Any] = page["items"][0]
    return entry


def test_a_roll_back_makes_the_champion_before_champion(client: TestClient) -> None:
    """Version 3 is left for 1, as 2 was refused; then there is none before it."""
    found = act(client, "/rollback")
    assert (found.status_code, found.json()["version"], found.json()["to"]) == (200, 3, 1)
    assert client.get(OF).json()["champion"] == 1
    entry = last(client)
    assert (entry["kind"], entry["actor"], entry["entry"]["reason"]) == (
        "rollback",
        "ada",
        "why not",
    )
    again = act(client, "/rollback")
    assert (again.status_code, again.headers["content-type"]) == (409, "application/problem+json")
    assert again.json()["detail"].startswith("version 1 is the first")


@pytest.mark.parametrize(("to", "detail"), [(2, "never live"), (3, "already"), (9, "no version 9")])
def test_a_roll_back_to_what_cannot_be_changes_nothing(
    client: TestClient, registry: SqlRegistry, to: int, detail: str
) -> None:
    """A refused version, the champion itself, and one that is none."""
    before = everything(registry.engine)
    found = act(client, "/rollback", to=to)
    assert (found.status_code, detail in found.json()["detail"]) == (409, True)
    assert everything(registry.engine) == before


def test_a_retraining_is_a_request_like_any_other(client: TestClient) -> None:
    """With who asked and why; a task that is none cannot be left out."""
    number = act(client, "/retrain").json()["request"]
    request = client.get(f"{OF}/requests/{number}").json()
    assert (request["reason"], request["status"]) == ("manual", "pending")
    assert (request["actor"], request["note"]) == ("ada", "why not")
    assert act(client, "/retrain", without_task=7).status_code == 404


def test_a_task_is_named_and_marked(
    client: TestClient, registry: SqlRegistry, stream: Stream
) -> None:
    """What it was and what it is now; a kind that is none, or nothing at all, changes nothing."""
    registry.submit(asked(stream))
    registry.assign(claimed(registry), 4, np.zeros((3, 2)))
    found = act(client, "/tasks/1", name="bearing", kind="fault").json()
    assert found["after"] == {"kind": "fault", "name": "bearing"}
    (task,) = client.get(f"{OF}/tasks").json()["items"]
    assert (task["number"], task["kind"], task["name"]) == (1, "fault", "bearing")
    before = everything(registry.engine)
    for body in ({}, {"kind": "asked"}, {"name": "a\nb"}, {"name": "x" * 101}, {"other": 1}):
        assert act(client, "/tasks/1", **body).status_code == 422
    assert act(client, "/tasks/2", kind="fault").status_code == 404
    assert everything(registry.engine) == before


@pytest.mark.parametrize(
    "body",
    [{}, {"reason": ""}, {"reason": "a\0b"}, {"reason": 1}, {"reason": "r" * 1001}, [], "r"],
)
def test_an_act_without_a_reason_is_none(
    client: TestClient, registry: SqlRegistry, body: Any
) -> None:
    """422, and nothing happened."""
    before = everything(registry.engine)
    found = client.post(f"{OF}/retrain", json=body)
    assert found.status_code == 422
    assert everything(registry.engine) == before


@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b'{"reason": "\\ud800", "actor": "a"}', b"[" * 9999]
)
def test_a_body_that_is_no_json_is_a_problem(client: TestClient, body: bytes) -> None:
    """However broken."""
    headers = {"Content-Type": "application/json"}
    found = client.post(f"{OF}/retrain", content=body, headers=headers)
    assert found.status_code in (400, 422)
    assert found.headers["content-type"] == "application/problem+json"
