"""A database that comes and goes: what is tried again, and that nothing is done twice."""

from __future__ import annotations

import gc
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from pipeline.config import Database
from pipeline.errors import DatabaseAway, LeaseLost, RegistryError, VersionConflict
from pipeline.outage import Outage
from pipeline.register import tables as t
from pipeline.register.checkpoints import Piece, State
from pipeline.register.engine import passing, reading, writing
from pipeline.register.rollback import WATCH
from pipeline.register.sql import SqlRegistry, Stream
from tests.register.making import (
    LEASE_S,
    Clock,
    Rows,
    asked,
    boundary,
    by_hand,
    claimed,
    everything,
    marked,
    next_version,
    opened,
    promoted,
    register,
)

PRINT = np.array([[0.0, 1.0], [1.0, 2.5]])


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    with opened(at_head, Clock()) as registry:
        registry.outage = Outage("database", 60.0)
        registry.outage.pause = lambda _: None
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    return registry.open_stream("plant", ["a", "b"])


def lost(registry: SqlRegistry) -> Exception:
    """What the driver says where a connection breaks, or the file is somebody else's."""
    if registry.engine.dialect.name == "postgresql":
        return psycopg.OperationalError("server closed the connection unexpectedly")
    failure = sqlite3.OperationalError("database is locked")
    failure.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return failure


def lose_one_answer(registry: SqlRegistry) -> list[Rows]:
    """The next commit is made and its answer lost; what the database then holds is appended."""
    dialect, held = registry.engine.dialect, list[Rows]()
    commit = dialect.do_commit

    def do_commit(connection: Any) -> None:
        commit(connection)
        dialect.do_commit = commit
        held.append(everything(registry.engine))
        raise lost(registry)

    dialect.do_commit = do_commit
    return held


# Each prepares, and answers what is to be called; what that answers is compared with a call whose
# answer was not lost, where the answer tells something.


def saving(registry: SqlRegistry, stream: Stream) -> Callable[[], Any]:
    version = next_version(registry, stream)
    epoch = registry.acquire(stream.id, 0, "me").epoch
    return lambda: registry.save(
        stream.id, 0, epoch, next_offset=9,
        state=State(b"s", pieces=[Piece("series", 0, 0, b"row")]), boundaries=[boundary()],
        requests=[asked(stream)], scored=[(version.id, 0, 9)],
        artifacts={"-": ("segment", b"x")},
    )  # fmt: skip


def finishing(registry: SqlRegistry, stream: Stream) -> Callable[[], Any]:
    registry.submit(asked(stream, 1))
    registry.submit(asked(stream, 2))
    claim = claimed(registry)
    return lambda: registry.finish(claim, "no training needed")


def releasing(registry: SqlRegistry, stream: Stream) -> Callable[[], Any]:
    registry.submit(asked(stream))
    claim = claimed(registry)
    return lambda: registry.release(claim, "interrupted")


def failing(registry: SqlRegistry, stream: Stream) -> Callable[[], Any]:
    registry.submit(asked(stream))
    claim = claimed(registry)
    return lambda: registry.fail(claim, "no data", retry=True)


def failing_for_good(registry: SqlRegistry, stream: Stream) -> Callable[[], Any]:
    registry.submit(asked(stream))
    claim = claimed(registry)
    return lambda: registry.fail(claim, "no data", retry=False)


def registering(registry: SqlRegistry, stream: Stream) -> Callable[[], Any]:
    registry.submit(by_hand(stream))
    claim = claimed(registry)
    return lambda: register(registry, claim, promoted(), parent=None).number


def submitting(registry: SqlRegistry, stream: Stream) -> Callable[[], Any]:
    due = by_hand(stream, reason="schedule", actor="scheduler", due=5)
    return lambda: registry.submit(due) and None


