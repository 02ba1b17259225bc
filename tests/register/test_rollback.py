"""A promotion taken back: the champion before is champion again, all of it or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import event

from pipeline.config import Database
from pipeline.errors import RegistryError, VersionConflict
from pipeline.records import RolledBack, Version
from pipeline.register import migrate
from pipeline.register.chain import sound
from pipeline.register.engine import connect, writing
from pipeline.register.rollback import WATCH
from pipeline.register.sql import SqlRegistry, Stream
from tests.register.making import (
    Clock,
    asked,
    candidate,
    claimed,
    column,
    everything,
    next_version,
    opened,
    promoted,
    race,
    register,
    rejected,
)

WHY = "series pump: mean score 4.1"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    with opened(at_head, clock) as registry:
        yield registry


@pytest.fixture
def second(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    with opened(at_head, clock) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    return registry.open_stream("plant", ["a", "b"])


def three(registry: SqlRegistry, stream: Stream, clock: Clock) -> list[Version]:
    """Three champions, one after the other, ten seconds apart."""
    made = []
    for _ in range(3):
        clock.pass_s(10)
        made.append(next_version(registry, stream))
    clock.pass_s(10)
    return made


def statuses(registry: SqlRegistry) -> list[str]:
    return column(registry.engine, "SELECT status FROM versions ORDER BY id")


def live(registry: SqlRegistry) -> list[tuple[int, int, int | None, str, str]]:
    return [row[2:] for row in everything(registry.engine)["promotions"]]


def test_the_champion_before_is_champion_again(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Status, live intervals, who and why, and the ledger: all of it, and nothing else."""
    _, two, bad = three(registry, stream, clock)
    before = everything(registry.engine)
    found = registry.roll_back(stream.id, leave=bad, actor=WATCH, reason=WHY)
    assert found == RolledBack(version=3, to=2, actor=WATCH, reason=WHY, time=clock.now)
    assert statuses(registry) == ["retired", "champion", "rolled_back"]
    assert registry.champion(stream.id) == replace(two, status="champion")
    assert live(registry)[2:] == [
        (3, clock.now - 10_000_000, clock.now, "gate", "better"),
        (2, clock.now, None, WATCH, WHY),
    ]
    with writing(registry.engine) as conn:
        assert sound(conn)
    kind, actor, entry = everything(registry.engine)["ledger"][-1][3:6]
    assert (kind, actor) == ("rollback", WATCH)
    assert json.loads(entry) == {"version": bad.id, "to": two.id, "reason": WHY}
    after = everything(registry.engine)
    assert {name for name in after if after[name] != before[name]} == {
        "versions",
        "promotions",
        "ledger",
    }


