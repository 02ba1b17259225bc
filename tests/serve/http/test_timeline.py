"""What the page draws and asks beside: stretches of a series, who one is, what is due."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from pipeline.config import Database
from pipeline.register.checkpoints import State
from pipeline.register.sql import SqlRegistry, Stream
from tests.register.making import Clock, boundary, opened
from tests.serve.http.conftest import bearer

OF = "/v1/streams/readings"


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    """A registry over a new schema, of each kind."""
    with opened(at_head, clock) as registry:
        yield registry


@pytest.fixture
def marked(registry: SqlRegistry, stream: Stream) -> None:
    """A boundary of the pump and one of the press; no readings."""
    epoch = registry.acquire(stream.id, 0, "here").epoch
    found = [boundary(), boundary(1, "press")]
    state = State(head=b"{}")
    registry.save(stream.id, 0, epoch, next_offset=2000, state=state, boundaries=found)


def test_a_series_without_readings_has_no_time_line(client: TestClient, marked: None) -> None:
    """It is not among the series, and asking for it is a problem of one line."""
    assert client.get(f"{OF}/series").json() == []
    found = client.get(f"{OF}/timeline", params={"series": "pump"})
    assert (found.status_code, found.json()["detail"]) == (
        404,
        "no timeline of pump in partition 0",
    )
    few = client.get(f"{OF}/timeline", params={"series": "pump", "points": 1})
    assert few.status_code == 422


def test_standing_is_metrics_as_json(client: TestClient, marked: None) -> None:
    """The boundaries of the stream, by name and labels."""
    found = client.get("/v1/standing").json()
    counted = [each for each in found if each["metric"] == "stream_boundaries"]
    assert counted == [
        {"metric": "stream_boundaries", "labels": {"stream": "readings"}, "value": 2.0}
    ]


def test_me_is_whose_the_token_is(
    client: TestClient, guarded: TestClient, tokens: dict[str, str]
) -> None:
    """On loopback nobody has a name and everybody may do everything."""
    assert client.get("/v1/me").json() == {"name": None, "role": "approver"}
    found = guarded.get("/v1/me", headers=bearer(tokens["reader"])).json()
    assert found == {"name": "reader", "role": "reader"}


def test_schedules_are_those_that_the_command_lists(client: TestClient) -> None:
    """None are set here."""
    assert client.get("/v1/schedules").json() == {"schedules": [], "held": []}
