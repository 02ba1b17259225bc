"""What was changed in a table behind the ledger's back is found, and which row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import update

from pipeline.config import Database
from pipeline.records import Gap, SensorEvent, Settled
from pipeline.register import tables
from pipeline.register.agreement import differences, in_sql
from pipeline.register.checkpoints import State
from pipeline.register.letters import LetterBook, Place
from pipeline.register.proof import of_row, verify
from pipeline.register.sql import SqlRegistry
from pipeline.register.triggers import drop_triggers
from tests.register.making import (
    Clock,
    asked,
    boundary,
    by_hand,
    candidate,
    change,
    claimed,
    next_version,
    opened,
    register,
    rejected,
)

#: Location and deviation of two sensors that stand still.
UNITS = np.zeros((2, 2))


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    with opened(at_head, Clock()) as registry:
        fill(registry)
        yield registry


def fill(registry: SqlRegistry) -> None:
    """A history with every kind of state change, each through the registry."""
    clock = registry.clock
    assert isinstance(clock, Clock)
    registry.open_stream("readings", ())
    stream = registry.open_stream("readings", ("pressure", "flow"))
    registry.follow(stream, "topic-id", {0: 0})
    epoch = registry.acquire(stream.id, 0, "stream").epoch
    silent = SensorEvent(series="pump", channel=1, kind="sensor_silent", row=5, offset=50, time=7)
    end = Settled(series="pump", segment=1, end_row=300, end_offset=1300, end_time=9)
    registry.save(
        stream.id,
        0,
        epoch,
        next_offset=2000,
        state=State(b"{}", {}),
        boundaries=[boundary(1), boundary(2)],
        events=[silent],
        settled=[end],
        requests=[asked(stream, 1), asked(stream, 2)],
        scored=[],
        gaps=[Gap(first_offset=10, end_offset=20, went_on="earliest")],
    )
    claim = claimed(registry)
    registry.assign(claim, claim.id, UNITS)
    task = registry.tasks(stream.id)[0].id
    made = candidate({task: 0.5}, loss_after=0.25, gain=float("nan"))
    register(registry, claim, rejected(), parent=None, made=made)
    for _ in range(3):
        clock.pass_s(1)
        next_version(registry, stream)
    clock.pass_s(1)
    registry.roll_back(stream.id, actor="ada", reason="worse")
    registry.submit(by_hand(stream))
    registry.finish(claimed(registry), "nothing to do")
    registry.submit(by_hand(stream))
    registry.fail(claimed(registry), "no data", retry=False)
    registry.submit(by_hand(stream))
    registry.mark(stream.id, 1, kind="fault", name="cavitation", actor="ada", reason="seen")
    book = LetterBook(registry.database, stream.id, clock=clock)
    places = [Place(0, offset, "f" * 64) for offset in range(3)]
    book.begin(places[:1], {0: 70}, actor="ada", reason="mended")
    book.settle({places[0]: 71})
    book.drop(places[1:2], actor="ada", reason="noise")
    book.begin(places[2:], {0: 80}, actor="ada", reason="mended")
    book.close()


def test_an_honest_history_agrees(registry: SqlRegistry) -> None:
    """Every way to change a state writes an entry that tells all of it, on both databases."""
    assert verify(registry.database, contents=True).findings == ()


#: A change of one row, its table, what it is told as, and how the row and column are named.
ATTACKS = [
    ("UPDATE streams SET topic_id = 'x'", "streams", "edited", "id 1: topic_id"),
    (
        "UPDATE boundaries SET statistic = 5.5 WHERE segment = 2",
        "boundaries",
        "edited",
        "segment 2: statistic",
    ),
    ("UPDATE boundaries SET end_row = 1 WHERE segment = 1", "boundaries", "edited", "end_row"),
    ("UPDATE boundaries SET end_row = 1 WHERE segment = 2", "boundaries", "edited", "end_row"),
    ("DELETE FROM boundaries WHERE segment = 1", "boundaries", "deleted", "segment 1"),
    ("DELETE FROM sensor_events", "sensor_events", "deleted", "series pump"),
    ("UPDATE gaps SET end_offset = 11", "gaps", "edited", "first_offset 10: end_offset"),
    ("UPDATE tasks SET kind = 'normal'", "tasks", "edited", "number 1: kind"),
    ("UPDATE tasks SET name = NULL", "tasks", "edited", "number 1: name"),
    ("UPDATE segments SET distance = 0.5", "segments", "edited", "distance"),
    ("UPDATE requests SET actor = 'eve' WHERE id = 3", "requests", "edited", "id 3: actor"),
    ("UPDATE requests SET status = 'pending' WHERE id = 2", "requests", "edited", "id 2: over"),
    (
        "UPDATE requests SET status = 'done' WHERE status = 'pending'",
        "requests",
        "edited",
        "id 8: over",
    ),
    ("UPDATE versions SET seed = 8 WHERE number = 2", "versions", "edited", "id 2: seed"),
    (
        "UPDATE versions SET figures = '{}' WHERE number = 1",
        "versions",
        "edited",
        "id 1: figures",
    ),
    (
        "UPDATE versions SET status = 'retired' WHERE status = 'rejected'",
        "versions",
        "edited",
        "id 1: status",
    ),
    ("UPDATE metrics SET value = 0.1 WHERE version_id = 1", "metrics", "edited", "value"),
    (
        "INSERT INTO metrics (version_id, name, value) VALUES (1, 'gain', 9)",
        "metrics",
        "inserted",
        "version_id 1, name gain",
    ),
    ("UPDATE evaluations SET windows = 1", "evaluations", "edited", "windows"),
    (
        "UPDATE promotions SET live_from = live_from + 1 WHERE id = 2",
        "promotions",
        "edited",
        "turn 2: live_from",
    ),
    ("UPDATE promotions SET actor = 'ada' WHERE id = 1", "promotions", "edited", "turn 1: actor"),
    (
        "UPDATE dead_letters SET status = 'dropped' WHERE status = 'replayed'",
        "dead_letters",
        "edited",
        "offset 0: status",
    ),
]


def test_a_row_that_was_changed_is_found(registry: SqlRegistry) -> None:
    """Each is one change, and one finding, that names the row and its columns; then taken back."""
    for attack, table, what, detail in ATTACKS:
        with registry.engine.connect() as conn:
            assert conn.exec_driver_sql(attack).rowcount == 1
            (difference,) = differences(*in_sql(conn))
            conn.rollback()
        finding = of_row(difference)
        assert (finding.where, finding.what) == (table, what), attack
        assert detail in finding.detail
        assert (finding.entry is None) == (what == "inserted")


def test_an_artifact_that_was_changed_or_is_gone_is_found(registry: SqlRegistry) -> None:
    """Its bytes have to be what their hash says, and those of versions to be there."""
    swap = "UPDATE artifacts SET content = ewc.content FROM artifacts ewc "
    swap += "WHERE artifacts.kind = 'weights' AND ewc.kind = 'ewc'"
    assert change(registry.engine, swap) == 1
    (finding,) = verify(registry.database, contents=True).findings
    assert (finding.where, finding.what) == ("artifacts", "edited")
    assert verify(registry.database).findings == ()


def test_entries_that_make_no_sense_are_the_chains_findings(registry: SqlRegistry) -> None:
    """The comparison goes on: what nobody can read tells of no row."""
    with registry.engine.begin() as conn:
        drop_triggers(conn)
        for number, text in enumerate(("", "[]", "{}", '{"segment":[]}', '"x"'), 1):
            this = tables.ledger.c.id == number
            conn.execute(update(tables.ledger).where(this).values(entry=text))
    findings = verify(registry.database).findings
    chain = [(each.entry, each.what) for each in findings if each.where == "ledger"]
    assert chain == [(number, "edited") for number in range(1, 6)]