def admitting(registry: SqlRegistry, stream: Stream) -> Callable[[], Any]:
    registry.submit(asked(stream, 1))
    registry.submit(asked(stream, 2))
    claim = claimed(registry)
    registry.assign(claim, claim.id, PRINT)
    registry.assign(claim, claim.folded[0][0], PRINT + 50.0)
    marked(registry, stream.id, 2, kind="fault", why="it shook")
    return lambda: registry.admit(claim).folded  # type: ignore[union-attr]


def renewing(registry: SqlRegistry, stream: Stream) -> Callable[[], Any]:
    registry.submit(asked(stream))
    claim = claimed(registry)
    return lambda: registry.renew(claim, 2 * LEASE_S)


@pytest.mark.parametrize(
    "act",
    [
        saving,
        finishing,
        releasing,
        failing,
        failing_for_good,
        registering,
        submitting,
        admitting,
        renewing,
    ],
)
def test_what_was_committed_is_not_done_again_when_its_answer_is_lost(
    registry: SqlRegistry, stream: Stream, act: Callable[..., Callable[[], Any]]
) -> None:
    """The whole transaction is asked for again, and leaves every row of every table as it was."""
    call = act(registry, stream)
    before = everything(registry.engine)
    held = lose_one_answer(registry)
    answer = call()
    assert held
    assert held[0] != before
    assert everything(registry.engine) == held[0]
    expected = {registering: 1, admitting: (), saving: []}
    assert answer == expected.get(act)


def test_a_roll_back_whose_answer_is_lost_is_made_once_and_told_as_another_s(
    registry: SqlRegistry, stream: Stream
) -> None:
    """Two processes may see the same in the same moment: whose it was cannot be told."""
    next_version(registry, stream)
    second = next_version(registry, stream)
    held = lose_one_answer(registry)
    with pytest.raises(VersionConflict, match="version 2 is no longer champion"):
        registry.roll_back(stream.id, leave=second, actor=WATCH, reason="odd")
    assert everything(registry.engine) == held[0]


def test_another_end_of_the_same_claim_is_refused(registry: SqlRegistry, stream: Stream) -> None:
    """Only the very same word twice is a lost answer; done and failed is two minds."""
    registry.submit(asked(stream))
    claim = claimed(registry)
    registry.finish(claim, "done")
    for another in (
        lambda: registry.finish(claim, "otherwise"),
        lambda: registry.fail(claim, "done", retry=False),
        lambda: registry.renew(claim, LEASE_S),
    ):
        with pytest.raises(LeaseLost):
            another()


def test_nothing_of_a_transaction_that_failed_half_way_stays(
    registry: SqlRegistry, stream: Stream
) -> None:
    """The connection breaks after half of the statements: the second try is the whole again."""
    call = saving(registry, stream)
    statements: list[str] = []

    @event.listens_for(registry.engine, "before_cursor_execute")
    def break_once(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)
        if len(statements) == 6:
            raise OperationalError(statement, {}, lost(registry), connection_invalidated=False)

    with capture_logs() as logs:
        call()
    assert len(statements) > 12
    with reading(registry.engine) as conn:
        for table in (t.boundaries, t.scored):
            assert conn.execute(select(func.count()).select_from(table)).scalar() == 1
    assert [line["event"] for line in logs] == ["database_away", "database_back"]


