"""What a person does over HTTP is what the commands do, and the ledger says who and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from pipeline.register.envelope import Limits
from pipeline.register.orders import Act, Agree, Prune
from pipeline.register.sql import SqlRegistry, Stream
from tests.register.making import (
    Clock,
    asked,
    candidate,
    change,
    claimed,
    everything,
    next_version,
)

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


# Once each, and who waits ----------------------------------------------------------------------


@pytest.fixture
def waiting(registry: SqlRegistry, stream: Stream) -> int:
    """Number of a version that is outside of the envelope."""
    ada = Act(actor="ada", reason="plan 12")
    registry.act(stream.id, Agree(limits=Limits(triggers=("boundary",))), ada)
    made = next_version(registry, stream, made=candidate(weights=b"wait"))
    assert made.status == "waiting"
    return made.number


#: Path, body, and the entry of the ledger that it comes to.
ACTS: list[tuple[str, dict[str, Any], str]] = [
    ("/versions/2/promote", {}, "promotion"),
    ("/versions/4/approve", {}, "promotion"),
    ("/versions/4/refuse", {}, "refused"),
    ("/rollback", {"to": 1}, "rollback"),
    ("/retrain", {}, "request"),
    ("/pause", {}, "paused"),
    ("/envelope", {"limits": {"min_skill": 0.5}}, "envelope"),
]


@pytest.mark.parametrize(("path", "body", "kind"), ACTS)
@pytest.mark.parametrize("by_header", [False, True])
def test_a_request_that_comes_again_is_answered_the_same_and_does_nothing(
    client: TestClient,
    registry: SqlRegistry,
    clock: Clock,
    waiting: int,
    path: str,
    body: dict[str, Any],
    kind: str,
    by_header: bool,
) -> None:
    """By its id in the body or in the header; for anything else that id is refused."""
    headers = {"Idempotency-Key": "r-1"} if by_header else {}
    body = {"reason": "why not", "actor": "ada", **body}
    body |= {} if by_header else {"request_id": "r-1"}

    def ask(**more: Any) -> Any:
        return client.post(f"{OF}{path}", json=body | more, headers=headers)

    first = ask()
    assert (first.status_code, first.json()["request_id"]) == (200, "r-1")
    entry = last(client)
    assert (entry["kind"], entry["entry"]["request_id"]) == (kind, "r-1")
    before = everything(registry.engine)
    clock.pass_s(3600)
    again = ask()
    assert (again.status_code, again.json()) == (200, first.json())
    other = ask(reason="another")
    assert (other.status_code, "used for another act" in other.json()["detail"]) == (409, True)
    assert everything(registry.engine) == before


@pytest.mark.parametrize("id_", ["", "x" * 101, "a\nb", "\u2028"])
def test_a_request_id_that_is_none(client: TestClient, registry: SqlRegistry, id_: str) -> None:
    """Too short, too long, or not to be printed; and two that differ."""
    before = everything(registry.engine)
    assert act(client, "/retrain", request_id=id_).status_code == 422
    body = {"reason": "r", "actor": "ada", "request_id": "one"}
    found = client.post(f"{OF}/retrain", json=body, headers={"Idempotency-Key": "two"})
    assert found.status_code == 422
    assert everything(registry.engine) == before


def test_who_waits_is_told_and_approved(client: TestClient, waiting: int) -> None:
    """With what it passes over; then nobody waits, and it is champion."""
    (told,) = client.get(f"{OF}/waiting").json()
    assert (told["version"], told["envelope"]) == (waiting, 1)
    assert told["outside"] == ["it was asked for by manual, and allowed are boundary"]
    done = act(client, f"/versions/{waiting}/approve").json()
    assert (done["version"], done["instead_of"], done["envelope"]) == (waiting, 3, 1)
    assert client.get(OF).json()["champion"] == waiting
    assert client.get(f"{OF}/waiting").json() == []
    assert act(client, f"/versions/{waiting}/refuse").status_code == 409


def test_limits_are_shown_as_they_were_set(client: TestClient, registry: SqlRegistry) -> None:
    """The last ones hold; what is no limit changes nothing, in one line."""
    assert client.get(f"{OF}/envelope").json() == {"stream": "readings", "envelope": None}
    for limits in ({"min_skill": 0.5}, {"min_skill_of_task": {"3": 0.25}, "hours": "08:00-18:00"}):
        assert act(client, "/envelope", limits=limits).status_code == 200
        assert client.get(f"{OF}/envelope").json()["envelope"]["limits"] == limits
    numbers = [each["envelope"] for each in client.get(f"{OF}/envelopes").json()]
    assert numbers == [1, 2]
    before = everything(registry.engine)
    for bad in ({"x": 1}, {"hours": "8"}, {"timezone": "\0"}):
        found = act(client, "/envelope", limits=bad)
        assert (found.status_code, "limits: envelope: " in found.json()["detail"]) == (422, True)
    assert everything(registry.engine) == before


def test_a_paused_stream_says_so(client: TestClient, clock: Clock) -> None:
    """Since when, by whom and why; until somebody ends it."""
    assert client.get(OF).json()["paused"] is None
    since = act(client, "/pause").json()["at"]
    told = client.get(OF).json()
    assert (told["paused"], told["paused_by"]) == (since, "ada")
    assert told["paused_because"] == "why not"
    clock.pass_s(1)
    again = act(client, "/pause").json()
    assert again["changed"] is False
    assert act(client, "/resume").json()["changed"] is True
    assert client.get(OF).json()["paused"] is None


def test_weights_that_were_pruned_are_gone(
    client: TestClient, registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """410 with the day and who: they were there, and will not be again. 500 is for damage."""
    change(registry.engine, "UPDATE versions SET ewc_sha256 = NULL")
    for name in (b"old", b"before", b"now"):
        next_version(registry, stream, made=candidate(weights=name))
    clock.pass_s(400 * 86_400)
    order = Prune(keep_days=365, replays_all=False)
    registry.act(None, order, Act(actor="ada", reason="retention"))
    found = client.get(f"{OF}/versions/4/weights")
    assert (found.status_code, found.headers["content-type"]) == (410, "application/problem+json")
    assert found.json()["detail"].endswith(" by ada")
    assert client.get(f"{OF}/versions/6/weights").content == b"now"
    assert act(client, "/versions/4/promote").status_code == 410


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": ""},
        {"reason": " "},
        {"reason": "a\0b"},
        {"reason": 1},
        {"reason": "r" * 1001},
        [],
        "r",
    ],
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
    "body",
    [
        b"{",
        b"\xff",
        b'{"reason": "\\ud800", "actor": "a"}',
        b'{"reason": "r", "actor": "a", "limits": {"\\ud800": 1}}',
        b'{"reason": "r", "actor": "a", "limits": {"min_skill": NaN}}',
        b'{"reason": "r", "actor": "a", "limits": {"min_skill": 1' + b"0" * 400 + b"}}",
        b'{"reason": "r", "actor": "a", "limits": ' + b'{"a":' * 9999,
        b"[" * 9999,
    ],
)
def test_a_body_that_is_no_json_is_a_problem(client: TestClient, body: bytes) -> None:
    """However broken."""
    headers = {"Content-Type": "application/json"}
    for path in (f"{OF}/retrain", f"{OF}/envelope"):
        found = client.post(path, content=body, headers=headers)
        assert found.status_code in (400, 422)
        assert found.headers["content-type"] == "application/problem+json"