def test_what_came_back_stays_until_another_is_promoted(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """No flapping: a second roll-back by itself is refused, one after a new promotion is not."""
    _, two, bad = three(registry, stream, clock)
    registry.roll_back(stream.id, leave=bad, actor=WATCH, reason=WHY)
    before = everything(registry.engine)
    with pytest.raises(VersionConflict, match="version 2 came back by a roll-back and stays"):
        registry.roll_back(stream.id, leave=two, actor=WATCH, reason=WHY)
    assert everything(registry.engine) == before
    four = next_version(registry, stream)
    assert registry.roll_back(stream.id, leave=four, actor=WATCH, reason=WHY).to == 2
    assert statuses(registry) == ["retired", "champion", "rolled_back", "rolled_back"]


def test_by_hand_it_goes_on_to_the_one_before(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """A person may go back again and again; versions that were left are passed over."""
    three(registry, stream, clock)
    steps = [registry.roll_back(stream.id, actor="ada", reason="no") for _ in range(2)]
    assert [(step.version, step.to) for step in steps] == [(3, 2), (2, 1)]
    assert live(registry)[-1][3:] == ("ada", "no")
    with pytest.raises(RegistryError, match="version 1 is the first: there is none to go back to"):
        registry.roll_back(stream.id, actor="ada", reason="no")


def test_by_hand_to_a_named_version(registry: SqlRegistry, stream: Stream, clock: Clock) -> None:
    """Also to one that was left itself: a person may know better."""
    three(registry, stream, clock)
    assert registry.roll_back(stream.id, to=1, actor="ada", reason="no").to == 1
    assert registry.roll_back(stream.id, to=3, actor="ada", reason="yes").version == 1
    assert statuses(registry) == ["rolled_back", "retired", "champion"]


@pytest.mark.parametrize(
    ("to", "error"),
    [
        (3, "version 3 is champion already"),
        (4, "version 4 was never live: it is rejected"),
        (5, "the stream has no version 5"),
    ],
)
def test_where_there_is_no_way_back(
    registry: SqlRegistry, stream: Stream, clock: Clock, to: int, error: str
) -> None:
    """One line each, and nothing is written."""
    three(registry, stream, clock)
    next_version(registry, stream, rejected())
    before = everything(registry.engine)
    with pytest.raises(RegistryError, match=f"^{error}$"):
        registry.roll_back(stream.id, to=to, actor="ada", reason="no")
    assert everything(registry.engine) == before


def test_without_a_champion(registry: SqlRegistry, stream: Stream) -> None:
    with pytest.raises(RegistryError, match="there is no champion to leave"):
        registry.roll_back(stream.id, actor="ada", reason="no")


def test_a_champion_that_changed_meanwhile_is_left_alone(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """What was seen was seen of another version."""
    _, old, _ = three(registry, stream, clock)
    before = everything(registry.engine)
    with pytest.raises(VersionConflict, match="version 2 is no longer champion"):
        registry.roll_back(stream.id, leave=old, actor=WATCH, reason=WHY)
    assert everything(registry.engine) == before


def test_a_candidate_measured_against_what_was_left_is_a_conflict(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """A training under way had the bad version as parent: it is not promoted over the good one."""
    bad = three(registry, stream, clock)[-1]
    registry.submit(asked(stream))
    claim = claimed(registry)
    registry.roll_back(stream.id, leave=bad, actor=WATCH, reason=WHY)
    with pytest.raises(VersionConflict, match="version 3 is no longer champion"):
        register(registry, claim, promoted(), parent=bad)


def test_of_two_processes_one_rolls_back(
    registry: SqlRegistry, second: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Both are sure in the same moment: once is enough, and the other is told."""
    for _ in range(5):
        bad = three(registry, stream, clock)[-1]
        answers = race(
            *(
                lambda own=own, bad=bad: own.roll_back(
                    stream.id, leave=bad, actor=WATCH, reason=WHY
                )
                for own in (registry, second)
            )
        )
        assert sorted(type(answer).__name__ for answer in answers) == [
            "RolledBack",
            "VersionConflict",
        ]
        champion = registry.champion(stream.id)
        assert champion is not None
        assert champion.number == bad.number - 1


@pytest.mark.parametrize("statement", range(1, 6))
def test_half_a_roll_back_is_none(
    registry: SqlRegistry, stream: Stream, clock: Clock, statement: int
) -> None:
    """Power fails at each of its writes: everything is as it was."""
    bad = three(registry, stream, clock)[-1]
    before, seen = everything(registry.engine), []

    def fail(conn: object, cursor: object, sql: str, *rest: object) -> None:
        if sql.startswith(("UPDATE", "INSERT")):
            seen.append(sql)
            if len(seen) == statement:
                raise RuntimeError("power failure")

    event.listen(registry.engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="power failure"):
        registry.roll_back(stream.id, leave=bad, actor=WATCH, reason=WHY)
    event.remove(registry.engine, "before_cursor_execute", fail)
    assert everything(registry.engine) == before


def test_the_scores_that_the_gate_saw_by_task(registry: SqlRegistry, stream: Stream) -> None:
    """By the task's number; without those that are not finite."""
    number = registry.submit(asked(stream)) or 0
    claim = claimed(registry)
    task = registry.assign(claim, number, np.zeros((2, 2)))
    made = replace(candidate({task: 0.5}), scores={task: (1.25, 0.5)})
    first = register(registry, claim, promoted(), parent=None, made=made)
    assert registry.expected_scores(first) == {1: (1.25, 0.5)}
    nan = replace(made, scores={task: (float("nan"), 0.5)})
    assert registry.expected_scores(next_version(registry, stream, made=nan)) == {}


def test_who_is_on_trial(registry: SqlRegistry, stream: Stream) -> None:
    """Not the first, for there is none before it, nor one that came back."""
    first = next_version(registry, stream)
    assert not registry.on_trial(first)
    two = next_version(registry, stream)
    three = next_version(registry, stream)
    assert registry.on_trial(three)
    registry.roll_back(stream.id, actor=WATCH, reason=WHY)
    assert not registry.on_trial(two)


def test_migrating_a_database_in_use(database: Database, clock: Clock) -> None:
    """Up from the schema before with rows in it, down with a version rolled back, and up again."""
    migrate.upgrade(database)
    with opened(database, clock) as registry:
        stream = registry.open_stream("plant", ["a", "b"])
        three(registry, stream, clock)
    migrate.downgrade(database, "0001")
    before = _rows(database)
    migrate.upgrade(database)
    assert _rows(database) == before
    with opened(database, clock) as registry:
        registry.roll_back(stream.id, actor="ada", reason="no")
    migrate.downgrade(database, "0001")
    assert [status for status, _ in _rows(database)] == ["retired", "champion", "retired"]


def _rows(database: Database) -> list[tuple[str, str]]:
    engine = connect(database)
    with engine.connect() as conn:
        found = conn.exec_driver_sql("SELECT status, sha256 FROM versions ORDER BY id").all()
    engine.dispose()
    return [tuple(row) for row in found]