def test_a_deadlock_is_somebody_s_to_try_again(
    postgresql_at_head: Database,
) -> None:
    """Two transactions lock two rows crosswise: the server ends one of them, and both are done."""
    with opened(postgresql_at_head, Clock()) as registry:
        registry.open_stream("a", ["x"])
        registry.open_stream("b", ["x"])
        both = threading.Barrier(2)

        def cross(first: str, second: str) -> None:
            outage, tries = Outage("database", 60.0), []

            def once() -> None:
                with writing(registry.engine) as conn:
                    lock = text("SELECT id FROM streams WHERE name = :name FOR UPDATE")
                    conn.execute(lock, {"name": first})
                    if not tries:
                        tries.append(1)
                        both.wait(30)
                    conn.execute(lock, {"name": second})

            outage.ask(once)
            done.append(first)

        done: list[str] = []
        threads = [threading.Thread(target=cross, args=pair) for pair in (("a", "b"), ("b", "a"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    with (
        warnings.catch_warnings()
    ):  # one connection is left to the collector: here, to no other test
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert sorted(done) == ["a", "b"]


class Stated(Exception):
    def __init__(self, said: str, sqlstate: str | None = None) -> None:
        super().__init__(said)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("state", "said", "again"),
    [
        ("40001", "could not serialize access", True),
        ("40P01", "deadlock detected", True),
        ("25006", "cannot execute INSERT in a read-only transaction", True),
        ("25P03", "terminating connection due to idle-in-transaction timeout", True),
        ("57P01", "terminating connection due to administrator command", True),
        ("57P03", "the database system is starting up", True),
        ("08006", "connection failure", True),
        ("53300", "sorry, too many clients already", True),
        (None, "connection refused", True),
        (None, 'FATAL:  password authentication failed for user "me"', False),
        (None, 'FATAL:  database "plant" does not exist', False),
        ("28P01", "password authentication failed", False),
        ("42P01", 'relation "streams" does not exist', False),
        ("22003", "integer out of range", False),
    ],
)
def test_what_is_worth_another_try(state: str | None, said: str, again: bool) -> None:
    """PostgreSQL's states (its manual, appendix A); a mistake gets no better by waiting."""
    assert passing(OperationalError("", {}, Stated(said, state))) is again


@pytest.mark.parametrize(
    ("code", "again"),
    [
        (sqlite3.SQLITE_BUSY, True),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, True),
        (sqlite3.SQLITE_LOCKED, True),
        (sqlite3.SQLITE_FULL, True),
        (sqlite3.SQLITE_CORRUPT, False),
        (sqlite3.SQLITE_READONLY, False),
        (sqlite3.SQLITE_ERROR, False),
    ],
)
def test_what_of_sqlite_is_worth_another_try(code: int, again: bool) -> None:
    """Another's lock ends, and room on a disk is made; a damaged file stays one."""
    failure = sqlite3.OperationalError("said")
    failure.sqlite_errorcode = code
    assert passing(OperationalError("", {}, failure)) is again


def test_a_file_that_another_process_holds_is_waited_for(sqlite_at_head: Database) -> None:
    """A real lock of another connection, longer than busy_timeout_s: no word of it but two."""
    other = sqlite3.connect(sqlite_at_head.url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    database = Database(url=sqlite_at_head.url, busy_timeout_s=0.01)
    waited = SqlRegistry(database, outage=Outage("database", 60.0))
    waited.outage.pause = lambda _: other.execute("ROLLBACK") if other.in_transaction else None
    with capture_logs() as logs:
        assert waited.open_stream("plant", []).name == "plant"
    assert [line["event"] for line in logs] == ["database_away", "database_back"]
    assert "database is locked" in logs[0]["reason"]
    waited.close()
    other.close()


def test_without_a_limit_to_wait_a_failure_is_told_at_once(sqlite_at_head: Database) -> None:
    """A person at a command line is better served with a line than with minutes of silence."""
    other = sqlite3.connect(sqlite_at_head.url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    asked_once = SqlRegistry(Database(url=sqlite_at_head.url, busy_timeout_s=0.01))
    with pytest.raises(DatabaseAway, match="database is locked"):
        asked_once.open_stream("plant", [])
    asked_once.close()
    other.close()


def test_a_mistake_is_not_waited_for(postgres: str) -> None:
    """A database that is not there will not come by itself."""
    database = Database(url=postgres.replace("/postgres?", "/nobody_made_this?"))
    registry = SqlRegistry(database, outage=Outage("database", 60.0))
    with pytest.raises(RegistryError, match="does not exist") as caught:
        registry.streams()
    assert not isinstance(caught.value, DatabaseAway)
    registry.close()
