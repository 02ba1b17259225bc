"""Any history in; at any time the questions say what a replay of the ledger says."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from pipeline.config import Database
from pipeline.errors import PipelineError, RegistryError
from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.serve.answers import iso
from pipeline.serve.audit import Audit
from tests.register.making import (
    SECOND,
    Clock,
    candidate,
    next_version,
    opened,
    promoted,
    rejected,
)

START = 1_000 * SECOND
ACTS = ("promote", "promote", "reject", "roll back", "go back to 1")
#: What passes before each act: nothing, a little, or the clock was set back.
PASSES = (0, 0, 1, 5, -1, -7)
HISTORIES = st.lists(
    st.tuples(st.sampled_from(ACTS), st.sampled_from(PASSES)), min_size=1, max_size=9
)


@dataclass
class World:
    """A database, its questions and its clock."""

    registry: SqlRegistry
    audit: Audit
    clock: Clock


@pytest.fixture
def world(at_head: Database) -> Iterator[World]:
    """One for all histories of a test: each has a stream of its own."""
    clock = Clock(START)
    with opened(at_head, clock) as registry:
        audit = Audit(at_head)
        yield World(registry, audit, clock)
        audit.close()


def act(world: World, stream: Stream, what: str, number: int) -> None:
    """One step of a history; what cannot be done is refused and leaves nothing."""
    registry, made = world.registry, candidate(loss_after=number / 8)
    if what == "promote":
        next_version(registry, stream, promoted(f"better {number}"), made)
    elif what == "reject":
        next_version(registry, stream, rejected(f"worse {number}"), made)
    else:
        to = 1 if what == "go back to 1" else None
        try:
            registry.roll_back(stream.id, actor="ada", reason=f"bad {number}", to=to)
        except RegistryError:
            return


def lived(world: World, acts: list[tuple[str, int]]) -> Stream:
    """A stream with this history, begun at START."""
    world.clock.now = START
    stream = world.registry.open_stream(uuid.uuid4().hex, ["a"])
    for number, (what, wait) in enumerate(acts):
        world.clock.now += wait
        act(world, stream, what, number)
    return stream


def entries(engine: Engine, stream: Stream) -> list[dict[str, Any]]:
    """The stream's ledger, in its order, with what each entry says."""
    c = t.ledger.c
    with engine.connect() as conn:
        rows = conn.execute(select(t.ledger).where(c.stream_id == stream.id).order_by(c.id))
        return [dict(row) | json.loads(row["entry"]) for row in rows.mappings()]


def numbers(engine: Engine, stream: Stream) -> dict[int, int]:
    """Version id -> number."""
    c = t.versions.c
    with engine.connect() as conn:
        found = conn.execute(select(c.id, c.number).where(c.stream_id == stream.id))
        return {row.id: row.number for row in found}


def replayed(ledger: list[dict[str, Any]], at: int) -> int | None:
    """Id of the version live at a time: entry after entry, as if one had watched."""
    now = None
    for entry in ledger:
        if entry["at"] <= at and entry["kind"] == "promotion":
            now = entry["version"]
        elif entry["at"] <= at and entry["kind"] == "rollback":
            now = entry["to"]
    return now


def asked(ask: Any, *arguments: Any) -> Any:
    """The answer; None where no version was live."""
    try:
        return ask(*arguments)
    except PipelineError as exc:
        if "no version was live" not in str(exc):
            raise
        return None


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(acts=HISTORIES)
def test_at_every_border_the_answer_is_that_of_a_replay(
    world: World, acts: list[tuple[str, int]]
) -> None:
    """One microsecond before, at and after each entry: who was live, and with which figures.

    Promotions in one microsecond, roll-backs and a clock that was set back are among them.
    """
    stream = lived(world, acts)
    ledger, number = entries(world.registry.engine, stream), numbers(world.registry.engine, stream)
    made = {e["number"]: e for e in ledger if e["kind"] == "version"}
    for at in sorted({e["at"] + near for e in ledger for near in (-1, 0, 1)} | {0, START * 9}):
        live = asked(world.audit.live_at, stream.name, at)
        figures = asked(world.audit.metrics_at, stream.name, at)
        expected = replayed(ledger, at)
        if expected is None:
            assert (live, figures) == (None, None)
            continue
        version = number[expected]
        assert (live["version"], figures["version"]) == (version, version)
        assert live["sha256"] == made[version]["sha256"]
        assert figures["metrics"] == made[version]["metrics"]


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(acts=HISTORIES)
def test_what_was_decided_is_what_the_ledger_says(
    world: World, acts: list[tuple[str, int]]
) -> None:
    """Refusals by time, each version's entries, and its parents, by reading all of the ledger."""
    stream = lived(world, acts)
    ledger, number = entries(world.registry.engine, stream), numbers(world.registry.engine, stream)
    made = [e for e in ledger if e["kind"] == "version"]
    refused = [(e["at"], e["number"]) for e in made if e["status"] == "rejected"]
    times = [None, *sorted({e["at"] for e in ledger})]
    for start in times:
        for end in times:
            told = world.audit.rejected(stream.name, start, end)["rejected"]
            inside = [
                (iso(at), n)
                for at, n in sorted(refused)
                if (start is None or at >= start) and (end is None or at < end)
            ]
            assert [(each["at"], each["version"]) for each in told] == inside
    parents = {e["number"]: number.get(e["parent_id"]) for e in made}
    for entry in made:
        about = [
            e["id"]
            for e in ledger
            if (e["kind"] == "version" and e["number"] == entry["number"])
            or (
                e["kind"] in ("promotion", "rollback")
                and entry["number"] in (number[e["version"]], number.get(e.get("to", -1)))
            )
        ]
        decided = world.audit.decided(stream.name, entry["number"])
        assert [e["entry"] for e in decided["ledger"]] == about
        left = [e for e in ledger if e["kind"] == "rollback"]
        assert [each["because"] for each in decided["rolled_back"]] == [
            e["reason"] for e in left if number[e["version"]] == entry["number"]
        ]
        chain, at = [], entry["number"]
        while at is not None:
            chain.append(at)
            at = parents[at]
        told = world.audit.lineage(stream.name, entry["number"])["chain"]
        assert [member["version"] for member in told] == chain


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 1)), min_size=1, max_size=8
    )
)
def test_each_offset_is_scored_by_the_version_whose_range_holds_it(
    world: World, lengths: list[tuple[int, int, int]]
) -> None:
    """Ranges with and without gaps between them, by two versions: beside an array of offsets."""
    stream = lived(world, [("promote", 0), ("promote", 0)])
    ids, rows, by, at = sorted(numbers(world.registry.engine, stream)), [], {}, 0
    for gap, length, version in lengths:
        first, at = at + gap, at + gap + length
        rows.append(
            {"version_id": ids[version], "first_offset": first, "end_offset": at, "partition": 2}
        )
        by |= dict.fromkeys(range(first, at), version + 1)
    with world.registry.engine.begin() as conn:
        conn.execute(t.scored.insert().values(stream_id=stream.id), rows)
    for offset in range(at + 2):
        if offset in by:
            assert world.audit.scored(stream.name, 2, offset)["version"] == by[offset]
        else:
            with pytest.raises(PipelineError, match="was scored by no version"):
                world.audit.scored(stream.name, 2, offset)
