"""What is kept, over HTTP: pages, tags, problems, and the same answers as the audit's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import insert

from pipeline.config import Database, Schedule
from pipeline.records import Gap
from pipeline.register.checkpoints import State
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.tables import ledger
from pipeline.serve.http.questions import QUESTIONS
from pipeline.serve.lineage import Lineage
from tests.register.making import SECOND, Clock, boundary, by_hand, opened

OF = "/v1/streams/readings"


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    """A registry over a new schema, of each kind."""
    with opened(at_head, clock) as registry:
        yield registry


def everything(client: TestClient, path: str, **query: Any) -> list[dict[str, Any]]:
    """All items of a collection, a page after the other."""
    items, cursor = [], None
    while True:
        page = client.get(path, params=query | ({"cursor": cursor} if cursor else {})).json()
        items += page["items"]
        if (cursor := page["next"]) is None:
            return items


def test_pages_join_to_the_whole_without_a_double_or_a_hole(
    client: TestClient, registry: SqlRegistry, stream: Stream
) -> None:
    """Seven requests in pages of three, while an eighth arrives: each once, in order."""
    for _ in range(4):
        registry.submit(by_hand(stream))
    first = client.get(f"{OF}/requests", params={"limit": 3}).json()
    registry.submit(by_hand(stream))
    second = client.get(f"{OF}/requests", params={"limit": 3, "cursor": first["next"]}).json()
    third = client.get(f"{OF}/requests", params={"limit": 3, "cursor": second["next"]}).json()
    pages = [[item["id"] for item in page["items"]] for page in (first, second, third)]
    assert pages == [[1, 2, 3], [4, 5, 6], [7, 8]]
    assert third["next"] is None
    back = everything(client, f"{OF}/requests", limit=5, newest_first=True)
    assert [item["id"] for item in back] == [8, 7, 6, 5, 4, 3, 2, 1]


def test_a_page_as_long_as_what_there_is_is_the_last_one(client: TestClient) -> None:
    """Three versions in a page of three: none follow."""
    page = client.get(f"{OF}/versions", params={"limit": 3}).json()
    assert [item["number"] for item in page["items"]] == [1, 2, 3]
    assert page["next"] is None


def test_a_collection_is_narrowed_by_what_it_says(client: TestClient) -> None:
    """Of three versions one was refused."""
    (found,) = everything(client, f"{OF}/versions", status="rejected")
    assert (found["number"], found["decision"]) == (2, "worse")
    assert found["created"] == "1970-01-01T00:16:50.000000+00:00"
    assert everything(client, f"{OF}/versions", status="gone") == []


def test_a_boundary_has_its_test_and_what_changed(
    client: TestClient, registry: SqlRegistry, stream: Stream
) -> None:
    """As it was marked; its lists are lists."""
    epoch = registry.acquire(stream.id, 0, "here").epoch
    state = State(head=b"{}")
    registry.save(
        stream.id, 0, epoch, next_offset=2000, state=state, boundaries=[boundary(), boundary(2)]
    )
    first, second = everything(client, f"{OF}/boundaries", limit=1, series="pump")
    assert (first["segment"], second["segment"]) == (1, 2)
    assert first["statistic"] == 7.5
    assert first["detectors"] == ["ADWIN", "PageHinkley"]
    assert first["sensors"][0]["after"] == 19.0
    assert first["boundary_time"] == "1970-01-01T00:08:20.000000+00:00"
    assert everything(client, f"{OF}/boundaries", series="valve") == []


def test_every_question_is_answered_as_the_command_line_does(
    client: TestClient, registry: SqlRegistry
) -> None:
    """The same function, the same answer, as JSON."""
    lineage = Lineage(registry.database)
    asked: dict[str, tuple[Any, ...]] = {
        "of_a_time": (1_015 * SECOND,),
        "of_a_version": (3,),
        "of_two_versions": (3, 1),
    }
    for path, method, form, _ in QUESTIONS:
        if form("").__name__ == "of_a_reading":
            continue  # nothing was scored here
        expected = getattr(lineage, method)("readings", *asked.get(form("").__name__, ()))
        url = f"{OF}/audit{path}".replace("{number}", "3").replace("{other}", "1")
        found = client.get(url, params={"at": "1970-01-01T00:16:55Z"})
        assert found.status_code == 200, found.text
        assert _without_now(found.json()) == _without_now(_as_json(expected)), path
    lineage.close()


def test_a_reading_says_which_version_scored_it(
    client: TestClient, registry: SqlRegistry, stream: Stream
) -> None:
    """Version 3 scored [10, 20): the last of these, and none beyond."""
    epoch = registry.acquire(stream.id, 0, "here").epoch
    (version,) = (v for v in [registry.champion(stream.id)] if v is not None)
    scored = [(version.id, 10, 20)]
    registry.save(stream.id, 0, epoch, next_offset=20, state=State(head=b"{}"), scored=scored)
    assert client.get(f"{OF}/audit/scored/0/19").json()["version"] == 3
    assert client.get(f"{OF}/audit/scored/0/20").status_code == 404


def test_refusals_are_of_a_range_of_time(client: TestClient) -> None:
    """Version 2 was refused at 1010 s: in [1010, 1011), and not in what ends there."""
    path = f"{OF}/audit/rejected"
    inside = {"start": "1970-01-01T00:16:50Z", "end": "1970-01-01T00:16:51Z"}
    assert '"version":2' in client.get(path, params=inside).text
    before = {"start": "1970-01-01T00:16:40Z", "end": "1970-01-01T00:16:50Z"}
    assert '"version":2' not in client.get(path, params=before).text


def _as_json(answer: Any) -> Any:
    import msgspec

    return json.loads(msgspec.json.encode(answer))


def _without_now(answer: Any) -> Any:
    return {k: v for k, v in answer.items() if k != "at"} if isinstance(answer, dict) else answer


def test_the_ledger_has_every_decision_and_its_chain_holds(
    client: TestClient, registry: SqlRegistry
) -> None:
    """Numbers without a hole, each with the hash of the one before; an edit is seen."""
    entries = everything(client, "/v1/ledger", limit=4)
    assert [entry["id"] for entry in entries] == list(range(1, len(entries) + 1))
    for before, entry in pairwise(entries):
        assert entry["previous"] == before["hash"]
    promotions = everything(client, "/v1/ledger", kind=["promotion", "rollback"])
    assert [entry["entry"]["reason"] for entry in promotions] == ["first", "better"]
    assert {entry["stream"] for entry in promotions} == {"readings"}
    told = client.get("/v1/ledger/verify").json()
    head = {"entries": len(entries), "head": entries[-1]["hash"]}
    assert told == head | {"holds": True, "findings": []}


def test_an_entry_that_makes_no_sense_is_shown_as_it_is(
    client: TestClient, registry: SqlRegistry
) -> None:
    """Where somebody changed the ledger people have to see what is there."""
    with registry.engine.begin() as conn:
        odd = {"id": 99, "at": 2**62, "kind": "boundary", "actor": "eve", "entry": "{"}
        conn.execute(insert(ledger).values(odd | {"previous": "p", "hash": "h"}))
    shown = client.get("/v1/ledger", params={"newest_first": True}).json()["items"][0]
    assert shown.items() >= odd.items()
    assert client.get("/v1/ledger/verify").json()["holds"] is False


def test_health_says_what_answers(client: TestClient, registry: SqlRegistry) -> None:
    """healthz is of the process; readyz of the database with its schema too."""
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    with registry.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    found = client.get("/readyz")
    assert (found.status_code, client.get("/healthz").status_code) == (503, 200)
    assert found.headers["content-type"] == "application/problem+json"


def test_metrics_are_what_sql_knows(client: TestClient, registry: SqlRegistry) -> None:
    """Every gauge has its help; those of three versions are counted by hand."""
    from pipeline.serve.http.health import GAUGES

    registry.acquire(1, 0, "here")
    registry.lease("scheduler", "here", 30.0)
    found = client.get("/metrics")
    assert found.headers["content-type"].startswith("text/plain; version=")
    lines = found.text.splitlines()
    assert {line.split()[2] for line in lines if line.startswith("# HELP")} == {
        f"tidemark_{name}" for name in GAUGES
    }
    for line in (
        'tidemark_champion_version{stream="readings"} 3.0',
        'tidemark_champion_timestamp_seconds{stream="readings"} 1020.0',
        'tidemark_stream_versions{status="champion",stream="readings"} 1.0',
        'tidemark_stream_versions{status="rejected",stream="readings"} 1.0',
        'tidemark_stream_versions{status="retired",stream="readings"} 1.0',
        'tidemark_stream_requests{reason="manual",status="done",stream="readings"} 3.0',
        'tidemark_checkpoint_age_seconds{partition="0",stream="readings"} 0.0',
        'tidemark_lease_remaining_seconds{lease="scheduler",owner="here"} 30.0',
        'tidemark_stream_boundaries{stream="readings"} 0.0',
        'tidemark_records_lost{stream="readings"} 0.0',
        'tidemark_roll_backs{stream="readings"} 0.0',
        "tidemark_verify_failures 0.0",
    ):
        assert line in lines
    registry.roll_back(1, actor="ada", reason="worse")
    assert 'tidemark_roll_backs{stream="readings"} 1.0' in client.get("/metrics").text


def test_what_begins_above_nothing_has_not_risen(
    client: TestClient, registry: SqlRegistry, stream: Stream
) -> None:
    """Prometheus tells a first roll-back by the 0 before it: a stream has one from its first row
    on, and other streams' figures are not its own."""
    registry.open_stream("presses", ["x"])
    epoch = registry.acquire(stream.id, 0, "here").epoch
    gaps = [Gap(first_offset=5, end_offset=9, went_on="earliest")]
    gaps.append(Gap(first_offset=20, end_offset=21, went_on="latest"))
    state = State(head=b"{}")
    registry.save(
        stream.id, 0, epoch, next_offset=30, state=state, boundaries=[boundary()], gaps=gaps
    )
    lines = client.get("/metrics").text.splitlines()
    for name, readings in (("stream_boundaries", 1), ("records_lost", 5), ("roll_backs", 0)):
        assert f'tidemark_{name}{{stream="readings"}} {readings}.0' in lines
        assert f'tidemark_{name}{{stream="presses"}} 0.0' in lines


def test_verifications_and_schedules_that_failed_are_told(
    client: TestClient, registry: SqlRegistry
) -> None:
    """The last run that is over counts, whatever is under way; a schedule that is gone does not."""
    check, prune = (Schedule(name=kind, kind=kind, every_s=60.0) for kind in ("verify", "prune"))
    registry.lease("scheduler", "here", 1e6)
    registry.adopt_schedules([check, prune], "here")
    for due, ok in ((60, True), (120, False), (180, None)):
        registry.note_due(check, due * SECOND, "here")
        (run,) = registry.unfinished_runs()
        assert registry.begin_run(run, "here")
        if ok is not None:
            assert registry.end_run(run, "here", ok=ok, outcome="said")
    lines = client.get("/metrics").text.splitlines()
    shown = [line for line in lines if line.startswith("tidemark_schedule_ok{")]
    assert shown == ['tidemark_schedule_ok{kind="verify",schedule="verify"} 0.0']
    registry.adopt_schedules([prune], "here")
    assert "tidemark_schedule_ok{" not in client.get("/metrics").text

    with registry.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE streams SET name = 'else'")
    assert not client.get("/v1/ledger/verify").json()["holds"]
    assert "tidemark_verify_failures 1.0" in client.get("/metrics").text.splitlines()


def test_an_empty_database_has_answers_too(registry: SqlRegistry) -> None:
    """Before the first stream, and before the first entry."""
    from tests.serve.http.conftest import connected

    with connected(registry) as client:
        assert client.get("/v1/streams").json() == []
        assert client.get("/v1/ledger").json() == {"items": [], "next": None}
        assert client.get("/v1/ledger/verify").json()["entries"] == 0
        assert client.get("/metrics").status_code == 200
